import math

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.modeling import TimmBackbone, add_timm_config

pytest.importorskip("timm", reason="needs the extra det_distill[timm]")

TINY = "test_efficientnet"


def _norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def _tiny_cfg() -> CfgNode:
    cfg = get_cfg()
    add_timm_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = TINY
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    return cfg


@pytest.mark.parametrize("name", [TINY, "test_resnet"])
@pytest.mark.parametrize("height, width", [(64, 96), (65, 97), (71, 127)])
def test_every_map_has_the_promised_channels_and_its_size_over_stride_rounded_up(name, height, width):
    features = ("stem", "res2", "res3", "res4", "res5")
    backbone = TimmBackbone(name, out_features=features)
    maps = backbone(torch.zeros(2, 3, height, width))
    assert tuple(maps) == features == tuple(backbone.output_shape())
    for (feature, value), stride in zip(maps.items(), (2, 4, 8, 16, 32), strict=True):
        spec = backbone.output_shape()[feature]
        assert spec.stride == stride
        expected = (2, spec.channels, math.ceil(height / stride), math.ceil(width / stride))
        assert value.shape == expected


def test_lite0_has_the_channels_of_its_paper_and_res1_is_the_stem():
    backbone = TimmBackbone("tf_efficientnet_lite0", out_features=("res1", "res3", "res5"))
    assert {f: (s.channels, s.stride) for f, s in backbone.output_shape().items()} == {
        "res1": (16, 2),
        "res3": (40, 8),
        "res5": (320, 32),
    }


def test_features_come_in_the_order_asked_for():
    backbone = TimmBackbone(TINY, out_features=("res4", "res2"))
    x = torch.rand(1, 3, 64, 64)
    maps = backbone(x)
    assert list(maps) == ["res4", "res2"]
    assert (maps["res4"].shape[-1], maps["res2"].shape[-1]) == (4, 16)


@pytest.mark.parametrize("name", [TINY, "test_resnet", "mobilenetv3_small_050"])
def test_stages_behind_the_deepest_feature_are_not_built_so_no_parameter_goes_without_a_gradient(name):
    short = TimmBackbone(name, out_features=("res2", "res3"), freeze_norm=False)
    full = TimmBackbone(name, freeze_norm=False)
    sum(m.sum() for m in short(torch.rand(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in short.parameters())
    assert len(short.state_dict()) < len(full.state_dict())
    short.load_state_dict({k: v for k, v in full.state_dict().items() if k in short.state_dict()})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(short.eval()(x)["res3"], full.eval()(x)["res3"])


def test_frozen_norms_keep_their_statistics_and_parameters_through_training():
    backbone = TimmBackbone(TINY).train()
    assert backbone.training and backbone.body.training
    before = {k: v.clone() for k, v in backbone.state_dict().items() if ".bn" in k}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    weight = backbone.body.conv_stem.weight.clone()
    sum(m.sum() for m in backbone(torch.rand(2, 3, 64, 64) * 9).values()).backward()
    optimizer.step()
    after = backbone.state_dict()
    assert len(before) > 20 and all(torch.equal(after[k], v) for k, v in before.items())
    assert not torch.equal(backbone.body.conv_stem.weight, weight)
    assert not any(n.training for n in _norms(backbone))


def test_free_norms_move_their_statistics():
    backbone = TimmBackbone(TINY, freeze_norm=False).train()
    backbone(torch.rand(2, 3, 64, 64) * 9)
    assert all(n.num_batches_tracked == 1 for n in _norms(backbone))
    assert all(p.requires_grad for p in backbone.parameters())


def test_frozen_norms_stay_still_when_they_are_swapped_for_synchronised_ones():
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(TimmBackbone("test_resnet")).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms and not any(n.training or n.weight.requires_grad for n in norms)


def test_the_activation_inside_timms_norm_survives_freezing():
    backbone = TimmBackbone(TINY).train()
    still = TimmBackbone(TINY, freeze_norm=False).eval()
    still.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for feature, value in backbone(x).items():
        assert torch.equal(value, still(x)[feature])


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3])
def test_freeze_at_freezes_the_stages_up_to_that_stride_and_nothing_behind(freeze_at):
    backbone = TimmBackbone(TINY, freeze_norm=False, freeze_at=freeze_at).train()
    stages = {
        "conv_stem": 1,
        "bn1": 1,
        "blocks.0": 1,
        "blocks.1": 2,
        "blocks.2": 3,
        "blocks.3": 4,
        "blocks.4": 5,
    }
    seen = set()
    for key, parameter in backbone.body.named_parameters():
        stage = next(s for s in stages if key.startswith(s + "."))
        seen.add(stage)
        assert parameter.requires_grad == (stages[stage] > freeze_at), key
    assert seen == set(stages)
    backbone(torch.rand(2, 3, 32, 32))
    for name, norm in backbone.body.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            stage = next(s for s in stages if (name + ".").startswith(s + "."))
            assert int(norm.num_batches_tracked) == (stages[stage] > freeze_at)


def test_freezing_the_stem_of_a_model_whose_stem_map_is_an_activation_or_is_absent():
    resnet = TimmBackbone("test_resnet", freeze_norm=False, freeze_at=1)
    frozen = {k.split(".")[1] for k, p in resnet.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1"}
    convnext = TimmBackbone("test_convnext", freeze_at=1)
    frozen = {k.split(".")[1].split("_")[0] for k, p in convnext.named_parameters() if not p.requires_grad}
    assert frozen == {"stem"}
    assert all(p.requires_grad for k, p in convnext.named_parameters() if ".stages" in k)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("resnet_18", "resnet18"),
        ("ResNet-18", "resnet18"),
        ("resnet18x", "resnet18"),
        ("mobilenetv3large100", "mobilenetv3_large_100"),
        ("efficientnetb0", "efficientnet_b0"),
    ],
)
def test_of_an_unknown_model_the_nearest_names_are_told_nearest_first(asked, meant):
    with pytest.raises(ValueError, match=rf"no model '{asked}'\. Similar names: {meant}(, \w+)*\.$"):
        TimmBackbone(asked)


def test_mistakes_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"no model 'no such thing'.*Similar names: none\."):
        TimmBackbone("no such thing")
    with pytest.raises(ValueError, match="'p3' is no feature name"):
        TimmBackbone(TINY, out_features=("p3",))
    with pytest.raises(ValueError, match="no feature stem; it offers res2, res3, res4, res5"):
        TimmBackbone("test_convnext", out_features=("stem", "res2"))
    with pytest.raises(ValueError, match="out_features is empty"):
        TimmBackbone(TINY, out_features=())
    with pytest.raises(ValueError, match="repeats one"):
        TimmBackbone("test_vit")
    with pytest.raises(ValueError, match="freeze_at=6 does not fit"):
        TimmBackbone(TINY, freeze_at=6)
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth"):
        TimmBackbone(TINY, pretrained_file="/nowhere.pth")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match=r"det_distill\[timm\]"):
        TimmBackbone(TINY)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", [TINY, "test_convnext"])
def test_a_file_of_the_whole_timm_classifier_loads_whole(tmp_path, suffix, name):
    import timm
    from safetensors.torch import save_file

    classifier = timm.create_model(name)
    file = tmp_path / f"weights{suffix}"
    save_file(classifier.state_dict(), file) if suffix == ".safetensors" else torch.save(
        classifier.state_dict(), file
    )
    backbone = TimmBackbone(name, pretrained_file=file)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = classifier.eval().forward_intermediates(x, intermediates_only=True)[-1]
        assert torch.allclose(backbone.eval()(x)["res5"], wanted, atol=1e-6)


def test_a_file_of_another_model_or_half_a_file_is_refused(tmp_path):
    state = TimmBackbone(TINY).state_dict()
    state.pop("body.conv_stem.weight")
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"1 are missing, 0 have another shape.*conv_stem"):
        TimmBackbone(TINY, pretrained_file=tmp_path / "half.pth")
    state["body.conv_stem.weight"] = torch.zeros(1, 3, 3, 3)
    torch.save(state, tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"0 are missing, 1 have another shape.*conv_stem"):
        TimmBackbone(TINY, pretrained_file=tmp_path / "narrow.pth")


def test_the_config_reaches_the_backbone():
    cfg = _tiny_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.OUT_FEATURES", "['res3']"])
    cfg.merge_from_list(["MODEL.TIMM.FREEZE_NORM", "False", "MODEL.TIMM.FREEZE_AT", "1"])
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    assert isinstance(backbone, TimmBackbone) and backbone.name == TINY
    assert list(backbone.output_shape()) == ["res3"]
    assert not backbone.body.conv_stem.weight.requires_grad
    assert backbone.body.blocks[2].get_parameter("0.bn1.weight").requires_grad


def test_an_fpn_level_that_the_backbone_lacks_is_named():
    cfg = _tiny_cfg()
    cfg.MODEL.TIMM.OUT_FEATURES = ["res3", "res4"]
    with pytest.raises(
        ValueError, match=r"IN_FEATURES \['res2'.*features of the backbone, \['res3', 'res4'\]"
    ):
        build_backbone(cfg)


def test_faster_rcnn_on_a_timm_fpn_takes_a_training_step_and_detects():
    torch.manual_seed(0)
    model = build_model(_tiny_cfg()).train()
    assert model.backbone.size_divisibility == 32
    assert {f: s.stride for f, s in model.backbone.output_shape().items()} == {
        "p2": 4,
        "p3": 8,
        "p4": 16,
        "p5": 32,
        "p6": 64,
    }
    truth = Instances((65, 97))
    truth.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0]]))
    truth.gt_classes = torch.tensor([1])
    batch = [{"image": torch.randint(0, 255, (3, 65, 97), dtype=torch.uint8), "instances": truth}]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    stem = model.backbone.bottom_up.body.conv_stem.weight
    before = stem.clone()
    optimizer.step()
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(v) for v in losses.values())
    assert stem.grad.abs().sum() > 0 and not torch.equal(stem, before)
    assert all(int(n.num_batches_tracked) == 0 for n in _norms(model.backbone))
    detections = model.eval()([{"image": batch[0]["image"], "height": 65, "width": 97}])
    assert detections[0]["instances"].image_size == (65, 97)

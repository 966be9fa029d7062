"""Weights of torchvision, timm and Caffe2 in detectron2: every bit of them, and the same map of the same photo."""

import logging
import pickle

import numpy as np
import pytest
import timm
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_backbone, build_model
from safetensors.torch import save_file
from torchvision.transforms import v2

from det_distill.checkpoint import StudentCheckpointer
from det_distill.config import build_student, get_cfg
from det_distill.export.backbones import import_backbone
from det_distill.export.backbones.names import from_torchvision, to_torchvision
from det_distill.export.backbones.pixels import IMAGENET as IMAGENET_PIXELS
from det_distill.export.backbones.pixels import RgbPixels
from det_distill.export.backbones.timm_networks import timm_pixels
from det_distill.export.backbones.write import write_torchvision
from tests.export.backbones.networks_for_tests import (
    MEAN_BGR,
    R18,
    STD_BGR,
    config,
    in_format,
    photo,
    request,
    settle,
    with_photos,
)

IMAGENET = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """torchvision's ResNet-18 with weights that stand for the published ones; the network and its file."""
    torch.manual_seed(4)
    model = settle(torchvision.models.resnet18())
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, str(path)


def small_detector(config_file, cfg=None):
    """A detector of an emitted config, with heads that are quickly built."""
    cfg = cfg or get_cfg()
    cfg.merge_from_file(str(config_file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16, 8
    return cfg


def layer4(model, images):
    found = []
    handle = model.layer4.register_forward_hook(lambda m, i, o: found.append(o))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


def body_of(state):
    return {k: v for k, v in state.items() if not k.startswith("fc.") and "num_batches" not in k}


@with_photos
@pytest.mark.parametrize("form", ["RGB", "BGR"])
def test_stock_detectron2_loads_all_of_it_and_sees_the_same_photo_in_the_same_way(
    resnet18, form, tmp_path, caplog
):
    model, file = resnet18
    done = import_backbone(file, "torchvision", "resnet18", tmp_path, input_format=form)
    cfg = small_detector(done.config, get_detectron2_cfg())
    detector = build_model(cfg).eval()
    with caplog.at_level(logging.WARNING):
        unfit = DetectionCheckpointer(detector).load(cfg.MODEL.WEIGHTS)
    assert unfit == {
        "matching_heuristics": True,
        "__author__": "torchvision resnet18",
        "network": unfit["network"],
    }
    assert "bottom_up" not in caplog.text  # of what the file lacks
    body = detector.backbone.bottom_up
    turned = {from_torchvision(k): v for k, v in body_of(model.state_dict()).items()}
    if form == "BGR":
        turned["stem.conv1.weight"] = turned["stem.conv1.weight"][:, [2, 1, 0]]
    assert body.state_dict().keys() == turned.keys()
    assert all(torch.equal(v, turned[k]) for k, v in body.state_dict().items())
    ours = detector.preprocess_image([{"image": in_format(photo(), cfg.INPUT.FORMAT)}]).tensor[
        ..., :161, :215
    ]
    with torch.no_grad():
        found = body(ours)["res5"]
    expected = layer4(model, IMAGENET(photo())[None])
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_the_config_says_all_that_the_weights_want(resnet18, tmp_path):
    keys = import_backbone(resnet18[1], "torchvision", "resnet18", tmp_path).keys
    assert keys["INPUT"] == {"FORMAT": "RGB"}
    assert keys["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert keys["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert keys["MODEL"]["BACKBONE"] == {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 2}
    wanted = {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "STRIDE_IN_1X1": False, "NORM": "FrozenBN"}
    assert wanted.items() <= keys["MODEL"]["RESNETS"].items()
    assert "&id" not in (tmp_path / "config.yaml").read_text()  # each list in full, no references
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53] and cfg.MODEL.WEIGHTS == str(
        tmp_path / "backbone.pth"
    )


def test_means_and_channels_are_turned_together_for_bgr(resnet18, tmp_path):
    keys = import_backbone(resnet18[1], "torchvision", "resnet18", tmp_path, input_format="BGR").keys
    assert keys["INPUT"] == {"FORMAT": "BGR"} and keys["MODEL"]["PIXEL_MEAN"] == [103.53, 116.28, 123.675]
    assert keys["MODEL"]["PIXEL_STD"] == [57.375, 57.12, 58.395]


def test_a_detector_of_ours_takes_the_file_without_a_warning_and_warns_of_other_pixels(
    resnet18, tmp_path, caplog
):
    done = import_backbone(resnet18[1], "torchvision", "resnet18", tmp_path)
    cfg = small_detector(done.config)
    with caplog.at_level(logging.WARNING, "det_distill"):
        StudentCheckpointer(build_student(cfg, "cpu")).load(cfg.MODEL.WEIGHTS)
    assert (
        not [r for r in caplog.records if r.name.startswith("det_distill")] and "bottom_up" not in caplog.text
    )
    cfg.INPUT.FORMAT = "BGR"
    with caplog.at_level(logging.WARNING, "det_distill"):
        StudentCheckpointer(build_student(cfg, "cpu")).load(cfg.MODEL.WEIGHTS)
    assert "its channels are swapped" in caplog.text


@pytest.mark.parametrize("form", ["RGB", "BGR"])
def test_torchvision_to_detectron2_and_back_is_the_same_bit_for_bit(resnet18, form, tmp_path):
    model, file = resnet18
    done = import_backbone(file, "torchvision", "resnet18", tmp_path / "in", input_format=form)
    cfg = small_detector(done.config)
    req = request(cfg)
    DetectionCheckpointer(req.model).load(cfg.MODEL.WEIGHTS)
    write_torchvision(req, tmp_path)
    back = body_of(torch.load(tmp_path / "backbone_torchvision.pth", weights_only=True))
    there = body_of(model.state_dict())
    assert list(back) == list(there) and all(torch.equal(v, there[k]) for k, v in back.items())


def test_a_detectors_backbone_to_torchvision_and_back_is_the_same_with_the_note_beside_it(tmp_path):
    req = request(config(R18))
    write_torchvision(req, tmp_path)
    file = str(tmp_path / "backbone_torchvision.pth")
    done = import_backbone(file, "torchvision", "resnet18", tmp_path / "in", input_format="BGR")
    found = torch.load(done.weights, weights_only=True)["model"]
    own = req.model.backbone.bottom_up.state_dict()
    assert found.keys() == own.keys() and all(torch.equal(v, own[k]) for k, v in found.items())
    assert done.keys["MODEL"]["PIXEL_MEAN"] == MEAN_BGR and done.keys["MODEL"]["PIXEL_STD"] == STD_BGR
    assert done.pixels_from == f"from {tmp_path / 'backbone_torchvision.json'}"
    (tmp_path / "backbone_torchvision.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say how backbone_torchvision.pth wants its pixels"):
        import_backbone(file, "torchvision", "resnet18", tmp_path / "in")


def test_statistics_of_other_pixels_can_be_given(resnet18, tmp_path):
    pixels = RgbPixels((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    keys = import_backbone(resnet18[1], "torchvision", "resnet18", tmp_path, pixels=pixels).keys
    assert keys["MODEL"]["PIXEL_MEAN"] == [127.5, 102.0, 76.5] and keys["MODEL"]["PIXEL_STD"] == [
        25.5,
        51.0,
        76.5,
    ]


def test_a_trainings_checkpoint_and_safetensors_are_read_too(resnet18, tmp_path):
    state = resnet18[0].state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "run.pth")
    save_file(state, tmp_path / "weights.safetensors")
    for name in ("run.pth", "weights.safetensors"):
        done = import_backbone(str(tmp_path / name), "torchvision", "resnet18", tmp_path / "in")
        assert set(done.left_out) == {"fc.weight", "fc.bias"}
        assert torch.equal(torch.load(done.weights)["model"]["stem.conv1.weight"], state["conv1.weight"])


def test_timms_resnets_become_detectron2s_own(tmp_path):
    torch.manual_seed(0)
    torch.save(settle(timm.create_model("resnet18", num_classes=5)).state_dict(), tmp_path / "r18.pth")
    done = import_backbone(str(tmp_path / "r18.pth"), "timm", "resnet18.tv_in1k", tmp_path / "in")
    assert done.keys["MODEL"]["BACKBONE"]["NAME"] == "build_resnet_fpn_backbone"
    assert done.difference <= done.tolerance / 10


def test_the_pixels_of_a_network_of_timm_are_those_that_its_weights_were_trained_with():
    assert timm_pixels("tf_efficientnet_lite0") == RgbPixels((0.5,) * 3, (0.5,) * 3)
    assert timm_pixels("resnet18.tv_in1k") == IMAGENET_PIXELS


@pytest.mark.parametrize("extractor", [False, True])
def test_another_network_of_timm_becomes_a_timm_backbone_with_its_own_statistics(extractor, tmp_path):
    torch.manual_seed(0)
    options = {"features_only": True} if extractor else {"num_classes": 7}
    model = settle(timm.create_model("test_efficientnet", **options))
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    done = import_backbone(str(tmp_path / "net.safetensors"), "timm", "test_efficientnet", tmp_path / "in")
    cfg = small_detector(done.config)
    body = build_backbone(cfg).bottom_up
    body.load_state_dict(torch.load(done.weights, weights_only=True)["model"], strict=False)
    assert torch.equal(body.body.conv_stem.weight, model.conv_stem.weight)
    known = timm.models.get_pretrained_cfg("test_efficientnet")
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * x for x in known.std])
    assert done.difference <= done.tolerance / 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, name", [("torchvision", "vgg11_bn"), ("torchvision", "vgg16"), ("timm", "vgg11")]
)
def test_a_vgg_comes_without_its_fully_connected_layers(source, name, tmp_path):
    torch.manual_seed(0)
    library = torchvision.models.get_model if source == "torchvision" else timm.create_model
    torch.save(settle(library(name)).state_dict(), tmp_path / "vgg.pth")
    done = import_backbone(str(tmp_path / "vgg.pth"), source, name, tmp_path / "in")
    vgg = done.keys["MODEL"]["VGG"]
    assert (vgg["DEPTH"], vgg["NORM"]) == ((11, "FrozenBN") if name == "vgg11_bn" else (int(name[3:]), ""))
    assert len(done.left_out) == 6 and done.difference <= done.tolerance / 10
    StudentCheckpointer(build_student(small_detector(done.config), "cpu")).load(str(done.weights))


def caffe2_blobs(network, seed=0):
    """Blobs as in detectron2's zoo: factors in place of statistics, a classifier, a bias that nobody uses, momenta."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.get_model(network).state_dict().items()}
    layers = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample": "branch1"}
    random, blobs = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        parts, end = name.split("."), name.rpartition(".")[2]
        if name.startswith("fc.") or end not in ("weight", "bias"):
            continue
        norm = parts[-2].startswith("bn") or (parts[-3:-2] == ["downsample"] and parts[-2] == "1")
        if parts[0] in ("conv1", "bn1"):
            blob = "res_conv1_bn" if norm else "conv1"
        else:
            layer = "downsample" if "downsample" in parts else parts[2].replace("bn", "conv")
            blob = f"res{int(parts[0][5:]) + 1}_{parts[1]}_{layers[layer]}{'_bn' if norm else ''}"
        blob += {"weight": "_s" if norm else "_w", "bias": "_b"}[end]
        blobs[blob] = random.standard_normal(tuple(shape), dtype=np.float32) * 0.05
    return {
        **blobs,
        "conv1_b": np.zeros(64, "f4"),
        "fc1000_w": np.zeros((2, 2), "f4"),
        "conv1_w_momentum": np.zeros(2),
    }


@pytest.fixture(scope="module")
def msra(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "R-50.pkl"
    path.write_bytes(pickle.dumps(caffe2_blobs("resnet50"), protocol=2))
    return str(path)


def test_weights_of_msra_are_what_detectron2_makes_of_them_with_their_pixels_and_strides(msra, tmp_path):
    done = import_backbone(msra, "msra", "R-50", tmp_path)
    model = done.keys["MODEL"]
    assert done.keys["INPUT"] == {"FORMAT": "BGR"} and model["PIXEL_MEAN"] == [103.53, 116.28, 123.675]
    assert model["PIXEL_STD"] == [1.0, 1.0, 1.0]
    assert {"DEPTH": 50, "RES2_OUT_CHANNELS": 256, "STRIDE_IN_1X1": True}.items() <= model["RESNETS"].items()
    cfg = get_detectron2_cfg()
    cfg.merge_from_file(str(done.config))
    theirs, ours = torch.nn.Module(), torch.nn.Module()
    theirs.backbone, ours.backbone = build_backbone(cfg).bottom_up, build_backbone(cfg).bottom_up
    DetectionCheckpointer(theirs).load(msra)
    DetectionCheckpointer(ours).load(str(done.weights))
    expected, found = theirs.state_dict(), ours.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in expected.items())
    assert sorted(done.left_out) == ["conv1_b", "fc1000_w"] and done.difference is None


def test_weights_of_msra_can_be_turned_to_rgb(msra, tmp_path):
    done = import_backbone(msra, "msra", "R-50", tmp_path, input_format="RGB")
    assert done.keys["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    with open(msra, "rb") as file:
        first = torch.from_numpy(pickle.load(file)["conv1_w"])
    assert torch.equal(torch.load(done.weights)["model"]["stem.conv1.weight"], first.flip(1))


@pytest.mark.slow
def test_fairs_resnext_is_bgr_with_deviations_and_the_stride_in_the_3x3(tmp_path):
    (tmp_path / "X-101-32x8d.pkl").write_bytes(pickle.dumps(caffe2_blobs("resnext101_32x8d"), protocol=2))
    model = import_backbone(str(tmp_path / "X-101-32x8d.pkl"), "fair", "X-101-32x8d", tmp_path / "in").keys[
        "MODEL"
    ]
    assert model["PIXEL_STD"] == [57.375, 57.12, 58.395]
    wanted = {"DEPTH": 101, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8, "STRIDE_IN_1X1": False}
    assert wanted.items() <= model["RESNETS"].items()


def test_there_and_back_every_name_is_used_once():
    with torch.device("meta"):
        names = body_of(torchvision.models.resnet50().state_dict())
    assert [to_torchvision(from_torchvision(k)) for k in names] == list(names)

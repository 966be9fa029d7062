"""What holds for every kind of backbone: it learns in a classifier, can be tapped there, and an FPN takes it whole."""

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch import nn

from det_distill.taps import FeatureTap
from tests.tiny import build, classifier_cfg

CIFAR_RESNET = ("cifar_resnet", 8, ["res2", "res3", "res4"])
RESNET = ("resnet", 32, ["res2", "res3", "res4", "res5"])
REGNET = ("regnet", 32, ["s1", "s2", "s3", "s4"])
TIMM = ("timm", 32, ["res2", "res3", "res4", "res5"])
NIN = ("nin", 8, ["mlpconv1", "mlpconv2", "mlpconv3"])
RESNET_CLASSIFIER = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.OUT_FEATURES": RESNET[2],
}

# kind -> (builder, pixels of a side, its features, the keys that make it small)
KINDS = {
    "cifar_resnet A": (*CIFAR_RESNET, {"MODEL.CIFAR_RESNET.DEPTH": 8}),
    "cifar_resnet B": (*CIFAR_RESNET, {"MODEL.CIFAR_RESNET.DEPTH": 14, "MODEL.CIFAR_RESNET.SHORTCUT": "B"}),
    "wide_resnet": ("wide_resnet", 8, ["res2", "res3", "res4", "final"], {"MODEL.WIDE_RESNET.DEPTH": 10}),
    "wide_resnet x2": (
        "wide_resnet",
        8,
        ["res2", "res3", "res4", "final"],
        {"MODEL.WIDE_RESNET.WIDTH": 2, "MODEL.WIDE_RESNET.DROPOUT": 0.3},
    ),
    "resnet 18": (
        *RESNET,
        {**RESNET_CLASSIFIER, "MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64},
    ),
    "resnet 34": (
        *RESNET,
        {**RESNET_CLASSIFIER, "MODEL.RESNETS.DEPTH": 34, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64},
    ),
    "resnet 50": (
        *RESNET,
        {**RESNET_CLASSIFIER, "MODEL.RESNETS.WIDTH_PER_GROUP": 4},
    ),
    "vgg 11": ("vgg", 32, ["conv3", "conv4", "conv5", "pool5"], {"MODEL.VGG.DEPTH": 11}),
    "vgg 16 with norms": ("vgg", 32, ["conv3", "conv4", "conv5", "pool5"], {"MODEL.VGG.NORM": "BN"}),
    "regnet X": (*REGNET, {"MODEL.REGNET.NAME": "X_200MF"}),
    "regnet Y": (*REGNET, {"MODEL.REGNET.NAME": "Y_200MF"}),
    "timm": (*TIMM, {"MODEL.TIMM.NAME": "test_efficientnet", "MODEL.TIMM.FREEZE_NORM": False}),
    "nin": (*NIN, {"MODEL.NIN.WIDTH": 0.2}),
    "nin with norms": (*NIN, {"MODEL.NIN.WIDTH": 0.2, "MODEL.NIN.NORM": "BN"}),
    "nin imagenet": (
        "nin",
        32,
        ["mlpconv1", "mlpconv2", "mlpconv3", "mlpconv4"],
        {"MODEL.NIN.LAYOUT": "imagenet", "MODEL.NIN.WIDTH": 0.1},
    ),
    "plain": ("plain", 8, ["layer1", "layer2", "layer3"], {"MODEL.PLAIN.LAYERS": ["C3@8", "MP2", "FC16"]}),
}


def cfg_of(kind):
    builder, side, _, options = KINDS[kind]
    if builder == "timm":
        pytest.importorskip("timm", reason="needs the extra det_distill[timm]")
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME = f"build_{builder}_backbone"
    cfg.MODEL.PLAIN.IMAGE_SIZE = side
    cfg.merge_from_list([x for pair in options.items() for x in pair])
    return cfg


def batch_of(kind):
    generator, side = torch.Generator().manual_seed(0), KINDS[kind][1]
    images = torch.randint(0, 256, (6, 3, side, side), generator=generator, dtype=torch.uint8)
    return [{"image": image, "label": i % 2, "format": "RGB"} for i, image in enumerate(images)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_a_classifier_moves_every_parameter_of_its_backbone(kind):
    """The linear classifier starts small, and so do gradients: the step is along their signs."""
    model = build(cfg_of(kind)).train()
    model.classifier.weight.data.normal_()
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    loss = model(batch_of(kind))["loss_cls"]
    loss.backward()
    assert loss.isfinite() and before
    assert [name for name, p in model.backbone.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert [name for name, p in model.backbone.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_pool_embedding_classifier_and_stages_can_be_tapped(kind):
    cfg = cfg_of(kind)
    cfg.MODEL.CLASSIFIER.EMBEDDING_DIM = 5
    model, features = build(cfg).eval(), KINDS[kind][2]
    assert list(model.backbone.output_shape()) == features
    addresses = ["pool", "embedding", "classifier", *(f"backbone:{name}" for name in features)]
    with FeatureTap(model, addresses).record() as values, torch.no_grad():
        model(batch_of(kind))
    shapes = model.backbone.output_shape()
    assert values["pool"].shape == (6, shapes[features[-1]].channels)
    assert (values["embedding"].shape, values["classifier"].shape) == ((6, 5), (6, 2))
    for name in features:
        value, stride = values[f"backbone:{name}"], shapes[name].stride or KINDS[kind][1]
        assert value.shape == (6, shapes[name].channels, *[KINDS[kind][1] // stride] * 2)


def pyramid_inputs(features):
    """All of them, but of two features of one stride the last."""
    return [*features[:2], "final"] if "final" in features else features


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_the_pyramid_of_a_builder_has_the_classifiers_backbone_below_it_weight_by_weight(kind):
    cfg = cfg_of(kind)
    alone = build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = f"build_{KINDS[kind][0]}_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = pyramid_inputs(KINDS[kind][2])
    cfg.MODEL.FPN.OUT_CHANNELS = 4
    below = build_backbone(cfg).bottom_up
    assert type(below) is type(alone)
    below.load_state_dict(alone.state_dict())


def test_every_builder_of_this_package_is_tried_here():
    ours = [name for name, fn in BACKBONE_REGISTRY if fn.__module__.startswith("det_distill.")]
    tried = {
        f"build_{builder}{fpn}_backbone"
        for builder, *_ in KINDS.values()
        for fn, fpn in ((0, ""), (0, "_fpn"))
    }
    assert ours and set(ours) <= tried


def test_frozen_norms_of_timm_which_are_the_default_do_not_learn_and_do_not_count():
    pytest.importorskip("timm", reason="needs the extra det_distill[timm]")
    cfg = cfg_of("timm")
    cfg.MODEL.TIMM.FREEZE_NORM = True
    model = build(cfg).train()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    model(batch_of("timm"))["loss_cls"].backward()
    assert norms and all(m.weight.grad is None for m in norms)
    assert all(torch.equal(m.running_mean, old) for m, old in zip(norms, before, strict=True))


@pytest.mark.parametrize("frozen", [0, 2])
def test_detectron2s_resnet_trains_its_first_stages_only_if_freeze_at_is_set_to_0(frozen):
    cfg = cfg_of("resnet 18")
    cfg.MODEL.BACKBONE.FREEZE_AT = frozen
    trained = {name.split(".")[0] for name, p in build(cfg).backbone.named_parameters() if p.requires_grad}
    assert trained == {"stem", "res2", "res3", "res4", "res5"} - ({"stem", "res2"} if frozen else set())

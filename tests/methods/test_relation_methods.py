"""FSP, gradient attention and flip symmetry in a config, from addresses to terms of the loss."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill.adapters import Each
from det_distill.config import complete_config
from det_distill.losses import FSP, FlipSymmetry, GradientAttention
from det_distill.methods import METHODS, Side
from det_distill.padding import image_sizes, valid_cells
from det_distill.taps import FeatureSpec
from tests.tiny import batch, classifier_cfg, detector_cfg, distill_cfg, save_teacher

LOGITS_AND_INPUT = ["classifier", "backbone@input"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"), detector_cfg(fpn=24))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("classifier"), classifier_cfg(depth=14))


@pytest.fixture(autouse=True)
def storage():
    torch.manual_seed(0)
    with EventStorage():
        yield


def made(student, teacher, pair, **distill):
    cfg = distill_cfg(student, teacher, {"x": pair})
    for key, value in distill.items():
        cfg.DISTILL[key] = value
    return build_model(cfg).train()


def samples(count=3):
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
    return [{"image": image, "label": n % 2} for n, image in enumerate(pixels)]


def side(*channels, addresses=("backbone:p2", "backbone:p3")):
    return Side(addresses, tuple(FeatureSpec(c, 4) for c in channels))


def test_a_detector_learns_how_a_stage_begins_and_ends_from_a_teacher_of_the_same_channels(teacher):
    at = [
        ["backbone.bottom_up.res4.0", "backbone.bottom_up:res4"],
        ["backbone.bottom_up:res2", "backbone.bottom_up:res3"],
    ]
    model = made(detector_cfg(), teacher, {"METHOD": "FSP", "AT": at})
    losses = model(batch())
    terms = {name: value for name, value in losses.items() if name.startswith("distill_")}
    assert set(terms) == {"distill_x_res4_0_res4", "distill_x_res2_res3"}
    assert all(value.isfinite() and value > 0 for value in terms.values())
    sum(terms.values()).backward()
    bottom_up = model.student.backbone.bottom_up
    assert bottom_up.res4[0].conv1.weight.grad.any() and bottom_up.res2[0].conv1.weight.grad.any()
    assert bottom_up.res5[0].conv1.weight.grad is None


def test_a_pair_of_maps_leaves_the_padding_of_each_out(teacher):
    at = ["backbone.bottom_up:res2", "backbone.bottom_up:res3"]
    model, data = made(detector_cfg(), teacher, {"METHOD": "FSP", "AT": [at], "REDUCTION": "mean"}), batch()
    _, own, seen = model.observe(data)
    maps = [own[a] for a in at], [seen["big"][a] for a in at]
    valid = [valid_cells(f, n, image_sizes(data)) for f, n in zip(maps[0], (4, 8), strict=True)]
    expected = FSP("mean")(*maps, valid)
    torch.testing.assert_close(model(data)["distill_x_res2_res3"], expected)
    assert abs(expected - FSP("mean")(*maps)) > 1e-3 * expected


def test_the_first_of_two_stages_trains_the_backbone_alone(teacher):
    at = [["backbone.bottom_up:res2", "backbone.bottom_up:res3"]]
    pair = {"METHOD": "FSP", "AT": at}
    model = made(detector_cfg(), teacher, pair, TASK_WEIGHT=0.0, TRAIN_ONLY=["backbone"])
    sum(model(batch()).values()).backward()
    trained = {name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained and all(name.startswith("backbone.bottom_up.") for name in trained)


def test_an_adapter_for_unequal_channels_is_there_on_request(teacher):
    at = [["backbone:p2", "backbone:p3"]]
    with pytest.raises(ValueError, match=r"\[16, 16\] channels, the teacher's \[24, 24\].*ADAPTER: 'linear'"):
        made(detector_cfg(), teacher, {"METHOD": "FSP", "AT": at})
    model = made(detector_cfg(), teacher, {"METHOD": "FSP", "AT": at, "ADAPTER": "linear"})
    adapter = model.distill["x_p2_p3"].student_adapter
    assert [(a.in_channels, a.out_channels) for a in adapter.adapters] == [(16, 24)] * 2
    model(batch())["distill_x_p2_p3"].backward()
    assert all(p.grad.any() for p in adapter.parameters())


def test_the_options_reach_the_loss():
    parts = METHODS["FSP"](side(4, 8), side(4, 8), reduction="mean")
    assert isinstance(parts.loss, FSP) and parts.loss.reduction == "mean" and parts.student_adapter is None


@pytest.mark.parametrize(
    ("student", "teacher", "options", "words"),
    [
        (
            side(4, addresses=("backbone:p2",)),
            side(4, addresses=("backbone:p2",)),
            {},
            "two addresses a side",
        ),
        (side(4, 8), side(4, 6), {}, "'linear', which is not in the paper"),
        (side(4, None), side(4, 6), {"adapter": "linear"}, "channels of 'backbone:p3' are not declared"),
        (side(4, 8), side(4, 8), {"adapter": "auto"}, "ADAPTER 'auto'"),
        (side(4, 8), side(4, 8), {"reduction": "all"}, "reduces by"),
    ],
)
def test_a_pair_that_fsp_cannot_compare_is_an_error_when_built(student, teacher, options, words):
    with pytest.raises(ValueError, match=words):
        METHODS["FSP"](student, teacher, **options)


def test_more_features_than_adapters_are_an_error():
    with pytest.raises(ValueError, match="1 adapters cannot adapt 2 features"):
        Each([torch.nn.Identity()])([torch.zeros(1), torch.zeros(1)])


def on(model, data):
    """[logits, pixels] of a classifier."""
    pixels = model.normalized_images(data).requires_grad_()
    return [model.classifier(model.embedding(model.pool(model.backbone(pixels)[model.feature]))), pixels]


def test_a_classifier_learns_the_input_gradient_of_a_teacher(classifier):
    pair = {"METHOD": "GradientAttention", "AT": [LOGITS_AND_INPUT], "WEIGHT": 10.0}
    model, data = made(classifier_cfg(), classifier, pair), samples()
    (name,) = model.distill.by_name()
    value = model(data)[f"distill_{name}"]
    labels = torch.tensor([s["label"] for s in data])
    student, teacher = on(model.student, data), on(model.teachers["big"].model, data)
    torch.testing.assert_close(value, 10 * GradientAttention()(student, teacher, labels=labels))
    value.backward()
    assert value > 0 and model.student.backbone.stem.weight.grad.any()
    assert all(p.grad is None for p in model.teachers["big"].model.parameters())


def test_a_classifier_learns_symmetry_without_a_teacher():
    cfg = classifier_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Distiller"
    cfg.DISTILL.PAIRS.flip = CfgNode({"METHOD": "FlipSymmetry", "AT": [LOGITS_AND_INPUT]})
    complete_config(cfg)
    model, data = build_model(cfg).train(), samples()
    assert not model.teachers
    (name,) = model.distill.by_name()
    value = model(data)[f"distill_{name}"]
    mirrored = [{**s, "image": s["image"].flip(-1)} for s in data]
    labels = torch.tensor([s["label"] for s in data])
    student = on(model.student, data)
    torch.testing.assert_close(
        value, FlipSymmetry()(student, labels=labels, mirrored=on(model.student, mirrored))
    )
    value.backward()
    assert value > 0 and model.student.backbone.stem.weight.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"INPUT.FORMAT": "BGR"}, "student's INPUT.FORMAT is RGB, the teacher's BGR"),
        ({"MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0]}, r"MODEL.PIXEL_MEAN is .*, the teacher's \[1.0, 2.0, 3.0\]"),
        ({"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}, r"MODEL.PIXEL_STD is \[64.0, 64.0, 64.0\]"),
        (
            {"INPUT.FORMAT": "L", "MODEL.PIXEL_MEAN": [9.0], "MODEL.PIXEL_STD": [1.0]},
            "INPUT.FORMAT is RGB, the teacher's L",
        ),
    ],
)
def test_a_teacher_that_wants_other_pixels_has_no_comparable_input_gradient(tmp_path, change, message):
    cfg = classifier_cfg(depth=14)
    cfg.merge_from_list([item for pair in change.items() for item in pair])
    pair = {"METHOD": "GradientAttention", "AT": [LOGITS_AND_INPUT]}
    with pytest.raises(ValueError, match=f"^DISTILL.PAIRS.x: GradientAttention.*{message}"):
        made(classifier_cfg(), save_teacher(tmp_path, cfg), pair)


@pytest.mark.parametrize("method", ["GradientAttention", "FlipSymmetry"])
@pytest.mark.parametrize("select", ["foreground", "teacher_correct"])
def test_input_gradients_are_of_whole_images(classifier, method, select):
    pair = {"METHOD": method, "AT": [LOGITS_AND_INPUT], "SELECT": select}
    cfg = distill_cfg(classifier_cfg(), classifier, {"x": pair})
    with pytest.raises(ValueError, match=f"^DISTILL.PAIRS.x: SELECT '{select}'"):
        build_model(cfg)


@pytest.mark.parametrize("method", ["GradientAttention", "FlipSymmetry"])
def test_a_detector_has_no_input_gradient(teacher, method):
    pair = {"METHOD": method, "AT": [["roi_heads.box_predictor:0", "backbone@input"]]}
    with pytest.raises(ValueError, match=f"^DISTILL.PAIRS.x: {method}.*GeneralizedRCNN is a detector"):
        made(detector_cfg(), teacher, pair)


@pytest.mark.parametrize(
    "addresses", [("classifier",), ("backbone@input", "classifier"), ("classifier", "pool")]
)
@pytest.mark.parametrize("method", ["GradientAttention", "FlipSymmetry"])
def test_anything_but_logits_and_an_input_is_an_error_when_built(method, addresses):
    given = side(*(3 for _ in addresses), addresses=addresses)
    with pytest.raises(ValueError, match=r"\[classifier, backbone@input\]"):
        METHODS[method](given, None if method == "FlipSymmetry" else given)

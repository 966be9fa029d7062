"""The classifier by hand, on every kind of backbone, and its addresses in a distiller."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.modeling.backbone import Backbone
from torch import nn

from det_distill.classification import ImageClassifier
from det_distill.distiller import Distiller
from det_distill.losses import L2
from det_distill.pairs import Pair, Pairs
from det_distill.taps import FeatureTap, feature_spec
from det_distill.teachers import RCNNTeacher, Teacher, as_teacher
from tests.tiny import build, classifier_cfg

ADDRESSES = {
    "backbone@input": (2, 3, 8, 8),
    "backbone:res2": (2, 16, 8, 8),
    "backbone:res4": (2, 64, 2, 2),
    "pool": (2, 64),
    "embedding": (2, 64),
    "classifier": (2, 2),
}


class Pixels(Backbone):
    """Returns its input twice, once negated."""

    def __init__(self, divisibility=0):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self._divisibility = divisibility

    @property
    def size_divisibility(self):
        return self._divisibility

    def forward(self, x):
        return {"same": x * self.scale, "negative": -x}

    def output_shape(self):
        return {"same": ShapeSpec(channels=3, stride=1), "negative": ShapeSpec(channels=3, stride=1)}


def on_pixels(divisibility=0, **options):
    defaults = {
        "num_classes": 2,
        "pixel_mean": [1.0, 2.0, 3.0],
        "pixel_std": [2.0, 2.0, 4.0],
        "input_format": "RGB",
    }
    return ImageClassifier(backbone=Pixels(divisibility), **{**defaults, **options})


def on_gray(mean=0.0, std=1.0):
    return on_pixels(input_format="L", pixel_mean=[mean], pixel_std=[std])


def samples(count=2, size=(8, 8), seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *size), generator=g, dtype=torch.uint8)
    return [{"image": image, "label": i % 2, **more} for i, image in enumerate(images)]


def test_logits_and_loss_of_one_image_by_hand():
    """Pixels (1, 4, 11) at one place and (5, 0, 3) at another; mean (1, 2, 3), std (2, 2, 4)."""
    model = on_pixels(feature="same").train()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]]))
        model.classifier.bias.copy_(torch.tensor([0.25, 0.0]))
    image = torch.tensor([[[1, 5]], [[4, 0]], [[11, 3]]], dtype=torch.uint8)
    means = [(0 + 2) / 2, (1 - 1) / 2, (2 + 0) / 2]
    logits = [means[0] + 0.25, means[1] + 2 * means[2]]
    batch = [{"image": image, "label": 1}]
    expected = math.log(math.exp(logits[0]) + math.exp(logits[1])) - logits[1]
    assert float(model(batch)["loss_cls"].detach()) == pytest.approx(expected, rel=1e-6)
    (output,) = model.eval()(batch)
    assert output["logits"].tolist() == pytest.approx(logits) and output["embedding"].tolist() == means


def test_without_a_name_the_last_feature_is_pooled():
    model = on_pixels().eval()
    assert model.feature == "negative"
    assert torch.equal(
        model(samples())[0]["embedding"], -on_pixels(feature="same").eval()(samples())[0]["embedding"]
    )


def test_the_loss_is_the_mean_over_the_batch():
    model = on_pixels().train()
    batch = samples(4)
    alone = [model([sample])["loss_cls"] for sample in batch]
    assert torch.allclose(model(batch)["loss_cls"], torch.stack(alone).mean())


def test_the_linear_embedding_has_a_bias_and_no_activation():
    model = on_pixels(embedding_dim=5).eval()
    assert model.classifier.in_features == 5
    batch = samples()
    pooled = model.pool(model.backbone(model.normalized_images(batch))["negative"])
    expected = pooled @ model.embedding.weight.T + model.embedding.bias
    found = torch.stack([output["embedding"] for output in model(batch)])
    assert torch.allclose(found, expected) and (found < 0).any()
    assert torch.allclose(model.classifier(found)[1], model(batch)[1]["logits"])


def test_an_image_in_the_other_channel_order_is_reversed():
    model = on_pixels().eval()
    batch = samples(format="RGB")
    reversed_ = [{**x, "image": x["image"].flip(0), "format": "BGR"} for x in batch]
    unnamed = [{"image": x["image"]} for x in batch]
    expected = model.normalized_images(batch)
    assert torch.equal(model.normalized_images(reversed_), expected)
    assert torch.equal(model.normalized_images(unnamed), expected)
    with pytest.raises(ValueError, match="an image in format YUV for a classifier of RGB"):
        model.normalized_images([{**batch[0], "format": "YUV"}])


def test_one_channel_becomes_three_equal_ones_and_colour_becomes_gray():
    gray = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    for form in ("RGB", "BGR"):
        model = on_pixels(input_format=form, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
        seen = model.normalized_images([{"image": gray, "format": "L"}])
        assert torch.equal(seen[0], gray.float().expand(3, -1, -1))
    image = torch.tensor([[[200.0]], [[100.0]], [[50.0]]])
    for form, colour in (("RGB", image), ("BGR", image.flip(0))):
        (seen,) = on_gray().normalized_images([{"image": colour, "format": form}])
        assert seen.shape == (1, 1, 1) and seen.item() == pytest.approx(
            0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=0.1
        )
    with pytest.raises(ValueError, match="an image in format L needs 1 channel.*this one has 3"):
        on_pixels().normalized_images([{"image": image, "format": "L"}])


def test_a_teacher_of_colour_sees_the_gray_images_of_its_student():
    cfg = classifier_cfg()
    cfg.MODEL.PIXEL_MEAN = [100.0, 100.0, 100.0]
    student, teacher = on_gray(100.0, 64.0), Teacher(build(cfg))
    teacher.bind(student, ["backbone@input"])
    batch = [{"image": x["image"][:1], "format": "L"} for x in samples()]
    (seen,) = teacher(batch).values()
    assert torch.equal(seen, student.normalized_images(batch).expand(-1, 3, -1, -1))


def test_the_loss_of_a_mixed_image_is_that_of_its_classes_by_their_shares():
    model = on_pixels().train()
    batch = [{**x, "target": torch.tensor([0.3, 0.7])} for x in samples(3)]
    alone = [model([{**x, "label": k} for x in samples(3)])["loss_cls"] for k in (0, 1)]
    assert torch.allclose(model(batch)["loss_cls"], 0.3 * alone[0] + 0.7 * alone[1])


def test_smoothing_gives_every_class_its_part_of_mixed_and_of_plain_images():
    """e = 0.2, two classes: the target (0, 1) becomes (0.1, 0.9), and (0.3, 0.7) becomes (0.34, 0.66)."""
    smooth, plain = on_pixels(label_smoothing=0.2).train(), on_pixels().train()
    smooth.load_state_dict(plain.state_dict())
    (sample,) = samples(1)
    for given, meant in (({"label": 1}, [0.1, 0.9]), ({"target": torch.tensor([0.3, 0.7])}, [0.34, 0.66])):
        found = smooth([{**sample, **given}])["loss_cls"]
        assert torch.allclose(found, plain([{**sample, "target": torch.tensor(meant)}])["loss_cls"])
    assert torch.equal(smooth.eval()([sample])[0]["logits"], plain.eval()([sample])[0]["logits"])


def test_the_config_smooths_labels():
    cfg = classifier_cfg()
    cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.3
    assert build(cfg).label_smoothing == 0.3 and build(classifier_cfg()).label_smoothing == 0


def test_images_that_lie_in_one_tensor_are_as_good_as_single_ones():
    model = on_pixels().train()
    together = torch.stack([x["image"] for x in samples(4)])
    rows = [{**x, "image": row} for x, row in zip(samples(4), together, strict=True)]
    assert torch.equal(model(rows)["loss_cls"], model(samples(4))["loss_cls"])


def test_half_precision_gives_a_loss_and_logits_in_float32():
    model = build(classifier_cfg()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(samples())["loss_cls"].dtype == torch.float32
        assert model.eval()(samples())[0]["logits"].dtype == torch.float32


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (samples(1) + samples(1, (8, 6)), r"different sizes, 8 x 6, 8 x 8.*CROP"),
        ([{"image": torch.zeros(1, 8, 8), "label": 0}], "images of 1 channels .* PIXEL_MEAN of 3"),
        ([{"image": torch.zeros(3, 8, 8)}], "'label', in every sample"),
        ([*samples(1), {**samples(1)[0], "target": torch.ones(2) / 2}], "some samples .* mix all or none"),
        (
            [{**samples(1)[0], "target": torch.ones(3) / 3}],
            "targets of 3 numbers for a classifier of 2 classes",
        ),
    ],
)
def test_a_batch_that_cannot_be_used_is_an_error_for_people(batch, message):
    with pytest.raises(ValueError, match=message):
        on_pixels().train()(batch)


def test_a_size_that_the_backbone_would_pad_is_refused():
    model = on_pixels(divisibility=4)
    assert model.normalized_images(samples()).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="8 x 6 pixels: this backbone needs multiples of 4"):
        model.normalized_images(samples(size=(8, 6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature": "res5"}, "FEATURE 'res5': this backbone returns same, negative"),
        ({"num_classes": 0}, "NUM_CLASSES must be at least 1"),
        ({"embedding_dim": -1}, "EMBEDDING_DIM at least 0"),
        ({"label_smoothing": 1.0}, "LABEL_SMOOTHING 1.0: at least 0 and below 1"),
        ({"input_format": "YUV"}, "INPUT.FORMAT 'YUV'"),
        (
            {"pixel_mean": [0.0]},
            "PIXEL_MEAN has 1 values and PIXEL_STD 3, where INPUT.FORMAT 'RGB' has 3 channels",
        ),
    ],
)
def test_a_classifier_that_cannot_be_built_is_an_error_for_people(options, message):
    with pytest.raises(ValueError, match=message):
        on_pixels(**options)


def test_it_is_a_registered_architecture_without_pixel_statistics_in_its_state():
    model = build_model(classifier_cfg(classes=7, embedding=5))
    assert isinstance(model, META_ARCH_REGISTRY.get("ImageClassifier"))
    assert model.num_classes == 7 and model.input_format == "RGB" and model.device.type == "cpu"
    assert not [k for k in model.state_dict() if "pixel" in k]
    assert {k.split(".")[0] for k in model.state_dict()} == {"backbone", "embedding", "classifier"}


def backbone_cfg(name):
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME = f"build_{name}_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.OUT_FEATURES = "BN", ["res3", "res4"]
    cfg.MODEL.VGG.DEPTH, cfg.MODEL.VGG.OUT_FEATURES = 11, ["conv1", "conv2"]
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_FEATURES = "lcnet_050", ["res3", "res4"]
    cfg.MODEL.TIMM.FREEZE_NORM = False
    return cfg


@pytest.mark.parametrize(
    ("name", "feature", "stride"),
    [("cifar_resnet", "res4", 4), ("resnet", "res4", 16), ("vgg", "conv2", 2), ("timm", "res4", 16)],
)
def test_every_backbone_without_a_pyramid_serves(name, feature, stride):
    if name == "timm":
        pytest.importorskip("timm")
    model = build(backbone_cfg(name)).train()
    assert model.feature == feature and feature_spec(model, f"backbone:{feature}").stride == stride
    model(samples(size=(32, 32)))["loss_cls"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("address", ADDRESSES)
def test_channels_and_strides_of_every_address_are_declared(address):
    model = build(classifier_cfg())
    with FeatureTap(model, [address]).record() as values:
        model(samples())
    assert values[address].shape == ADDRESSES[address]
    spec = feature_spec(model, address)
    if address == "backbone@input":
        assert spec == (None, None)
    else:
        map_ = len(ADDRESSES[address]) == 4
        assert spec == (ADDRESSES[address][1], 8 // ADDRESSES[address][2] if map_ else None)


def test_a_linear_embedding_declares_its_own_width():
    model = build(classifier_cfg(embedding=24))
    assert feature_spec(model, "pool").channels == 64 and feature_spec(model, "embedding").channels == 24


def test_it_is_no_detector_to_its_teacher_and_its_classifier_is_found():
    model = build(classifier_cfg(embedding=24))
    teacher = as_teacher(model)
    assert isinstance(teacher, Teacher) and not isinstance(teacher, RCNNTeacher)
    assert teacher.classifier_weight() is model.classifier.weight


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_pair_at_any_address_is_what_two_separate_passes_give(address):
    student, teacher = build(classifier_cfg(depth=8)).train(), build(classifier_cfg(depth=14), seed=1)
    distiller = Distiller(student, Pairs(kd=Pair(address, address, L2())), {"big": teacher}).train()
    batch = samples()
    losses = distiller(batch)
    assert set(losses) == {"loss_cls", "distill_kd"}
    with FeatureTap(student, [address]).record() as own, FeatureTap(teacher, [address]).record() as other:
        student(batch)
        with torch.no_grad():
            teacher(batch)
    assert torch.allclose(losses["distill_kd"], F.mse_loss(own[address], other[address]))
    assert (losses["distill_kd"] > 0) == (address != "backbone@input")
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in student.parameters())


def test_a_teacher_may_want_the_other_channel_order():
    """Both see the same pixels: the student's normalised channels are the teacher's, reversed."""
    other = classifier_cfg()
    other.INPUT.FORMAT = "BGR"
    other.MODEL.PIXEL_MEAN, cfg = [1.0, 2.0, 3.0], classifier_cfg()
    cfg.MODEL.PIXEL_MEAN = [3.0, 2.0, 1.0]
    student, teacher = build(cfg), Teacher(build(other))
    teacher.bind(student, ["backbone@input"])
    batch = samples(format="RGB")
    (seen,) = teacher(batch).values()
    assert torch.equal(seen, student.normalized_images(batch).flip(1))


def test_a_distilled_classifier_is_its_student_in_eval_mode():
    student, teacher = build(classifier_cfg()), build(classifier_cfg(depth=14), seed=1)
    distiller = Distiller(student, Pairs(kd=Pair("embedding", "embedding", L2())), {"big": teacher}).eval()
    found, expected = distiller(samples()), student(samples())
    assert all(torch.equal(a["logits"], b["logits"]) for a, b in zip(found, expected, strict=True))

"""Mixup and cutmix, and what every method makes of mixed images."""

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage

from det_distill.classification import add_metric_learning_config
from det_distill.classification.mixing import check_mixing, mix, mixer
from det_distill.distiller import Distiller
from det_distill.losses import L2
from det_distill.methods import METHODS
from det_distill.pairs import Pair, Pairs
from det_distill.taps import FeatureTap
from det_distill.targets import labels_of
from tests.tiny import build, classifier_cfg, distill_cfg, save_teacher

ONE_CLASS = "methods that need the class of each row do not go with mixed images"


def samples(count=4, size=(8, 8), seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *size), generator=g, dtype=torch.uint8)
    return [
        {"image": x, "label": i % 2, "image_id": f"{i}", "format": "RGB", **more}
        for i, x in enumerate(images)
    ]


def mixed(count=4, **options):
    return mix(samples(count), **{"classes": 2, "mixup": 0.8, "seed": 0, **options})


def batches(count=200, **options):
    return [mix(samples(), classes=2, seed=seed, **options) for seed in range(count)]


def test_mixup_adds_the_image_before_and_the_target_by_one_share():
    before = samples()
    shares = []
    for after in batches(mixup=0.8):
        share = after[0]["target"][0]
        assert 0 <= share <= 1
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            expected = share * old["image"] + (1 - share) * before[i - 1]["image"]
            torch.testing.assert_close(new["image"], expected, atol=2e-3, rtol=1e-5)
            own = torch.eye(2)[old["label"]]
            torch.testing.assert_close(new["target"], share * own + (1 - share) * (1 - own))
        shares.append(float(share))
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 * 0.8 + 1))
    assert abs(np.mean(shares) - 0.5) < 0.07 and abs(np.var(shares) - 0.096) < 0.025


def test_cutmix_puts_a_rectangle_of_the_image_before_and_the_target_has_its_share():
    before = samples()
    kept = []
    for after in batches(cutmix=1.0):
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            foreign = (new["image"] != old["image"]).any(0)
            assert torch.equal(new["image"][:, foreign], before[i - 1]["image"][:, foreign].float())
            inside = foreign.any(1).sum() * foreign.any(0).sum()
            assert foreign.sum() == inside
            assert float(new["target"][old["label"]]) == pytest.approx(1 - float(inside) / 64)
        kept.append(float(after[0]["target"][0]))
    assert min(kept) < 0.5 and max(kept) == 1.0 and len(set(kept)) > 10


def test_one_of_the_two_is_drawn_for_each_batch():
    old = samples()
    cut = [
        torch.isin(new[0]["image"], old[0]["image"].float()).float().mean() > 0.99
        for new in batches(mixup=1.0)
    ]
    assert sum(cut) < 20
    both = batches(mixup=1.0, cutmix=1.0)
    pieces = [
        bool(((new[0]["image"] == old[0]["image"]) | (new[0]["image"] == old[3]["image"])).all())
        for new in both
    ]
    assert 60 < sum(pieces) < 140


def test_a_mixed_sample_keeps_what_it_had_and_the_batch_that_was_given_stays_as_it_is():
    before = samples(role="query")
    given = copy.deepcopy(before)
    after = mix(before, classes=5, mixup=1.0, cutmix=1.0, seed=1)
    for old, copied, new in zip(before, given, after, strict=True):
        assert new.keys() == {*old, "target"} and all(
            new[k] == old[k] for k in ("label", "image_id", "role", "format")
        )
        assert new["image"].dtype == new["target"].dtype == torch.float32
        assert new["target"].shape == (5,) and float(new["target"].sum()) == pytest.approx(1)
        assert torch.equal(old["image"], copied["image"]) and old.keys() == copied.keys()


def test_what_is_drawn_is_a_function_of_the_seed_and_leaves_the_generators_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = mixed(seed=2**40 + 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again, other = mixed(seed=2**40 + 1), mixed(seed=2**40 + 2)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["image"], other[0]["image"])


def test_a_config_without_mixing_has_no_mixer_and_one_with_it_mixes_as_it_says():
    cfg = classifier_cfg()
    assert mixer(cfg) is None
    cfg.INPUT.CLASSIFICATION.MIXUP, cfg.INPUT.CLASSIFICATION.CUTMIX = 0.2, 1.0
    found, expected = mixer(cfg)(samples(), 9), mix(samples(), classes=2, mixup=0.2, cutmix=1.0, seed=9)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["INPUT.CLASSIFICATION.MIXUP", -0.1], "MIXUP -0.1 and CUTMIX 0.0"),
        (
            ["INPUT.CLASSIFICATION.CUTMIX", 1.0, "SOLVER.IMS_PER_BATCH", 1],
            "at least two images .*IMS_PER_BATCH",
        ),
    ],
)
def test_a_mixer_that_cannot_be_is_refused_when_it_is_built(options, message):
    cfg = classifier_cfg()
    cfg.merge_from_list(options)
    with pytest.raises(ValueError, match=message):
        mixer(cfg)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (samples(1), {}, "at least two images in each process's batch"),
        (samples(1) + samples(1, (8, 6)), {}, "only images of one size can be mixed: set .*CROP"),
        (samples(), {"classes": 1}, "labels from 0 to 1 do not fit 1 classes"),
        (samples(), {"mixup": 0.0}, "neither mixup nor cutmix"),
    ],
)
def test_a_batch_that_cannot_be_mixed_is_an_error_for_people(batch, options, message):
    with pytest.raises(ValueError, match=message):
        mix(batch, **{"classes": 2, "mixup": 1.0, "seed": 0, **options})


def test_teacher_and_student_see_bitwise_the_same_mixed_pixels():
    student, teacher = build(classifier_cfg()).train(), build(classifier_cfg(depth=14), seed=1)
    seen = {}
    for name, model in (("student", student), ("teacher", teacher)):
        model.backbone.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0].clone()})
        )
    distiller = Distiller(student, Pairs(kd=Pair("embedding", "embedding", L2())), {"big": teacher}).train()
    losses = distiller(mixed(mixup=1.0, cutmix=1.0))
    assert losses["distill_kd"] > 0 and losses["loss_cls"].isfinite()
    assert torch.equal(seen["student"], seen["teacher"])
    plain = torch.stack([x["image"] for x in samples()]).float()
    assert not torch.equal(seen["student"], (plain - student.pixel_mean) / student.pixel_std)


def test_detections_that_are_no_mixed_images_still_have_classes_and_mixed_images_have_none():
    assert labels_of(samples(), torch.device("cpu")).tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=ONE_CLASS):
        labels_of(mixed(), torch.device("cpu"))


MAP, TWO_MAPS, LOGITS = ["backbone:res4"], [["backbone:res3", "backbone:res4"]], ["classifier"]
PIXELS = [["classifier", "backbone@input"]]
# a pair of each method, and whether it needs classes
PAIRS = {
    "SoftTarget": ({"AT": LOGITS}, False),
    "LogitRegression": ({"AT": LOGITS, "SIGMA": 0.5}, False),
    "DecoupledTarget": ({"AT": LOGITS}, True),
    "AttentionTransfer": ({"AT": MAP}, False),
    "ChannelWise": ({"AT": MAP}, False),
    "Pearson": ({"AT": MAP}, False),
    "FitNets": ({"AT": MAP}, False),
    "FSP": ({"AT": [["backbone.res4.0", "backbone.res4.0"]]}, False),
    "FactorTransfer": ({"AT": MAP, "PARAPHRASER_KIND": "none"}, False),
    "FEED": ({"AT": MAP}, False),
    "FeatureMimicking": ({"AT": ["embedding"]}, False),
    "DarkRank": ({"AT": ["embedding"]}, False),
    "MaskedGeneration": ({"AT": MAP}, False),
    "ReviewFusion": ({"AT": TWO_MAPS}, False),
    "GradientAttention": ({"AT": PIXELS}, True),
    "FlipSymmetry": ({"AT": PIXELS}, True),
}
DETECTORS_ONLY = {"BoxRegression", "FocalGlobal"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"), classifier_cfg(depth=14))


def made(teacher, method, **pair):
    """FlipSymmetry has no teacher; another pair, of weight 0, has."""
    pairs = {"x": {"METHOD": method, **pair}, "beside": {"METHOD": "SoftTarget", "AT": LOGITS, "WEIGHT": 0.0}}
    return build_model(distill_cfg(classifier_cfg(), teacher, pairs)).train()


def distilled(losses):
    return sum(value for name, value in losses.items() if name.startswith("distill_"))


def test_every_method_for_classifiers_is_here():
    assert set(METHODS) == set(PAIRS) | DETECTORS_ONLY


@pytest.mark.parametrize("method", PAIRS)
def test_a_method_learns_from_mixed_images_or_says_that_it_needs_classes(teacher, method):
    pair, needs_classes = PAIRS[method]
    model = made(teacher, method, **pair)
    with EventStorage():
        assert distilled(model(samples())).isfinite()
        if needs_classes:
            with pytest.raises(ValueError, match=ONE_CLASS):
                model(mixed())
            return
        losses = model(mixed())
    total = sum(losses.values())
    assert total.isfinite() and distilled(losses) > 0
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_selection_by_the_teachers_class_needs_classes(teacher):
    model = made(teacher, "FeatureMimicking", AT=["embedding"], SELECT="teacher_correct")
    with EventStorage(), pytest.raises(ValueError, match=ONE_CLASS):
        model(mixed())


def test_metric_learning_needs_classes():
    pytest.importorskip("pytorch_metric_learning")
    cfg = classifier_cfg()
    add_metric_learning_config(cfg)
    cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.2
    cfg.MODEL.METRIC_LEARNING.merge_from_list(
        ["SOFTMAX_WEIGHT", 1.0, "LARGE_MARGIN_WEIGHT", 0.0, "VERIFICATION_WEIGHT", 0.0, "TRIPLET_WEIGHT", 0.0]
    )
    model = META_ARCH_REGISTRY.get("MetricLearner")(cfg).train()
    with pytest.raises(ValueError, match=ONE_CLASS):
        model(mixed())
    plain = META_ARCH_REGISTRY.get("ImageClassifier")(cfg).train()
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(model(samples())["loss_cls"], plain(samples())["loss_cls"])


@pytest.mark.parametrize("method", PAIRS)
def test_a_method_that_needs_classes_is_refused_when_the_training_is_built(teacher, method):
    pair, needs_classes = PAIRS[method]
    model, cfg = made(teacher, method, **pair), classifier_cfg()
    check_mixing(cfg, model)
    cfg.INPUT.CLASSIFICATION.CUTMIX = 1.0
    if not needs_classes:
        return check_mixing(cfg, model)
    with pytest.raises(ValueError, match="mixed images .*for pair 'x.*MIXUP and CUTMIX"):
        check_mixing(cfg, model)


def test_metric_learning_is_refused_when_the_training_is_built():
    pytest.importorskip("pytorch_metric_learning")
    cfg = classifier_cfg(classes=3)
    cfg.MODEL.META_ARCHITECTURE = "MetricLearner"
    cfg.INPUT.CLASSIFICATION.MIXUP = 0.2
    with pytest.raises(ValueError, match="for MetricLearner"):
        check_mixing(cfg, build_model(cfg))


def test_the_loss_of_mixed_images_is_in_float32_under_autocast():
    model = build(classifier_cfg()).train()
    with FeatureTap(model, ["classifier"]).record() as values, torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(mixed())["loss_cls"]
    assert values["classifier"].dtype == torch.bfloat16 and loss.dtype == torch.float32 and loss.isfinite()

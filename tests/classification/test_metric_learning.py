"""`MetricLearner`: its losses against slow loops, what it trains, and DarkRank beside them."""

import builtins
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage

from det_distill.classification import ImageClassifier, add_metric_learning_config
from det_distill.classification.metric_losses import (
    LargeMarginSoftmax,
    anneal,
    triplet_loss,
    verification_loss,
)
from det_distill.config import get_cfg
from det_distill.distiller import Distiller
from det_distill.losses import SoftTarget
from det_distill.methods import METHODS, Side
from det_distill.pairs import Pair, Pairs
from det_distill.taps import feature_spec

pytest.importorskip("pytorch_metric_learning")

LABELS = torch.tensor([0, 0, 1, 1, 2, 0])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def model_cfg(width=1, **options):
    cfg = get_cfg()
    add_metric_learning_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MetricLearner"
    cfg.MODEL.BACKBONE.NAME = "build_cifar_resnet_backbone"
    cfg.MODEL.CIFAR_RESNET.DEPTH, cfg.MODEL.CIFAR_RESNET.WIDTH = 8, width
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 3
    for key, value in options.items():
        cfg.MODEL.METRIC_LEARNING[key] = value
    return cfg


def build(width=1, **options):
    cfg = model_cfg(width, **options)
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


ONLY = dict.fromkeys(
    ["SOFTMAX_WEIGHT", "LARGE_MARGIN_WEIGHT", "VERIFICATION_WEIGHT", "TRIPLET_WEIGHT", "DROPOUT"], 0.0
)


def batch(labels=LABELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=generator)
    return [{"image": i, "label": int(n)} for i, n in zip(images, labels, strict=True)]


def slow_pairs(x, labels, squared):
    power = 2 if squared else 1
    values = [
        (x[a] - x[p]).norm() ** power
        for a in range(len(x))
        for p in range(len(x))
        if a != p and labels[a] == labels[p]
    ]
    return torch.stack(values).mean()


def slow_triplets(x, labels, margin, squared):
    power, count = 2 if squared else 1, range(len(x))
    values = [
        ((x[a] - x[p]).norm() ** power - (x[a] - x[n]).norm() ** power + margin).clamp(min=0)
        for a in count
        for p in count
        for n in count
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    return torch.stack(values).mean()


@pytest.mark.parametrize("squared", [True, False])
def test_pairs_and_triplets_are_means_over_all_there_are(squared):
    x = torch.randn(6, 4).double()
    torch.testing.assert_close(verification_loss(squared=squared)(x, LABELS), slow_pairs(x, LABELS, squared))
    torch.testing.assert_close(
        triplet_loss(0.7, squared=squared)(x, LABELS), slow_triplets(x, LABELS, 0.7, squared)
    )


def test_the_default_weights_are_the_authors_loss_where_half_of_a_batch_are_pairs():
    x, labels = F.normalize(torch.randn(8, 5).double()), torch.tensor([0, 0, 1, 1, 2, 3, 4, 5])
    total = 0.0
    for anchor in range(4):
        pair = anchor ^ 1
        own = 0.5 * (x[anchor] - x[pair]).square().sum()
        others = [n for n in range(8) if n not in (anchor, pair)]
        hinges = [(own - 0.5 * (x[anchor] - x[n]).square().sum() + 0.9).clamp(min=0) for n in others]
        total += own + 0.1 * torch.stack(hinges).mean()
    node = model_cfg().MODEL.METRIC_LEARNING
    pairs = node.VERIFICATION_WEIGHT * verification_loss()(x, labels)
    triplets = node.TRIPLET_WEIGHT * triplet_loss(node.TRIPLET_MARGIN)(x, labels)
    torch.testing.assert_close(0.5 * (pairs + triplets), total / 8)


def slow_large_margin(x, labels, weight, margin, share):
    losses = []
    for vector, label in zip(x, labels, strict=True):
        logits = weight @ vector
        size = vector.norm() * weight[label].norm()
        theta = torch.acos(logits[label] / size)
        j = math.floor(theta.item() * margin / math.pi)
        psi = (-1) ** j * torch.cos(margin * theta) - 2 * j
        own = size * (share * torch.cos(theta) + psi) / (1 + share)
        logits = torch.cat([logits[:label], own[None], logits[label + 1 :]])
        losses.append(torch.logsumexp(logits, 0) - own)
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("margin", "share"), [(1, 0.0), (2, 0.0), (3, 0.0), (3, 5.0), (4, 1.0)])
def test_large_margin_softmax_is_the_formula_with_the_given_weight(margin, share):
    x = torch.randn(6, 4).double().requires_grad_()
    weight = torch.randn(3, 4).double().requires_grad_()
    value = LargeMarginSoftmax(3, 4, margin)(x, LABELS, weight, share)
    expected = slow_large_margin(x, LABELS, weight, margin, share)
    torch.testing.assert_close(value, expected)
    grads, theirs = (torch.autograd.grad(v, (x, weight)) for v in (value, expected))
    torch.testing.assert_close(grads, theirs)
    if margin == 1:
        torch.testing.assert_close(value, F.cross_entropy(x @ weight.T, LABELS))


def test_a_large_share_of_the_plain_logit_is_plain_softmax_and_it_anneals_to_its_floor():
    x, weight = torch.randn(6, 4), torch.randn(3, 4)
    large = LargeMarginSoftmax(3, 4)
    plain = F.cross_entropy(x @ weight.T, LABELS)
    assert large(x, LABELS, weight) > plain
    assert large(x, LABELS, weight, 1e7).item() == pytest.approx(plain.item(), rel=1e-5)
    assert [anneal(step, 1000.0, 0.5, 5.0) for step in (0, 1, 7, 8, 100)] == [1000, 500, 7.8125, 5, 5]
    assert anneal(3, 0.0, 0.5, 5.0) == 0


def test_each_weight_switches_on_its_loss_and_multiplies_it():
    samples = batch()
    model = build(**{**ONLY, "SOFTMAX_WEIGHT": 2.0}).train()
    assert set(model(samples)) == {"loss_cls"}
    plain = copy.deepcopy(model)
    plain.weights = {**plain.weights, "loss_cls": 1.0}
    assert model(samples)["loss_cls"].item() == pytest.approx(2 * plain(samples)["loss_cls"].item())
    every = build(SOFTMAX_WEIGHT=1.0).train()
    losses = every(samples)
    assert list(losses) == ["loss_cls", "loss_large_margin", "loss_verification", "loss_triplet"]
    assert all(v.shape == () and v.dtype == torch.float32 and v > 0 for v in losses.values())


def test_pairs_and_triplets_see_normalised_embeddings_and_large_margin_softmax_the_plain_ones():
    model, samples = build(DROPOUT=0.0, TRIPLET_MARGIN=0.3, ANNEALING=0.0), batch()
    for parameter in model.classifier.parameters():
        parameter.data.normal_()
    x = torch.stack([row["embedding"] for row in model.eval()(samples)])
    model.train()
    for module in model.modules():  # the same statistics as in eval mode, to compare with its embeddings
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = model(samples)
    unit = F.normalize(x)
    expected = {
        "loss_large_margin": slow_large_margin(x, LABELS, model.classifier.weight, 3, 0.0),
        "loss_verification": 0.5 * slow_pairs(unit, LABELS, True),
        "loss_triplet": 0.05 * slow_triplets(unit, LABELS, 0.3, True),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)
    model.normalize = False
    torch.testing.assert_close(
        model(samples)["loss_verification"], 0.5 * slow_pairs(x, LABELS, True), rtol=1e-4, atol=1e-6
    )


def test_dropout_stands_before_pairs_and_triplets_only():
    model, samples = build(SOFTMAX_WEIGHT=1.0, ANNEALING=0.0).train(), batch()
    first, second = model(samples), model(samples)
    for name in ("loss_cls", "loss_large_margin"):
        assert first[name] == second[name]
    for name in ("loss_verification", "loss_triplet"):
        assert first[name] != second[name]


def test_annealing_follows_the_trainers_iteration_and_else_counts_training_forwards():
    model = build(ANNEALING=1000.0, ANNEALING_DECAY=0.5).train()
    shares = []
    model._large_margin = lambda embedding, labels, weight, share: shares.append(share) or embedding.sum()
    for _ in range(2):
        model(batch())
    with EventStorage(start_iter=3):
        model(batch())
    assert shares == [1000, 500, 125]


@pytest.mark.parametrize(
    ("options", "untrained"),
    [
        ({"SOFTMAX_WEIGHT": 1.0}, set()),
        ({"SOFTMAX_WEIGHT": 1.0, "LARGE_MARGIN_WEIGHT": 1.0}, set()),
        ({"LARGE_MARGIN_WEIGHT": 1.0, "TRIPLET_WEIGHT": 1.0}, {"classifier.bias"}),
        ({"TRIPLET_WEIGHT": 1.0}, {"classifier.bias", "classifier.weight"}),
    ],
)
def test_every_parameter_gets_a_gradient_a_zero_one_where_no_loss_trains_it(options, untrained):
    model = build(**{**ONLY, **options}).train()
    sum(model(batch()).values()).backward()
    assert {n for n, p in model.named_parameters() if not p.grad.any()} == untrained


def test_soft_targets_train_a_classifier_that_no_other_loss_trains():
    student, teacher = build(**{**ONLY, "TRIPLET_WEIGHT": 1.0}), build(width=2)
    pair = Pair("classifier", "classifier", SoftTarget(4.0))
    sum(Distiller(student, Pairs(kd=pair), {"big": teacher}).train()(batch()).values()).backward()
    assert student.classifier.weight.grad.any() and student.classifier.bias.grad.any()


def test_its_state_and_its_output_are_those_of_a_classifier():
    model, samples = build(SOFTMAX_WEIGHT=1.0), batch()
    plain = ImageClassifier(model_cfg())
    plain.load_state_dict(model.state_dict())
    for ours, theirs in zip(model.eval()(samples), plain.eval()(samples), strict=True):
        assert ours.keys() == theirs.keys() >= {"embedding", "logits"}
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("labels", [torch.arange(6) % 3 * 0, torch.arange(3)])
def test_a_batch_without_pairs_or_without_triplets_gives_zeros_that_are_attached(labels):
    model = build(**{**ONLY, "VERIFICATION_WEIGHT": 1.0, "TRIPLET_WEIGHT": 1.0}).train()
    losses = model(batch(labels))
    sum(losses.values()).backward()
    assert losses["loss_triplet"] == 0
    assert (losses["loss_verification"] == 0) == (len(labels) == 3)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_zero_and_equal_embeddings_give_finite_losses_and_gradients():
    model, samples = build(SOFTMAX_WEIGHT=1.0).train(), batch()
    for parameter in model.backbone.parameters():
        torch.nn.init.zeros_(parameter)
    losses = model(samples)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_losses_are_in_float32_under_autocast():
    model = build(DROPOUT=0.0, ANNEALING=0.0).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch())
    assert all(v.dtype == torch.float32 and v.isfinite() for v in losses.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ONLY, "one above"),
        ({"TRIPLET_WEIGHT": -1.0}, "none below 0"),
        ({"DROPOUT": 1.0}, "DROPOUT 1.0"),
        ({"TRIPLET_MARGIN": -0.1}, "TRIPLET_MARGIN -0.1"),
        ({"ANNEALING_DECAY": 2.0}, "ANNEALING_DECAY 2.0"),
        ({"LARGE_MARGIN": 0}, "1, 2, 3"),
    ],
)
def test_options_that_make_no_sense_are_refused_when_built(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_without_the_library_the_error_names_the_extra_and_a_plain_classifier_needs_none(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pytorch_metric_learning"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'det_distill\[metric\]'"):
        build()
    assert "loss_cls" in build(**{**ONLY, "SOFTMAX_WEIGHT": 1.0}).train()(batch())


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_student_learns_two_steps_from_a_wider_teacher_with_darkrank_and_metric_losses(mode):
    student, teacher = build(DROPOUT=0.0), build(width=2)
    before = copy.deepcopy(teacher.state_dict())
    sides = (Side(("embedding",), (feature_spec(m, "embedding"),)) for m in (student, teacher))
    parts = METHODS["DarkRank"](*sides, mode=mode)
    distiller = Distiller(student, Pairs(rank=Pair("embedding", "embedding", parts.loss)), {"big": teacher})
    distiller.train()
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.01)
    samples, totals = batch(), []
    for _ in range(3):
        losses = distiller(samples)
        assert set(losses) == {"loss_large_margin", "loss_verification", "loss_triplet", "distill_rank"}
        assert losses["distill_rank"] > 0
        total = sum(losses.values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[2] < totals[1] < totals[0]
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())

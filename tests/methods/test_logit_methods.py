"""The methods on logits and boxes: which parts they make, what they refuse, and a step of a small detector."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill.losses import BoxRegression, DecoupledTarget, LogitRegression, SoftTarget
from det_distill.methods import METHODS, Side
from det_distill.taps import FeatureSpec
from tests.tiny import batch, detector_cfg, distill_cfg, save_teacher


def side(channels=None, stride=None, address="roi_heads.box_predictor:0"):
    return Side((address,), (FeatureSpec(channels, stride),))


def parts(method, own=None, its=None, **options):
    return METHODS[method](own or side(3), its or side(3), **options)


def test_options_arrive_in_the_losses():
    loss = parts("SoftTarget", temperature=2.0, distribution="bernoulli").loss
    assert isinstance(loss, SoftTarget) and (loss.temperature, loss.distribution) == (2.0, "bernoulli")
    loss = parts("DecoupledTarget", alpha=2.0, beta=0.25, temperature=1.0).loss
    assert isinstance(loss, DecoupledTarget) and (loss.alpha, loss.beta, loss.temperature) == (2.0, 0.25, 1.0)
    loss = parts("LogitRegression", centre=True).loss
    assert isinstance(loss, LogitRegression) and loss.centre
    loss = parts("BoxRegression", side(4), side(8), beta=0.5).loss
    assert isinstance(loss, BoxRegression) and loss.beta == 0.5


def test_the_teacher_is_noisy_once_a_sigma_is_given_or_random():
    assert parts("LogitRegression").teacher_adapter is None
    noise = parts("LogitRegression", sigma=0.5, alpha=0.2, draw="batch", seed=3).teacher_adapter
    assert (noise.sigma, noise.alpha, noise.draw, noise.seed) == (0.5, 0.2, "batch", 3)
    assert parts("LogitRegression", random_sigma=True).teacher_adapter.random_sigma


def test_several_teachers_are_combined_at_the_losss_temperature_or_not_at_all():
    ensemble = parts("SoftTarget", temperature=2.0).ensemble
    assert (ensemble.kind, ensemble.temperature) == ("probabilities", 2.0)
    assert parts("LogitRegression").ensemble.kind == "logits"
    assert parts("SoftTarget", ensemble="none").ensemble is None
    assert parts("DecoupledTarget").ensemble is None


@pytest.mark.parametrize("method", ["SoftTarget", "LogitRegression", "DecoupledTarget"])
def test_other_classes_are_an_error_that_names_both_counts(method):
    with pytest.raises(ValueError, match=r"has 3 logits.*has 5.*same classes"):
        parts(method, side(3), side(5))
    assert parts(method, side(3), side(None)).loss is not None  # not known: the loss looks at the shapes


def test_boxes_of_other_classes_are_an_error_but_one_box_for_all_is_none():
    with pytest.raises(ValueError, match="2 classes.*3"):
        parts("BoxRegression", side(8), side(12))
    assert parts("BoxRegression", side(4), side(12)).loss is not None


@pytest.mark.parametrize("method", ["DecoupledTarget", "BoxRegression"])
def test_methods_on_rois_refuse_maps(method):
    dense = side(8, stride=8, address="head:0:1")
    with pytest.raises(ValueError, match="'head:0:1'"):
        parts(method, dense, dense)


@pytest.mark.parametrize(
    "option", [{"sigma": -0.5}, {"alpha": 2.0}, {"draw": "class"}, {"ensemble": "median"}]
)
def test_options_that_make_no_sense_are_errors_when_built(option):
    with pytest.raises(ValueError, match="Logit"):
        parts("LogitRegression", **option)


def test_a_detector_learns_classes_and_boxes_from_its_teacher(tmp_path):
    logits, teacher = "roi_heads.box_predictor:0", save_teacher(tmp_path, detector_cfg(width=8, fpn=24))
    pairs = {
        "kd": {"METHOD": "SoftTarget", "AT": logits, "TEMPERATURE": 1.0},
        "dkd": {"METHOD": "DecoupledTarget", "AT": logits, "BETA": 0.25, "TEMPERATURE": 1.0},
        "noisy": {"METHOD": "LogitRegression", "AT": logits, "SIGMA": 0.5},
        "box": {"METHOD": "BoxRegression", "AT": "roi_heads.box_predictor:1"},
        "rpn": {"METHOD": "SoftTarget", "AT": "proposal_generator.rpn_head:0:2"},
    }
    model = build_model(distill_cfg(detector_cfg(), teacher, pairs)).train()
    with EventStorage():
        losses = model(batch())
    values = {name.removeprefix("distill_"): v for name, v in losses.items() if name.startswith("distill_")}
    assert values.keys() == pairs.keys()
    assert all(v.isfinite() and v > 0 for v in values.values())
    predictor = model.student.roi_heads.box_predictor
    (grad,) = torch.autograd.grad(values["box"], predictor.bbox_pred.weight, retain_graph=True)
    assert grad.any()
    (grad,) = torch.autograd.grad(
        values["rpn"], model.student.proposal_generator.rpn_head.objectness_logits.weight
    )
    assert grad.any()
    assert model.distill["noisy"].teacher_adapter.draws == 1

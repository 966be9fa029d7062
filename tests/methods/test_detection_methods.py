"""The methods made for detection, from two sides to the losses of a pair."""

from types import SimpleNamespace

import pytest
import torch

from det_distill.adapters import Conv1x1
from det_distill.losses import FocalGlobal, GlobalRelation, HierarchicalContext, MaskedGeneration
from det_distill.methods import METHODS, Side
from det_distill.pairs import Pair
from det_distill.taps import FeatureSpec
from det_distill.targets import Step


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def side(*specs):
    addresses = tuple(f"backbone:p{n}" for n in range(2, 2 + len(specs)))
    return Side(addresses, tuple(FeatureSpec(*spec) for spec in specs))


def pair_of(name, student, teacher, **options):
    parts = METHODS[name](student, teacher, **options)
    pair = Pair(
        student.addresses,
        teacher.addresses,
        parts.loss,
        weight=parts.weights or 1.0,
        student_adapter=parts.student_adapter,
        teacher_adapter=parts.teacher_adapter,
        stride=[s.stride for s in student.specs],
        teacher_stride=[s.stride for s in teacher.specs],
    )
    pair.check(student.specs, teacher.specs)
    return pair


def batch(boxes, height=16, width=24):
    table = SimpleNamespace(gt_boxes=SimpleNamespace(tensor=torch.tensor(boxes).view(-1, 4)))
    return [{"image": torch.zeros(3, height, width), "instances": table}]


def run(pair, student, teacher, samples):
    values = dict(zip(pair.student, student, strict=True)), dict(zip(pair.teacher, teacher, strict=True))
    sizes = [tuple(x["image"].shape[-2:]) for x in samples]
    return pair(*values, Step(image_sizes=sizes, batch=samples))


def test_masked_generation_is_a_generator_on_the_students_side():
    pair = pair_of("MaskedGeneration", side((4, 4)), side((6, 4)), ratio=0.3, reduction="mean")
    adapter = pair.student_adapter
    assert (adapter.ratio, adapter.mask, pair.losses["loss"].reduction) == (0.3, "cells", "mean")
    student, teacher = torch.randn(1, 4, 4, 6), torch.randn(1, 6, 4, 6)
    adapter.eval()
    (value,) = run(pair, [student], [teacher], batch([])).values()
    torch.testing.assert_close(value, MaskedGeneration("mean")(adapter(student), teacher))


def test_focal_global_has_two_losses_on_one_aligned_map_and_boxes_in_its_cells():
    pair = pair_of("FocalGlobal", side((4, 4)), side((6, 4)), relation_weight=0.25, foreground_weight=2.0)
    assert isinstance(pair.student_adapter, Conv1x1) and pair.teacher_adapter is None
    student, teacher = torch.randn(1, 4, 4, 6), torch.randn(1, 6, 4, 6)
    values = run(pair, [student], [teacher], batch([4.0, 0.0, 12.0, 8.0]))
    aligned = pair.student_adapter(student)
    focal = FocalGlobal(foreground=2.0)(aligned, teacher, boxes=[torch.tensor([[1.0, 0.0, 3.0, 2.0]])])
    torch.testing.assert_close(values["focal"], focal)
    torch.testing.assert_close(values["relation"], 0.25 * GlobalRelation()(aligned, teacher))


def test_the_contexts_of_focal_global_train_with_the_student_and_are_used_in_every_step():
    pair = pair_of("FocalGlobal", side((4, 4)), side((4, 4)))
    sum(run(pair, [torch.randn(1, 4, 4, 6)], [torch.randn(1, 4, 4, 6)], batch([])).values()).backward()
    assert len(list(pair.parameters())) == 16
    assert all(p.requires_grad and p.grad is not None for p in pair.parameters())


def test_focal_global_without_a_relation_has_nothing_to_train():
    pair = pair_of("FocalGlobal", side((4, 4)), side((4, 4)), relation_weight=0.0)
    assert list(pair.terms) == ["focal"] and not list(pair.parameters())


def test_the_weights_of_focal_global_are_the_authors_for_faster_rcnn():
    parts = METHODS["FocalGlobal"](side((4, 4)), side((4, 4)))
    focal = parts.loss["focal"]
    assert (focal.foreground, focal.background, focal.attention) == (5e-5, 2.5e-5, 5e-5)
    assert parts.weights == {"focal": 1.0, "relation": 5e-7}


def test_focal_global_on_vectors_is_refused_when_built():
    with pytest.raises(ValueError, match="is not known to be a map"):
        METHODS["FocalGlobal"](side((4, None)), side((4, None)))


def test_review_fusion_compares_several_levels_in_one_pair():
    pair = pair_of("ReviewFusion", side((4, 4), (5, 8)), side((6, 4), (7, 8)), mid_channels=3)
    student = [torch.randn(2, 4, 8, 8), torch.randn(2, 5, 4, 4)]
    teacher = [torch.randn(2, 6, 8, 8), torch.randn(2, 7, 4, 4)]
    samples = batch([], 32, 32) + batch([], 20, 32)  # the second image ends after 5 of 8 rows, and 3 of 4
    (value,) = run(pair, student, teacher, samples).values()
    valid = [torch.ones(2, 1, n, n, dtype=torch.bool) for n in (8, 4)]
    valid[0][1, :, 5:] = valid[1][1, :, 3:] = False
    torch.testing.assert_close(value, HierarchicalContext()(pair.student_adapter(student), teacher, valid))


def test_review_fusion_of_one_level_is_a_pair_like_any_other():
    pair = pair_of("ReviewFusion", side((4, 4)), side((6, 4)))
    (value,) = run(pair, [torch.randn(2, 4, 8, 8)], [torch.randn(2, 6, 8, 8)], batch([], 32, 32) * 2).values()
    assert value.shape == () and value > 0


def test_review_fusion_wants_the_finest_level_first():
    with pytest.raises(ValueError, match="the strides 8, 4: name the finest level first"):
        METHODS["ReviewFusion"](side((4, 8), (4, 4)), side((4, 8), (4, 4)))


def test_review_fusion_names_the_level_whose_channels_are_unknown():
    with pytest.raises(ValueError, match="channels of 'backbone:p3' are not declared"):
        METHODS["ReviewFusion"](side((4, 4), (None, 8)), side((4, 4), (4, 8)))

"""Rules 3 and 4: the teacher is not state, and only what is tapped runs, once."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill import Distiller, Pair, Pairs, RCNNTeacher, Teacher, Teachers
from det_distill.adapters import Conv1x1, Linear
from det_distill.losses import L2
from det_distill.taps import AddressError
from det_distill.teachers import as_teacher, fingerprint
from tests.tiny import batch, build, detector_cfg


class Calls:
    """Counts how often modules run."""

    def __init__(self, **modules):
        self.count = dict.fromkeys(modules, 0)
        for name, module in modules.items():
            module.register_forward_hook(lambda *_, name=name: self.add(name))

    def add(self, name):
        self.count[name] += 1


def parts(model):
    return {
        "backbone": model.backbone,
        "rpn": model.proposal_generator,
        "rpn_head": model.proposal_generator.rpn_head,
        "pooler": model.roi_heads.box_pooler,
        "head": model.roi_heads.box_head,
        "predictor": model.roi_heads.box_predictor,
        "roi_heads": model.roi_heads,
    }


def distiller(addresses, *, teacher_cfg=None, adapter=None, student_cfg=None):
    student, teacher = build(student_cfg or detector_cfg(), 0), build(teacher_cfg or detector_cfg(), 1)
    pairs = Pairs(
        **{f"p{i}": Pair(a, a, L2(), student_adapter=adapter and adapter()) for i, a in enumerate(addresses)}
    )
    model = Distiller(student=student, pairs=pairs, teachers={"big": teacher}).train()
    return model, teacher


def step(model, data=None):
    with EventStorage():
        return model(data or batch())


def test_fpn_pairs_run_the_teachers_backbone_once_and_nothing_else_of_it():
    model, teacher = distiller(["backbone:p2", "backbone:p3", "backbone.bottom_up:res4"])
    own, its = Calls(**parts(model.student)), Calls(**parts(teacher))
    losses = step(model)
    assert its.count == {**dict.fromkeys(its.count, 0), "backbone": 1}
    assert own.count == dict.fromkeys(own.count, 1)
    assert {"distill_p0", "distill_p1", "distill_p2"} < set(losses)


def test_roi_pairs_run_each_head_once_and_never_the_teachers_rpn_or_sampling():
    model, teacher = distiller(["roi_heads.box_head", "roi_heads.box_predictor:0"])
    own, its = Calls(**parts(model.student)), Calls(**parts(teacher))
    step(model)
    assert own.count == dict.fromkeys(own.count, 1)
    expected = {
        "backbone": 1,
        "rpn": 0,
        "rpn_head": 0,
        "pooler": 1,
        "head": 1,
        "predictor": 1,
        "roi_heads": 0,
    }
    assert its.count == expected


def test_a_box_head_pair_leaves_the_teachers_predictor_alone():
    model, teacher = distiller(["roi_heads.box_head"])
    its = Calls(**parts(teacher))
    step(model)
    assert (its.count["head"], its.count["predictor"]) == (1, 0)


def test_an_rpn_pair_runs_the_teachers_rpn_head_but_no_proposals():
    model, teacher = distiller(["proposal_generator.rpn_head:0:1"])
    its = Calls(**parts(teacher))
    step(model)
    assert (its.count["rpn_head"], its.count["rpn"], its.count["head"]) == (1, 0, 0)


def test_the_teacher_pools_the_students_sampled_proposals():
    model, teacher = distiller(["roi_heads.box_head"])
    seen = {}
    model.student.roi_heads.register_forward_hook(lambda m, a, out: seen.update(student=out[0]))
    teacher.roi_heads.box_pooler.register_forward_hook(lambda m, a, out: seen.update(teacher=a[1]))
    step(model)
    for proposals, boxes in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(proposals.proposal_boxes.tensor, boxes.tensor)


def test_the_sampled_proposals_are_replayed_even_if_the_heads_refine_them_afterwards():
    """TRAIN_ON_PRED_BOXES replaces the proposals' boxes in place after the box head has pooled them."""
    student = build(detector_cfg())
    student.roi_heads.train_on_pred_boxes = True
    pairs = Pairs(p=Pair("roi_heads.box_head", "roi_heads.box_head", L2()))
    model = Distiller(student=student, pairs=pairs, teachers={"same": copy.deepcopy(student)}).train()
    assert step(model)["distill_p"] == 0


def test_a_teacher_equal_to_the_student_gives_zero_everywhere():
    student = build(detector_cfg())
    addresses = ["backbone:p2", "roi_heads.box_head", "roi_heads.box_predictor:0", "roi_heads.box_pooler"]
    pairs = Pairs(**{f"p{i}": Pair(a, a, L2()) for i, a in enumerate(addresses)})
    model = Distiller(student=student, pairs=pairs, teachers={"same": copy.deepcopy(student)}).train()
    losses = step(model)
    assert [float(losses[f"distill_p{i}"]) for i in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("shared", [True, False])
def test_images_are_normalised_once_if_the_models_agree_and_as_the_teacher_would_alone(shared):
    cfg = detector_cfg()
    if not shared:
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0, 110.0, 100.0], [58.0, 57.0, 56.0]
        cfg.INPUT.FORMAT = "RGB"
    model, teacher = distiller(["backbone:p3"], teacher_cfg=cfg)
    calls, seen = [], {}
    original = teacher.preprocess_image
    teacher.preprocess_image = lambda x: calls.append(1) or original(x)
    teacher.backbone.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    data = batch()
    step(model, data)
    assert len(calls) == (0 if shared else 1)
    if not shared:
        data = [{**d, "image": d["image"].flip(0)} for d in data]
    assert torch.equal(seen["x"], original(data).tensor)


def test_shared_images_are_padded_further_if_the_teacher_needs_it():
    student_cfg = detector_cfg()
    model, teacher = distiller(["backbone:p2"], student_cfg=student_cfg)
    type(model.student.backbone).size_divisibility.fget  # noqa: B018
    model.student.backbone._size_divisibility = 8
    seen = {}
    teacher.backbone.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    images = torch.randn(1, 3, 40, 72)
    model.teachers["big"].run(batch(((40, 72),)), {"backbone@input": images}, ["backbone:p2"])
    assert seen["x"].shape[-2:] == (64, 96)
    assert torch.equal(seen["x"][..., :40, :72], images) and not seen["x"][..., 40:, :].any()


def test_backbone_channels_class_count_and_heads_may_differ():
    teacher_cfg = detector_cfg(width=8, fpn=24, classes=5)
    model, _ = distiller(["backbone:p3"], teacher_cfg=teacher_cfg, adapter=lambda: Conv1x1(16, 24))
    assert step(model)["distill_p0"].isfinite()
    teacher_cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 40
    model, _ = distiller(["roi_heads.box_head"], teacher_cfg=teacher_cfg, adapter=lambda: Linear(24, 40))
    assert step(model)["distill_p0"].isfinite()


def test_the_teacher_has_no_parameters_no_state_and_no_gradients():
    plain = build(detector_cfg())
    model, teacher = distiller(["backbone:p3"])
    assert set(model.state_dict()) - set(plain.state_dict()) == {"distill.p0.teacher_fingerprint"}
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in model.parameters()}
    assert not {id(m) for m in teacher.modules()} & {id(m) for m in model.modules()}
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    sum(step(model).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_the_teacher_stays_in_eval_whatever_happens():
    model, teacher = distiller(["backbone:p3"], teacher_cfg=detector_cfg(norm="BN"))
    model.train()
    assert not any(m.training for m in teacher.modules())
    teacher.train()
    before = teacher.backbone.bottom_up.stem.conv1.norm.running_mean.clone()
    step(model)
    assert torch.equal(teacher.backbone.bottom_up.stem.conv1.norm.running_mean, before)


def test_the_teacher_follows_to():
    model, teacher = distiller(["backbone:p3"])
    model.to(torch.float64)
    assert all(p.dtype == torch.float64 for p in teacher.parameters())


def test_the_students_losses_reach_the_student_and_its_gradient_is_not_zero():
    model, _ = distiller(["backbone:p3"])
    step(model)["distill_p0"].backward()
    gradient = model.student.backbone.bottom_up.stem.conv1.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_several_teachers_by_name_and_a_pair_that_names_none_is_an_error():
    student = build(detector_cfg())
    teachers = Teachers(a=build(detector_cfg(), 1), b=build(detector_cfg(), 2))
    pairs = {n: Pair("backbone:p3", "backbone:p3", L2(), teacher_name=n) for n in ("a", "b")}
    losses = step(Distiller(student=student, pairs=Pairs(**pairs), teachers=teachers).train())
    assert losses["distill_a"] != losses["distill_b"]
    unnamed = Pairs(x=Pair("backbone:p3", "backbone:p3", L2()))
    with pytest.raises(ValueError, match="there are: a, b"):
        Distiller(student=student, pairs=unnamed, teachers=teachers)
    with pytest.raises(ValueError, match=r"no pair uses the teacher\(s\) b"):
        Distiller(student=student, pairs=Pairs(x=pairs["a"]), teachers=teachers)


@pytest.mark.parametrize("address", ["roi_heads", "proposal_generator", "roi_heads.box_headd"])
def test_what_a_teacher_cannot_run_is_an_error_when_built(address):
    with pytest.raises(AddressError):
        distiller([address])


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_teachers_own_precision(precision):
    student, teacher = build(detector_cfg()), RCNNTeacher(build(detector_cfg(), 1), precision=precision)
    pairs = Pairs(x=Pair("backbone:p3", "backbone:p3", L2()))
    model = Distiller(student=student, pairs=pairs, teachers={"t": teacher}).train()
    with EventStorage():
        _, _, seen = model.observe(batch())
    assert seen["t"]["backbone:p3"].dtype == getattr(torch, precision)
    assert step(model)["distill_x"].dtype == torch.float32
    with pytest.raises(ValueError, match="float8"):
        Teacher(nn.Linear(1, 1), precision="float8")


def test_the_fingerprint_changes_with_any_weight():
    model = build(detector_cfg())
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == before
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] += 1e-6
    assert fingerprint(model) != before


def test_any_module_can_teach_and_a_distilled_model_stands_for_its_student():
    assert type(as_teacher(nn.Linear(2, 2))) is Teacher
    model, _ = distiller(["backbone:p3"])
    assert as_teacher(model).model is model.student

"""Rules 1, 2 and 5: it wraps, its keys are the plain student's, and without pairs nothing changes."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill import Distiller, Pair, Pairs
from det_distill.adapters import Conv1x1
from det_distill.losses import L2, LSH
from det_distill.targets import Step
from tests.tiny import batch, build, detector_cfg


def small(adapter=None, **pair):
    student = build(detector_cfg())
    teacher = build(detector_cfg(fpn=24 if adapter else 16), 1)
    pairs = Pairs(ft=Pair("backbone:p3", "backbone:p3", L2(), student_adapter=adapter, **pair))
    return Distiller(student=student, pairs=pairs, teachers={"big": teacher})


def losses(model, seed=3):
    torch.manual_seed(seed)
    with EventStorage():
        return model.train()(batch())


def test_no_pairs_means_bitwise_the_plain_students_losses_and_the_same_random_stream():
    plain = build(detector_cfg())
    wrapped = Distiller(student=copy.deepcopy(plain))
    expected = losses(plain)
    state = torch.get_rng_state()
    got = losses(wrapped)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[k], expected[k]) for k in got)
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_add_terms_and_leave_the_students_own_losses_bitwise_alone():
    model = small(Conv1x1(16, 24))
    expected = losses(copy.deepcopy(model.student))
    got = losses(model)
    assert set(got) - set(expected) == {"distill_ft"}
    assert all(torch.equal(got[k], expected[k]) for k in expected)


def test_the_state_is_the_plain_students_and_keys_that_begin_with_distill():
    model, plain = small(Conv1x1(16, 24)), build(detector_cfg())
    extra = set(model.state_dict()) - set(plain.state_dict())
    adapter = {"distill.ft.student_adapter.weight", "distill.ft.student_adapter.bias"}
    assert extra == {*adapter, "distill.ft.teacher_fingerprint"}
    assert set(plain.state_dict()) <= set(model.state_dict())


def test_it_loads_a_plain_student_strictly_and_its_own_state_strictly():
    model, plain = small(Conv1x1(16, 24)), build(detector_cfg(), seed=5)
    model.load_state_dict(plain.state_dict(), strict=True)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in model.student.state_dict().items())
    other = small(Conv1x1(16, 24))
    other.load_state_dict(model.state_dict(), strict=True)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())


def test_missing_and_unexpected_keys_are_reported_by_their_plain_names():
    model = small(Conv1x1(16, 24))
    state = model.state_dict()
    state["nonsense.weight"] = state.pop("roi_heads.box_head.fc1.weight")
    del state["distill.ft.student_adapter.bias"]
    report = model.load_state_dict(state, strict=False)
    assert report.missing_keys == ["roi_heads.box_head.fc1.weight", "distill.ft.student_adapter.bias"]
    assert report.unexpected_keys == ["nonsense.weight"]
    with pytest.raises(RuntimeError, match="nonsense"):
        model.load_state_dict(state, strict=True)


def test_inside_another_module_the_keys_keep_the_prefix():
    outer = nn.ModuleDict({"model": small(Conv1x1(16, 24))})
    plain = build(detector_cfg())
    assert {f"model.{k}" for k in plain.state_dict()} < set(outer.state_dict())
    outer.load_state_dict(outer.state_dict(), strict=True)


def test_in_eval_it_is_the_student():
    model = small().eval()
    with torch.no_grad():
        mine, its = model(batch()), model.student(batch())
    assert torch.equal(mine[0]["instances"].pred_boxes.tensor, its[0]["instances"].pred_boxes.tensor)
    assert model.backbone is model.student.backbone and model.device == torch.device("cpu")


def test_the_schedule_follows_the_trainers_iteration():
    model = small(start=2).train()
    with EventStorage(start_iter=1) as storage:
        assert model(batch())["distill_ft"] == 0
        storage.step()
        assert model(batch())["distill_ft"] > 0


def test_while_all_its_pairs_are_off_a_teacher_does_not_run():
    model = small(start=5).train()
    model.teachers["big"].model.backbone.register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
    losses(model)


def test_every_parameter_gets_a_gradient_while_a_pair_is_off():
    model = small(Conv1x1(16, 24), start=5)
    sum(losses(model).values()).backward()
    assert all(p.grad is not None for p in model.distill.parameters())


def test_a_batch_of_unequal_images_equals_the_images_alone():
    model = small().train()
    model.student.eval()
    data = batch(((64, 96), (32, 64)))

    def term(samples):
        images = model.student.preprocess_image(samples).tensor
        s = model.student.backbone(images)["p3"]
        t = model.teachers["big"].model.backbone(images)["p3"]
        pair = model.distill["ft"]
        return pair({"backbone:p3": s}, {"backbone:p3": t}, Step([x["image"].shape[-2:] for x in samples]))[
            ""
        ]

    model.distill["ft"].strides = (8,)
    padded = term(data)
    assert padded != term(batch(((64, 96), (64, 96))))
    assert padded.isfinite()


def test_a_distiller_is_copied_and_moved_with_its_teachers():
    model = small()
    twin = copy.deepcopy(model)
    assert twin.teachers["big"].model is not model.teachers["big"].model
    assert all(torch.equal(losses(model)[k], v) for k, v in losses(twin).items())


def test_hash_buffers_are_state_but_not_parameters():
    student, teacher = build(detector_cfg()), build(detector_cfg(), 1)
    pairs = Pairs(h=Pair("roi_heads.box_head", "roi_heads.box_head", LSH.random(24, 8, 1.0)))
    model = Distiller(student=student, pairs=pairs, teachers={"t": teacher})
    assert "distill.h.losses.loss.weight" in model.state_dict()
    assert len(list(model.parameters())) == len(list(student.parameters()))


def test_what_a_file_holds_for_another_teacher_is_left_out_with_a_warning(caplog):
    """A student that was distilled before is a good start, but not its old teacher's frozen adapters and hashes."""

    def hashing(seed):
        pair = Pair("roi_heads.box_head", "roi_heads.box_head", LSH.random(24, 8, 1.0))
        teachers = {"t": build(detector_cfg(), seed)}
        return Distiller(student=build(detector_cfg()), pairs=Pairs(h=pair), teachers=teachers)

    first, second = hashing(1), hashing(2)
    own = second.distill["h"].losses["loss"].weight.clone()
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(second.distill["h"].losses["loss"].weight, own)
    assert "pair 'h' were made for another teacher" in caplog.text
    again = hashing(1)
    again.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(again.distill["h"].losses["loss"].weight, first.distill["h"].losses["loss"].weight)


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, student, teacher, valid=None):
        raise self.error


class SpecialError(RuntimeError):
    def __init__(self, text, code, /):
        super().__init__(text, code)

    def __str__(self):
        return self.args[0]


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), SpecialError("odd", 7)])
def test_what_a_pair_raises_in_training_names_the_pair_and_keeps_its_type(error):
    pairs = Pairs(good=Pair("body", "body", L2()), bad=Pair("body", "body", Failing(error)))
    model = Distiller(Classifier(), pairs, {"big": Classifier()}).train()
    with pytest.raises(type(error), match="^pair 'bad': odd") as caught:
        model([{"image": torch.zeros(1, 4, 5)}])
    assert caught.value is error and error.args[1:] in ((), (7,))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 2, 3, padding=1)
        self.head = nn.Linear(2, 2)

    def forward(self, data):
        logits = self.head(self.body(torch.stack([x["image"] for x in data])).tanh().mean((2, 3)))
        return {"loss": logits.square().mean()} if self.training else logits


class InputNorm(nn.Module):
    """Length of the gradient of the logits' sum with respect to the pixels, and of the same on mirrored images."""

    needs = ("mirrored",)
    differentiates_input = True

    def forward(self, student, teacher, valid=None, *, mirrored):
        total = 0
        for logits, pixels in [student, mirrored, *([teacher] if teacher else [])]:
            (gradient,) = torch.autograd.grad(logits.sum(), pixels, create_graph=True)
            total = total + gradient.norm()
        return total


@pytest.mark.parametrize("teachers", [{}, {"big": Classifier()}])
def test_a_loss_may_differentiate_with_respect_to_pixels_with_a_teacher_or_without(teachers):
    own = ("head", "body@input")
    student, pair = Classifier(), Pair(own, own if teachers else (), InputNorm())
    model = Distiller(student, Pairs(smooth=pair), teachers).train()
    data = [{"image": torch.randn(1, 4, 5)} for _ in range(3)]
    losses = model(data)
    losses["distill_smooth"].backward()
    assert student.body.weight.grad.any() and student.head.weight.grad.any()
    assert all(p.grad is None for t in teachers.values() for p in t.parameters())
    assert set(losses) == {"loss", "distill_smooth"}


def test_what_is_left_out_of_train_only_keeps_its_normalisation_statistics():
    student = build(detector_cfg(norm="BN"))
    model = Distiller(student=student, train_only=["backbone.bottom_up.res4"])
    assert not student.get_submodule("backbone.bottom_up.res3.0.conv1.norm").training  # before any train()
    before = {n: b.clone() for n, b in student.named_buffers() if n.endswith("running_mean")}
    losses(model)
    moved = {n for n, b in student.named_buffers() if n in before and not torch.equal(b, before[n])}
    assert moved == {n for n in before if n.startswith("backbone.bottom_up.res4.")}
    assert all(m.training for m in student.modules() if type(m).__name__ == "GeneralizedRCNN")

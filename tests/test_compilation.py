"""Compiled backbones: the same losses and gradients, taps that fire, keys that stay."""

import copy
import logging

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.compilation import _parts, compile_backbones
from tests.tiny import batch, build, classifier_cfg, detector_cfg, distill_cfg, save_teacher

KD = {"METHOD": "SoftTarget", "AT": ["classifier"]}
MAPS = {"METHOD": "AttentionTransfer", "AT": ["backbone:res3", "backbone:res4"]}
INSIDE = {"METHOD": "AttentionTransfer", "AT": ["backbone.res3.0"]}
LEVELS = {"METHOD": "AttentionTransfer", "AT": ["backbone:p3", "backbone.bottom_up:res4"]}
BOXES = {"METHOD": "SoftTarget", "AT": ["roi_heads.box_predictor:0"]}


@pytest.fixture(autouse=True)
def fresh():
    """No code that another test compiled, and torch's settings put back."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8), torch._functorch.config.patch(donated_buffer=True):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compilation")


def distiller(folder, student, teacher, **pairs):
    cfg = distill_cfg(student, save_teacher(folder, teacher), pairs)
    torch.manual_seed(3)
    return build_model(cfg).train()


def classifier(folder, **pairs):
    return distiller(folder, classifier_cfg(), classifier_cfg(depth=14), **pairs)


def detector(folder, **pairs):
    return distiller(folder, detector_cfg(norm="BN"), detector_cfg(width=8), **pairs)


def images(count=4, size=8):
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=g, dtype=torch.uint8)
    return [{"image": image, "label": i % 2} for i, image in enumerate(pixels)]


def step(model, samples):
    """Losses and gradients of one training step, by name."""
    torch.manual_seed(5)
    model.zero_grad()
    with EventStorage():
        losses = model(samples)
    sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {n: float(v.detach()) for n, v in losses.items()}, gradients


def assert_same_step(plain, compiled, samples):
    (losses, gradients), (its_losses, its_gradients) = step(plain, samples), step(compiled, samples)
    assert its_losses == pytest.approx(losses, rel=1e-4)
    assert gradients.keys() == its_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(its_gradients[name], gradient, rtol=1e-3, atol=1e-5)


def compiled(model, backend="eager"):
    compile_backbones(model, backend)
    return model


def compilations():
    return torch._dynamo.utils.counters["frames"]["ok"]


@pytest.mark.parametrize(
    ("pairs", "backend"), [({"kd": KD, "at": MAPS}, "aot_eager"), ({"at": INSIDE}, "eager")]
)
def test_a_compiled_classifier_has_the_losses_and_gradients_of_the_plain_one(folder, pairs, backend):
    plain, model = classifier(folder, **pairs), compiled(classifier(folder, **pairs), backend)
    torch._dynamo.utils.counters.clear()
    assert_same_step(plain, model, images())
    assert compilations() >= 2  # student and teacher
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)  # statistics of the batch too


@pytest.mark.slow
def test_a_compiled_detector_has_the_losses_and_gradients_of_the_plain_one(folder):
    pairs = {"at": LEVELS, "kd": BOXES}
    assert_same_step(detector(folder, **pairs), compiled(detector(folder, **pairs)), batch())


def test_the_whole_backbone_is_compiled_where_nothing_in_it_is_tapped(folder):
    names = [owner + path for owner, path, _ in _parts(classifier(folder, kd=KD, at=MAPS))]
    assert names == ["student's backbone", "big's backbone"]
    assert [path for _, path, _ in _parts(build(classifier_cfg()))] == ["backbone"]


def test_the_largest_parts_around_a_tap_are_compiled(folder):
    model = classifier(folder, at=INSIDE)
    own = [path for owner, path, _ in _parts(model) if owner == "student's "]
    # of depth 8: a block in each stage; the tapped one is compiled too, its hook is outside
    assert own == ["backbone.stem", "backbone.res2", "backbone.res3.0", "backbone.res4"]
    theirs = [path for owner, path, _ in _parts(model) if owner == "big's "]
    assert theirs == [*own[:3], "backbone.res3.1", own[3]]


def test_the_bottom_up_network_of_an_fpn_is_compiled_as_a_whole(folder):
    names = [path for _, path, _ in _parts(detector(folder, at=LEVELS)) if "lateral" not in path]
    assert names[0] == "backbone.bottom_up" and not any("res" in name for name in names)


def test_keys_and_parameters_are_those_of_the_plain_model(folder):
    plain, model = classifier(folder, kd=KD), compiled(classifier(folder, kd=KD))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    plain.load_state_dict(model.state_dict())


def test_a_compiled_model_can_be_switched_to_eval_mode_and_back(folder):
    plain, model = classifier(folder, kd=KD), compiled(classifier(folder, kd=KD))
    assert_same_step(plain, model, images())
    with torch.no_grad():
        expected = plain.eval()(images(3))
        for one, other in zip(expected, model.eval()(images(3)), strict=True):
            torch.testing.assert_close(other["logits"], one["logits"])
    assert_same_step(plain.train(), model.train(), images())


def test_compiled_code_follows_autocast(folder):
    plain, model = classifier(folder, at=MAPS), compiled(classifier(folder, at=MAPS))
    assert_same_step(plain, model, images())
    seen = []
    model.student.backbone.register_forward_hook(lambda _, __, out: seen.append(out["res4"].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(images())
    model(images())
    assert seen == [torch.bfloat16, torch.float32]


def test_a_deep_copy_computes_with_its_own_weights(folder):
    model = compiled(build(classifier_cfg()))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    x = torch.ones(1, 3, 8, 8)
    assert (
        float(twin.eval().backbone(x)["res4"].abs().sum())
        == 0
        < float(model.eval().backbone(x)["res4"].sum())
    )


def test_the_graph_of_a_step_can_be_gone_through_twice(folder):
    model = compiled(classifier(folder, kd=KD), "aot_eager")
    total = sum(model(images()).values())
    parameters = [p for p in model.student.backbone.parameters() if p.requires_grad]
    first = torch.autograd.grad(total, parameters, retain_graph=True)
    again = torch.autograd.grad(total, parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_every_block_of_a_deep_network_is_compiled_and_not_just_the_first_few():
    compile_backbones(build(classifier_cfg()), "eager")
    assert torch._dynamo.config.recompile_limit >= 64


def test_an_unknown_backend_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="MODEL.COMPILE 'induktor' is unknown: choose one of .*inductor"):
        compile_backbones(build(classifier_cfg()), "induktor")


def test_a_pair_that_differentiates_pixels_is_an_error_when_the_model_is_built(folder):
    model = classifier(folder, ga={"METHOD": "GradientAttention", "AT": [["classifier", "backbone@input"]]})
    with pytest.raises(ValueError, match="pair 'ga.*' differentiates the gradient of the pixels"):
        compile_backbones(model, "inductor")


def test_a_backend_that_fails_is_an_error_that_says_how_to_go_on(monkeypatch):
    def fails(graph, inputs):
        raise OSError("no C++ compiler")

    registry = torch._dynamo.backends.registry
    for name in ("_BACKENDS", "_COMPILER_FNS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))  # this test's own
    torch._dynamo.register_backend(fails)
    model = compiled(build(classifier_cfg()).eval(), "fails")
    with pytest.raises(
        RuntimeError, match="cannot compile the backbone: .*no C\\+\\+ compiler.*set MODEL.COMPILE to ''"
    ):
        model(images())


def test_a_model_without_a_backbone_is_left_as_it_is_with_a_warning(caplog):
    caplog.set_level(logging.WARNING, "det_distill.compilation")
    compile_backbones(nn.Linear(2, 2), "eager")
    assert "Linear has no backbone to compile" in caplog.text


@pytest.mark.slow
def test_the_default_compiler_of_torch_gives_the_same_step(folder):
    pairs = {"kd": KD, "at": MAPS}
    assert_same_step(classifier(folder, **pairs), compiled(classifier(folder, **pairs), "inductor"), images())

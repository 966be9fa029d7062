"""`GradientAttention` and `FlipSymmetry`: models whose input gradient is known, finite differences, both in a pair."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from det_distill import Distiller, Pair, Pairs
from det_distill.losses import FlipSymmetry, GradientAttention
from det_distill.losses.input_gradient import input_gradient

CLASSES = 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Network(nn.Module):
    """A small classifier, called with a list of samples as the distiller's models are."""

    def __init__(self, norm=False, activation=nn.Tanh, kernel=3):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(2, 4, kernel, padding=kernel // 2),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            activation(),
        )
        self.classifier = nn.Linear(4, CLASSES)

    def logits(self, pixels):
        return self.classifier(self.backbone(pixels).mean((2, 3)))

    def forward(self, batch):
        logits = self.logits(torch.stack([x["image"] for x in batch]))
        return {"loss_cls": F.cross_entropy(logits, torch.tensor([x["label"] for x in batch]))}


def images(count=4, **options):
    return torch.randn(count, 2, 5, 6, **options)


def labels(count=4):
    return torch.arange(count) % CLASSES


def sides(network, pixels):
    """[logits, pixels] of a forward pass, as a pair records them."""
    pixels = pixels.detach().clone().requires_grad_()
    return [network(pixels) if not isinstance(network, Network) else network.logits(pixels), pixels]


def attention(student, teacher, pixels, classes=None, **options):
    classes = labels(len(pixels)) if classes is None else classes
    return GradientAttention()(sides(student, pixels), sides(teacher, pixels), labels=classes, **options)


def symmetry(network, pixels, classes=None):
    classes = labels(len(pixels)) if classes is None else classes
    mirrored = sides(network, pixels.flip(-1))
    return FlipSymmetry()(sides(network, pixels), None, labels=classes, mirrored=mirrored)


def line(weight):
    """Two classes with the logits w.x and 0; label 0: J = w (sigmoid(w.x) - 1), and -w / 2 at x = 0."""
    weight = torch.as_tensor(weight)
    return lambda x: torch.stack([x.flatten(1) @ weight, x.flatten(1).sum(1) * 0], dim=1)


def test_gradient_attention_by_hand():
    # J_s = -2 / 2 = -1 and J_t = 4 / 2 = 2 differ by 3; half of that.
    assert attention(line([2.0]), line([-4.0]), torch.zeros(1, 1, 1, 1)).item() == pytest.approx(1.5)


def test_flip_symmetry_by_hand():
    # J = -(a, b) / 2 at zero, mirrored -(b, a) / 2: the norm of (b - a, a - b) / 2, halved.
    a, b = 5.0, 2.0
    assert symmetry(line([a, b]), torch.zeros(1, 1, 1, 2)).item() == pytest.approx(
        (a - b) / (2 * math.sqrt(2))
    )


def test_the_input_gradient_of_a_linear_model_is_the_weights_times_softmax_minus_label():
    weight, pixels = torch.randn(CLASSES, 60), images()
    logits, leaf = sides(lambda x: x.flatten(1) @ weight.T, pixels)
    error = logits.softmax(1) - F.one_hot(labels(), CLASSES)
    torch.testing.assert_close(input_gradient(logits, leaf, labels()).flatten(1), error @ weight)


def test_gradient_attention_is_half_the_mean_norm_of_the_difference():
    models, pixels = [torch.randn(60, CLASSES) for _ in range(2)], images()
    student, teacher = (
        ((pixels.flatten(1) @ w).softmax(1) - F.one_hot(labels(), CLASSES)) @ w.T for w in models
    )
    expected = sum(math.sqrt(row.square().sum()) for row in student - teacher) / 4 / 2
    got = attention(*((lambda x, w=w: x.flatten(1) @ w) for w in models), pixels)
    assert got.dtype == torch.float32 and got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("norm", [False, True])
def test_the_parameters_gradient_agrees_with_finite_differences(norm, activation):
    """With batch normalisation in training mode too: the coupling of the images is differentiated, not ignored."""
    student, teacher = Network(norm, activation).double(), Network().double()
    pixels = images(3, dtype=torch.float64)[..., :3, :4]
    names, values = zip(*student.named_parameters(), strict=True)

    def both(*parameters):
        def run(x):
            state = dict(zip(names, parameters, strict=True))
            hidden = functional_call(student.backbone, _below("backbone", state), (x,))
            return functional_call(student.classifier, _below("classifier", state), (hidden.mean((2, 3)),))

        return torch.stack([attention(run, teacher, pixels), symmetry(run, pixels)])

    assert torch.autograd.gradcheck(both, tuple(v.detach().requires_grad_() for v in values))


def _below(prefix, state):
    return {k.removeprefix(f"{prefix}."): v for k, v in state.items() if k.startswith(f"{prefix}.")}


def test_an_image_has_one_input_gradient_in_batches_of_every_size():
    network, pixels = Network(), images()
    whole = input_gradient(*sides(network, pixels), labels())
    for i in range(4):
        torch.testing.assert_close(
            input_gradient(*sides(network, pixels[i : i + 1]), labels()[i : i + 1]), whole[i : i + 1]
        )


@pytest.mark.parametrize(
    "function",
    [lambda s, x, **of: attention(s, line_of_classes(), x, **of), symmetry],
    ids=["attention", "flip"],
)
def test_the_value_of_a_batch_is_the_mean_over_its_images(function):
    network, pixels = Network(), images(3)
    alone = [function(network, pixels[i : i + 1], classes=labels(3)[i : i + 1]).item() for i in range(3)]
    assert function(network, pixels, classes=labels(3)).item() == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert min(alone) > 0


def line_of_classes():
    weight = torch.linspace(-1, 1, 60 * CLASSES).view(60, CLASSES)
    return lambda x: x.flatten(1) @ weight


def test_batch_normalisation_in_training_mode_couples_the_images_and_frozen_statistics_do_not():
    pixels = images()
    other = torch.cat([pixels[:1], images(3)])
    for network, coupled in [
        (Network(norm=True), True),
        (Network(norm=True).eval(), False),
        (Network(), False),
    ]:
        first, second = (input_gradient(*sides(network, x), labels())[0] for x in (pixels, other))
        assert torch.allclose(first, second, atol=1e-7) != coupled


@pytest.mark.parametrize("function", [lambda s, x: attention(s, Network(), x), symmetry])
def test_every_parameter_gets_a_gradient_the_classifiers_bias_too(function):
    network = Network(norm=True)
    function(network, images()).backward()
    weights = {
        n: p for n, p in network.named_parameters() if n != "backbone.0.bias"
    }  # which the norm removes
    assert all(p.grad.abs().max() > 1e-7 for p in weights.values())


def test_a_student_that_is_the_teacher_has_zero_value_and_zero_gradient():
    network = Network()
    value = attention(network, network, images())
    value.backward()
    assert value == 0 and not any(p.grad.any() for p in network.parameters())


def test_the_teacher_gets_no_gradient_and_its_graph_can_be_used_again():
    student, teacher, pixels = Network(), Network(), images()
    seen = sides(teacher, pixels)
    for _ in range(2):
        GradientAttention()(sides(student, pixels), seen, labels=labels()).backward()
    assert seen[1].grad is None and all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("function", [lambda s, x: attention(s, s, x), symmetry])
def test_a_network_that_computes_nothing_has_finite_gradients(function):
    network = Network()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    value = function(network, images())
    value.backward()
    assert value == 0 and all(p.grad.isfinite().all() for p in network.parameters())


def test_a_network_without_left_and_right_has_no_asymmetry():
    symmetric = Network(kernel=1)
    assert symmetry(symmetric, images()).item() == pytest.approx(0, abs=1e-7)
    mirrored = Network()
    with torch.no_grad():
        mirrored.backbone[0].weight += mirrored.backbone[0].weight.flip(-1)
    assert symmetry(mirrored, images()).item() == pytest.approx(0, abs=1e-7)
    assert symmetry(Network(), images()).item() > 1e-3


def test_upside_down_is_not_what_is_mirrored():
    network = Network()
    with torch.no_grad():
        network.backbone[0].weight += network.backbone[0].weight.flip(-2)
    assert symmetry(network, images()).item() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_give_a_float32_value_and_finite_gradients(dtype):
    weight = torch.randn(60, CLASSES).to(dtype).requires_grad_()
    pixels = images(dtype=dtype)
    student, teacher = (lambda x: x.flatten(1) @ weight), line_of_classes()
    for value in (symmetry(student, pixels), attention(student, lambda x: teacher(x.float()), pixels)):
        (grad,) = torch.autograd.grad(value, weight)
        assert value.dtype == torch.float32 and value > 0 and grad.isfinite().all()


def test_under_autocast_everything_behind_the_network_is_computed_in_float32():
    student, teacher, pixels = Network(), Network(), images()
    recorded = sides(student, pixels), sides(teacher, pixels), sides(student, pixels.flip(-1))

    def values():
        return (
            GradientAttention()(*recorded[:2], labels=labels()),
            FlipSymmetry()(recorded[0], labels=labels(), mirrored=recorded[2]),
        )

    expected = values()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = values()
    assert all(map(torch.equal, got, expected))


def test_the_padding_of_an_image_does_not_count():
    student, teacher, pixels = Network(), Network(), images(2)
    valid = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    valid[1, ..., 3:] = False
    difference = input_gradient(*sides(student, pixels), labels(2)) - input_gradient(
        *sides(teacher, pixels), labels(2)
    )
    expected = (difference[0].norm() + difference[1, ..., :3].norm()) / 4
    torch.testing.assert_close(attention(student, teacher, pixels, valid=[None, valid]), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_no_images_give_a_zero_that_is_attached_to_the_graph_and_one_image_a_number(count):
    network, pixels = Network(), images(count)
    for value in (attention(network, Network(), pixels), symmetry(network, pixels)):
        value.backward()
        assert (value == 0) == (count == 0) and value.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_what_cannot_be_differentiated_is_named_with_what_to_do():
    network, pixels = Network(), images()
    good = sides(network, pixels)
    cases = [
        ([good[0].detach(), good[1]], labels(), "logits carry no graph"),
        ([good[0], pixels], labels(), "pixels do not require a gradient.*backbone@input"),
        ([good[0], good[1] * 1], labels(), "do not depend on these pixels"),
        (good, labels().int(), "int64 labels"),
        (good, labels()[:2], r"int64 of shape \(2,\)"),
        (good[:1], labels(), r"take \[logits, pixels\]"),
        (good[0], labels(), r"take \[logits, pixels\]"),
    ]
    for student, its_labels, words in cases:
        with pytest.raises(ValueError, match=words):
            GradientAttention()(student, good, labels=its_labels)
        with pytest.raises(ValueError, match=words):
            FlipSymmetry()(student, None, labels=its_labels, mirrored=good)


def test_images_of_unequal_sizes_are_not_compared():
    network, pixels = Network(), images()
    with pytest.raises(ValueError, match="map sizes differ"):
        GradientAttention()(sides(network, pixels), sides(network, pixels[..., :4]), labels=labels())
    with pytest.raises(ValueError, match="of one size, not"):
        FlipSymmetry()(sides(network, pixels), labels=labels(), mirrored=sides(network, pixels[..., :4]))
    with pytest.raises(ValueError, match="padded batch"):
        mask = [None, torch.ones(4, 1, 5, 6, dtype=torch.bool)]
        FlipSymmetry()(sides(network, pixels), None, mask, labels=labels(), mirrored=sides(network, pixels))


def batch(pixels):
    return [{"image": x, "label": int(y)} for x, y in zip(pixels, labels(), strict=True)]


AT = ("classifier", "backbone@input")


@pytest.mark.parametrize("norm", [False, True])
def test_both_together_in_one_pair_are_the_losses_on_what_the_models_compute(norm):
    student, teacher, pixels = Network(norm), Network(), images()
    expected = {
        "distill_j_attention": 3 * attention(student, teacher, pixels),
        "distill_j_symmetry": 0.5 * symmetry(student, pixels),
    }
    pair = Pair(
        AT,
        AT,
        {"attention": GradientAttention(), "symmetry": FlipSymmetry()},
        weight={"attention": 3.0, "symmetry": 0.5},
    )
    model = Distiller(student, Pairs(j=pair), {"t": teacher}).train()
    losses = model(batch(pixels))
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    expected["loss_cls"] = F.cross_entropy(student.logits(pixels), labels())
    wanted = torch.autograd.grad(sum(expected.values()), list(student.parameters()))
    sum(losses.values()).backward()
    for parameter, grad in zip(student.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_flip_symmetry_needs_no_teacher():
    student = Network()
    losses = Distiller(student, Pairs(flip=Pair(AT, (), FlipSymmetry()))).train()(batch(images()))
    losses["distill_flip"].backward()
    assert losses["distill_flip"] > 0 and student.backbone[0].weight.grad.any()

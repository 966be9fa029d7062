"""What holds for every loss of `det_distill.losses`. A new loss is one line in `BUILD`."""

import inspect
import itertools

import pytest
import torch
from torch import nn

import det_distill.losses as losses
from det_distill.losses import L2, LSH, AttentionTransfer, ChannelWise, DarkRank, FactorTransfer, Pearson

DIM = 6


def lsh(**options):
    return LSH.random(DIM, 16, std=0.5, generator=torch.Generator().manual_seed(7), **options)


ATTENTION = {
    f"AttentionTransfer-{m}-{p}-{outer}": lambda m=m, p=p, outer=outer: AttentionTransfer(m, p, outer)
    for m, p, outer in [
        *itertools.product(["sum_p"], [2], ["mse", "l2", "scaled"]),
        *[("sum", 1, "mse"), ("sum_p", 0.5, "mse"), ("max_p", 3, "mse")],
    ]
}
SOFT = {
    "SoftTarget-softmax": lambda: losses.SoftTarget(2.0, "softmax"),
    "SoftTarget-bernoulli": lambda: losses.SoftTarget(2.0, "bernoulli"),
    "LogitRegression": losses.LogitRegression,
    "LogitRegression-centred": lambda: losses.LogitRegression(centre=True),
    "DecoupledTarget": losses.DecoupledTarget,
}
BOXES = {f"BoxRegression-{b}": lambda b=b: losses.BoxRegression(b) for b in (0.0, 1.0)}
RANKING = {
    "DarkRank-hard": DarkRank,
    "DarkRank-hard-all": lambda: DarkRank(candidates="all"),
    "DarkRank-soft": lambda: DarkRank(mode="soft"),
}
MADE_FOR_DETECTION = {
    "FocalGlobal": lambda: losses.FocalGlobal(foreground=1, background=0.5, attention=1),
    "GlobalRelation": losses.GlobalRelation,
    "HierarchicalContext": losses.HierarchicalContext,
    "MaskedGeneration-sum": losses.MaskedGeneration,
    "MaskedGeneration-mean": lambda: losses.MaskedGeneration("mean"),
}
BUILD = {
    **SOFT,
    **MADE_FOR_DETECTION,
    **BOXES,
    **ATTENTION,
    "ChannelWise": ChannelWise,
    "ChannelWise-T4": lambda: ChannelWise(4),
    "Pearson": Pearson,
    **RANKING,
    **{
        f"FactorTransfer-p{p}-{r}": lambda p=p, r=r: FactorTransfer(p, r)
        for p, r in itertools.product((1, 2), ("mean", "sum", "scaled"))
    },
    "L2": L2,
    **{f"LSH-{d}": lambda d=d: lsh(distance=d) for d in ("bce", "l1", "l2")},
    "LSH-bce-guarded": lambda: lsh(max_norm_ratio=1.5),
    "LSH-l2-guarded": lambda: lsh(distance="l2", max_norm_ratio=1.5),
}
NOT_ZERO_AT_EQUALITY = {"LSH-bce", "LSH-bce-guarded"}  # BCE against bits has no zero
ZERO_FOR_ONE_CHANNEL: set[str] = {
    *ATTENTION,
    "ChannelWise",
    "ChannelWise-T4",
    "Pearson",
    "SoftTarget-softmax",
    "LogitRegression-centred",
    "DecoupledTarget",
}
ROWS_ONLY: set[str] = {"DecoupledTarget", *BOXES}
MAPS_ONLY: set[str] = {*ATTENTION, "ChannelWise", "ChannelWise-T4"}
MAPS_ONLY |= {"FocalGlobal", "GlobalRelation"}
ROWS_ONLY |= {*RANKING}  # a map is one sample, and two samples have no ranking: see test_darkrank.py
ZERO_FOR_ONE_CHANNEL |= {*RANKING}  # nor has one
NOT_ZERO_AT_EQUALITY |= {"DarkRank-hard", "DarkRank-hard-all"}  # a likelihood
WIDTH: dict[str, int] = dict.fromkeys(BOXES, 8)  # channels, for a loss that does not take DIM
OVER_THE_BATCH = {"Pearson"}  # statistics over the images together: cropping one by one is another value
SHAPES = {"rows": (5, DIM), "map": (2, DIM, 4, 3)}


@pytest.fixture
def loss(name):
    return BUILD[name]()


def takes(name, shape):
    """Whether a loss takes such a shape: rows (R, D), maps (B, C, H, W), or what no loss takes."""
    return name not in {2: MAPS_ONLY, 4: ROWS_ONLY}.get(len(shape), ())


def on(*shapes, names=tuple(BUILD)):
    """Every loss on those of the shapes that it takes, with the channels that it takes."""
    cases = [(n, s) for n in names for s in shapes if takes(n, s)]
    ids = ["-".join([n, "x".join(map(str, s))]) for n, s in cases]
    fitted = [(n, (s[0], WIDTH.get(n, s[1]), *s[2:])) for n, s in cases]
    return pytest.mark.parametrize(("name", "shape"), fitted, ids=ids)


every_loss = pytest.mark.parametrize("name", BUILD)
on_rows_and_maps = on(*SHAPES.values())
of_maps = [n for n in BUILD if takes(n, SHAPES["map"])]
on_maps = pytest.mark.parametrize("name", of_maps)


def call(loss, student, teacher, *args):
    """`loss(student, teacher, *args)` with what it `needs`, the same for the same number of rows or images."""
    feature = student[0] if isinstance(student, list) else student
    labels = torch.arange(len(feature)) % min(feature.shape[1], 2)
    known = {
        "labels": labels,
        "foreground": labels == 0,
        "boxes": [torch.tensor([[0.0, 0.0, 1.5, 1.0]])] * len(feature),
    }
    return loss(student, teacher, *args, **{n: known[n] for n in getattr(loss, "needs", ())})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def value_and_grad(loss, student, teacher, *args):
    student = student.detach().clone().requires_grad_()
    value = call(loss, student, teacher, *args)
    (grad,) = torch.autograd.grad(value, student)
    return value.detach(), grad


OF_TWO_VALUES_A_SIDE = {"FSP", "FlipSymmetry", "GradientAttention"}  # test_fsp.py, test_input_gradient.py


def test_every_public_loss_is_covered_here():
    public = {n for n in losses.__all__ if inspect.isclass(getattr(losses, n))}
    public = {n for n in public if issubclass(getattr(losses, n), nn.Module)}
    assert public - OF_TWO_VALUES_A_SIDE == {type(build()).__name__ for build in BUILD.values()}


@on_rows_and_maps
def test_the_value_is_a_positive_float32_scalar(loss, shape):
    value = call(loss, torch.randn(shape), torch.randn(shape))
    assert value.shape == () and value.dtype == torch.float32 and value > 0


@on(*SHAPES.values(), names=sorted(BUILD.keys() - NOT_ZERO_AT_EQUALITY))
def test_equal_features_give_zero_and_zero_gradient(loss, shape):
    feature = torch.randn(shape)
    value, grad = value_and_grad(loss, feature, feature.clone())
    assert value == 0 and not grad.any()


@every_loss
def test_a_loss_has_no_parameters(loss):
    assert not list(loss.parameters())


@on_rows_and_maps
def test_only_the_student_gets_a_gradient(loss, shape):
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    call(loss, student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@on_rows_and_maps
def test_gradcheck_in_float64(loss, shape):
    loss = loss.double()
    student, teacher = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    assert call(loss, student, teacher).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda s: call(loss, s, teacher), student.requires_grad_())


@on((0, DIM), (0, DIM, 4, 3), (2, DIM, 0, 3))
def test_no_rows_and_no_cells_give_a_zero_that_is_attached_to_the_graph(loss, shape):
    student = torch.randn(shape, requires_grad=True)
    value = call(loss, student, torch.randn(shape))
    value.backward()
    assert value == 0 and student.grad.shape == student.shape


@on_rows_and_maps
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_all_zero_features_give_finite_values_and_gradients(loss, shape, zero):
    student = torch.zeros(shape) if zero != "teacher" else torch.randn(shape)
    teacher = torch.zeros(shape) if zero != "student" else torch.randn(shape)
    value, grad = value_and_grad(loss, student, teacher)
    assert value.isfinite() and grad.isfinite().all()


@on((1, 1), (1, 1, 1, 1))
def test_a_single_element_gives_a_finite_value(name, loss, shape):
    narrow = LSH(torch.ones(1, 1), distance=loss.distance) if isinstance(loss, LSH) else loss
    value, grad = value_and_grad(narrow, torch.full(shape, 2.0), torch.full(shape, -3.0))
    assert value.isfinite() and grad.isfinite().all() and (value > 0 or name in ZERO_FOR_ONE_CHANNEL)


@on_rows_and_maps
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(loss, shape, dtype):
    student, teacher = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    value, grad = value_and_grad(loss, student, teacher)
    expected, expected_grad = value_and_grad(loss, student.float(), teacher.float())
    assert value.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, expected_grad.to(dtype))


@on_rows_and_maps
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(loss, shape, dtype):
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
    expected, expected_grad = value_and_grad(loss, student, teacher)
    with torch.autocast("cpu", dtype=dtype):
        value = call(loss, student, teacher)
    value.backward()  # outside, as trainers do
    assert value.item() == expected.item() and torch.equal(student.grad, expected_grad)


@on_rows_and_maps
def test_float16_features_whose_squares_overflow_are_no_problem(loss, shape):
    student, teacher = torch.full(shape, 6e4).half(), torch.full(shape, -6e4).half()
    assert call(loss, student, teacher).isfinite()


def padded(sizes, height, width, fill):
    """A batch of maps (B, DIM, height, width) with `fill` outside each image's size, and its mask."""
    batch, valid = (
        torch.full((len(sizes), DIM, height, width), fill),
        torch.zeros(len(sizes), 1, height, width),
    )
    for image, mask, (h, w) in zip(batch, valid, sizes, strict=True):
        image[:, :h, :w] = torch.randn(DIM, h, w)
        mask[:, :h, :w] = 1
    return batch, valid.bool()


@pytest.mark.parametrize("name", [n for n in of_maps if n not in OVER_THE_BATCH])
@pytest.mark.parametrize("fill", [3.0, float("inf"), float("nan")])
def test_padding_counts_as_if_each_image_had_been_cropped_and_averaged(loss, fill):
    sizes = [(4, 5), (2, 3), (1, 1)]
    student, valid = padded(sizes, 4, 5, fill)
    teacher, _ = padded(sizes, 4, 5, -fill)
    value, grad = value_and_grad(loss, student, teacher, valid)
    total, expected_grad = 0.0, torch.zeros_like(student)
    for i, (h, w) in enumerate(sizes):
        one, one_grad = value_and_grad(loss, student[i : i + 1, :, :h, :w], teacher[i : i + 1, :, :h, :w])
        total += one.item() / len(sizes)
        expected_grad[i, :, :h, :w] = one_grad[0] / len(sizes)
    assert value.item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-7)


@on_maps
def test_a_mask_that_is_true_everywhere_equals_no_mask(loss):
    student, teacher = torch.randn(2, DIM, 4, 3), torch.randn(2, DIM, 4, 3)
    masked = call(loss, student, teacher, torch.ones(2, 1, 4, 3, dtype=torch.bool))
    torch.testing.assert_close(masked, call(loss, student, teacher), rtol=1e-6, atol=0)


@on_maps
def test_an_image_without_a_valid_cell_counts_as_zero(name, loss):
    student, teacher = torch.randn(2, DIM, 4, 3), torch.randn(2, DIM, 4, 3)
    valid = torch.ones(2, 1, 4, 3, dtype=torch.bool)
    valid[1] = False
    value, grad = value_and_grad(loss, student, teacher, valid)
    images = 1 if name in OVER_THE_BATCH else 2
    torch.testing.assert_close(value, call(loss, student[:1], teacher[:1]) / images, rtol=1e-6, atol=0)
    assert grad[0].any() and not grad[1].any()
    nothing, grad = value_and_grad(loss, student, teacher, torch.zeros_like(valid))
    assert nothing == 0 and not grad.any()


MISMATCHES = [
    ((5, 4), (5, DIM), [r"\(5, 4\)", rf"\(5, {DIM}\)", rf"Linear\(4, {DIM}\)"]),
    ((2, 4, 3, 3), (2, DIM, 3, 3), [rf"Conv1x1\(4, {DIM}\)", rf"Translator\(4, {DIM}\)"]),
    ((2, DIM, 3, 3), (2, DIM, 4, 3), ["map sizes", "crop or resize"]),
    ((5, DIM), (4, DIM), ["counts", "same RoIs"]),
    ((2, DIM, 3, 3), (2, DIM), ["two sets of rows"]),
    ((2, 3, DIM), (2, 3, DIM), ["two sets of rows"]),
]


def mismatches():
    """Every loss with every mismatch that it does not take."""
    for name, (student, teacher, words) in itertools.product(BUILD, MISMATCHES):
        equal = getattr(BUILD[name](), "needs_equal_channels", True) or student[1] == teacher[1]
        if equal and (takes(name, student) or len(student) != len(teacher)):
            yield name, student, teacher, words


@pytest.mark.parametrize(("name", "student", "teacher", "words"), list(mismatches()))
def test_shapes_that_cannot_be_compared_are_named_with_what_to_do(loss, student, teacher, words):
    for word in words:
        with pytest.raises(ValueError, match=word):
            call(loss, torch.zeros(student), torch.zeros(teacher))


@on_maps
@pytest.mark.parametrize(
    "valid", [torch.ones(2, 4, 3).bool(), torch.ones(2, 1, 4, 3), torch.ones(2, DIM, 4, 3).bool()]
)
def test_a_mask_of_another_shape_or_type_is_an_error(loss, valid):
    with pytest.raises(ValueError, match=r"bool mask of shape \(2, 1, 4, 3\)"):
        call(loss, torch.zeros(2, DIM, 4, 3), torch.zeros(2, DIM, 4, 3), valid)


@on(SHAPES["rows"])
def test_a_mask_for_rows_is_an_error(loss, shape):
    rows = torch.zeros(shape)
    with pytest.raises(ValueError, match="goes with maps"):
        call(loss, rows, rows, torch.ones(5, 1).bool())

"""`ReviewFusion`: numbers of the authors' code, one level, what flows from where to where."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from det_distill.adapters import ReviewFusion
from det_distill.losses import HierarchicalContext

# Recorded from dvlab-research/ReviewKD, Detection/model/kd_trans.py ReviewKD and hcl; see `review/meta`.
RECORDED = np.load(Path(__file__).parents[1] / "losses" / "reference" / "review.npz")
SIZES = [(8, 6), (4, 3), (2, 2)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return [torch.from_numpy(RECORDED[f"review/{key}{n}"]) for n in range(3)]


def levels(*channels, grad=False):
    return [torch.randn(2, c, *s, requires_grad=grad) for c, s in zip(channels, SIZES, strict=True)]


def test_the_levels_and_the_gradients_are_those_of_the_authors_code():
    adapter = ReviewFusion([4, 5, 6], [3, 4, 2], mid_channels=5)
    prefix = "review/weights/"
    weights = {
        k[len(prefix) :]: torch.from_numpy(RECORDED[k]) for k in RECORDED.files if k.startswith(prefix)
    }
    adapter.load_state_dict(weights)  # strict: the names are the same
    student = [x.requires_grad_() for x in recorded("student")]
    fused = adapter(student)
    for found, expected in zip(fused, recorded("fused"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    HierarchicalContext()(fused, recorded("teacher")).backward()
    for feature, expected in zip(student, recorded("grad_student"), strict=True):
        torch.testing.assert_close(feature.grad, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_one_level_is_a_projection_compared_at_several_resolutions():
    adapter = ReviewFusion([4], [3], mid_channels=5)
    x, teacher = torch.randn(2, 4, 6, 6), torch.randn(2, 3, 6, 6)
    (projected,) = adapter([x])
    (block,) = adapter.abfs
    conv1, norm1, conv2, norm2 = *block.conv1, *block.conv2
    hidden = F.batch_norm(conv1(x), None, None, norm1.weight, norm1.bias, training=True)
    expected = F.batch_norm(conv2(hidden), None, None, norm2.weight, norm2.bias, training=True)
    torch.testing.assert_close(projected, expected)
    loss = HierarchicalContext()
    assert loss([projected], [teacher]) == loss(projected, teacher)
    assert not any("att_conv" in name for name, _ in adapter.named_parameters())


def test_a_level_sees_itself_and_the_coarser_ones_only():
    adapter, student = ReviewFusion([4, 5, 6], [3, 3, 3]).eval(), levels(4, 5, 6, grad=True)
    for n, fused in enumerate(adapter(student)):
        grads = torch.autograd.grad(fused.sum(), student, allow_unused=True, retain_graph=True)
        assert [g is not None and bool(g.any()) for g in grads] == [False] * n + [True] * (3 - n)


def test_the_fusion_weighs_the_level_and_the_coarser_one_by_two_maps():
    adapter = ReviewFusion([4, 6], [3, 3], mid_channels=2).eval()
    coarse, fine = adapter.abfs
    x, y = torch.randn(1, 4, 4, 6), torch.randn(1, 6, 2, 3)
    own, others = fine.conv1(x), coarse.conv1(y).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    a, b = torch.sigmoid(fine.att_conv[0](torch.cat([own, others], dim=1)))[0]
    torch.testing.assert_close(adapter([x, y])[0], fine.conv2(a * own + b * others))


def test_every_parameter_trains():
    adapter = ReviewFusion([4, 5, 6], [3, 4, 2])
    student = levels(4, 5, 6)
    HierarchicalContext()(adapter(student), levels(3, 4, 2)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())


def test_vectors_are_a_level_of_one_cell_and_stay_vectors():
    adapter = ReviewFusion([4, 5], [3, 7]).eval()
    x, y = torch.randn(2, 4, 4, 4), torch.randn(2, 5)
    fused, vectors = adapter([x, y])
    expected, cell = adapter([x, y[:, :, None, None]])
    assert vectors.shape == (2, 7) and torch.equal(vectors, cell.flatten(1)) and torch.equal(fused, expected)


@pytest.mark.parametrize(("channels", "mid"), [([64, 256], 256), ([64, 2048], 512)])
def test_the_channels_between_the_levels_are_those_of_the_coarsest_at_most_512(channels, mid):
    adapter = ReviewFusion(channels, [8, 8])
    assert all(block.conv1[0].out_channels == mid for block in adapter.abfs)


def test_unequal_numbers_of_levels_are_refused():
    with pytest.raises(ValueError, match="as many student levels as teacher levels"):
        ReviewFusion([4, 5], [3])
    with pytest.raises(ValueError, match="as many student levels as teacher levels"):
        ReviewFusion([], [])
    with pytest.raises(ValueError, match="fuses 2 levels, but got 1"):
        ReviewFusion([4, 5], [3, 3])([torch.zeros(1, 4, 2, 2)])

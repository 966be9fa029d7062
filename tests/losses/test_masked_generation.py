"""`MaskedGeneration`: numbers of the authors' code, values by hand, what the two reductions divide by."""

from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.adapters import Generation
from det_distill.losses import L2, MaskedGeneration

# Recorded from yzd-v/MGD, det/mmdet/distillation/losses/mgd.py FeatureLoss; see `mgd/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "masked_generation.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return torch.from_numpy(RECORDED[f"mgd/{key}"])


def test_value_and_gradient_are_those_of_the_authors_code(monkeypatch):
    adapter = Generation(4, 8, ratio=0.65)
    prefix = "mgd/weights/"
    weights = {
        k[len(prefix) :]: torch.from_numpy(RECORDED[k]) for k in RECORDED.files if k.startswith(prefix)
    }
    adapter.load_state_dict(weights)  # strict: the names are the same
    monkeypatch.setattr(adapter, "_masked", lambda x: recorded("masked"))
    student = recorded("student").requires_grad_()
    value = 0.001 * MaskedGeneration()(adapter(student), recorded("teacher"))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED["mgd/value"]), rel=1e-5)
    expected = recorded("grad_student")
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_two_images_by_hand():
    # Squares: 1 + 4 in the first image of two cells, 9 + 0 in the second.
    student = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 5.0]]]])
    teacher = torch.tensor([[[[0.0, 0.0]]], [[[0.0, 5.0]]]])
    assert MaskedGeneration("sum")(student, teacher) == (5 + 9) / 2
    assert MaskedGeneration("mean")(student, teacher) == (5 + 9) / 4


def test_a_weight_for_the_sum_is_channels_times_cells_as_large_for_the_mean():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    total, mean = MaskedGeneration("sum")(student, teacher), MaskedGeneration("mean")(student, teacher)
    torch.testing.assert_close(total, mean * 3 * 4 * 5)
    torch.testing.assert_close(mean, L2()(student, teacher))


def test_a_slow_loop_over_valid_cells_gives_the_same_sum():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    valid = torch.rand(2, 1, 4, 5) > 0.4
    total = 0.0
    for b, c, i, j in np.ndindex(2, 3, 4, 5):
        if valid[b, 0, i, j]:
            total += (student[b, c, i, j] - teacher[b, c, i, j]).item() ** 2
    assert MaskedGeneration()(student, teacher, valid).item() == pytest.approx(total / 2, rel=1e-5)


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match='"sum" or "mean", not by \'max\''):
        MaskedGeneration("max")

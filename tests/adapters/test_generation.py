"""`Generation`: what is masked, when, and that masked cells say nothing."""

import pytest
import torch
from torch import nn

from det_distill.adapters import Generation


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_nothing_is_masked_in_eval_mode_and_the_layers_are_a_sequence_written_out():
    adapter = Generation(4, 6).eval()
    x = torch.randn(2, 4, 5, 3)
    first, _, second = adapter.generation
    assert torch.equal(adapter(x), second(first(adapter.align(x)).relu()))
    assert torch.equal(adapter(x), adapter(x))


def test_equal_channels_need_no_alignment():
    assert isinstance(Generation(4, 4).align, nn.Identity)
    assert [n for n, _ in Generation(4, 4).named_parameters()] == [
        "generation.0.weight",
        "generation.0.bias",
        "generation.2.weight",
        "generation.2.bias",
    ]


def test_the_size_stays_and_the_channels_become_the_teachers():
    assert Generation(4, 6)(torch.randn(2, 4, 5, 3)).shape == (2, 6, 5, 3)


@pytest.mark.parametrize("mask", ["cells", "channels"])
def test_what_is_masked_has_no_influence_and_gets_no_gradient(mask, monkeypatch):
    adapter = Generation(8, 8, ratio=0.5, mask=mask)
    drawn = adapter._masked(torch.zeros(2, 8, 5, 4))
    assert drawn.shape == ((2, 1, 5, 4) if mask == "cells" else (2, 8, 1, 1))
    monkeypatch.setattr(adapter, "_masked", lambda x: drawn)
    x = torch.randn(2, 8, 5, 4, requires_grad=True)
    y = adapter(x)
    y.square().sum().backward()
    masked = drawn.expand_as(x)
    assert not x.grad[masked].any() and x.grad[~masked].all()
    assert torch.equal(adapter(x.detach().masked_fill(masked, float("inf"))), y)


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.65])
def test_the_share_that_is_masked_is_the_ratio(ratio):
    masked = Generation(2, 2, ratio=ratio)._masked(torch.zeros(4, 2, 100, 100))
    # 40000 draws: the standard deviation of the share is at most 0.0025.
    assert masked.float().mean().item() == pytest.approx(ratio, abs=0.0125 if ratio else 0)


def test_each_call_and_each_image_has_a_mask_of_its_own():
    adapter, x = Generation(2, 2), torch.zeros(2, 2, 10, 10)
    first, second = adapter._masked(x), adapter._masked(x)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_the_global_generator_decides():
    adapter, x = Generation(2, 2), torch.randn(1, 2, 6, 6)
    torch.manual_seed(5)
    first = adapter(x)
    assert not torch.equal(adapter(x), first)
    torch.manual_seed(5)
    assert torch.equal(adapter(x), first)


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_ratio_that_leaves_nothing_or_makes_no_sense_is_refused(ratio):
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        Generation(2, 2, ratio=ratio)


def test_another_mask_is_refused():
    with pytest.raises(ValueError, match='"cells" or "channels", not \'rows\''):
        Generation(2, 2, mask="rows")

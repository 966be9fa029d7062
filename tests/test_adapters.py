"""Adapters: shapes, the authors' numbers, the frozen paraphraser, the reconstruction loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from det_distill.adapters import Conv1x1, Linear, Paraphraser, Translator
from det_distill.adapters.factor import layer_widths

# Recorded from Jangho-Kim/Factor-Transfer-pytorch, Models/FeatureProjection.py; see the keys `*/meta`.
RECORDED = np.load(Path(__file__).parent / "losses" / "reference" / "factor_transfer.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return torch.from_numpy(RECORDED[key])


def recorded_weights(case):
    prefix = f"{case}/weights/"
    return {key[len(prefix) :]: recorded(key) for key in RECORDED.files if key.startswith(prefix)}


def test_the_paraphraser_has_the_numbers_of_the_authors_code():
    paraphraser = Paraphraser(8, rate=0.5)
    paraphraser.load_state_dict(recorded_weights("ft_paraphraser"))  # strict: the names are the same
    x = recorded("ft_paraphraser/input")
    factor, rebuilt = recorded("ft_paraphraser/factor"), recorded("ft_paraphraser/reconstruction")
    torch.testing.assert_close(paraphraser(x), factor, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(paraphraser.decode(factor), rebuilt, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(paraphraser.reconstruct(x), rebuilt, rtol=1e-5, atol=1e-6)


def test_the_translator_has_the_numbers_of_the_authors_code():
    translator = Translator(6, 4)
    translator.load_state_dict(recorded_weights("ft_translator"))
    factor = translator(recorded("ft_translator/input"))
    torch.testing.assert_close(factor, recorded("ft_translator/factor"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "key"),
    [(lambda: Paraphraser(8), "ft_paraphraser"), (lambda: Translator(6, 4), "ft_translator")],
)
def test_the_layers_equal_a_sequence_written_out(build, key):
    adapter, x = build(), recorded(f"{key}/input")
    act = nn.LeakyReLU(0.1)
    expected = nn.Sequential(adapter.conv0, act, adapter.conv1, act, adapter.conv2, act)(x)
    assert torch.equal(adapter(x), expected)


@pytest.mark.parametrize(
    ("adapter", "shape_in", "shape_out"),
    [
        (Conv1x1(5, 7), (2, 5, 3, 4), (2, 7, 3, 4)),
        (Linear(5, 7), (9, 5), (9, 7)),
        (Linear(5, 7), (2, 9, 5), (2, 9, 7)),
        (Linear(5, 7), (0, 5), (0, 7)),
        (Translator(5, 3), (2, 5, 7, 5), (2, 3, 7, 5)),
        (Translator(5, 3, batch_norm=True), (2, 5, 7, 5), (2, 3, 7, 5)),
        (Paraphraser(6, 0.5), (2, 6, 7, 5), (2, 3, 7, 5)),
        (Paraphraser(6, factor_channels=4, batch_norm=True), (2, 6, 1, 1), (2, 4, 1, 1)),
        (Translator(5, 3, layers=1), (2, 5, 7, 5), (2, 3, 7, 5)),
        (Translator(5, 3, layers=4, batch_norm=True), (2, 5, 7, 5), (2, 3, 7, 5)),
        (Paraphraser(6, 0.5, layers=1), (2, 6, 7, 5), (2, 3, 7, 5)),
        (Paraphraser(6, 0.5, layers=4), (2, 6, 7, 5), (2, 3, 7, 5)),
    ],
)
def test_an_adapter_changes_the_channels_and_nothing_else(adapter, shape_in, shape_out):
    assert adapter(torch.randn(shape_in)).shape == shape_out


def test_one_by_one_convolution_and_linear_layer_agree_and_have_a_bias():
    conv, linear = Conv1x1(3, 2), Linear(3, 2)
    conv.load_state_dict({"weight": linear.weight.detach()[:, :, None, None], "bias": linear.bias.detach()})
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize(
    ("channels", "rate", "factors"),
    [(1024, 0.5, 512), (64, 0.75, 48), (10, 1.0, 10), (7, 0.5, 4), (3, 0.1, 1)],
)
def test_the_rate_gives_the_rounded_number_of_factor_channels_and_at_least_one(channels, rate, factors):
    with torch.device("meta"):
        assert Paraphraser(channels, rate).factor_channels == factors


@pytest.mark.parametrize(
    ("layers", "widths"),
    [
        (1, [6, 4]),
        (2, [6, 6, 4]),
        (3, [6, 6, 4, 4]),
        (4, [6, 6, 6, 4, 4]),
        (5, [6, 6, 6, 4, 4, 4]),
    ],
)
def test_the_channels_change_in_the_middle_layer_and_the_decoder_mirrors_the_encoder(layers, widths):
    assert layer_widths(6, 4, layers) == widths
    paraphraser, translator = (
        Paraphraser(6, factor_channels=4, layers=layers),
        Translator(6, 4, layers=layers),
    )
    for network, name, expected in (
        (translator, "conv", widths),
        (paraphraser, "conv", widths),
        (paraphraser, "deconv", widths[::-1]),
    ):
        convs = [getattr(network, f"{name}{i}") for i in range(layers)]
        assert [c.in_channels for c in convs] == expected[:-1]
        assert [c.out_channels for c in convs] == expected[1:]
    x = torch.randn(1, 6, 3, 2)
    assert paraphraser.reconstruct(x).shape == x.shape
    assert paraphraser.translator(5)(torch.randn(1, 5, 3, 2)).shape == paraphraser(x).shape


def test_one_layer_is_one_convolution_and_one_activation():
    translator, x = Translator(5, 3, layers=1), torch.randn(2, 5, 4, 4)
    assert torch.equal(translator(x), nn.functional.leaky_relu(translator.conv0(x), 0.1))
    assert set(translator.state_dict()) == {"conv0.weight", "conv0.bias"}


@pytest.mark.parametrize("build", [lambda: Translator(4, 2, layers=0), lambda: Paraphraser(4, layers=0)])
def test_no_layers_are_refused(build):
    with pytest.raises(ValueError, match="at least 1 layer"):
        build()


def test_a_rate_or_a_factor_count_of_zero_is_refused():
    with pytest.raises(ValueError, match="rate must be above 0"):
        Paraphraser(8, rate=0)
    with pytest.raises(ValueError, match="factor_channels above 0"):
        Paraphraser(8, factor_channels=0)


def test_batch_norm_comes_between_convolution_and_activation():
    translator, x = Translator(4, 3, batch_norm=True), torch.randn(6, 4, 5, 5) * 9 + 4
    y = translator.conv0(x)
    normal = (y - y.mean((0, 2, 3), keepdim=True)) / y.std((0, 2, 3), keepdim=True, correction=0)
    seen = []
    translator.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    translator(x)
    torch.testing.assert_close(seen[0], nn.functional.leaky_relu(normal, 0.1), rtol=1e-3, atol=1e-4)
    kinds = [type(m) for m in Paraphraser(4, batch_norm=True).modules()]
    assert kinds.count(nn.BatchNorm2d) == 6
    assert not any("norm" in key for key in Paraphraser(4).state_dict())


def test_a_frozen_paraphraser_stays_in_eval_mode_and_takes_no_gradient():
    paraphraser = Paraphraser(4, batch_norm=True)
    assert paraphraser.train().training
    assert paraphraser.freeze() is paraphraser
    parent = nn.Sequential(paraphraser, nn.Conv2d(2, 2, 1)).train()
    assert parent.training and not any(module.training for module in paraphraser.modules())
    before = {key: value.clone() for key, value in paraphraser.state_dict().items()}
    x = torch.randn(3, 4, 5, 5)
    parent(x).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in paraphraser.parameters())
    assert all(torch.equal(value, before[key]) for key, value in paraphraser.state_dict().items())


def constant_paraphraser(channels, value):
    """A paraphraser whose reconstruction is `value` everywhere: all weights zero, the last bias `value`."""
    paraphraser = Paraphraser(channels)
    for parameter in paraphraser.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(paraphraser.deconv2.bias, value)
    return paraphraser


def test_the_reconstruction_loss_by_hand():
    # x = (1, 3, 5, 7): mean 4, variance (9 + 1 + 1 + 9) / 4 = 5. Rebuilt as 2: |x - 2| = 1, 1, 3, 5.
    x = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 2, 2)
    paraphraser = constant_paraphraser(1, 2.0)
    raw, scaled = paraphraser.reconstruction_loss(x)
    assert raw.item() == 10 / 4 and scaled.item() == pytest.approx(2.5 / 5**0.5)
    raw, scaled = paraphraser.reconstruction_loss(x, p=2)
    assert raw.item() == 36 / 4 and scaled.item() == pytest.approx(9 / 5)


def test_a_constant_output_at_the_mean_has_the_scaled_loss_one():
    x = torch.rand(2, 3, 8, 8) * 7
    _, scaled = constant_paraphraser(3, x.mean().item()).reconstruction_loss(x, p=2)
    assert scaled.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_the_unit_of_the_feature_changes_the_raw_loss_only(p):
    paraphraser = Paraphraser(4)
    for key, parameter in paraphraser.named_parameters():
        if key.endswith("bias"):
            nn.init.zeros_(parameter)  # then the network is homogeneous
    x = torch.randn(2, 4, 6, 6)
    raw, scaled = paraphraser.reconstruction_loss(x, p=p)
    raw_in_tenths, scaled_in_tenths = paraphraser.reconstruction_loss(10 * x, p=p)
    assert raw_in_tenths.item() == pytest.approx(10**p * raw.item(), rel=1e-4)
    assert scaled_in_tenths.item() == pytest.approx(scaled.item(), rel=1e-4)


@pytest.mark.parametrize("p", [1, 2])
def test_padded_cells_enter_neither_the_loss_nor_the_variance(p):
    x, valid = torch.randn(2, 3, 6, 8), torch.zeros(2, 1, 6, 8, dtype=torch.bool)
    valid[0], valid[1, :, :4, :5] = True, True
    paraphraser = constant_paraphraser(3, 0.5)
    raw, scaled = paraphraser.reconstruction_loss(x, p=p, valid=valid)
    inside = [x[0].flatten(), x[1, :, :4, :5].flatten()]
    expected = sum(((values - 0.5).abs() ** p).mean().item() for values in inside) / 2
    spread = torch.cat(inside).std(correction=0).item() ** p
    assert raw.item() == pytest.approx(expected, rel=1e-5)
    assert scaled.item() == pytest.approx(expected / spread, rel=1e-5)


def test_the_reconstruction_loss_trains_the_paraphraser_and_not_the_teacher():
    paraphraser, x = Paraphraser(4, rate=1.0), torch.rand(2, 4, 6, 6, requires_grad=True)
    optimizer = torch.optim.Adam(paraphraser.parameters(), lr=0.01)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        raw, scaled = paraphraser.reconstruction_loss(x)
        raw.backward()
        optimizer.step()
        values.append(scaled.item())
    assert values[-1] < 0.8 * values[0] and x.grad is None


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 4, 3, 3), torch.zeros(0, 4, 3, 3), torch.full((1, 4, 1, 1), 2.0)]
)
@pytest.mark.parametrize("p", [1, 2])
def test_features_without_spread_and_empty_batches_give_finite_losses(x, p):
    paraphraser = Paraphraser(4)
    raw, scaled = paraphraser.reconstruction_loss(x, p=p)
    (raw + scaled).backward()
    assert raw.isfinite() and scaled.isfinite()
    assert all(q.grad is None or q.grad.isfinite().all() for q in paraphraser.parameters())


def test_under_autocast_the_reconstruction_loss_is_float32():
    paraphraser, x = Paraphraser(4), torch.randn(2, 4, 6, 6)
    expected = paraphraser.reconstruction_loss(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = paraphraser.reconstruction_loss(x)
    for value, reference in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference, rtol=0.02, atol=0)


def test_an_unknown_power_of_the_reconstruction_loss_is_refused():
    with pytest.raises(ValueError, match="p = 3"):
        Paraphraser(4).reconstruction_loss(torch.zeros(1, 4, 2, 2), p=3)

"""`LogitNoise`: what it does to whom, what it does to the expected loss, and its random numbers after a resume."""

import pytest
import torch

from det_distill.adapters import LogitNoise
from det_distill.losses import LogitRegression


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def factors(noise, logits):
    """What each logit was multiplied by."""
    return noise(logits) / logits


def test_a_chosen_sample_is_multiplied_by_noise_around_one_and_the_others_stay():
    logits = torch.randn(20_000, 3)
    xi = factors(LogitNoise(0.5, 0.25), logits) - 1
    chosen = xi.ne(0).any(1)
    assert chosen.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(LogitNoise(0.5, 0.25)(logits)[~chosen], logits[~chosen])
    assert xi[chosen].mean().item() == pytest.approx(0.0, abs=0.02)
    assert xi[chosen].std().item() == pytest.approx(0.5, rel=0.03)


def test_each_sample_has_noise_of_its_own_or_one_for_the_batch():
    logits = torch.ones(6, 4)
    own = factors(LogitNoise(0.5, 1.0), logits)
    assert len(own.unique()) == 24
    shared = factors(LogitNoise(0.5, 1.0, draw="batch"), logits)
    assert len(shared.unique()) == 4 and torch.equal(shared, shared[:1].expand(6, 4))


def test_a_sample_of_a_map_is_a_cell():
    logits = torch.ones(2, 3, 40, 50)
    own = LogitNoise(0.5, 0.5)(logits).ne(1)
    assert torch.equal(own.any(1), own.all(1))  # all channels of a cell, or none
    assert own.any(1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    shared = LogitNoise(0.5, 0.5, draw="batch")(logits)
    assert [len(shared[:, k].unique()) for k in range(3)] == [2, 2, 2]  # one, and the channel's factor


def test_the_random_sigma_is_drawn_for_each_batch_between_its_bounds():
    noise, logits = LogitNoise(0.0, 1.0, random_sigma=True), torch.ones(20_000, 2)
    sigmas = [factors(noise, logits).std().item() for _ in range(20)]
    assert 0.0 < min(sigmas) < 0.3 < 0.7 < max(sigmas) < 1.05


@pytest.mark.parametrize("draw", ["sample", "batch"])
def test_the_expected_loss_rises_by_the_closed_form_and_the_expected_gradient_does_not_change(draw):
    # E L = clean L + alpha sigma^2 / 2 * ||z||^2 for a row z. Copies of the row, or calls, are the repetitions.
    sigma, alpha, teacher = 0.6, 0.3, torch.tensor([[2.0, -1.0, 0.5]])
    copies, calls = (100_000, 1) if draw == "sample" else (1, 10_000)
    noise = LogitNoise(sigma, alpha, draw=draw)
    target = torch.cat([noise(teacher.expand(copies, -1)) for _ in range(calls)])
    student = torch.tensor([[1.5, 0.0, 0.0]], requires_grad=True)
    value = LogitRegression()(student.expand_as(target), target)
    clean = LogitRegression()(student, teacher)
    extra = alpha * sigma**2 / 2 * teacher.square().sum().item()
    assert value.item() == pytest.approx(clean.item() + extra, rel=0.03)
    (grad,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(grad, student.detach() - teacher, rtol=0, atol=0.02)


def test_the_same_seed_gives_the_same_noise_whatever_the_global_generator_does():
    logits, first, second = torch.randn(5, 3), LogitNoise(seed=3), LogitNoise(seed=3)
    before = torch.get_rng_state()
    values = [first(logits) for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert all(torch.equal(second(logits), value) for value in values)
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(LogitNoise(seed=4)(logits), values[0])


def test_a_resumed_adapter_goes_on_with_the_noise_it_would_have_had():
    logits, straight = torch.randn(5, 3), LogitNoise()
    for _ in range(3):
        straight(logits)
    resumed = LogitNoise()
    resumed(logits)  # whatever ran before the checkpoint was loaded
    resumed.load_state_dict(straight.state_dict())
    assert straight.state_dict()["draws"] == 3
    assert torch.equal(resumed(logits), straight(logits))
    assert torch.equal(resumed(logits), straight(logits)) and resumed.draws == 5


def test_each_process_draws_noise_of_its_own(monkeypatch):
    logits, rank = torch.randn(5, 3), 0
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    first = LogitNoise(alpha=1.0)(logits)
    assert torch.equal(LogitNoise(alpha=1.0)(logits), first)
    rank = 1
    assert not torch.equal(LogitNoise(alpha=1.0)(logits), first)


def test_outside_training_logits_pass_and_nothing_is_drawn():
    logits, noise = torch.randn(5, 3), LogitNoise(alpha=1.0).eval()
    assert torch.equal(noise(logits), logits) and noise.draws == 0


def test_half_precision_is_multiplied_in_float32():
    logits = torch.full((4, 3), 6e4, dtype=torch.float16)
    noisy = LogitNoise(0.9, 1.0)(logits)
    assert noisy.dtype == torch.float32 and noisy.isfinite().all() and noisy.max() > 65504


def test_no_rows_pass_and_there_are_no_parameters():
    noise = LogitNoise()
    assert noise(torch.zeros(0, 3)).shape == (0, 3) and not list(noise.parameters())


@pytest.mark.parametrize(
    "options", [{"sigma": -1.0}, {"alpha": 1.5}, {"alpha": float("nan")}, {"draw": "class"}]
)
def test_options_that_make_no_sense_are_errors(options):
    with pytest.raises(ValueError, match="LogitNoise"):
        LogitNoise(**options)

"""The bias of `LSH`: streamed mean and median, saved, restored, and equal on all ranks."""

import copy

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from det_distill.losses import LSH
from det_distill.losses.calibration import StreamedMean, StreamedMedian


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(bias, **options):
    return LSH.random(6, 10, 0.5, bias=bias, generator=torch.Generator().manual_seed(1), **options)


def test_mean_and_median_equal_those_of_all_hash_values_at_once():
    batches = [torch.randn(n, 6).exp() for n in (3, 1, 0, 6)]  # an even number of rows
    for bias in ("mean", "median"):
        loss = build(bias)
        for batch in batches:
            loss.observe(batch)
        loss.calibrate()
        values = torch.cat(batches) @ loss.weight.T
        expected = -values.mean(0) if bias == "mean" else -values.median(0).values
        torch.testing.assert_close(loss.bias, expected, rtol=1e-5, atol=1e-6)


def test_the_median_makes_half_of_the_bits_one():
    loss, features = build("median"), torch.randn(1001, 6).relu()
    loss.observe(features)
    loss.calibrate()
    bits = (features @ loss.weight.T + loss.bias > 1e-6).float().mean(0)
    assert (bits - 0.5).abs().max() < 0.01


def test_of_a_map_the_valid_cells_are_observed():
    features, valid = torch.randn(2, 6, 3, 4), torch.zeros(2, 1, 3, 4, dtype=torch.bool)
    valid[0, :, :2, :3], valid[1, :, :3, :1] = True, True
    features[~valid.expand_as(features)] = float("nan")
    cells = [features[b, :, y, x] for b in range(2) for y in range(3) for x in range(4) if valid[b, 0, y, x]]
    assert len(cells) == 6 + 3
    for bias in ("mean", "median"):
        by_map, by_rows = build(bias), build(bias)
        by_map.observe(features, valid)
        by_rows.observe(torch.stack(cells))
        by_map.calibrate()
        by_rows.calibrate()
        torch.testing.assert_close(by_map.bias, by_rows.bias)


def test_a_loss_that_is_not_calibrated_says_what_to_do():
    loss = build("median")
    assert loss.needs_calibration
    with pytest.raises(RuntimeError, match=r"observe\(teacher_feature\).*calibrate\(\)"):
        loss(torch.zeros(2, 6), torch.zeros(2, 6))
    with pytest.raises(RuntimeError, match="has seen no row"):
        loss.calibrate()
    with pytest.raises(ValueError, match="D = 6"):
        loss.observe(torch.zeros(2, 5))
    loss.observe(torch.randn(4, 6))
    loss.calibrate()
    assert not loss.needs_calibration and loss(torch.zeros(2, 6), torch.zeros(2, 6)).isfinite()
    with pytest.raises(RuntimeError, match="estimates no bias"):
        loss.observe(torch.randn(4, 6))
    with pytest.raises(RuntimeError, match="estimates no bias"):
        loss.calibrate()


def test_a_given_bias_a_zero_bias_and_one_that_cancels_need_no_calibration():
    assert not LSH(torch.zeros(3, 2), torch.zeros(3)).needs_calibration
    assert not build("zero").needs_calibration
    assert not build("median", distance="l1").needs_calibration


def test_a_calibrated_state_restores_weight_bias_and_flag(tmp_path):
    loss, other = build("mean"), LSH.random(6, 10, 0.5, bias="mean")
    loss.observe(torch.randn(5, 6))
    loss.calibrate()
    torch.save(loss.state_dict(), tmp_path / "lsh.pth")
    assert other.needs_calibration and not torch.equal(other.weight, loss.weight)
    other.load_state_dict(torch.load(tmp_path / "lsh.pth", weights_only=True))
    assert not other.needs_calibration
    assert torch.equal(other.weight, loss.weight) and torch.equal(other.bias, loss.bias)
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    assert other(student, teacher) == loss(student, teacher)


def test_a_state_that_is_not_calibrated_is_not_taken_for_one_that_is():
    loss, fresh = build("mean"), build("mean")
    uncalibrated = copy.deepcopy(fresh.state_dict())
    loss.observe(torch.randn(5, 6))
    loss.calibrate()
    assert not loss.needs_calibration
    loss.load_state_dict(uncalibrated)
    assert loss.needs_calibration


def test_a_copy_made_while_observing_goes_on_by_itself():
    loss = build("median")
    loss.observe(torch.randn(5, 6))
    twin = copy.deepcopy(loss)
    more = torch.randn(5, 6)
    for each in (loss, twin):
        each.observe(more)
        each.calibrate()
    assert torch.equal(loss.bias, twin.bias)


def test_the_reservoir_is_bounded_and_uniform_over_the_stream():
    # Feature = its own position in a stream of 20000 rows, in uneven batches, of which 2000 are kept.
    estimate, start = StreamedMedian(capacity=2000), 0
    for size in (1, 700, 5000, 0, 14299):
        estimate.add(torch.arange(start, start + size, dtype=torch.float32)[:, None])
        start += size
        assert len(estimate._rows) <= 2000
    kept = estimate._rows[:, 0]
    assert estimate.count == 20000 and len(kept.unique()) == 2000
    tenths = torch.histc(kept, bins=10, min=0, max=20000)  # 200 each, standard deviation about 13
    assert (tenths - 200).abs().max() < 55
    assert estimate.centre(torch.ones(1, 1)).item() == pytest.approx(10000, abs=700)


def test_a_reservoir_leaves_the_global_random_state_alone_and_must_hold_a_row():
    before = torch.get_rng_state()
    StreamedMedian(4).add(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="at least one row"):
        StreamedMedian(0)


def test_the_mean_is_summed_in_double_precision():
    estimate = StreamedMean()
    for value in (1e8, 1.0, -1e8, 1.0):  # in float32 the first 1.0 would be lost
        estimate.add(torch.full((1, 2), value))
    assert torch.equal(estimate.centre(torch.eye(2)), torch.full((2,), 0.5))


def _rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(9))
    for bias, share in (("mean", 9), ("median", 9), ("idle", 12)):  # the last leaves rank 1 without a row
        rule = "median" if bias == "idle" else bias
        loss = LSH.random(6, 10, 0.5, bias=rule, generator=torch.Generator().manual_seed(rank))
        if rank == 0 or share < len(rows):
            loss.observe(rows[:share] if rank == 0 else rows[share:])
        loss.calibrate()
        torch.save(loss.state_dict(), f"{folder}/{bias}-{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_after_calibration_all_ranks_hash_alike(tmp_path):
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    weight = LSH.random(6, 10, 0.5, generator=torch.Generator().manual_seed(0)).weight  # rank 0's
    values = torch.randn(12, 6, generator=torch.Generator().manual_seed(9)) @ weight.T
    medians = [part.median(0).values for part in (values[:9], values[9:], values)]
    expected = {
        "mean": values.mean(0),
        "median": 9 / 12 * medians[0] + 3 / 12 * medians[1],
        "idle": medians[2],
    }
    for bias, centre in expected.items():
        first, second = (torch.load(tmp_path / f"{bias}-{rank}.pth") for rank in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert torch.equal(first["weight"], weight) and first["calibrated"]
        torch.testing.assert_close(first["bias"], -centre)

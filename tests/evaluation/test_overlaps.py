"""The object that each detection overlaps most: the same whatever the block, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from box_columns import detections, objects, random_scene

from det_distill.evaluation import overlaps, voc_average_precision
from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.overlaps import best_objects

A = (0, 0, 10, 10)


def crowded(found: int, there: int) -> tuple[Detections, GroundTruth]:
    """One image full of objects of one class: found * there pairs."""
    rng = np.random.default_rng(0)
    boxes = [
        np.concatenate([c, c + rng.integers(5, 60, (len(c), 2))], axis=1) for c in corners(rng, found, there)
    ]
    zeros = [np.zeros(count, dtype=np.int64) for count in (found, there)]
    truth = objects(images=1)
    columns = {"image": zeros[1], "category": zeros[1], "box": boxes[1].astype(float)}
    flags = {"area": np.ones(there), "crowd": zeros[1] > 0, "difficult": zeros[1] > 0}
    return Detections(zeros[0], zeros[0], boxes[0].astype(float), rng.random(found)), GroundTruth(
        **columns, **flags, sizes=truth.sizes
    )


def corners(rng, *counts):
    return [rng.integers(0, 400, (count, 2)) for count in counts]


@pytest.fixture
def held(monkeypatch):
    """How many pairs were compared at once, each time."""
    counts = []
    compare = overlaps.overlap_of_rows
    monkeypatch.setattr(overlaps, "overlap_of_rows", lambda a, b: counts.append(len(a)) or compare(a, b))
    return counts


@pytest.mark.parametrize("at_once", [1, 7, 50, 10**6])
def test_blocks_of_any_size_give_the_same_objects(at_once):
    found, truth = random_scene(0, images=40)
    best, overlap = best_objects(found, truth, at_once=at_once)
    for row in range(len(found)):
        same = (truth.image == found.image[row]) & (truth.category == found.category[row])
        values = overlaps.overlap_of_rows(found.box[[row]], truth.box[same])
        assert overlap[row] == max(values, default=0)
        expected = np.flatnonzero(same)[np.argmax(values)] if same.any() else -1
        assert best[row] == expected


def test_no_more_pairs_are_held_at_once_than_the_limit(held):
    found, truth = crowded(300, 50)
    best_objects(found, truth, at_once=1000)
    assert sum(held) == 300 * 50 and max(held) == 1000


def test_a_detection_with_more_pairs_than_the_limit_is_a_block_of_its_own(held):
    found, truth = crowded(5, 50)
    best_objects(found, truth, at_once=10)
    assert held == [50] * 5


def test_memory_does_not_grow_with_the_pairs():
    found, truth = crowded(3000, 1000)  # three million pairs: 24 megabytes for a single number of each
    tracemalloc.start()
    voc_average_precision(found, truth, 1, iou=(0.5, 0.75))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * overlaps.PAIRS_AT_ONCE < 24e6


def test_nothing_found_and_nothing_there_are_no_pairs():
    for found, truth in ((detections(), objects((0, 0, A))), (detections((0, 0, 0.9, A)), objects())):
        best, overlap = best_objects(found, truth)
        assert len(best) == len(overlap) == len(found) and (best == -1).all() and (overlap == 0).all()

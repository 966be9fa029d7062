"""The training stream is a function of the seed alone, wherever it starts."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler

from det_distill.data import DatasetError
from det_distill.data.loader import ResumableLoader, token_batches


def mapper(record):
    if record["name"] == 3:
        return None
    return {"name": record["name"], "draw": (np.random.rand(), float(torch.rand(())))}


def loader(start=0, *, grouped=True, workers=0, seed=11, read=mapper):
    dicts = [{"name": i, "width": 10 + i % 2, "height": 10, "file_name": f"{i}.jpg"} for i in range(7)]
    made = ResumableLoader(
        dicts,
        read,
        lambda s: iter(TrainingSampler(len(dicts), seed=s)),
        batch_size=2,
        group_by_aspect_ratio=grouped,
        num_workers=workers,
        seed=lambda: seed,
    )
    made.start = start
    return made


def first(made, count=6):
    return list(islice(iter(made), count))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_a_stream_that_starts_later_goes_on_as_the_one_from_the_beginning(start, grouped):
    assert first(loader(start, grouped=grouped)) == first(loader(grouped=grouped), start + 6)[start:]


def test_workers_draw_what_this_process_would():
    assert first(loader(workers=2), 4) == first(loader(), 4)


def test_another_seed_gives_another_stream():
    assert first(loader()) != first(loader(seed=12))


def test_batches_hold_either_wide_or_tall_images():
    def parities(made):
        return [{n % 2 for n in (x["name"] for x in b)} for b in first(made, 20)]

    read = lambda record: {"name": record["name"]}  # noqa: E731
    assert all(len(p) == 1 for p in parities(loader(read=read)))
    assert any(len(p) == 2 for p in parities(loader(read=read, grouped=False)))


def test_every_image_comes_once_a_pass():
    names = [i for b in islice(loader(grouped=False).batches(), 7) for _, i in b]
    assert sorted(names) == sorted(list(range(7)) * 2)


def test_a_dropped_image_is_replaced_by_another_one_that_depends_on_the_position_alone():
    names = [x["name"] for b in first(loader(), 30) for x in b]
    assert 3 not in names and len(names) == 60


def test_reading_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    first(loader())
    assert torch.equal(torch.get_rng_state(), state)


def truncated(record):
    raise OSError("image file is truncated")


def refused(record):
    raise DatasetError(f"{record['file_name']}: too small")


def mistaken(record):
    return record["nothing"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_used_is_named_in_one_error_without_the_workers_traceback(workers):
    for read, text in (
        (
            truncated,
            r"^cannot read \d\.jpg: image file is truncated\. Replace the file or take it out .*set$",
        ),
        (refused, r"^\d\.jpg: too small$"),
    ):
        with pytest.raises(DatasetError, match=text) as error:
            first(loader(read=read, workers=workers))
        assert error.value.__cause__ is None and error.value.__context__ is None


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(KeyError, match="in mistaken"):
        first(loader(read=mistaken, workers=1))


def test_a_mapper_that_drops_everything_is_an_error():
    with pytest.raises(RuntimeError, match="empty after filtering"):
        first(loader(read=lambda record: None))


def test_the_position_of_an_index_counts_all_processes(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    batches = list(token_batches(iter([5, 6, 7, 8, 9]), 2, lambda index: index % 2))
    assert batches == [[(1, 5), (7, 7)], [(4, 6), (10, 8)]]

"""`IdentitySampler`: what a batch holds, how often an identity comes, and that the stream is a function of the seed."""

import itertools
from collections import Counter

import pytest

from det_distill.data import identity_sampler
from det_distill.data.identity_sampler import IdentitySampler
from det_distill.data.loader import ResumableLoader

# Identity: number of images. 40 images, one identity with a single one.
SIZES = {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 8, 6: 17}
LABELS = [identity for identity, size in SIZES.items() for _ in range(size)]


def batches(sampler, batch_size, count):
    stream = iter(sampler)
    return [list(itertools.islice(stream, batch_size)) for _ in range(count)]


def in_threes(items):
    return [items[i : i + 3] for i in range(0, len(items), 3)]


def pretend(monkeypatch, rank, world):
    monkeypatch.setattr(identity_sampler.comm, "get_rank", lambda: rank)
    monkeypatch.setattr(identity_sampler.comm, "get_world_size", lambda: world)


def test_a_batch_has_one_group_of_each_of_its_identities_side_by_side():
    for batch in batches(IdentitySampler(LABELS, 12, per_identity=4), 12, 50):
        groups = [batch[i : i + 4] for i in range(0, 12, 4)]
        identities = [{LABELS[i] for i in group} for group in groups]
        assert all(len(its) == 1 for its in identities) and len(set.union(*identities)) == 3


def test_the_images_of_a_group_differ_and_a_small_identity_gives_each_image_before_it_repeats_one():
    for batch in batches(IdentitySampler(LABELS, 12, per_identity=4), 12, 50):
        for group in (batch[i : i + 4] for i in range(0, 12, 4)):
            counts = Counter(group)
            size = SIZES[LABELS[group[0]]]
            assert len(counts) == min(size, 4) and max(counts.values()) == -(-4 // min(size, 4))


def test_every_pass_meets_each_identity_once_whatever_its_number_of_images():
    # 7 identities, 2 in a batch: a pass is 3 batches and leaves one identity out, another one each time.
    seen = Counter()
    for some in in_threes(batches(IdentitySampler(LABELS, 4, per_identity=2), 4, 210)):
        identities = [LABELS[i] for batch in some for i in batch[::2]]
        assert len(set(identities)) == 6
        seen.update(identities)
    assert set(seen) == set(SIZES) and min(seen.values()) > 45  # of 70 passes, 60 expected
    images = Counter(
        i for batch in batches(IdentitySampler(LABELS, 4, per_identity=2), 4, 400) for i in batch
    )
    assert set(images) == set(range(40))


def test_the_stream_is_a_function_of_the_seed_and_can_be_entered_anywhere():
    first, again, other = (
        batches(IdentitySampler(LABELS, 4, per_identity=2, seed=s), 4, 20) for s in (5, 5, 6)
    )
    assert first == again != other
    sampler = IdentitySampler(LABELS, 4, per_identity=2, seed=5)
    assert [sampler.batch(n) for n in (17, 3)] == [first[17], first[3]]


def test_processes_take_the_batches_in_turn(monkeypatch):
    alone = batches(IdentitySampler(LABELS, 4, per_identity=2), 4, 12)
    for rank in range(3):
        pretend(monkeypatch, rank, 3)
        assert batches(IdentitySampler(LABELS, 4, per_identity=2), 4, 4) == alone[rank::3]


def test_half_a_batch_can_be_pairs_and_the_other_half_any_other_images():
    drawn = Counter()
    for batch in batches(IdentitySampler(LABELS, 8, per_identity=2, random_images=4), 8, 500):
        pairs, rest = batch[:4], batch[4:]
        assert LABELS[pairs[0]] == LABELS[pairs[1]] != LABELS[pairs[2]] == LABELS[pairs[3]]
        assert len(set(rest)) == 4 and not set(rest) & set(pairs)
        drawn.update(LABELS[i] for i in rest)
    assert drawn[6] / drawn[5] == pytest.approx(
        17 / 8, rel=0.2
    )  # any image is as likely as any other, nearly


def test_an_identity_of_one_image_is_repeated_or_left_out():
    def met(**options):
        sampler = IdentitySampler(LABELS, 8, per_identity=2, **options)
        chosen = batches(sampler, 8, 100)
        return {i for b in chosen for i in b[: 8 - options.get("random_images", 0)]}, {
            i for b in chosen for i in b
        }

    assert 0 in met()[0]
    assert 0 not in met(singles="drop")[1]
    in_groups, anywhere = met(singles="drop", random_images=2)
    assert 0 not in in_groups and 0 in anywhere


def test_a_small_data_set_fills_a_larger_batch_with_repeated_images():
    assert sorted(IdentitySampler([0, 0, 1, 1], 8, per_identity=4).batch(0)) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("batch_size", "options", "words"),
    [
        (10, {"per_identity": 4}, "multiple"),
        (8, {"per_identity": 1}, "at least 2"),
        (8, {"per_identity": 4, "random_images": 8}, "8 of them at random"),
        (
            16,
            {"per_identity": 2},
            "40 images of 7 identities cannot fill batches of 16 images with groups of 8",
        ),
        (14, {"per_identity": 2, "singles": "drop"}, "6 identities"),
        (42, {"per_identity": 2, "random_images": 38}, "40 images"),
        (8, {"singles": "hide"}, "hide"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_when_built(batch_size, options, words):
    with pytest.raises(ValueError, match=words):
        IdentitySampler(LABELS, batch_size, **options)


def test_a_loader_that_starts_late_goes_on_with_the_batch_of_that_number():
    sampler = IdentitySampler(LABELS, 4, per_identity=2, seed=5)
    loader = ResumableLoader(
        [{"index": i} for i in range(len(LABELS))],
        lambda record: record,
        lambda seed: iter(IdentitySampler(LABELS, 4, per_identity=2, seed=seed)),
        batch_size=4,
        group_by_aspect_ratio=False,
        num_workers=0,
        seed=lambda: 5,
    )
    loader.start = 7
    batch = next(iter(loader))
    assert [sample["index"] for sample in batch] == sampler.batch(7)

"""What happens to an image before a classifier sees it: the operations, and those that a config asks for."""

import random

import numpy as np
import pytest
import torch

from det_distill.classification.augmentations import (
    CentreCrop,
    Pad,
    RandomCrop,
    augmentation,
    in_turn,
    resizing,
)
from det_distill.data.loader import seed_everything
from tests.tiny import classifier_cfg

EVERYTHING = ["COLOR_JITTER", 0.4, "RAND_AUGMENT.OPERATIONS", 2, "ERASE", 0.5]


def counted(height, width, channels=1):
    return torch.arange(height * width * channels, dtype=torch.uint8).reshape(channels, height, width)


def steps(*options, blank=(0, 0, 0)):
    """The random part of training without crop and flip, but with these options."""
    node = classifier_cfg().INPUT.CLASSIFICATION
    node.merge_from_list(["CROP", 0, "FLIP", False, *options])
    return augmentation(node, blank)


def draws(steps, image, count=100):
    seed_everything(0)
    return [in_turn(steps, image) for _ in range(count)]


def test_the_middle_leaves_an_odd_pixel_at_the_bottom_and_the_right():
    image = counted(4, 7)
    assert torch.equal(CentreCrop(3)(image), image[:, 0:3, 2:5])
    assert torch.equal(CentreCrop(4)(image), image[:, :, 1:5])


def test_zeros_or_the_mirrored_image_go_around_it():
    image = counted(3, 3)
    zero, reflected = Pad(1)(image)[0], Pad(1, "reflect")(image)[0]
    assert zero[0].tolist() == [0] * 5 and zero[1].tolist() == [0, 0, 1, 2, 0]
    assert reflected[0].tolist() == [4, 3, 4, 5, 4] and reflected[1].tolist() == [1, 0, 1, 2, 1]


def test_an_image_is_not_mirrored_beyond_itself():
    assert Pad(3)(counted(3, 5)).shape == (1, 9, 11)
    with pytest.raises(ValueError, match="3 x 5 pixels, too few to mirror 3 of them: set a smaller .*PAD"):
        Pad(3, "reflect")(counted(3, 5))


def test_a_random_crop_takes_every_place_about_equally_often():
    corners = [int(x[0, 0, 0]) for x in draws([RandomCrop(2)], counted(4, 3), 1200)]
    found, counts = np.unique(corners, return_counts=True)
    assert found.tolist() == [0, 1, 3, 4, 6, 7]
    assert counts.min() > 150 and counts.max() < 250


def test_a_crop_of_the_images_size_is_the_image():
    image = counted(4, 4)
    assert torch.equal(RandomCrop(4)(image), image)


def test_about_half_of_the_images_are_mirrored():
    seen = [x[0, 0].tolist() for x in draws(steps("FLIP", True), counted(1, 2), 400)]
    assert {tuple(s) for s in seen} == {(0, 1), (1, 0)}
    assert 160 < seen.count([1, 0]) < 240


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 20), (6, 12)), ((20, 10), (12, 6)), ((7, 5), (8, 6)), ((6, 6), (6, 6))]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shorter_side_is_resized_and_the_proportions_stay(size, expected, channels):
    node = classifier_cfg().INPUT.CLASSIFICATION
    node.RESIZE = 6
    image = torch.full((channels, *size), 77, dtype=torch.uint8)
    resized = in_turn(resizing(node), image)
    assert resized.shape == (channels, *expected) and (resized == 77).all() and resized.dtype == torch.uint8
    node.RESIZE = 0
    assert in_turn(resizing(node), image) is image


def test_a_resized_crop_has_the_size_of_crop_and_a_share_of_the_images_area_within_scale():
    """Columns count upwards, so the range of a crop's values is about its width."""
    image = torch.arange(100, dtype=torch.uint8).expand(3, 100, 100)
    resized = ["AUGMENTATION", "resized_crop", "CROP", 50, "SCALE"]
    small, whole = (draws(steps(*resized, scale), image) for scale in ([0.04, 0.09], [1.0, 1.0]))
    assert all(x.shape == (3, 50, 50) and x.dtype == torch.uint8 for x in small + whole)
    widths = [int(x.max()) - int(x.min()) + 1 for x in small]
    assert 20 * (3 / 4) ** 0.5 - 2 <= min(widths) and max(widths) <= 30 * (4 / 3) ** 0.5 + 2
    assert max(widths) > min(widths) + 5 and len({int(x.min()) for x in small}) > 20
    assert all(int(x.max()) - int(x.min()) > 80 for x in whole)


def test_a_resized_crop_is_smoothed_where_it_shrinks():
    image = (torch.arange(64) % 2 * 200).to(torch.uint8).expand(1, 64, 64)
    (crop,) = draws(steps("AUGMENTATION", "resized_crop", "CROP", 8, "SCALE", [1.0, 1.0]), image, 1)
    assert crop[:, 1:-1, 1:-1].float().sub(100).abs().max() < 15


def test_the_jitter_changes_brightness_contrast_and_saturation_but_no_place():
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    image[:, 0], image[0, 1] = 100, 100
    seen = draws(steps("COLOR_JITTER", 0.5), image, 50)
    assert all(torch.equal(x[..., 0], x[..., 1]) for x in seen)
    assert min(int(x[0, 0, 0]) for x in seen) < 75 and max(int(x[0, 0, 0]) for x in seen) > 125
    assert len({int(x[1, 1, 0]) for x in seen}) > 5  # a channel that was 0: saturation and contrast


def test_what_is_erased_has_the_mean_colour_and_as_many_images_as_asked_lose_a_rectangle():
    image = torch.full((3, 20, 20), 255, dtype=torch.uint8)
    seen = draws(steps("ERASE", 0.3, blank=(125.4, 260, -3)), image, 300)
    erased = [x for x in seen if not torch.equal(x, image)]
    assert 60 < len(erased) < 120
    for x in erased:
        hole = (x != image).any(0)
        assert {tuple(c) for c in x[:, hole].T.tolist()} == {(125, 255, 0)}
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns and 0.01 < hole.float().mean() < 0.4
    assert (image == 255).all()


def test_randaugment_does_as_many_operations_of_the_magnitude_as_asked():
    image = torch.randint(60, 200, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = [
        sum(not torch.equal(x, image) for x in draws(steps("RAND_AUGMENT.OPERATIONS", n), image))
        for n in (0, 1, 3)
    ]
    assert changed[0] == 0 < changed[1] < changed[2]
    (none,) = steps("RAND_AUGMENT.OPERATIONS", 1, "RAND_AUGMENT.MAGNITUDE", 0)
    (full,) = steps("RAND_AUGMENT.OPERATIONS", 1, "RAND_AUGMENT.MAGNITUDE", 30)
    mean = [
        torch.stack([(x.float() - image).abs().mean() for x in draws([step], image)]).mean()
        for step in (none, full)
    ]
    assert mean[1] > 2 * mean[0]


def test_randaugment_leaves_the_mean_colour_behind_an_image_that_it_moves():
    image = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    (step,) = steps("RAND_AUGMENT.OPERATIONS", 1, "RAND_AUGMENT.MAGNITUDE", 30, blank=(10, 20, 30))
    corners = {
        tuple(x[:, i, j].tolist()) for x in draws([step], image, 200) for i in (0, -1) for j in (0, -1)
    }
    assert (10, 20, 30) in corners


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["crop", "resized_crop"])
def test_all_at_once_is_a_function_of_torchs_seed_alone(channels, kind):
    chain = steps("AUGMENTATION", kind, "CROP", 8, "FLIP", True, *EVERYTHING, blank=[99.0] * channels)
    image = counted(12, 9, channels)
    results = []
    for seed in (1, 1, 2):
        random.seed(len(results))
        np.random.seed(len(results))
        torch.manual_seed(seed)
        results.append(torch.stack([in_turn(chain, image) for _ in range(20)]))
    assert results[0].shape == (20, channels, 8, 8) and results[0].dtype == torch.uint8
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])

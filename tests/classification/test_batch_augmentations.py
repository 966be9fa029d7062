"""Batches that are augmented at once: as torchvision, or a slow copy, does it image by image."""

from itertools import product

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from det_distill.classification.batch_augmentations import (
    RandomCrops,
    RandomErasures,
    RandomFlips,
    RandomResizedCrops,
    batch_augmentations,
)
from det_distill.classification.random_boxes import boxes_to_blank, boxes_to_see
from tests.tiny import classifier_cfg


def noise(count=6, size=(8, 7), channels=3):
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, channels, *size), dtype=np.uint8)
    )


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("pad", [0, 2])
def test_crops_are_those_of_padded_images_one_by_one(mode, pad):
    images, crops = noise(), RandomCrops(6, pad, mode)
    drawn = crops.draw(np.random.default_rng(1), len(images), (8, 7))
    found = crops(images, torch.from_numpy(drawn))
    sides = ((0, 0), (pad, pad), (pad, pad))
    for image, cropped, (top, left) in zip(images.numpy(), found.numpy(), drawn, strict=True):
        padded = np.pad(image, sides, mode="constant" if mode == "zero" else "reflect")
        assert np.array_equal(cropped, padded[:, top : top + 6, left : left + 6])
    assert found.dtype == torch.uint8


def test_every_place_of_a_crop_occurs_about_equally_often():
    drawn = RandomCrops(6, 1).draw(np.random.default_rng(0), 2000, (8, 7))
    places, counts = np.unique(drawn, axis=0, return_counts=True)
    assert [tuple(p) for p in places] == list(product(range(5), range(4)))
    assert 60 < counts.min() and counts.max() < 140  # of 100


def test_half_of_the_images_are_mirrored_and_the_others_are_not():
    images, flips = noise(400, (2, 3)), RandomFlips()
    drawn = torch.from_numpy(flips.draw(np.random.default_rng(0), 400, (2, 3)))
    found = flips(images, drawn)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(found, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(found, images, strict=True)]
    assert mirrored == drawn[:, 0].tolist() and kept == (~drawn[:, 0]).tolist() and 160 < sum(kept) < 240


def test_parts_of_images_are_resized_as_torchvision_does():
    images, crops = noise(40, (20, 16)), RandomResizedCrops(9, (0.05, 1.0))
    drawn = crops.draw(np.random.default_rng(0), 40, (20, 16))
    assert (drawn[:, 2:] > 9).any() and (drawn[:, 2:] < 9).any()
    found = crops(images, torch.from_numpy(drawn))
    for image, resized, box in zip(images, found, drawn.tolist(), strict=True):
        expected = v2.functional.resized_crop(image.float(), *box, [9, 9], antialias=True)
        torch.testing.assert_close(resized.float(), expected.round(), rtol=0, atol=1)
        assert (resized.float() - expected).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("size", "scale"), [((20, 30), (0.1, 1.0)), ((8, 60), (0.5, 1.0))])
def test_parts_of_images_are_distributed_as_torchvisions(size, scale):
    boxes = boxes_to_see(np.random.default_rng(0), 4000, size, scale)
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(4, scale=scale)
    theirs = [reference.make_params([torch.empty(1, *size)]) for _ in range(4000)]
    assert_alike(boxes, [[p[k] for k in ("top", "left", "height", "width")] for p in theirs])


def test_blanked_rectangles_are_distributed_as_torchvisions():
    boxes = boxes_to_blank(np.random.default_rng(0), 4000, (12, 20))
    torch.manual_seed(0)
    reference = v2.RandomErasing(p=1)
    theirs = [reference.make_params([torch.empty(1, 12, 20)]) for _ in range(4000)]
    assert_alike(boxes, [[p[k] for k in ("i", "j", "h", "w")] for p in theirs])


def assert_alike(boxes, expected):
    expected = np.array(expected)
    assert boxes.shape == expected.shape
    spread = expected.std(0) + 1e-9
    assert (np.abs(boxes.mean(0) - expected.mean(0)) < 0.08 * spread).all()  # 5 standard errors: 0.11
    assert np.allclose(boxes.std(0), expected.std(0), rtol=0.08, atol=1e-6)


def test_an_erased_rectangle_has_the_mean_colour_and_the_rest_stays():
    cfg = classifier_cfg()
    cfg.MODEL.PIXEL_MEAN = [1.4, 2.6, 300.0]
    cfg.INPUT.CLASSIFICATION.merge_from_list(["ERASE", 0.5, "FLIP", False, "CROP", 0])
    (erasures,) = batch_augmentations(cfg, (8, 7))
    assert erasures == RandomErasures(0.5, (1, 3, 255))
    images = torch.full((60, 3, 8, 7), 9, dtype=torch.uint8)
    drawn = erasures.draw(np.random.default_rng(0), 60, (8, 7))
    found = erasures(images, torch.from_numpy(drawn))
    for image, (top, left, height, width) in zip(found, drawn, strict=True):
        inside = torch.zeros(8, 7, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert (image[:, inside] == torch.tensor([[1], [3], [255]])).all() and (image[:, ~inside] == 9).all()
    assert 18 < (drawn[:, 2] > 0).sum() < 42

"""What happens to an image before a classifier sees it."""

import numpy as np
import pytest
import torch
from PIL import Image

from det_distill.classification.augmentations import CentreCrop, Pad, RandomCrop, RandomFlip, Resize
from det_distill.classification.mapper import ClassificationMapper, mapper_for_tests, mapper_for_training
from det_distill.data.loader import seed_everything
from tests.tiny import classifier_cfg


def counted(height, width, channels=1):
    return np.arange(height * width * channels, dtype=np.uint8).reshape(height, width, channels)


def test_the_middle_leaves_an_odd_pixel_at_the_bottom_and_the_right():
    image = counted(4, 5)
    assert np.array_equal(CentreCrop(3)(image), image[0:3, 1:4])
    assert CentreCrop(4)(image).shape == (4, 4, 1)


def test_zeros_or_the_mirrored_image_go_around_it():
    image = counted(3, 3)
    zero, reflected = Pad(1)(image)[..., 0], Pad(1, "reflect")(image)[..., 0]
    assert zero[0].tolist() == [0] * 5 and zero[1].tolist() == [0, 0, 1, 2, 0]
    assert reflected[0].tolist() == [4, 3, 4, 5, 4] and reflected[1].tolist() == [1, 0, 1, 2, 1]


def test_a_random_crop_takes_every_place_about_equally_often():
    seed_everything(0)
    image = counted(4, 3)
    corners = [int(RandomCrop(2)(image)[0, 0, 0]) for _ in range(1200)]
    found, counts = np.unique(corners, return_counts=True)
    assert found.tolist() == [0, 1, 3, 4, 6, 7]
    assert counts.min() > 150 and counts.max() < 250


def test_a_crop_of_the_images_size_is_the_image():
    image = counted(4, 4)
    assert np.array_equal(RandomCrop(4)(image), image)


def test_about_half_of_the_images_are_mirrored():
    seed_everything(0)
    image = counted(1, 2)
    seen = [RandomFlip()(image)[0, :, 0].tolist() for _ in range(400)]
    assert {tuple(s) for s in seen} == {(0, 1), (1, 0)}
    assert 160 < seen.count([1, 0]) < 240


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 20), (6, 12)), ((20, 10), (12, 6)), ((7, 5), (8, 6)), ((6, 6), (6, 6))]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shorter_side_is_resized_and_the_proportions_stay(size, expected, channels):
    image = np.full((*size, channels), 77, np.uint8)
    resized = Resize(6)(image)
    assert resized.shape == (*expected, channels) and (resized == 77).all()


def test_a_resized_channel_stays_that_channel():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 2] = 200
    assert Resize(4)(image[:, :, ::-1])[0, 0].tolist() == [200, 0, 0]


@pytest.fixture
def photo(tmp_path):
    """An 8 x 8 image, red on the left, with the number of each row in blue."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0] = 200
    pixels[:, :, 2] = np.arange(8)[:, None]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return {"file_name": str(tmp_path / "photo.png"), "image_id": "photo", "label": 1}, pixels


def test_a_sample_has_the_pixels_in_the_models_order_and_says_so(photo):
    record, pixels = photo
    cfg = classifier_cfg()
    sample = mapper_for_tests(cfg)(dict(record))
    assert sample["format"] == "RGB" and sample["label"] == 1 and sample["image_id"] == "photo"
    assert torch.equal(sample["image"], torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
    cfg.INPUT.FORMAT = "BGR"
    reversed_ = mapper_for_tests(cfg)(dict(record))
    assert reversed_["format"] == "BGR" and torch.equal(reversed_["image"], sample["image"].flip(0))


def test_training_pads_crops_and_mirrors_as_a_slow_copy_does(photo):
    record, pixels = photo
    mapper = mapper_for_training(classifier_cfg())
    padded = np.zeros((10, 10, 3), np.uint8)
    padded[1:9, 1:9] = pixels
    for seed in range(8):
        seed_everything(seed)
        found = mapper(dict(record))["image"]
        seed_everything(seed)
        top, left = np.random.randint(3), np.random.randint(3)
        expected = padded[top : top + 8, left : left + 8]
        expected = expected[:, ::-1] if np.random.rand() < 0.5 else expected
        assert torch.equal(found, torch.from_numpy(expected.transpose(2, 0, 1).copy()))


def test_without_crop_and_flip_training_sees_the_image_as_it_is(photo):
    record, pixels = photo
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.CROP, cfg.INPUT.CLASSIFICATION.FLIP = 0, False
    image = mapper_for_training(cfg)(dict(record))["image"]
    assert torch.equal(image, torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


@pytest.mark.parametrize("cache", [True, False])
def test_a_cached_image_is_read_once_and_cannot_be_spoilt_by_its_user(photo, cache, monkeypatch):
    record, _ = photo
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.merge_from_list(["CACHE", cache, "CROP", 0, "FLIP", False, "RESIZE", 4])
    mapper = mapper_for_training(cfg)
    first = mapper(dict(record))["image"]
    kept = first.clone()
    first.zero_()
    if cache:
        monkeypatch.setattr(
            "det_distill.classification.mapper.read_image", lambda *_, **__: pytest.fail("again")
        )
    assert kept.shape == (3, 4, 4) and torch.equal(mapper(dict(record))["image"], kept)


def test_a_single_channel_in_the_cache_is_not_shared_either(photo):
    mapper = ClassificationMapper("L", cache=True)
    image = mapper(dict(photo[0]))["image"]
    kept = image.clone()
    image.zero_()
    assert image.shape == (1, 8, 8) and torch.equal(mapper(dict(photo[0]))["image"], kept)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"no image", "cannot identify image file"), (None, "truncated"), (b"", "cannot identify image file")],
)
def test_an_image_that_cannot_be_read_is_named_once(photo, tmp_path, content, why):
    record, _ = photo
    whole = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "photo.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{record['file_name']}: the image cannot be read.*{why}") as error:
        mapper_for_tests(classifier_cfg())(dict(record))
    assert str(error.value).count(record["file_name"]) == 1


def test_an_image_that_is_too_small_to_be_cropped_is_named(photo):
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.CROP = 12
    for mapper in (mapper_for_tests(cfg), mapper_for_training(cfg)):
        with pytest.raises(ValueError, match=r"photo.png: the image has .* to be cropped to 12 x 12.*RESIZE"):
            mapper(dict(photo[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["INPUT.CLASSIFICATION.PAD", -1], "PAD is -1"),
        (["INPUT.CLASSIFICATION.RESIZE", 4], "RESIZE 4 is smaller than CROP 8"),
        (["INPUT.CLASSIFICATION.PAD_MODE", "wrap"], "'wrap': choose 'zero' or 'reflect'"),
        (["INPUT.FORMAT", "YUV"], "'RGB' or 'BGR'"),
    ],
)
def test_a_wrong_value_is_told_when_the_mapper_is_built(options, message):
    cfg = classifier_cfg()
    cfg.merge_from_list(options)
    with pytest.raises(ValueError, match=message):
        mapper_for_training(cfg)

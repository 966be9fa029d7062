"""From a data set's dict to a classifier's sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from det_distill.classification.augmentations import CentreCrop
from det_distill.classification.mapper import ClassificationMapper, mapper_for_tests, mapper_for_training
from det_distill.classification.mixing import mixer
from det_distill.data.loader import seed_everything
from det_distill.engine import load_config
from tests.documents import ROOT, blocks_of
from tests.tiny import classifier_cfg


@pytest.fixture
def photo(tmp_path):
    """An 8 x 8 image, red on the left, with the number of each row in blue."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0] = 200
    pixels[:, :, 2] = np.arange(8)[:, None]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return {"file_name": str(tmp_path / "photo.png"), "image_id": "photo", "label": 1}, pixels


def as_tensor(pixels):
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def gray_cfg():
    cfg = classifier_cfg()
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", [120.0], [60.0]
    return cfg


def test_a_sample_has_the_pixels_in_the_models_order_and_says_so(photo):
    record, pixels = photo
    cfg = classifier_cfg()
    sample = mapper_for_tests(cfg)(dict(record))
    assert sample["format"] == "RGB" and sample["label"] == 1 and sample["image_id"] == "photo"
    assert torch.equal(sample["image"], as_tensor(pixels))
    cfg.INPUT.FORMAT = "BGR"
    reversed_ = mapper_for_tests(cfg)(dict(record))
    assert reversed_["format"] == "BGR" and torch.equal(reversed_["image"], sample["image"].flip(0))


@pytest.mark.parametrize("form", ["RGB", "BGR", "L"])
def test_pixels_in_the_dict_give_what_the_file_of_them_gives(photo, tmp_path, form):
    cfg = gray_cfg() if form == "L" else classifier_cfg()
    cfg.INPUT.FORMAT = form
    gray = photo[1][..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    for pixels, file in ((photo[1], "photo.png"), (gray, "gray.png")):
        (read, given) = (
            mapper_for_tests(cfg)({"image_id": "i", "label": 0, **source})
            for source in ({"file_name": str(tmp_path / file)}, {"pixels": pixels})
        )
        assert torch.equal(read["image"], given["image"]) and read["image"].dtype == torch.uint8
        assert given.keys() == {"image_id", "label", "image", "format"} and given["format"] == form
        assert given["image"].shape == (1 if form == "L" else 3, 8, 8)
    assert len(given["image"].unique(dim=0)) == 1  # gray: every channel the same


def test_pixels_in_the_dict_are_not_spoilt_by_the_samples_user(photo):
    pixels = photo[1].copy()
    for cfg in (classifier_cfg(), gray_cfg()):
        sample = mapper_for_tests(cfg)(
            {"pixels": pixels[..., 0] if cfg.INPUT.FORMAT == "L" else pixels, "label": 0}
        )
        sample["image"].fill_(7)
    assert np.array_equal(pixels, photo[1])


def test_training_pads_crops_and_mirrors_as_a_slow_copy_does(photo):
    """9 places, mirrored or not: every one of them and nothing else."""
    record, pixels = photo
    mapper = mapper_for_training(classifier_cfg())
    padded = np.zeros((10, 10, 3), np.uint8)
    padded[1:9, 1:9] = pixels
    crops = [as_tensor(padded[y : y + 8, x : x + 8]) for y in range(3) for x in range(3)]
    expected = [crop for one in crops for crop in (one, one.flip(-1))]
    seed_everything(0)
    found = [mapper(dict(record))["image"] for _ in range(150)]
    which = [[torch.equal(image, other) for other in expected].index(True) for image in found]
    assert set(which) == set(range(18))


def test_without_crop_and_flip_training_sees_the_image_as_it_is(photo):
    record, pixels = photo
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.CROP, cfg.INPUT.CLASSIFICATION.FLIP = 0, False
    assert torch.equal(mapper_for_training(cfg)(dict(record))["image"], as_tensor(pixels))


def test_training_with_a_resized_crop_sees_the_image_in_full_and_a_test_its_resized_middle(tmp_path):
    pixels = np.repeat(np.arange(0, 250, dtype=np.uint8)[None, :, None], 30, axis=0).repeat(3, axis=2)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    cfg, record = classifier_cfg(), {"file_name": str(tmp_path / "wide.png"), "image_id": "wide", "label": 0}
    cfg.INPUT.CLASSIFICATION.merge_from_list(
        ["AUGMENTATION", "resized_crop", "RESIZE", 10, "SCALE", [0.001, 0.001]]
    )
    seed_everything(0)
    seen = [mapper_for_training(cfg)(dict(record))["image"] for _ in range(20)]
    assert all(x.shape == (3, 8, 8) and int(x.max()) - int(x.min()) <= 5 for x in seen)
    middle = mapper_for_tests(cfg)(dict(record))["image"]
    assert middle.shape == (3, 8, 8) and 18 <= int(middle.max()) - int(middle.min()) <= 24


def test_a_model_of_the_other_order_trains_on_the_same_colours(photo):
    """Saturation weighs red, green and blue; the mean colour is that of the model's own order."""
    samples = []
    for form, mean in (("RGB", [10.0, 20.0, 30.0]), ("BGR", [30.0, 20.0, 10.0])):
        cfg = classifier_cfg()
        cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN = form, mean
        cfg.INPUT.CLASSIFICATION.merge_from_list(
            ["COLOR_JITTER", 0.5, "RAND_AUGMENT.OPERATIONS", 2, "RAND_AUGMENT.MAGNITUDE", 30, "ERASE", 1.0]
        )
        mapper = mapper_for_training(cfg)
        seed_everything(3)
        samples.append(torch.stack([mapper(dict(photo[0]))["image"] for _ in range(20)]))
    assert torch.equal(samples[0], samples[1].flip(1))


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


def test_a_crop_takes_no_more_memory_along_than_its_own_pixels(photo):
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.merge_from_list(["CROP", 4, "PAD", 0, "FLIP", False])
    for mapper in (mapper_for_training(cfg), mapper_for_tests(cfg)):
        assert mapper(dict(photo[0]))["image"].untyped_storage().nbytes() == 3 * 4 * 4


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
    assert str(error.value).count(record["file_name"]) == 1 and "_io" not in str(error.value)


def test_an_image_that_is_too_small_to_be_cropped_is_named(photo):
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.CROP = 12
    for mapper, left in ((mapper_for_tests(cfg), "8 x 8"), (mapper_for_training(cfg), "10 x 10")):
        found = rf" \(8 x 8 pixels\): the image has {left} pixels with RESIZE 0.* INPUT.CLASSIFICATION.CROP is 12: set"
        with pytest.raises(ValueError, match=f"photo.png{found}"):
            mapper(dict(photo[0]))
        with pytest.raises(ValueError, match=f"^mnist/7{found}"):
            mapper({"pixels": photo[1], "image_id": "mnist/7", "label": 0})


def test_the_size_of_a_photo_that_is_too_small_is_that_of_its_file(tmp_path):
    Image.fromarray(np.zeros((10, 40, 3), np.uint8)).save(tmp_path / "wide.png")
    cfg, record = classifier_cfg(), {"file_name": str(tmp_path / "wide.png"), "label": 0}
    cfg.INPUT.CLASSIFICATION.merge_from_list(["RESIZE", 20, "CROP", 20, "PAD", 0, "CACHE", True])
    mapper = mapper_for_training(cfg)
    mapper.augment = (CentreCrop(30, "RESIZE 20"),)
    for _ in range(2):  # read, then from the cache
        with pytest.raises(
            ValueError, match=r"wide.png \(10 x 40 pixels\): the image has 20 x 80 pixels with RESIZE"
        ):
            mapper(dict(record))


NODE = "INPUT.CLASSIFICATION"
RESIZED = [f"{NODE}.AUGMENTATION", "resized_crop"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([f"{NODE}.PAD", -1], "PAD is -1"),
        ([f"{NODE}.RESIZE", 4], "RESIZE 4 is smaller than CROP 8"),
        ([f"{NODE}.PAD_MODE", "wrap"], "PAD_MODE 'wrap': choose 'zero' or 'reflect'"),
        ([f"{NODE}.AUGMENTATION", "centre"], "AUGMENTATION 'centre': choose 'crop' or 'resized_crop'"),
        ([*RESIZED, f"{NODE}.CROP", 0], "'resized_crop' needs a CROP above 0"),
        ([*RESIZED, f"{NODE}.SCALE", [0.5, 0.2]], r"SCALE is \[0.5, 0.2\]: the least and the greatest share"),
        ([*RESIZED, f"{NODE}.SCALE", [0.0, 1.0]], "above 0 and at most 1"),
        ([f"{NODE}.COLOR_JITTER", -0.1], "COLOR_JITTER is -0.1: from 0"),
        ([f"{NODE}.ERASE", 1.5], "ERASE is 1.5: from 0"),
        ([f"{NODE}.RAND_AUGMENT.MAGNITUDE", 31], "MAGNITUDE 31: .* from 0 to 30"),
        ([f"{NODE}.RAND_AUGMENT.OPERATIONS", -1], "OPERATIONS -1"),
        (["INPUT.FORMAT", "YUV"], "'YUV': .* 'RGB' or 'BGR', or 'L'"),
        (
            ["INPUT.FORMAT", "L"],
            "PIXEL_MEAN has 3 values and PIXEL_STD 3, where INPUT.FORMAT 'L' has 1 channel:",
        ),
    ],
)
def test_a_wrong_value_is_told_when_the_mapper_is_built(options, message):
    cfg = classifier_cfg()
    cfg.merge_from_list(options)
    for build in (mapper_for_training, mapper_for_tests):
        with pytest.raises(ValueError, match=message):
            build(cfg)


def test_the_recipes_of_the_page_are_configs_that_take_a_photo_to_the_size_they_say(tmp_path):
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(tmp_path / "photo.png")
    record = {"file_name": str(tmp_path / "photo.png"), "image_id": "photo", "label": 1}
    names = [f"mine/{name}.yaml" for name in ("cifar", "imagenet", "strong")]
    blocks = [block for block in blocks_of("docs/classification.md") if block.file in names]
    for block, size in zip(blocks, (32, 224, 224), strict=True):
        file = tmp_path / block.file.removeprefix("mine/")
        file.write_text(block.text)
        cfg = load_config(str(file))
        for mapper in (mapper_for_training(cfg), mapper_for_tests(cfg)):
            assert mapper(dict(record))["image"].shape == (3, size, size)
        assert (mixer(cfg) is None) == (file.name != "strong.yaml")


def test_the_page_names_every_method_that_refuses_mixed_images():
    from tests.classification.test_mixing import PAIRS

    page = (ROOT / "docs/classification.md").read_text()
    section = page[page.index("## Mixed images") : page.index("## What is measured")]
    for method, (_, needs_classes) in PAIRS.items():
        assert (f"[{method}](" in section) == needs_classes

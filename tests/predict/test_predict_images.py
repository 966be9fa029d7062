"""Image files of every kind, upright and in RGB bytes."""

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from det_distill.predict import read_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_respected_as_detectron2_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "x.jpg", exif=exif)
    found = read_rgb(tmp_path / "x.jpg")
    assert np.array_equal(found, read_image(str(tmp_path / "x.jpg"), "RGB"))
    assert found.shape == ((9, 6, 3) if orientation > 4 else (6, 9, 3))


@pytest.mark.parametrize(
    ("mode", "file"),
    [("L", "x.png"), ("LA", "x.png"), ("RGBA", "x.png"), ("P", "x.gif"), ("1", "x.png"), ("CMYK", "x.jpg")],
)
def test_other_kinds_of_pixels_become_rgb_as_in_detectron2(tmp_path, mode, file):
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / file)
    found = read_rgb(tmp_path / file)
    assert found.shape == (6, 9, 3) and found.dtype == np.uint8
    assert np.array_equal(found, read_image(str(tmp_path / file), "RGB"))


@pytest.mark.parametrize("file", ["x.png", "x.tif", "x.pgm"])
def test_of_16_bits_the_upper_8_are_taken(tmp_path, file):
    gray = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / file)
    expected = np.array([[0, 0, 1], [128, 255, 255]], dtype=np.uint8)
    assert np.array_equal(read_rgb(tmp_path / file), np.repeat(expected[..., None], 3, axis=2))


def test_what_cannot_be_read_is_told_in_one_line(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:90])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "fractions.tif")
    for name, message in {
        "cut.png": "truncated|cut|broken",
        "text.jpg": "cannot identify image file",
        "empty.jpg": "cannot identify image file",
        "absent.jpg": "no such file",
        "fractions.tif": "fractions, of no known range",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_rgb(tmp_path / name)
        assert "\n" not in str(caught.value) and "<_io" not in str(caught.value)

"""Image headers are read without decoding, and a cut file is noticed all the same."""

import re

import pytest
from PIL import Image, ImageFile

from det_distill.data.images import read_header


def noise(path):
    Image.effect_noise((64, 48), 80).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_whole_image_is_not_decoded(tmp_path, monkeypatch, suffix):
    path = noise(tmp_path / f"a{suffix}")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    header = read_header(path)
    assert (header.width, header.height, header.turned) == (64, 48, False)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_cut_image_is_an_error_as_decoding_it_would_be(tmp_path, suffix, part):
    path = noise(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(OSError) as by_decoding:
        Image.open(path).load()
    with pytest.raises(OSError, match=re.escape(str(by_decoding.value))):
        read_header(path)


def test_bytes_after_the_end_of_a_jpeg_are_harmless(tmp_path):
    path = noise(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"camera notes")
    assert read_header(path).width == 64

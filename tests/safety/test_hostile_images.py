"""An image that is a PostScript program is no image, whatever it is called."""

import pytest
from detectron2.data.detection_utils import read_image
from PIL import EpsImagePlugin, Image

from det_distill.classification.mapper import ClassificationMapper
from det_distill.config import get_cfg
from det_distill.data.images import read_header
from det_distill.data.problems import DatasetError
from det_distill.predict.images import read_rgb

EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """EPS with a photo's name, on a machine whose Ghostscript leaves a mark when it is started."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\n: > {tmp_path / 'it_ran'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "x.jpg").write_text(EPS)
    return tmp_path / "x.jpg"


def test_pillow_alone_would_start_ghostscript(photo):
    with pytest.raises(OSError), EpsImagePlugin.EpsImageFile(str(photo)) as image:
        image.load()
    assert (photo.parent / "it_ran").is_file()


DOORS = {
    "predict": (lambda file: read_rgb(file), ValueError),
    "the check of a data set": (lambda file: read_header(file), OSError),
    "a classifier's image": (
        lambda file: ClassificationMapper("RGB")({"file_name": str(file)}),
        DatasetError,
    ),
    "a detector's image": (lambda file: (get_cfg(), read_image(str(file))), OSError),
}


@pytest.mark.parametrize("door", DOORS)
def test_postscript_is_no_image(photo, door, monkeypatch):
    monkeypatch.setitem(Image.OPEN, "EPS", (EpsImagePlugin.EpsImageFile, EpsImagePlugin._accept))
    monkeypatch.setattr(Image, "ID", ["EPS", *Image.ID])
    call, error = DOORS[door]
    with pytest.raises(error, match="cannot identify image file"):
        call(photo)
    assert not (photo.parent / "it_ran").exists()
    Image.init()
    assert "EPS" not in Image.ID and "EPS" not in Image.OPEN

"""The loader of a detector's test set: what it reads, and images that cannot be read."""

import re

import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_test_loader
from PIL import Image

from det_distill.config import get_cfg
from det_distill.data import DatasetError
from det_distill.data.evaluation_loader import build_test_loader
from det_distill.tasks import TASKS


@pytest.fixture(params=[0, 1])
def setting(request, tmp_path):
    """A config with two images of 40x30 that are registered as "two"; no worker, or one."""
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = request.param
    cfg.DATASETS.TEST = ("two",)
    records = []
    for number in range(2):
        file = tmp_path / f"{number}.png"
        Image.effect_noise((40, 30), 50).convert("RGB").save(file)
        records.append({"file_name": str(file), "image_id": number, "width": 40, "height": 30})
    DatasetCatalog.register("two", lambda: records)
    return cfg, tmp_path / "1.png"


def test_its_batches_are_detectron2s(setting):
    cfg, _ = setting
    ours, theirs = build_test_loader(cfg, "two"), build_detection_test_loader(cfg, "two")
    assert len(ours) == len(theirs) == 2
    for (a,), (b,) in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and torch.equal(a["image"], b["image"])


def test_an_image_that_is_cut_short_is_named(setting):
    cfg, file = setting
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(DatasetError, match=rf"^cannot read {re.escape(str(file))}: .*Replace the file"):
        list(TASKS["RetinaNet"].test_loader(cfg, "two"))


def test_an_image_larger_than_pillow_decodes_is_named(setting, monkeypatch):
    cfg, file = setting
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(DatasetError, match=rf"^cannot read {file.parent}/0\.png: .*decompression bomb"):
        list(TASKS["GeneralizedRCNN"].test_loader(cfg, "two"))

"""Datasets that a test registers are forgotten after it."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pets import PETS, voc_folder

from det_distill.data import register_voc


@pytest.fixture(autouse=True)
def forget_datasets():
    known = [set(catalog) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), known, strict=True):
        for name in set(catalog) - names:
            catalog.pop(name)


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """The name of a registered dataset of two images."""
    return register_voc("pets", voc_folder(tmp_path / "pets", PETS), "test")

"""Tiny datasets on disk, and catalogs that forget them after each test."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image


@pytest.fixture(autouse=True)
def forget_datasets() -> Iterator[None]:
    known = [set(catalog) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), known, strict=True):
        for name in set(catalog) - names:
            catalog.pop(name)


@pytest.fixture
def voc_root(tmp_path: Path) -> Callable[..., Path]:
    """Writes a VOC folder: images of 40x30, one split, annotation texts by image name."""

    def write(
        annotations: Mapping[str, str],
        split: str | bytes | None = None,
        *,
        suffix: str = ".jpg",
        name: str = "voc",
    ) -> Path:
        root = tmp_path / name
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for image, text in annotations.items():
            (root / "Annotations" / f"{image}.xml").write_text(text)
            Image.new("RGB", (40, 30), (90, 60, 30)).save(root / "JPEGImages" / f"{image}{suffix}")
        lines = "\n".join(annotations) if split is None else split
        content = lines if isinstance(lines, bytes) else lines.encode()
        (root / "ImageSets" / "Main" / "train.txt").write_bytes(content)
        return root

    return write


@pytest.fixture
def coco_files(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes images of 40x30 called 1.jpg, 2.jpg, ... and an instances file."""

    def write(
        annotations: Sequence[Mapping], /, *, image_count: int = 2, **changes: object
    ) -> tuple[Path, Path]:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for number in range(1, image_count + 1):
            Image.new("RGB", (40, 30)).save(folder / f"{number}.jpg")
        content: dict[str, object] = {
            "images": [
                {"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30}
                for number in range(1, image_count + 1)
            ],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            **changes,
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path, folder

    return write

"""The local detectron2 package: its edits fail loudly, its stand-in for the extension speaks plainly."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parent.parent / "third_party" / "detectron2"
OPERATORS = importlib.util.find_spec("detectron2._C")
PURE = OPERATORS is not None and str(OPERATORS.origin).endswith(".py")
only_pure = pytest.mark.skipif(not PURE, reason="another detectron2 is installed than the local package")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch):
    """Import a module of the recipe by name."""
    monkeypatch.syspath_prepend(str(RECIPE))
    return importlib.import_module


def test_an_edit_replaces_the_text_it_names(recipe, tmp_path: Path) -> None:
    edits = recipe("edits")
    (tmp_path / "a.py").write_text("x = np.bool\ny = np.bool\n")
    edits.apply_edits(tmp_path, (edits.Edit("a.py", "np.bool", "bool", "why", 2),))
    assert (tmp_path / "a.py").read_text() == "x = bool\ny = bool\n"


@pytest.mark.parametrize("text", ["", "np.bool np.bool\n"])
def test_an_edit_whose_text_is_missing_or_repeated_stops_the_build(recipe, tmp_path: Path, text: str) -> None:
    edits = recipe("edits")
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(RuntimeError, match=r"detectron2/a\.py: 'np\.bool' occurs [02] times, not 1"):
        edits.apply_edits(tmp_path, (edits.Edit("a.py", "np.bool", "bool", "why"),))
    assert (tmp_path / "a.py").read_text() == text


def test_every_edit_gives_its_reason_in_the_list_of_changes(recipe) -> None:
    edits = recipe("edits")
    described = edits.describe_edits()
    assert all(edit.why and f"detectron2/{edit.file}: {edit.why}\n" in described for edit in edits.EDITS)


def test_an_archive_with_another_hash_is_not_unpacked(recipe, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=r"a\.tar\.gz has sha256 .*: not unpacked"):
        recipe("backend")._unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_metadata_needs_no_download(recipe, tmp_path: Path) -> None:
    backend = recipe("backend")
    assert backend.prepare_metadata_for_build_wheel(str(tmp_path)) == "detectron2-0.6.dist-info"
    metadata = (tmp_path / "detectron2-0.6.dist-info" / "METADATA").read_text()
    assert "Name: detectron2\nVersion: 0.6\n" in metadata
    assert "Requires-Dist: omegaconf>=2.1,<2.4\n" in metadata


@only_pure
def test_a_compiled_operator_is_an_error_that_names_it_and_says_what_to_do() -> None:
    from detectron2 import _C
    from detectron2.structures import RotatedBoxes, pairwise_iou_rotated

    assert not hasattr(_C, "box_iou_rotated")
    boxes = RotatedBoxes(torch.ones(1, 5))
    with pytest.raises(AttributeError, match=r"'box_iou_rotated' is missing.*need a detectron2 compiled"):
        pairwise_iou_rotated(boxes, boxes)


@only_pure
def test_the_environment_report_works_without_the_extension() -> None:
    from detectron2.utils.collect_env import collect_env_info

    assert "no compiled operators" in collect_env_info()


@only_pure
def test_schedulers_of_torch_itself_are_saved_and_resumed() -> None:
    from detectron2.engine.hooks import LRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)
    hook = LRScheduler(optimizer, scheduler)
    optimizer.step()
    scheduler.step()
    assert hook.state_dict()["last_epoch"] == 1
    hook.load_state_dict({**hook.state_dict(), "last_epoch": 7})
    assert scheduler.last_epoch == 7


@only_pure
def test_a_dataset_falls_back_to_another_item_when_one_cannot_be_read() -> None:
    from detectron2.data import MapDataset

    items = MapDataset([0, 1, 2], lambda item: None if item == 1 else item)
    assert items[1] in (0, 2)


@only_pure
def test_coco_evaluation_falls_back_to_pycocotools() -> None:
    from detectron2.evaluation.coco_evaluation import COCOeval, COCOeval_opt

    assert COCOeval_opt is COCOeval


@only_pure
def test_rasterised_polygons_are_boolean_masks() -> None:
    from detectron2.structures.masks import polygons_to_bitmask

    square = np.array([1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0])
    mask = polygons_to_bitmask([square], 4, 5)
    assert mask.dtype == bool and mask.shape == (4, 5) and mask.sum() == 4

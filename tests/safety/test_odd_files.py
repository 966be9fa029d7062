"""Files that are whole and harmless, but not what they should be: one line that names the file, no traceback."""

import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hostile import pickle_file, text_file, torch_file
from safetensors.torch import save_file

from det_distill.config import get_cfg, merge_file
from det_distill.data.checks import check_datasets
from det_distill.data.problems import DatasetError
from det_distill.export.backbones.read import read_blobs
from det_distill.files import FileError, load_model_file
from det_distill.handover import describe
from det_distill.model_file import load_weights
from det_distill.notes import wrong_entry
from det_distill.recipes.recipe import load_recipe
from det_distill.teacher_check.candidates import _said
from tests.tiny import build, classifier_cfg


@pytest.mark.parametrize("value", [[1], 5, None])
@pytest.mark.parametrize(
    ("name", "write", "key"), [("w.pkl", pickle_file, "blobs"), ("w.pyth", torch_file, "model_state")]
)
def test_weights_of_caffe2_or_pycls_that_are_no_table_are_refused_by_their_file(
    tmp_path, name, write, key, value
):
    with pytest.raises(FileError, match=rf"{name} holds no weights: its '{key}' is of type .*, not a table"):
        load_model_file(str(write(tmp_path / name, {key: value})))


def test_names_of_pycls_that_are_no_texts_are_refused_by_their_file(tmp_path):
    with pytest.raises(FileError, match=r"w\.pyth holds no weights"):
        load_model_file(str(torch_file(tmp_path / "w.pyth", {"model_state": {3: torch.zeros(1)}})))


@pytest.mark.parametrize("content", [[1], {"blobs": [1]}, {"blobs": 5}])
def test_blobs_for_a_backbone_that_are_no_table_are_refused_by_their_file(tmp_path, content):
    with pytest.raises(FileError, match=r"w\.pkl holds no ResNet of Caffe2: its blobs are of type"):
        read_blobs(str(pickle_file(tmp_path / "w.pkl", content)))


ODD_NOTES = [
    ("classes", 5),
    ("classes", {"a": 1}),
    ("classes", [1]),
    ("pixel_mean", "abc"),
    ("pixel_mean", [[1]]),
    ("pixel_mean", [float("nan")]),
    ("pixel_std", {}),
    ("pixel_std", [10**400]),
    ("input_format", 7),
    ("input_format", ["RGB"]),
    ("part", 3),
    ("convolutions", {"a": 5}),
    ("convolutions", {"a": [1, 2]}),
]


@pytest.mark.parametrize(("key", "value"), ODD_NOTES)
def test_a_note_of_another_form_is_refused_by_its_file_and_entry(tmp_path, key, value):
    file = torch_file(tmp_path / "w.pth", {"model": {}, "network": {key: value}})
    with pytest.raises(
        FileError, match=rf"w\.pth: in what it says .*'{key}' must be .*Export the network again"
    ):
        load_model_file(str(file))
    assert _said(str(file)) == {}


@pytest.mark.parametrize(
    "metadata", [{"network": json.dumps({"classes": 5})}, {"classes": "5"}, {"pixel_mean": '"abc"'}]
)
def test_a_note_in_the_metadata_of_safetensors_is_refused_likewise(tmp_path, metadata):
    model = torch.nn.Linear(2, 2)
    save_file(model.state_dict(), tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(FileError, match=r"w\.safetensors: in what it says of its network, '.*' must be"):
        if "network" in metadata:
            load_model_file(str(tmp_path / "w.safetensors"))
        else:
            load_weights(model, tmp_path / "w.safetensors")


def test_the_notes_that_are_written_have_the_form_that_is_read():
    note = describe(build(classifier_cfg()), ["cat", "dog"])
    assert {"classes", "pixel_mean", "convolutions"} <= set(note)
    assert wrong_entry(note) == "" and wrong_entry(json.loads(json.dumps(note))) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n", "MODEL is None, but must be a table"),
        ("MODEL: 5\n", "MODEL is 5, but must be a table"),
        ("VERSION: 2\nMODEL: {RPN: }\n", "MODEL.RPN is None, but must be a table"),
        ("MODEL: {5: 1}\n", "5 in MODEL is no name of a key"),
        ("DISTILL: {TEACHERS: [1]}\n", r"DISTILL\.TEACHERS is \[1\], but must be a table"),
    ],
)
def test_a_config_with_a_value_in_place_of_a_table_is_refused_by_its_file_and_key(tmp_path, text, message):
    with pytest.raises(FileError, match=rf"c\.yaml: {message}"):
        merge_file(get_cfg(), str(text_file(tmp_path / "c.yaml", text)))


@pytest.mark.parametrize("name", [[1], 5])
def test_a_name_of_a_test_set_that_is_no_text_is_an_error_for_people(name):
    cfg = get_cfg()
    cfg.DATASETS.TEST = (name,)
    with pytest.raises(DatasetError, match=rf"DATASETS\.TEST holds {re.escape(repr(name))}.*list of names"):
        check_datasets(cfg, None)


def test_a_recipe_nested_without_end_is_refused_by_its_file(tmp_path):
    with pytest.raises(FileError, match=r"r\.yaml is no YAML that can be read: it is nested too deeply"):
        load_recipe(str(text_file(tmp_path / "r.yaml", "[" * 3000)))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [{"bbox": [0, 0, 5, 5], "bbox_mode": 0, "category_id": 5}],
            "has the class 5, and thing_classes has 1 names",
        ),
        ([{"bbox": [0, 0, 5, 5], "bbox_mode": 0, "category_id": -1}], "has the class -1"),
        ([{"bbox": [0, 0, 5, 5], "category_id": 0}], "has no bbox_mode"),
        (None, "'annotations' must be a list, empty if there is no object, not None"),
    ],
)
def test_objects_of_a_registered_dataset_are_checked_when_its_evaluator_is_built(objects, message):
    from det_distill.evaluation import DetectionEvaluator

    record = {"image_id": "a", "file_name": "a.jpg", "width": 9, "height": 9, "annotations": objects}
    DatasetCatalog.register("odd_objects", lambda: [record])
    MetadataCatalog.get("odd_objects").thing_classes = ["x"]
    try:
        with pytest.raises(DatasetError, match=f"'odd_objects', image 'a': .*{message}"):
            DetectionEvaluator("odd_objects")
    finally:
        DatasetCatalog.pop("odd_objects")
        MetadataCatalog.pop("odd_objects")

"""What README.md and CONTRIBUTING.md tell the reader to do is done here, block by block; see `tests.documents`."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill import methods
from det_distill.config import PAIR_KEYS, TEACHER_KEYS, build_student, get_cfg
from det_distill.data import check_datasets
from det_distill.engine import load_config
from det_distill.methods import METHODS, method_options
from tests.documents import ROOT, Block, blocks_of, execute, stand_ins, unchanged
from tests.losses import test_every_loss

README = blocks_of("README.md")
METHODS_PAGE = (ROOT / "docs/methods.md").read_text()
SLOW = ("tools/run_recipe.py", "tools/benchmark.py", "lazyconfig_train_net.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the blocks of both documents run, one after the other."""
    folder = stand_ins(tmp_path_factory.mktemp("reader"))
    known = set(DatasetCatalog.list())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)


def marked(block):
    slow = block.language == "bash" and any(name in block.text for name in SLOW)
    return pytest.param(
        block, id=f"line{block.line}-{block.language}", marks=[pytest.mark.slow] if slow else []
    )


@pytest.mark.parametrize("block", [marked(block) for block in README])
def test_a_block_of_the_readme_works(place, block):
    """In the order of the document: a block may need what an earlier one left."""
    execute(block)


def test_the_story_leaves_what_it_promises(place):
    for run in ("paraphraser", "distilled", "alone"):
        assert (place / f"output/mine/{run}/model_final.pth").is_file()
    metrics = (place / "output/mine/distilled/metrics.json").read_text()
    assert all(
        name in metrics for name in ("distill_ft_p3", "distill_fm_box_head_lsh", "voc/AP50", "big/bbox/AP")
    )
    assert "reconstruct_scaled_p2" in (place / "output/mine/paraphraser/metrics.json").read_text()
    files = {"student.pth", "config.yaml", "student.safetensors", "backbone.safetensors"}
    assert {file.name for file in (place / "output/mine/export").iterdir()} == files


def test_the_readmes_student_takes_its_whole_backbone_from_the_converted_file(place):
    """At full size, as it stands there."""
    block = next(block for block in README if block.file == "mine/student.yaml")
    Path("mine/full.yaml").write_text(block.text)
    student = build_student(load_config("mine/full.yaml", ["MODEL.DEVICE", "cpu"]))
    source = torch.load("mine/r18.pth", weights_only=True)
    incompatible = DetectionCheckpointer(student)._load_model(
        DetectionCheckpointer(student)._load_file("mine/R-18.pkl")
    )
    assert not incompatible.incorrect_shapes
    assert not [key for key in incompatible.missing_keys if key.startswith("backbone.bottom_up.")]
    found = student.state_dict()["backbone.bottom_up.res4.0.shortcut.weight"]
    assert torch.equal(found, source["layer3.0.downsample.0.weight"])


def one_step(model, cfg):
    with EventStorage():
        return model(next(iter(build_detection_train_loader(cfg))))


def test_pairs_that_take_turns_learn_from_two_teachers(place):
    cfg = load_config("mine/two_teachers.yaml", ["MODEL.DEVICE", "cpu", "DISTILL.PAIRS.fm.BIAS", "zero"])
    model = build_model(cfg)
    losses = one_step(model, cfg)
    assert losses["distill_late_l2"] == 0 and losses["distill_fm_box_head_l2"] > 0
    late = model.distill["late"]
    assert late.teacher_names == ("second",) and (late.start, late.warmup) == (6000, 500)


def test_coco_data_pass_the_checks(place):
    cfg = load_config("mine/coco_student.yaml")
    check_datasets(cfg, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    assert cfg.DATASETS.TRAIN == ("coco_train",)


def test_the_worked_example_of_contributing_is_a_method(place):
    with unchanged(vars(methods), METHODS, sys.modules):
        for block in blocks_of("CONTRIBUTING.md"):
            execute(block)
        cfg = load_config("mine/cosine.yaml", ["MODEL.DEVICE", "cpu"])
        losses = one_step(build_model(cfg), cfg)
        cosine = sys.modules["det_distill.losses.cosine"].Cosine()
    assert 0 < losses["distill_cosine_p4"] < 2
    for shape in test_every_loss.SHAPES.values():
        test_every_loss.test_only_the_student_gets_a_gradient(cosine, shape)
        test_every_loss.test_gradcheck_in_float64(cosine, shape)
        test_every_loss.test_no_rows_and_no_cells_give_a_zero_that_is_attached_to_the_graph(
            cosine, (0, *shape[1:])
        )
        test_every_loss.test_all_zero_features_give_finite_values_and_gradients(cosine, shape, "both")
        test_every_loss.test_half_precision_inputs_are_computed_in_float32(cosine, shape, torch.bfloat16)


@pytest.mark.parametrize(
    "block", [Block("X.md", 1, "bash", "rm -r /\n"), Block("X.md", 1, "console", "$ ls\n")]
)
def test_a_block_that_nobody_can_execute_fails(block):
    with pytest.raises((AssertionError, pytest.fail.Exception), match="does not know|is not executed"):
        execute(block)


def config_tables(text):
    """Key -> default of each table whose header is key, default, meaning."""
    tables = re.findall(r"\| key \| default \| meaning \|\n\| --- \| --- \| --- \|\n((?:\|.*\n)+)", text)
    rows = [re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| .+ \|$", table, re.MULTILINE) for table in tables]
    assert [len(found) for found in rows] == [table.count("\n") for table in tables]
    return [{key: yaml.safe_load(default) for key, default in found} for found in rows]


def flat(node, prefix=""):
    items = [(prefix + k, v) for k, v in node.items()]
    return dict(
        pair
        for key, value in items
        for pair in (
            flat(value, f"{key}.").items() if isinstance(value, CfgNode) and value else [(key, value)]
        )
    )


def test_the_config_tables_list_every_key_with_its_default():
    expected = [flat(get_cfg().DISTILL), TEACHER_KEYS, PAIR_KEYS]
    assert config_tables((ROOT / "README.md").read_text()) == expected


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_section_with_its_options_and_their_defaults(name):
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", METHODS_PAGE, re.MULTILINE | re.DOTALL))
    options = {k.upper(): v for k, v in method_options(name).items()}
    assert config_tables(sections[name]) == ([options] if options else [])


def test_the_page_of_methods_lists_no_method_that_does_not_exist():
    assert set(re.findall(r"^### (\w+)$", METHODS_PAGE, re.MULTILINE)) == set(METHODS)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/methods.md"])
def test_links_lead_to_files_that_exist(document):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    folder = (ROOT / document).parent
    missing = [t for t in targets if not t.startswith("https://") and not (folder / t).exists()]
    assert not missing


def test_the_results_table_has_its_place():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "benchmarks/make_tables.py")
    make_tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_tables)
    make_tables.table = lambda file: f"table of {file.name}"
    assert "<!-- results:bccd -->\ntable of bccd.csv\n" in make_tables.filled(
        (ROOT / "README.md").read_text()
    )

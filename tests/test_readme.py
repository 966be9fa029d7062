"""What the documents tell the reader to do is done here, block by block; see `tests.documents`."""

import importlib.util
import re
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill import losses, methods
from det_distill.config import PAIR_KEYS, TEACHER_KEYS, build_student, get_cfg
from det_distill.data import check_datasets
from det_distill.engine import load_config
from det_distill.methods import METHODS
from det_distill.tasks import task_of
from tests.documents import ROOT, Block, blocks_of, config_tables, execute, stand_ins, unchanged
from tests.one_more_loss import checks_of_every_loss
from tests.test_methods_page import (
    METHODS_PAGE,
    TEST_FILES,
    faults_of_a_section,
    faults_of_the_overview,
    overview,
)

README = blocks_of("README.md")
METRIC_LEARNING = blocks_of("docs/metric_learning.md")
CLASSIFICATION = blocks_of("docs/classification.md")
SLOW = ("tools/run_recipe.py", "tools/benchmark.py", "lazyconfig_train_net.py", "mine/embedding_teacher.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the blocks of the documents run, one after the other."""
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


@pytest.mark.parametrize("block", [marked(block) for block in METRIC_LEARNING])
def test_a_block_on_metric_learning_works(place, block):
    """In the order of the document, and without what the README leaves."""
    pytest.importorskip("pytorch_metric_learning")
    execute(block)


@pytest.mark.parametrize("block", [marked(block) for block in CLASSIFICATION])
def test_a_block_on_classification_works(place, block):
    """In the order of the document, with the README's student."""
    execute(next(block for block in README if block.file == "mine/student.yaml"))
    execute(block)


def test_a_metric_learner_is_measured_and_ranked_as_its_page_says(place):
    pytest.importorskip("pytorch_metric_learning")
    for block in METRIC_LEARNING:
        if block.language == "yaml":
            execute(block)
    cfg = load_config("mine/embedding_teacher.yaml", ["MODEL.DEVICE", "cpu"])
    evaluator = task_of(cfg).evaluator(cfg, cfg.DATASETS.TEST[0])
    model = build_model(cfg).eval()
    for batch in task_of(cfg).test_loader(cfg, cfg.DATASETS.TEST[0]):
        with torch.no_grad():
            evaluator.process(batch, model(batch))
    page = (ROOT / "docs/metric_learning.md").read_text()
    assert all(f"{name}`" in page for name in evaluator.evaluate()["retrieval"])
    cfg = load_config("mine/embedding_teacher.yaml", ["MODEL.METRIC_LEARNING.SOFTMAX_WEIGHT", "1.0"])
    losses_of_all = build_model(cfg).train()(next(iter(task_of(cfg).train_loader(cfg, lambda: 0))))
    assert len(losses_of_all) == 4 and all(f"`{name}`" in page for name in losses_of_all)


def test_the_story_leaves_what_it_promises(place):
    for run in ("paraphraser", "distilled", "alone"):
        assert (place / f"output/mine/{run}/model_final.pth").is_file()
    metrics = (place / "output/mine/distilled/metrics.json").read_text()
    assert all(
        name in metrics for name in ("distill_ft_p3", "distill_fm_box_head_lsh", "voc/AP50", "big/bbox/AP")
    )
    assert "reconstruct_scaled_p2" in (place / "output/mine/paraphraser/metrics.json").read_text()
    files = {"student.pth", "config.yaml", "student.safetensors", "backbone.safetensors", "backbone.pth"}
    files |= {"card.md", "export.json"}
    assert {file.name for file in (place / "output/mine/export").iterdir()} == files


def test_the_readmes_student_takes_its_whole_backbone_from_the_converted_file(place):
    """At full size, as it stands there."""
    block = next(block for block in README if block.file == "mine/student.yaml")
    Path("mine/full.yaml").write_text(block.text)
    student = build_student(load_config("mine/full.yaml", ["MODEL.DEVICE", "cpu"]))
    source = torch.load("mine/r18.pth", weights_only=True)
    incompatible = DetectionCheckpointer(student)._load_model(
        DetectionCheckpointer(student)._load_file("mine/R-18/backbone.pth")
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


def test_an_inherited_pair_stays_with_an_empty_mapping_and_is_switched_off_by_its_weight(place):
    """As docs/methods.md says; and that a late START saves the computation."""
    execute(next(block for block in README if block.file == "mine/student.yaml"))
    teacher = {"CONFIG": "mine/teacher.yaml", "WEIGHTS": "mine/teacher.pth"}
    hint = {"METHOD": "FitNets", "AT": ["backbone:p4"]}
    distill = {"TEACHERS": {"big": teacher}, "PAIRS": {"hint": hint}}
    base = {"_BASE_": "student.yaml", "MODEL": {"META_ARCHITECTURE": "Distiller"}, "DISTILL": distill}
    Path("mine/inherited.yaml").write_text(yaml.safe_dump(base))

    def values(pairs):
        Path("mine/heir.yaml").write_text(
            yaml.safe_dump({"_BASE_": "inherited.yaml", "DISTILL": {"PAIRS": pairs}})
        )
        cfg = load_config("mine/heir.yaml", ["MODEL.DEVICE", "cpu"])
        torch.manual_seed(0)
        return one_step(build_model(cfg), cfg)

    assert values({})["distill_hint_p4"] > 0
    assert values({"hint": {"WEIGHT": 0.0}})["distill_hint_p4"] == 0
    assert values({"hint": {"START": 10**9}})["distill_hint_p4"] == 0


def test_coco_data_pass_the_checks(place):
    cfg = load_config("mine/coco_student.yaml")
    check_datasets(cfg, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    assert cfg.DATASETS.TRAIN == ("coco_train",)


def test_the_configs_that_the_documents_name_exist():
    for document in ("README.md", "docs/methods.md", "docs/metric_learning.md"):
        named = re.findall(r"`(configs/[^`\s]+)`", (ROOT / document).read_text())
        assert named and not [path for path in named if not (ROOT / path).exists()]


def test_the_worked_example_of_contributing_passes_every_check_of_the_project(place):
    """Done as it is written there: every block, and the line of `BUILD` that the text names."""
    execute(next(block for block in README if block.file == "mine/student.yaml"))
    blocks = blocks_of("CONTRIBUTING.md")
    row, section = (block.text.partition("\n")[2] for block in blocks if block.language == "markdown")
    (line,) = re.findall(r'^`("\w+": losses\.\w+,)`', (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    with unchanged(vars(losses), vars(methods), METHODS, sys.modules):
        losses.__all__ = [*losses.__all__]
        for block in blocks:
            execute(block)
        cfg = load_config("mine/cosine.yaml", ["MODEL.DEVICE", "cpu"])
        values = one_step(build_model(cfg), cfg)
        outcomes = checks_of_every_loss(line, place)
        test_files = {*TEST_FILES, *(Path(b.file).name for b in blocks if b.file.startswith("tests/losses/"))}
        assert faults_of_the_overview(METHODS_PAGE, test_files) == ["Cosine: it has no row"]
        last = overview(METHODS_PAGE)[-1][0]
        text = re.sub(
            rf"^(\| {re.escape(last)}.*\n)", lambda m: m.group() + row, METHODS_PAGE, flags=re.MULTILINE
        )
        assert not faults_of_the_overview(text, test_files)
        assert not faults_of_a_section(f"{text}\n{section}", "Cosine")
    assert 0 < values["distill_cosine_p4"] < 2
    assert {name: found for name, found in outcomes.items() if found != {"passed"}} == {}


@pytest.mark.parametrize(
    "block", [Block("X.md", 1, "bash", "rm -r /\n"), Block("X.md", 1, "console", "$ ls\n")]
)
def test_a_block_that_nobody_can_execute_fails(block):
    with pytest.raises((AssertionError, pytest.fail.Exception), match="does not know|is not executed"):
        execute(block)


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


# page -> the nodes of the config whose keys it lists, a table each
PAGES = {
    "metric_learning": ["MODEL.METRIC_LEARNING", "DATALOADER.IDENTITY_SAMPLER"],
    "classification": ["MODEL.CLASSIFIER", "INPUT.CLASSIFICATION"],
    "backbones": [
        "MODEL.CIFAR_RESNET",
        "MODEL.WIDE_RESNET",
        "MODEL.VGG",
        "MODEL.REGNET",
        "MODEL.TIMM",
        "MODEL.NIN",
        "MODEL.PLAIN",
    ],
    "training": ["SOLVER.EMA"],
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_lists_every_key_of_its_nodes_with_its_default(page):
    nodes = [attrgetter(path)(get_cfg()) for path in PAGES[page]]
    assert config_tables((ROOT / f"docs/{page}.md").read_text()) == [flat(node) for node in nodes]


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))],
)
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

"""A config that would run a program, or grow without end, is refused with its file and line; nothing of it runs."""

import logging

import pytest
import yaml
from detectron2.config import get_cfg as get_detectron2_cfg
from hostile import text_file

from det_distill import model_zoo
from det_distill.config import add_distill_config, build_teachers, get_cfg, load_teacher, merge_options
from det_distill.engine import load_config
from det_distill.files import FileError
from det_distill.yaml_files import SafeCfgNode, load_config_file, load_yaml
from tests.tiny import classifier_cfg

TAGS = {
    "apply": "!!python/object/apply:os.mkdir ['{marker}']",
    "eval": "!!python/object/apply:eval [\"__import__('os').mkdir('{marker}')\"]",
    "new": "!!python/object/new:os.mkdir ['{marker}']",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "object": "!!python/object:os.path {{}}",
}


@pytest.fixture
def marker(tmp_path):
    """The folder that would be made."""
    yield tmp_path / "it_ran"
    assert not (tmp_path / "it_ran").exists()


@pytest.fixture(params=TAGS)
def hostile(request, tmp_path, marker):
    """A config with a tag that runs a program, in its third line."""
    tag = TAGS[request.param].format(marker=marker)
    return text_file(tmp_path / "hostile.yaml", f"VERSION: 2\n# a comment\nOUTPUT_DIR: {tag}\n")


def test_detectron2s_own_loader_would_run_it(tmp_path):
    tag = TAGS["apply"].format(marker=tmp_path / "it_ran")
    cfg = get_detectron2_cfg()
    with pytest.raises(ValueError, match="Type mismatch"):
        cfg.merge_from_file(str(text_file(tmp_path / "hostile.yaml", f"OUTPUT_DIR: [{tag}]")))
    assert (tmp_path / "it_ran").is_dir()


REFUSED = (
    r"hostile\.yaml, line 3: the tag !!python/[a-z/:._]+ is refused, because such a tag can run any program"
)


def test_a_config_with_a_python_tag_is_refused(hostile):
    with pytest.raises(FileError, match=REFUSED):
        load_config(str(hostile))
    with pytest.raises(FileError, match=REFUSED):
        get_cfg().merge_from_file(str(hostile))
    with pytest.raises(FileError, match=REFUSED):
        get_cfg().clone().merge_from_file(str(hostile), allow_unsafe=True)


def test_a_stock_config_that_got_the_keys_of_det_distill_is_safe_too(hostile):
    cfg = get_detectron2_cfg()
    add_distill_config(cfg)
    assert type(cfg) is SafeCfgNode
    with pytest.raises(FileError, match=REFUSED):
        cfg.merge_from_file(str(hostile))


@pytest.mark.parametrize(
    "base", ["hostile.yaml", "[plain.yaml, hostile.yaml]", "{folder}/hostile.yaml", "middle.yaml"]
)
def test_a_python_tag_in_a_base_is_refused(tmp_path, hostile, base):
    text_file(tmp_path / "plain.yaml", "SEED: 1\n")
    text_file(tmp_path / "middle.yaml", "_BASE_: hostile.yaml\n")
    top = text_file(tmp_path / "top.yaml", f"_BASE_: {base.format(folder=tmp_path)}\n")
    with pytest.raises(FileError, match=REFUSED):
        load_config(str(top))


def test_a_python_tag_in_a_teachers_config_is_refused(tmp_path, hostile):
    with pytest.raises(FileError, match=REFUSED):
        load_teacher(str(hostile), str(tmp_path / "w.pth"))
    text = f"DISTILL:\n  TEACHERS: {{big: {{CONFIG: {hostile}, WEIGHTS: w.pth}}}}\n"
    cfg = load_config(str(text_file(tmp_path / "student.yaml", text)))
    with pytest.raises(FileError, match=REFUSED):
        build_teachers(cfg)


def test_command_line_values_are_literals(marker):
    cfg = get_cfg()
    merge_options(cfg, ["OUTPUT_DIR", f"__import__('os').mkdir('{marker}')"])
    assert cfg.OUTPUT_DIR.startswith("__import__")
    merge_options(cfg, ["OUTPUT_DIR", f"!!python/object/apply:os.mkdir ['{marker}']"])
    assert cfg.OUTPUT_DIR.startswith("!!python")


def bomb(flow: str) -> str:
    """Ten levels of ten aliases each: ten thousand million values in some hundred characters."""
    opened, closed = flow
    levels = [f"a0: &a0 {opened}{'k: 1' if opened == '{' else '1, 1'}{closed}"]
    for level in range(1, 11):
        aliases = ", ".join(f"{f'k{i}: ' if opened == '{' else ''}*a{level - 1}" for i in range(10))
        levels.append(f"a{level}: &a{level} {opened}{aliases}{closed}")
    return "\n".join(levels) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[]"), "aliases .* stand for more than 1000000 values"),
        (bomb("{}"), "aliases .* stand for more than 1000000 values"),
        ("\n".join(f"a{i}: &a{i} {{<<: [{', '.join(['*a' + str(i - 1)] * 9)}]}}" if i else "a0: &a0 {k: 1}"
                   for i in range(12)), "aliases .* stand for more than"),
        ("OUTPUT_DIR: &a [*a]\n", "an alias .* stands for what it is in"),
        ("OUTPUT_DIR: " + "[" * 100_000, "nested too deeply"),
        ("OUTPUT_DIR: " + "{a: " * 100_000, "nested too deeply"),
        ("OUTPUT_DIR: 'no end\n", "is no YAML"),
        ("OUTPUT_DIR: \0\n", "is no YAML"),
        ("- a\n- b\n", "is no config"),
        ("3: 4\n", "is no config"),
        ("OUTPUT_DIR: !mine 3\n", "is no YAML"),
        ("OUTPUT_DIR: " + "9" * 10_000 + "\n", "is no YAML"),
        ("_BASE_: hostile.yaml\n", "_BASE_ leads back to"),
        ("_BASE_: https://example.org/../../x.yaml\n", "outside the folder of downloads"),
    ],
)  # fmt: skip
def test_a_config_that_grows_without_end_or_is_broken_is_an_error_for_people(tmp_path, text, message):
    file = text_file(tmp_path / "hostile.yaml", text)
    with pytest.raises(FileError, match=message):
        load_config(str(file))


def test_bytes_that_are_no_text_are_an_error_for_people(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"OUTPUT_DIR: \xff\xfe\n")
    with pytest.raises(FileError, match=r"c\.yaml is no YAML"):
        load_config(str(tmp_path / "c.yaml"))


def test_tuples_and_the_one_expression_of_detectron2s_zoo_are_read(tmp_path):
    file = text_file(tmp_path / "c.yaml", "DATASETS:\n  TRAIN: !!python/tuple [a, b]\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    assert cfg.DATASETS.TRAIN == ("a", "b")
    zoo = model_zoo.find_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    ours, theirs = get_cfg(), get_detectron2_cfg()
    ours.merge_from_file(zoo)
    theirs.merge_from_file(zoo)
    assert ours.MODEL.ANCHOR_GENERATOR.SIZES == theirs.MODEL.ANCHOR_GENERATOR.SIZES
    assert all(ours[key] == theirs[key] or key in ("MODEL", "SOLVER", "INPUT", "DATASETS", "TEST", "DATALOADER")
               for key in theirs)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_101_FPN_3x.yaml"]
)
def test_bases_are_merged_as_detectron2_merges_them(name):
    file = model_zoo.find_config(name)
    assert load_config_file(file) == get_detectron2_cfg().load_yaml_with_base(file, allow_unsafe=True)


def test_several_bases_and_what_cannot_be_inherited(tmp_path):
    text_file(tmp_path / "a.yaml", "A: {x: 1, y: 1}\nB: 1\n")
    text_file(tmp_path / "b.yaml", "A: {y: 2, z: 2}\nB: 2\n")
    top = text_file(tmp_path / "top.yaml", "_BASE_: [a.yaml, b.yaml]\nA: {z: 3}\n")
    assert load_config_file(str(top)) == {"A": {"x": 1, "y": 2, "z": 3}, "B": 2}
    text_file(tmp_path / "top.yaml", "_BASE_: a.yaml\nB: {x: 1}\n")
    with pytest.raises(FileError, match="B is a table here and a value in its _BASE_"):
        load_config_file(str(top))
    text_file(tmp_path / "top.yaml", "_BASE_: absent.yaml\n")
    with pytest.raises(FileNotFoundError):
        load_config_file(str(top))


def test_what_a_config_writes_is_read_again(tmp_path):
    cfg = classifier_cfg()
    file = text_file(tmp_path / "c.yaml", cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(file))
    assert yaml.safe_load(again.dump()) == load_yaml(file) == yaml.safe_load(cfg.dump())


def test_a_lazy_config_of_a_teacher_is_run_with_a_warning(tmp_path, caplog):
    program = text_file(tmp_path / "teacher.py", "import torch\nraise RuntimeError('it ran')\n")
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="it ran"):
        load_teacher(str(program), "w.pth", name="big")
    assert "teacher.py, the CONFIG of teacher 'big', is a program and is run now" in caplog.text
    assert model_zoo.is_installed(model_zoo.find_config("COCO-Detection/retinanet_R_50_FPN_1x.py"))

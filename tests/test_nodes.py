"""The values of a pair's and a teacher's keys, from files and from the command line: read, or refused by name."""

import pytest
import yaml
from detectron2.config import CfgNode

from det_distill.config import complete_config, get_cfg, merge_options
from det_distill.methods import METHODS, method_options
from det_distill.nodes import completed, kind_of
from det_distill.pair_config import PAIR_KEYS

AT = "AT: ['backbone:p3']"


def completed_cfg(pair, method="FactorTransfer", teacher="{CONFIG: a.yaml}"):
    """A config as it comes from a file that has these lines."""
    cfg = get_cfg()
    text = f"{{PAIRS: {{x: {{METHOD: {method}, {pair}}}}}, TEACHERS: {{big: {teacher}}}}}"
    cfg.merge_from_other_cfg(CfgNode({"DISTILL": yaml.safe_load(text)}))
    complete_config(cfg)
    return cfg


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("WEIGHT: 5e-7", "WEIGHT", 5e-7),
        ("WEIGHT: '0.5'", "WEIGHT", 0.5),
        ("WEIGHT: 0", "WEIGHT", 0.0),
        ("RATE: 1", "RATE", 1.0),
        ("START: 6e3", "START", 6000),
        ("START: 6000.0", "START", 6000),
        ("P: 2.0", "P", 2),
        ("TRANSLATOR: False", "TRANSLATOR", False),
        ("AT: 'backbone:p3'", "AT", "backbone:p3"),
        ("AT: [a, [b, c]]", "AT", ["a", ["b", "c"]]),
        ("STUDENT: [a, b]", "STUDENT", ["a", "b"]),
        ("TEACHER_NAMES: big", "TEACHER_NAMES", ["big"]),
        ("TEACHER_NAMES: ''", "TEACHER_NAMES", []),
    ],
)
def test_a_value_in_a_file_is_read_as_its_key_wants_it(text, key, expected):
    value = completed_cfg(text).DISTILL.PAIRS.x[key]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WEIGHT: much", "x.WEIGHT: 'much' is not a finite number, at least 0"),
        ("WEIGHT: True", "x.WEIGHT: True is not a finite number"),
        ("WEIGHT: [1.0]", r"x.WEIGHT: \[1.0\] is not a finite number"),
        ("WEIGHT: .nan", "x.WEIGHT: nan is not a finite number"),
        ("WEIGHT: .inf", "x.WEIGHT: inf is not a finite number"),
        ("WEIGHT: -1.0", "x.WEIGHT: -1.0 is not a finite number, at least 0"),
        ("WEIGHT:", "x.WEIGHT: None is not"),
        ("RATE: half", "x.RATE: 'half' is not a finite number"),
        ("START: 0.5", "x.START: 0.5 is not a whole number, at least 0"),
        ("START: -1", "x.START: -1 is not a whole number, at least 0"),
        ("START: .inf", "x.START: inf is not a whole number"),
        ("START: yes", "x.START: True is not a whole number"),
        ("WARMUP: -5", "x.WARMUP: -5 is not a whole number, at least 0"),
        ("STOP: -2", "x.STOP: -2 is not a whole number, at least -1"),
        ("STUDENT_CHANNELS: -3", "x.STUDENT_CHANNELS: -3"),
        ("LAYERS: three", "x.LAYERS: 'three' is not a whole number"),
        ("TRANSLATOR: 1", "x.TRANSLATOR: 1 is not True or False"),
        ("TRANSLATOR: 'off'", "x.TRANSLATOR: 'off' is not True or False"),
        ("PARAPHRASER: 3", "x.PARAPHRASER: 3 is not a string"),
        ("SELECT: [all]", r"x.SELECT: \['all'\] is not a string"),
        ("TEACHER_NAME: 101", "x.TEACHER_NAME: 101 is not a string"),
        ("TEACHER_NAMES: [1]", r"x.TEACHER_NAMES: \[1\] is not a string or a list of strings"),
        ("AT: 3", "x.AT: 3 is not a string or a list of strings or of lists of strings"),
        ("AT: [a, [b, [c]]]", "x.AT: .* is not a string or"),
        ("STUDENT: [[a]]", r"x.STUDENT: \[\['a'\]\] is not a string or a list of strings$"),
        ("METHOD: 3", "x: needs METHOD"),
    ],
)
def test_a_value_that_a_key_cannot_have_is_refused_by_its_name(text, message):
    with pytest.raises(ValueError, match=f"^DISTILL.PAIRS.{message}"):
        completed_cfg(text)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{CONFIG: [a.yaml]}", r"big.CONFIG: \['a.yaml'\] is not a string"),
        ("{WEIGHTS: 3}", "big.WEIGHTS: 3 is not a string"),
        ("{OPTS: MODEL.DEVICE}", "big.OPTS: 'MODEL.DEVICE' is not a list"),
        ("a.yaml", "big must be a mapping with keys among CONFIG, WEIGHTS, OPTS"),
    ],
)
def test_a_value_that_a_teacher_cannot_have_is_refused_by_its_name(teacher, message):
    with pytest.raises(ValueError, match=f"^DISTILL.TEACHERS.{message}"):
        completed_cfg(AT, teacher=teacher)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("PAIRS.x.WEIGHT", "5e-7", 5e-7),
        ("PAIRS.x.WEIGHT", "7", 7.0),
        ("PAIRS.x.START", "6e3", 6000),
        ("PAIRS.x.AT", "backbone:p4", "backbone:p4"),
        ("PAIRS.x.AT", "['a', ['b', 'c']]", ["a", ["b", "c"]]),
        ("PAIRS.x.STUDENT", "['a', 'b']", ["a", "b"]),
        ("PAIRS.x.TEACHER_NAMES", "*", ["*"]),
        ("PAIRS.x.TRANSLATOR", "False", False),
        ("TEACHERS.big.OPTS", "['MODEL.DEVICE', 'cpu']", ["MODEL.DEVICE", "cpu"]),
    ],
)
def test_a_value_on_the_command_line_is_read_as_in_a_file(key, text, expected):
    cfg = completed_cfg(AT)
    merge_options(cfg, ["SEED", "3", f"DISTILL.{key}", text, "SOLVER.BASE_LR", "1"])
    *path, last = key.split(".")
    node = cfg.DISTILL
    for part in path:
        node = node[part]
    assert node[last] == expected and type(node[last]) is type(expected)
    assert (cfg.SEED, cfg.SOLVER.BASE_LR) == (3, 1.0)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("PAIRS.x.WEIGHT", "nan", "'nan' is not a finite number"),
        ("PAIRS.x.WEIGHT", "-3", "-3 is not a finite number, at least 0"),
        ("PAIRS.x.START", "soon", "'soon' is not a whole number"),
        ("PAIRS.x.TRANSLATOR", "0", "0 is not True or False"),
        ("PAIRS.x.AT", "{1: 2}", "is not a string"),
        ("TEACHERS.big.CONFIG", "[]", r"\[\] is not a string"),
    ],
)
def test_a_value_on_the_command_line_that_a_key_cannot_have_is_refused_by_its_name(key, text, message):
    with pytest.raises(ValueError, match=f"^DISTILL.{key}: .*{message}"):
        merge_options(completed_cfg(AT), [f"DISTILL.{key}", text])


def test_a_key_without_a_value_and_an_unknown_key_are_errors_on_the_command_line():
    with pytest.raises(ValueError, match="^the command line: SEED has no value"):
        merge_options(completed_cfg(AT), ["DISTILL.PAIRS.x.WEIGHT", "1", "SEED"])
    with pytest.raises(ValueError, match="unknown key DISTILL.PAIRS.x.WIEGHT .did you mean WEIGHT"):
        merge_options(completed_cfg(AT), ["DISTILL.PAIRS.x.WIEGHT", "1"])


def test_completing_twice_changes_nothing_and_works_on_a_frozen_config():
    cfg = completed_cfg("WEIGHT: 5e-7, STUDENT: [a, b], TEACHER: [a, b]")
    before = cfg.dump()
    cfg.freeze()
    complete_config(cfg)
    assert cfg.dump() == before


@pytest.mark.parametrize("method", METHODS)
def test_every_default_is_a_value_that_its_key_can_have(method):
    defaults = {**PAIR_KEYS, **method_options(method)}
    assert completed(defaults, defaults, "x") == defaults


def test_a_default_of_none_says_nothing_of_the_value():
    assert [kind_of(None).read(value) for value in (1, "a", None)] == [1, "a", None]

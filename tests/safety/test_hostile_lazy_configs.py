"""A YAML config cannot have a teacher's LazyConfig call a program, and a stranger's LazyConfig is never run unseen."""

import logging

import pytest
from hostile import text_file

from det_distill import model_zoo
from det_distill.benchmark.inputs import with_random_weights
from det_distill.cli.main import main
from det_distill.config import build_teachers
from det_distill.engine import load_config
from det_distill.lazy_configs import build_lazy_model
from det_distill.programs import tell_program

ZOO = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py"
OPTIONS = {
    "a new key": "+model.z={{_target_: os.mkdir, path: '{marker}'}}",
    "a new key, forced": "++model.z={{_target_: os.mkdir, path: '{marker}'}}",
    "in place of a part": "model.backbone={{_target_: os.mkdir, path: '{marker}'}}",
    "in a list": "+model.z=[1,[{{_target_: os.mkdir, path: '{marker}'}}]]",
    "in a table": "+model.z={{a: {{_target_: os.mkdir, path: '{marker}'}}}}",
    "as a key": "model.backbone._target_=os.mkdir",
    "as a text": "+model.z='{{_target_: os.mkdir}}'",
    "by reference": "+model.z=${{oc.env:HOME}}",
    "by another's target": "model.backbone=${{train}}",
}


@pytest.fixture
def marker(tmp_path):
    """The folder that would be made."""
    yield tmp_path / "it_ran"
    assert not (tmp_path / "it_ran").exists()


def student(folder, teacher, *options):
    listed = "".join(f"\n      - {option!r}" for option in options)
    return text_file(
        folder / "student.yaml",
        f"_BASE_: {model_zoo.get_config_file('demo/student.yaml')}\n"
        f"OUTPUT_DIR: {folder / 'output'}\n"
        f"DISTILL:\n  TEACHERS:\n    evil:\n      CONFIG: {teacher}\n      WEIGHTS: none.pth\n"
        f"      OPTS:{listed or ' []'}\n",
    )


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_that_call_something_are_refused_wherever_a_teacher_is_built(kind, tmp_path, marker):
    option = OPTIONS[kind].format(marker=marker)
    cfg = load_config(str(student(tmp_path, ZOO, option)))
    for name in [name for name in cfg.DISTILL.TEACHERS if name != "evil"]:
        del cfg.DISTILL.TEACHERS[name]
    for door in (build_teachers, lambda cfg: with_random_weights(cfg, tmp_path)):
        with pytest.raises(ValueError, match="OPTS of teacher 'evil'.*(refused|no override)"):
            door(cfg)


@pytest.mark.parametrize(
    "option", ["nonsense", "~model.backbone", "model.z=choice(1,2)", "model.z=glob(*)", "a=1,2"]
)
def test_options_that_are_no_values_are_an_error_in_one_line(option):
    with pytest.raises(ValueError, match="no override like key=value") as caught:
        build_lazy_model(model_zoo.find_config(ZOO), [option], "teacher 'a'")
    assert "\n" not in str(caught.value)


def test_an_option_without_a_place_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="OPTS of teacher 'a' do not fit .*py: .*model.input_format"):
        build_lazy_model(model_zoo.find_config(ZOO), ["model.input_format.x=3"], "teacher 'a'")


def test_values_are_still_set(tmp_path):
    text = "from det_distill.teachers import Teachers\nfrom torch.nn import Linear\n"
    text += "from detectron2.config import LazyCall as L\nmodel = L(Linear)(in_features=2, out_features=3)\n"
    file = text_file(tmp_path / "t.py", text)
    model = build_lazy_model(str(file), ["model.in_features=5", "+model.bias=false"], "teacher 'a'")
    assert model.weight.shape == (3, 5) and model.bias is None


def test_teacher_check_refuses_such_options(tmp_path, marker, capsys):
    config = student(tmp_path, ZOO, OPTIONS["a new key"].format(marker=marker))
    with pytest.raises(SystemExit):
        main(["teacher-check", "--config-file", str(config), "--images", "0"])
    said = capsys.readouterr()
    assert "is refused: with _target_ it could call any program" in said.out + said.err


def test_teacher_check_says_once_that_it_runs_a_program(tmp_path, caplog):
    tell_program.cache_clear()
    program = text_file(tmp_path / "theirs.py", "raise RuntimeError('it ran')\n")
    with pytest.raises(SystemExit):
        main(["teacher-check", "--config-file", str(student(tmp_path, program)), "--images", "0"])
    assert caplog.text.count("theirs.py, the CONFIG of teacher 'evil', is a program and is run now") == 1


@pytest.fixture
def muted():
    logger = logging.getLogger("det_distill.programs")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


def test_a_program_is_told_on_standard_error_where_warnings_are_muted(muted, capsys):
    tell_program.cache_clear()
    tell_program("theirs.py", "a program")
    assert capsys.readouterr().err == "warning: theirs.py, a program\n"

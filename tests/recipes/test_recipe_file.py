"""A recipe's file: what is read, and that every mistake is told before anything runs."""

import pytest

from det_distill.recipes import load_recipe

GOOD = """
output: out
steps:
  - {name: teacher, config: a.yaml}
  - {name: alone, config: b.yaml}
  - {name: student, config: b.yaml, options: {MODEL.WEIGHTS: "{teacher}", LIST: [1, "{teacher}"], OTHER: "{alone}"}}
compare: {big: teacher, small: student}
picture: {photos: 2}
export: student
"""


def load(tmp_path, text, output=None, options=()):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return load_recipe(str(file), output, options)


def complaint(tmp_path, old, new):
    assert old in GOOD
    with pytest.raises(ValueError) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert str(tmp_path / "recipe.yaml") in str(error.value)
    return str(error.value)


def test_a_step_needs_each_step_that_its_options_name_once(tmp_path):
    recipe = load(tmp_path, GOOD)
    assert [step.needs for step in recipe.steps] == [(), (), ("teacher", "alone")]
    assert recipe.picture.photos == 2 and recipe.picture.threshold == 0.5


def test_a_reference_stands_for_the_last_checkpoint_of_that_step(tmp_path):
    recipe = load(tmp_path, GOOD, output="elsewhere")
    arguments = recipe.steps[2].arguments(recipe.output)
    assert arguments[:2] == ["MODEL.WEIGHTS", "elsewhere/teacher/model_final.pth"]
    assert arguments[2:4] == ["LIST", "[1, 'elsewhere/teacher/model_final.pth']"]
    assert arguments[4:] == ["OTHER", "elsewhere/alone/model_final.pth"]


def test_dependents_are_found_through_other_steps(tmp_path):
    text = GOOD + "next: ''\n"
    chain = text.replace('OTHER: "{alone}"', "A: 1").replace(
        "config: b.yaml}", 'config: b.yaml, options: {A: "{teacher}"}}'
    )
    recipe = load(
        tmp_path, chain.replace('MODEL.WEIGHTS: "{teacher}", LIST: [1, "{teacher}"]', 'B: "{alone}"')
    )
    assert recipe.dependents("teacher") == ("teacher", "alone", "student")
    assert recipe.dependents("alone") == ("alone", "student")
    assert recipe.dependents("student") == ("student",)


def test_an_unknown_key_is_named_with_the_nearest_valid_one(tmp_path):
    assert "'exprot' (did you mean 'export'?)" in complaint(tmp_path, "export:", "exprot:")
    assert "'nam'" in complaint(tmp_path, "name: alone", "nam: alone")
    assert "'foto'" in complaint(tmp_path, "photos", "foto")


def test_a_reference_to_no_step_is_told(tmp_path):
    assert "starts from {techer}, but there is no such step (did you mean 'teacher'?)" in complaint(
        tmp_path, 'MODEL.WEIGHTS: "{teacher}"', 'MODEL.WEIGHTS: "{techer}"'
    )
    assert "export: there is no step 'pupil'" in complaint(tmp_path, "export: student", "export: pupil")
    assert "compare: small: there is no step 'nobody'" in complaint(
        tmp_path, "small: student", "small: nobody"
    )


def test_a_step_cannot_start_from_itself_or_from_a_later_one(tmp_path):
    assert "does not come before it" in complaint(tmp_path, '"{alone}"', '"{student}"')
    circle = complaint(tmp_path, "config: a.yaml}", 'config: a.yaml, options: {A: "{student}"}}')
    assert "step teacher starts from {student}, which does not come before it" in circle


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: alone", "name: teacher", "two steps have the name 'teacher'"),
        ("name: alone", "name: ../alone", "becomes a folder"),
        ("name: alone", "name: export", "becomes a folder"),
        ("name: alone", "name: 7", "must be a text"),
        ("output: out\n", "", "a recipe needs 'output'"),
        (", config: a.yaml", "", "step 1 needs 'config'"),
        ("photos: 2", "photos: 0", "photos must be a number from 1 on"),
        ("photos: 2", "threshold: 50", "threshold must be a score from 0 to 1"),
        ("OTHER:", "DISTILL: {ENABLED: False}, OTHER:", "write option 'DISTILL' with its full key"),
        ("compare: {big: teacher, small: student}", "", "add 'compare'"),
        ("steps:", "steps: [", "is no YAML"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path, old, new, expected):
    assert expected in complaint(tmp_path, old, new)


def test_a_missing_file_is_an_error_that_names_it():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_recipe("nowhere.yaml")


def test_options_of_the_command_line_follow_those_of_every_step_and_replace_them(tmp_path):
    recipe = load(tmp_path, GOOD, options=["MODEL.WEIGHTS", "a.pth", "SOLVER.STEPS", "()", "OTHER", 5])
    common = {"MODEL.WEIGHTS": "a.pth", "SOLVER.STEPS": "()", "OTHER": 5}
    assert dict(recipe.steps[2].options) == {"LIST": [1, "{teacher}"], **common}
    assert list(recipe.steps[2].options) == ["LIST", *common]


def test_options_of_the_command_line_reach_every_step(tmp_path):
    recipe = load(tmp_path, GOOD, options=["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "()"])
    assert [step.arguments()[-4:] for step in recipe.steps] == [
        ["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "()"]
    ] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["SOLVER.MAX_ITER"],
            "'SOLVER.MAX_ITER' has no value: options are pairs, KEY VALUE, as in SOLVER.MAX_ITER 20",
        ),
        (["SOLVER.MAX_ITER", "20", "()"], r"'\(\)' has no value"),
        (["OUTPUT_DIR", "x"], "OUTPUT_DIR: every step has a folder of its own; set --output"),
        (["20", "SOLVER.MAX_ITER"], "'20' is no config key: options are pairs, KEY VALUE"),
        (["SOLVER.MAX_ITER", "20", "SOLVER.MAX_ITER", "30"], "SOLVER.MAX_ITER is given twice"),
        (["MODEL.WEIGHTS", "{student}"], "step teacher starts from {student}, which does not come before it"),
    ],
)
def test_options_that_make_no_sense_are_told(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, GOOD, options=options)

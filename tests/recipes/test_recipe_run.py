"""Which steps run, from which files, and what is said: with a trainer that only writes down that it ran."""

import json
import sys
from dataclasses import replace

import pytest
from detectron2.data import DatasetCatalog

from det_distill.cli import recipe as tool
from det_distill.recipes import StepFailed, load_recipe, run_recipe, runner

TRAINER = """
import json, pathlib, sys
given = dict(zip(sys.argv[4::2], sys.argv[5::2]))  # --config-file FILE --resume KEY VALUE ...
folder = pathlib.Path(given.pop("OUTPUT_DIR"))
with open(folder.parent / "ran.txt", "a") as file:
    print(folder.name, file=file)
print("hello from", folder.name)
weights = given.get("MODEL.WEIGHTS", "")
if given.get("SOLVER.MAX_ITER") == "13":
    print("Traceback: unlucky", file=sys.stderr)
    sys.exit(3)
start = pathlib.Path(weights).read_text() if weights else ""
(folder / "model_final.pth").write_text(start + folder.name + given.get("SOLVER.MAX_ITER", ""))
(folder / "metrics.json").write_text(json.dumps({"bbox/AP50": 12.34}))
"""

RECIPE = """
output: out
steps:
  - {name: first, config: CONFIG, options: {SOLVER.MAX_ITER: 5}}
  - {name: other, config: CONFIG}
  - {name: second, config: CONFIG, options: {MODEL.WEIGHTS: "{first}"}}
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tiny.yaml").write_text("MODEL: {DEVICE: cpu}\n")
    (tmp_path / "train.py").write_text(TRAINER)

    def go(text=RECIPE, given=(), **options):
        """What ran, and what was said."""
        (tmp_path / "recipe.yaml").write_text(text.replace("CONFIG", str(tmp_path / "tiny.yaml")))
        recipe = load_recipe(str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), given)
        ran, said = tmp_path / "out" / "ran.txt", []
        ran.unlink(missing_ok=True)
        try:
            run_recipe(recipe, [sys.executable, str(tmp_path / "train.py")], say=said.append, **options)
        finally:
            go.said = "\n".join(said)
        return ran.read_text().split() if ran.exists() else []

    go.folder = tmp_path / "out"
    return go


def test_steps_run_in_order_each_with_its_own_log_and_the_checkpoint_it_starts_from(run):
    assert run() == ["first", "other", "second"]
    assert (run.folder / "second" / "model_final.pth").read_text() == "first5second"
    assert "hello from other" in (run.folder / "other" / "console.log").read_text()
    assert "[1/3] first" in run.said and "AP50 12.3" in run.said


def test_finished_steps_are_skipped(run):
    run()
    assert run() == []
    assert run.said.count("finished earlier") == 3


def test_a_changed_config_runs_again_from_scratch_with_everything_that_starts_from_it(run):
    run()
    assert run(RECIPE.replace("SOLVER.MAX_ITER: 5", "SOLVER.MAX_ITER: 6")) == ["first", "second"]
    assert "[1/3] first: its config or its input changed" in run.said
    assert (run.folder / "second" / "model_final.pth").read_text() == "first6second"
    assert (run.folder / "replaced" / "first-1" / "model_final.pth").read_text() == "first5"


def test_an_edited_config_file_counts_as_a_changed_config_and_a_comment_does_not(run, tmp_path):
    run()
    (tmp_path / "tiny.yaml").write_text("# a comment\nMODEL: {DEVICE: cpu}\n")
    assert run() == []
    (tmp_path / "tiny.yaml").write_text("MODEL: {DEVICE: cpu}\nSEED: 3\n")
    assert run() == ["first", "other", "second"]


def test_an_input_that_was_replaced_by_hand_makes_its_dependents_run_again(run):
    run()
    (run.folder / "first" / "model_final.pth").write_text("mine")
    assert run() == ["second"]
    assert (run.folder / "second" / "model_final.pth").read_text() == "minesecond"


def test_a_step_that_was_interrupted_goes_on_in_its_folder(run):
    run()
    state = run.folder / "other" / "recipe_step.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "finished": False}))
    (run.folder / "other" / "model_0000004.pth").write_text("half")
    assert run() == ["other"]
    assert "going on with" in run.said
    assert (run.folder / "other" / "model_0000004.pth").exists()


def test_an_interrupted_step_whose_config_changed_does_not_go_on_from_the_old_files(run):
    run()
    state = run.folder / "other" / "recipe_step.json"
    state.write_text(json.dumps({"fingerprint": "another", "finished": False, "seconds": 0}))
    assert run() == ["other"]
    assert (run.folder / "replaced" / "other-1").is_dir()


def test_options_of_the_command_line_count_as_a_changed_config_of_the_steps_that_they_change(run):
    run()
    assert run(given=["SOLVER.MAX_ITER", "7"]) == ["first", "other", "second"]
    assert (run.folder / "second" / "model_final.pth").read_text() == "first7second7"
    assert run(given=["SOLVER.MAX_ITER", "7"]) == []
    assert run(RECIPE.replace("SOLVER.MAX_ITER: 5", "SOLVER.MAX_ITER: 7")) == ["other", "second"]


def test_an_option_of_the_command_line_that_a_step_does_not_know_is_told_before_any_runs(run):
    with pytest.raises(ValueError, match="step first: its options .*of the command line.: .*SOLVER.MAXITER"):
        run(given=["SOLVER.MAXITER", "7"])
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "line",
    [
        ["r.yaml", "--output", "out", "SOLVER.BASE_LR", "-1", "SOLVER.STEPS", "()"],
        ["r.yaml", "SOLVER.BASE_LR", "-1", "SOLVER.STEPS", "()", "--output", "out"],
        ["--output", "out", "r.yaml", "SOLVER.BASE_LR", "-1", "SOLVER.STEPS", "()"],
    ],
)
def test_the_tool_takes_options_before_and_behind_its_own(line):
    found = tool.arguments(line)
    assert (found.recipe, found.output) == ("r.yaml", "out")
    assert found.opts == ["SOLVER.BASE_LR", "-1", "SOLVER.STEPS", "()"]
    assert tool.arguments(["r.yaml"]).opts == []


def test_a_short_trial_is_one_command(run, tmp_path, monkeypatch, capsys):
    run()
    trial, given = tmp_path / "trial", runner.run_recipe
    commands = []

    def without_training(recipe, train_command, **options):
        commands.append(train_command)
        return given(recipe, [sys.executable, str(tmp_path / "train.py")], **options)

    monkeypatch.setattr(tool, "run_recipe", without_training)
    tool.main([str(tmp_path / "recipe.yaml"), "--output", str(trial), "SOLVER.MAX_ITER", "2"])
    assert commands == [[sys.executable, "-m", "det_distill.cli.train", "--num-gpus", "1"]]
    assert (trial / "second" / "model_final.pth").read_text() == "first2second2"
    assert "All done" in capsys.readouterr().out
    assert (run.folder / "second" / "model_final.pth").read_text() == "first5second"


def test_the_tools_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        tool.arguments(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "RECIPE [KEY VALUE ...]" in said and "SOLVER.MAX_ITER 20" in said and "every step" in said


def test_from_a_step_reruns_it_and_what_starts_from_it(run):
    run()
    assert run(restart_from="first") == ["first", "second"]
    assert run(restart_from="other") == ["other"]
    with pytest.raises(ValueError, match="there is no step 'third'; the steps are first, other, second"):
        run(restart_from="third")


def test_a_failing_step_shows_the_end_of_its_log_and_the_command_to_run_it_alone(run):
    with pytest.raises(StepFailed) as error:
        run(RECIPE.replace("SOLVER.MAX_ITER: 5", "SOLVER.MAX_ITER: 13"))
    text = str(error.value)
    assert "Step first ended with status 3" in text and "| Traceback: unlucky" in text
    assert f"OUTPUT_DIR {run.folder}/first" in text and "--resume" in text
    assert run() == ["first", "other", "second"]


def test_a_wrong_config_of_a_late_step_is_told_before_the_first_runs(run):
    for wrong, expected in [
        ("{MODEL.WIEGHTS: x}", "step second: its options .the recipe's, .*: unknown key MODEL.WIEGHTS"),
        ("{DISTILL.ENABLED: 7}", "step second: .*Type mismatch"),
    ]:
        with pytest.raises(ValueError, match=expected):
            run(RECIPE.replace('{MODEL.WEIGHTS: "{first}"}', wrong))
    late = RECIPE.replace("{name: second, config: CONFIG", "{name: second, config: gone.yaml")
    with pytest.raises(ValueError, match=r"step second: config 'gone\.yaml'"):
        run(late)
    with pytest.raises(ValueError, match="data 'cats' is unknown; there is tree_tiles"):
        run("data: cats\n" + RECIPE)
    assert not run.folder.exists()


def test_compared_steps_need_one_common_test_set(run, tmp_path):
    with pytest.raises(ValueError, match="one and the same data set in DATASETS.TEST"):
        run(RECIPE + "compare: {a: first, b: other}\n")


def test_files_that_no_recipe_made_are_left_alone(run):
    (run.folder / "first").mkdir(parents=True)
    (run.folder / "first" / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no recipe made"):
        run()
    assert (run.folder / "first" / "precious.txt").read_text() == "mine"


def test_two_recipes_cannot_work_in_one_folder_at_the_same_moment(run):
    from det_distill.recipes.state import exclusive

    with exclusive(run.folder), pytest.raises(BlockingIOError, match="another recipe is at work"):
        run()
    assert run() == ["first", "other", "second"]


def test_the_output_folder_can_be_moved_without_running_anything_again(run, tmp_path):
    run()
    moved = run.folder.rename(tmp_path / "moved")
    recipe = replace(load_recipe(str(tmp_path / "recipe.yaml")), output=moved)
    said = []
    run_recipe(recipe, [sys.executable, str(tmp_path / "train.py")], say=said.append)
    assert all("finished earlier" in line for line in said)


def test_a_data_set_that_is_made_first_is_the_one_that_is_compared_on(run, tmp_path, monkeypatch):
    """Its relative ROOT is looked up when it is there, in the folder of data sets."""

    def make(folder):
        (folder / "made").mkdir(parents=True)
        return folder / "made"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    monkeypatch.setitem(runner.DATA, "tree_tiles", make)
    (tmp_path / "voc.yaml").write_text(
        "MODEL: {DEVICE: cpu}\nDATASETS: {VOC: {made_first: {ROOT: made, SPLIT: test}}}\n"
    )
    try:
        assert run("data: tree_tiles\n" + RECIPE.replace("CONFIG", str(tmp_path / "voc.yaml")))
        assert DatasetCatalog["made_first"].source.root == tmp_path / "sets/made"
    finally:
        DatasetCatalog.remove("made_first")

"""benchmarks/classification.py asks for the runs that its table needs; what the trainer gets are valid configs."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from det_distill.engine import load_config
from tests.tiny import write_image_folder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("classification")


@pytest.fixture
def asked(benchmark, tmp_path, monkeypatch):
    """A function: the pair of networks -> run's folder -> its config; nothing is trained."""
    configs = {}

    def train(folder, config, options, arguments):
        configs[folder.name] = load_config(config, options)
        return {}

    def run(model, config, seed, folder, options, arguments, measures):
        train(folder, config, options, arguments)
        return {"model": model, "config": config, "seed": seed, **dict.fromkeys(measures, 50.0)}

    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {})  # what is registered here is forgotten again
    monkeypatch.setattr(benchmark, "train", train)
    monkeypatch.setattr(benchmark, "run", run)
    for split in ("train", "test"):
        write_image_folder(tmp_path / "cifar10" / split)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def main(pair, *options):
        results = tmp_path / "results.csv"
        command = ["classification.py", pair, "--data", str(tmp_path), "--output", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", [*command, "--results", str(results), "--jobs", "1", *options])
        benchmark.main()
        return configs, results.read_text().splitlines()[1:]

    return main


@pytest.mark.parametrize(("pair", "student", "teacher"), [("R8-R20", 8, 20), ("R20-R56", 20, 56)])
def test_every_student_of_a_pair_has_the_same_network_and_schedule(benchmark, asked, pair, student, teacher):
    configs, rows = asked(pair, "--seeds", "0", "1")
    students = {
        name: c for name, c in configs.items() if not name.startswith("teacher_") and "first" not in name
    }
    assert len(students) == 2 * len(benchmark.STUDENTS) and len(rows) == len(students) + 2
    alone = students["student_alone_seed0"]
    for cfg in students.values():
        assert cfg.MODEL.CIFAR_RESNET.DEPTH == student and cfg.MODEL.CIFAR_RESNET == alone.MODEL.CIFAR_RESNET
        for key in ("MAX_ITER", "STEPS", "IMS_PER_BATCH", "BASE_LR", "WEIGHT_DECAY"):
            assert cfg.SOLVER[key] == alone.SOLVER[key]
        assert cfg.INPUT == alone.INPUT and cfg.SOLVER.AMP == alone.SOLVER.AMP
        its = cfg.DISTILL.TEACHERS if cfg.DISTILL.ENABLED else {}
        assert all(f"R{teacher}" in t.CONFIG and "teacher_seed" in t.WEIGHTS for t in its.values())
    assert {cfg.SEED for cfg in students.values()} == {0, 1}
    assert configs["teacher_seed0"].MODEL.CIFAR_RESNET.DEPTH == teacher


def test_what_has_two_steps_begins_with_the_files_of_the_first(asked):
    configs, _ = asked("R8-R20", "--seeds", "0")
    first = configs["FT_seed0_first"]
    assert (
        first.MODEL.META_ARCHITECTURE == "ParaphraserPretrainer"
        and "FT_no_paraphraser_seed0_first" not in configs
    )
    assert configs["FT_seed0"].DISTILL.PAIRS.ft.PARAPHRASER.endswith("FT_seed0_first/model_final.pth")
    assert configs["FT_k_=_1_seed0_first"].DISTILL.PAIRS.ft.RATE == 1.0
    assert configs["FSP_seed0"].MODEL.WEIGHTS.endswith("FSP_seed0_first/model_final.pth")
    assert configs["FSP_seed0_first"].DISTILL.TASK_WEIGHT == 0.0
    weights = [t.WEIGHTS for t in configs["FEED_2_teachers_seed0"].DISTILL.TEACHERS.values()]
    assert len(weights) == 2 and len({Path(w).parent.name for w in weights}) == 2


def test_runs_that_are_out_of_time_are_left_for_the_next_call(benchmark, asked, monkeypatch, capsys):
    done = benchmark.run

    def run(model, *arguments):
        if model == "KD":
            raise benchmark.OutOfTime("KD_seed0: no time left")
        return done(model, *arguments)

    monkeypatch.setattr(benchmark, "run", lambda model, *a, **options: run(model, *a, *options.values()))
    with pytest.raises(SystemExit, match="1 runs are not finished"):
        asked("R8-R20", "--seeds", "0", "--only", "student alone", "KD")
    assert "KD_seed0: no time left" in capsys.readouterr().out


def test_a_run_that_is_out_of_time_is_stopped_and_one_without_time_is_not_begun(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import runs

    begun = []

    def run(command, **options):
        if command[0] == "git":
            return SimpleNamespace(stdout="abc\n")
        begun.append(options["timeout"])
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(runs.subprocess, "run", run)
    arguments = SimpleNamespace(data=tmp_path, device="cpu", threads=1, minutes=1e6)
    with pytest.raises(runs.OutOfTime, match="goes on from its last checkpoint"):
        runs.train(tmp_path / "one", "c.yaml", [], arguments)
    arguments.minutes = 0.0
    with pytest.raises(runs.OutOfTime, match="no time left"):
        runs.train(tmp_path / "two", "c.yaml", [], arguments)
    assert len(begun) == 1 and begun[0] > 0


def test_a_call_for_some_students_keeps_the_rows_of_the_others(asked):
    asked("R8-R20", "--seeds", "0", "--only", "KD", "student alone")
    _, rows = asked("R8-R20", "--seeds", "1", "--only", "student alone")
    assert [row.split(",")[0] for row in rows] == [
        "teacher",
        "teacher",
        "student alone",
        "student alone",
        "KD",
    ]
    assert len(asked("R8-R20", "--seeds", "1", "--only", "student alone")[1]) == len(rows)


@pytest.mark.slow
def test_the_pair_of_the_papers_trains_and_a_second_call_goes_on(tmp_path):
    for split in ("train", "test"):
        for label in range(10):
            folder = tmp_path / "data/cifar10" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (32, 32), (25 * label, 100 * number, 50)).save(folder / f"{number}.png")
    command = [
        sys.executable,
        str(BENCHMARKS / "classification.py"),
        "R20-R56",
        "--data",
        str(tmp_path / "data"),
    ]
    command += ["--output", str(tmp_path / "runs"), "--results", str(tmp_path / "r.csv"), "--seeds", "0"]
    short = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "8"]
    options = ["--jobs", "2", "--options", *short, "DISTILL.CALIBRATION_BATCHES", "1"]

    def call(*more):
        return subprocess.run([*command, *more, *options], capture_output=True, text=True)

    late = call("--minutes", "0.0001", "--only", "FSP")
    assert late.returncode == 1 and "2 runs are not finished" in late.stderr
    done = call("--only", "FSP", "FT", "FEED, 2 teachers", "FM, L2 + LSH")
    assert done.returncode == 0, done.stderr
    rows = [row.split(",")[0].strip('"') for row in (tmp_path / "r.csv").read_text().splitlines()[1:]]
    assert rows == ["teacher", "teacher", "FSP", "FT", "FEED", "FM"]
    again = call("--only", "FT")
    assert again.returncode == 0 and "min" not in again.stdout  # nothing was trained

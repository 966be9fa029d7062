"""On how many images student and teacher name the same class, counted by hand; the teacher is run once."""

import json

import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from torch import multiprocessing

from det_distill import Distiller, Pair, Pairs
from det_distill.evaluation.agreement import Predictions, Signature, predictions_file, signed
from det_distill.evaluation.classification import ClassificationEvaluator
from det_distill.evaluation.teachers import measure_teachers
from det_distill.losses import L2
from tests.tiny import build, classifier_cfg

BY = Signature("big", "weights data")


def says(*classes, of=3):
    """A model that names one class after another, for images 0, 1, ...; None: nothing that is finite."""
    rows = [torch.full((of,), float("nan")) if c is None else torch.eye(of)[c] for c in classes]
    return lambda batch: [{"logits": rows[sample["image_id"]]} for sample in batch]


def measure(model, folder, images=4, teachers=("big",), name="set"):
    """The results of a model on images of class 0, two at once."""
    samples = [{"image_id": i, "label": 0} for i in range(images)]
    batches = [samples[i : i + 2] for i in range(0, images, 2)]
    evaluator = ClassificationEvaluator(name, output_dir=folder, teachers=teachers)
    return inference_on_dataset(model, batches, evaluator)["classification"]


def test_student_and_teacher_agree_where_both_are_right_or_wrong_in_the_same_way(tmp_path):
    assert "agreement-big" not in measure(signed(says(0, 1, 2, 2), BY), tmp_path)
    assert measure(says(0, 1, 2, 1), tmp_path)["agreement-big"] == 75.0
    assert measure(says(0, 0, 0, 0), tmp_path)["agreement-big"] == 25.0


def test_who_says_nothing_agrees_with_nobody(tmp_path):
    measure(signed(says(None, None, 2, 2), BY), tmp_path)
    assert measure(says(None, 0, 2, None), tmp_path)["agreement-big"] == 25.0


def test_a_teachers_measurement_writes_its_predictions_and_leaves_the_students_file(tmp_path):
    measure(says(0, 0, 1, 1), tmp_path)
    own = (tmp_path / "classification_set.json").read_text()
    measure(signed(says(2, 1, 0, None), BY), tmp_path)
    assert (tmp_path / "classification_set.json").read_text() == own
    kept = Predictions.read(tmp_path, "big", "set")
    assert kept.predicted == {"0": 2, "1": 1, "2": 0, "3": -1} and kept.classes == 3
    assert kept.made_from == "weights data"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classification_set.json", "teacher_big_set.json"]


def test_an_unsigned_model_writes_no_predictions(tmp_path):
    measure(says(0, 0, 1, 1), tmp_path)
    assert not predictions_file(tmp_path, "big", "set").exists()


def test_without_a_teachers_file_its_agreement_is_left_out(tmp_path):
    assert "agreement-big" not in measure(says(0, 0, 1, 1), tmp_path)
    predictions_file(tmp_path, "big", "set").write_text("{")  # cut off
    assert "agreement-big" not in measure(says(0, 0, 1, 1), tmp_path)


def test_predictions_of_fewer_images_or_other_classes_do_not_count(tmp_path, caplog):
    measure(signed(says(0, 0, 1, 1), BY), tmp_path, images=2)
    assert "agreement-big" not in measure(says(0, 0, 1, 1), tmp_path)
    assert "teacher_big_set.json lacks some images" in caplog.text
    measure(signed(says(0, 0, 1, 1, of=7), BY), tmp_path)
    assert "agreement-big" not in measure(says(0, 0, 1, 1), tmp_path)


def test_only_the_teachers_of_the_config_are_compared_each_on_its_own_set(tmp_path):
    measure(signed(says(0, 0, 1, 1), BY), tmp_path)
    measure(signed(says(1, 1, 1, 1), Signature("small", "")), tmp_path)
    found = measure(says(0, 0, 1, 1), tmp_path, teachers=("big", "small"))
    assert (found["agreement-big"], found["agreement-small"]) == (100.0, 50.0)
    assert not [k for k in measure(says(0, 0, 1, 1), tmp_path, teachers=()) if k.startswith("agreement")]
    assert "agreement-big" not in measure(says(0, 0, 1, 1), tmp_path, name="other")


def test_files_whose_names_could_be_confused_are_told_apart_by_what_they_say(tmp_path):
    Predictions("a_b", "x", "c", 2, {"0": 1}).write(tmp_path)
    assert Predictions.read(tmp_path, "a", "b_c") is None
    assert Predictions.read(tmp_path, "a_b", "c").predicted == {"0": 1}


def distiller(teacher_classes=2, seed=1):
    pair = Pair("embedding", "embedding", L2())
    student, teacher = build(classifier_cfg()), build(classifier_cfg(classes=teacher_classes), seed)
    return Distiller(student=student, pairs=Pairs(fm=pair), teachers={"big": teacher})


IMAGES = [
    {"image_id": i, "label": i % 2, "image": torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)}
    for i in range(4)
]


class Evaluate:
    """Measures on IMAGES and counts how often."""

    def __init__(self, folder):
        self.times, self._folder = 0, folder / "inference"

    def __call__(self, model):
        self.times += 1
        evaluator = ClassificationEvaluator("set", output_dir=self._folder, teachers=("big",))
        return inference_on_dataset(model, [IMAGES[:2], IMAGES[2:]], evaluator)


def test_a_teacher_is_run_once_and_again_if_weights_data_or_file_are_others(tmp_path):
    evaluate, model = Evaluate(tmp_path), distiller()
    options = {"data": "a", "compared_on": ("set",)}
    first = measure_teachers(model, evaluate, tmp_path, **options)
    assert measure_teachers(model, evaluate, tmp_path, **options) == first and evaluate.times == 1
    measure_teachers(model, evaluate, tmp_path, **{**options, "data": "b"})
    assert evaluate.times == 2
    predictions_file(tmp_path / "inference", "big", "set").unlink()
    measure_teachers(model, evaluate, tmp_path, **{**options, "data": "b"})
    assert evaluate.times == 3
    measure_teachers(distiller(seed=5), evaluate, tmp_path, **{**options, "data": "b"})
    assert evaluate.times == 4
    assert list(json.loads((tmp_path / "teachers.json").read_text())) == ["big"]


@pytest.mark.parametrize("compared_on", [(), ("set",)])
def test_a_teacher_that_gets_other_pixels_is_measured_again(tmp_path, compared_on):
    evaluate, model = Evaluate(tmp_path), distiller()
    teacher = model.teachers["big"].model
    for times, change in enumerate(
        (
            lambda: None,
            lambda: teacher.pixel_mean.add_(1.0),
            lambda: teacher.pixel_std.mul_(2.0),
            lambda: setattr(teacher, "input_format", "BGR"),
        ),
        start=1,
    ):
        change()
        for _ in range(2):
            measure_teachers(model, evaluate, tmp_path, compared_on=compared_on)
        assert evaluate.times == times


def test_a_student_with_its_teachers_weights_agrees_with_it(tmp_path):
    evaluate, model = Evaluate(tmp_path), distiller()
    measure_teachers(model, evaluate, tmp_path, compared_on=("set",))
    model.student.load_state_dict(model.teachers["big"].model.state_dict())
    assert evaluate(model)["classification"]["agreement-big"] == 100.0


def test_a_teacher_of_other_classes_is_not_measured_and_what_it_said_before_is_deleted(tmp_path):
    evaluate = Evaluate(tmp_path)
    measure_teachers(distiller(), evaluate, tmp_path, compared_on=("set",))
    assert measure_teachers(distiller(teacher_classes=3), evaluate, tmp_path, compared_on=("set",)) == {}
    assert evaluate.times == 1 and not predictions_file(tmp_path / "inference", "big", "set").exists()


def test_a_model_without_teachers_needs_no_file(tmp_path):
    assert measure_teachers(build(classifier_cfg()), Evaluate(tmp_path), tmp_path, compared_on=("set",)) == {}
    assert not list(tmp_path.iterdir())


def _of_two(rank, folder):
    """One of two processes: the first has images 0 to 2, the second 2 and 3."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    samples = [{"image_id": i, "label": 0} for i in ((0, 1, 2) if rank == 0 else (2, 3))]
    results = []
    for model in (signed(says(0, 1, 2, 2), BY), says(0, 1, 2, 1)):
        evaluator = ClassificationEvaluator("set", output_dir=f"{folder}/inference", teachers=("big",))
        results.append(inference_on_dataset(model, [[sample] for sample in samples], evaluator))
    torch.save(results, f"{folder}/results-{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_together_what_one_finds_alone(tmp_path):
    multiprocessing.spawn(_of_two, (str(tmp_path),), nprocs=2)
    together, nothing = (
        torch.load(tmp_path / f"results-{rank}.pth", weights_only=False) for rank in range(2)
    )
    assert nothing == [{}, {}]
    alone = [measure(model, tmp_path / "alone") for model in (signed(says(0, 1, 2, 2), BY), says(0, 1, 2, 1))]
    assert together[1]["classification"]["agreement-big"] == 75.0
    for one, two in zip(alone, together, strict=True):
        assert two["classification"] == pytest.approx(one, nan_ok=True)

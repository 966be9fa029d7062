"""`det-distill teacher-check`: a line for each check, all problems and not only the first."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.cli.main import main
from det_distill.teacher_check import check_teachers, fits, summary
from det_distill.teacher_check.findings import Finding
from tests.tiny import (
    build,
    classifier_cfg,
    detector_cfg,
    distill_cfg,
    save_teacher,
    write_image_folder,
    write_voc,
)

PAIRS = {
    "ft": {"METHOD": "FeatureMimicking", "AT": ["backbone:p3", "backbone:p4"]},
    "fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "LSH": True},
    "kd": {"METHOD": "SoftTarget", "AT": ["roi_heads.box_predictor:0"]},
}
SETS = ("check_shapes", "check_backwards")


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Multiply-adds are counted by tracing, which takes a second; one test does it."""
    if "numbers_that_matter" not in request.node.name:
        monkeypatch.setattr(
            fits, "giga_multiply_adds", lambda model, image: sum(1.0 for _ in model.parameters())
        )


@pytest.fixture
def shapes(tmp_path):
    """Adds data to a config: its own, or with the classes in another order."""
    voc = write_voc(tmp_path / "voc")

    def add(cfg, name=SETS[0], classes=("disc", "square")):
        cfg.DATASETS.VOC[name] = CfgNode({"ROOT": str(voc), "SPLIT": "all", "CLASSES": list(classes)})
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        cfg.OUTPUT_DIR = str(tmp_path / "run")
        cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50, 10
        return cfg

    yield add
    for name in SETS:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def distillation(tmp_path, shapes, teacher=None, pairs=PAIRS, **names):
    node = save_teacher(
        tmp_path, shapes(detector_cfg(width=8, fpn=24) if teacher is None else teacher, **names)
    )
    return shapes(distill_cfg(detector_cfg(), node, pairs))


def check(cfg, tmp_path, **options):
    """Findings as (level, about), and all text."""
    from det_distill.engine import load_config

    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    found = list(check_teachers(load_config(str(tmp_path / "cfg.yaml")), **options))
    return [(f.level, f.about) for f in found], "\n".join(map(str, found))


def test_a_teacher_that_fits_gives_no_error_and_the_numbers_that_matter(tmp_path, shapes):
    cfg = distillation(tmp_path, shapes)
    levels, text = check(cfg, tmp_path, images=2)
    assert not [level for level in levels if level[0] == "error"], text
    assert "teacher.yaml loads" in text and "teacher.pth whole" in text
    assert "the student's classes in the same order: disc, square" in text
    assert "images are normalised once" in text and "times the student's" in text
    for name, place in [
        ("ft_p3", "24 channels, stride 8"),
        ("ft_p4", "16 channels, stride 16"),
        ("kd", "box_predictor:0"),
    ]:
        assert any(f"pair {name}" in line and place in line for line in text.splitlines()), text
    step = next(line for line in text.splitlines() if "every tap fires and every loss is finite" in line)
    assert all(
        f"distill_{term}" in step for term in ("ft_p3", "ft_p4", "fm_box_head_lsh", "kd_box_predictor_0")
    )
    assert "on check_shapes (2 of 6 images)" in text and "not trained yet" in text
    assert "check_shapes (2 of 6 images)" not in DatasetCatalog


def test_every_problem_is_listed_not_only_the_first(tmp_path, shapes):
    cfg = distillation(tmp_path, shapes)
    cfg.DISTILL.TEACHERS.big.WEIGHTS = str(tmp_path / "gone.pth")
    cfg.DISTILL.PAIRS.ft.AT = ["backbone:p3", "backbone:p9", "backbone.bottom_up:res2"]
    cfg.DISTILL.PAIRS.fm.ADAPTER = "none"
    cfg.DISTILL.PAIRS.kd.AT = ["roi_heads.box_predictr:0"]
    cfg.DATASETS.TRAIN = ("check_shaped",)
    levels, text = check(cfg, tmp_path)
    errors = [about for level, about in levels if level == "error"]
    assert errors[:2] == ["data", "teacher big"], text
    assert "gone.pth" in text and "Nearest names: check_shapes" in text
    assert ("ok", "pair ft_p3") in levels
    assert "p9" in text and "box_predictr" in text and {"pair kd"} < set(errors)
    assert "one training step" not in text


def test_a_file_that_does_not_fit_whole_is_an_error_and_the_pairs_are_checked_all_the_same(tmp_path, shapes):
    cfg = distillation(tmp_path, shapes)
    state = build(detector_cfg(width=8, fpn=24)).state_dict()
    del state["roi_heads.box_head.fc1.weight"]
    torch.save({"model": state}, tmp_path / "teacher.pth")
    levels, text = check(cfg, tmp_path, images=0)
    assert [about for level, about in levels if level == "error"] == ["teacher big"]
    assert "roi_heads.box_head.fc1" in text and ("ok", "pair ft_p4") in levels


def test_classes_in_another_order_are_an_error_where_a_pair_compares_scores(tmp_path, shapes):
    names = {"name": SETS[1], "classes": ("square", "disc")}
    for pairs, level in ((PAIRS, "error"), ({"fm": PAIRS["fm"]}, "warning")):
        cfg = distillation(tmp_path, shapes, pairs=pairs, **names)
        levels, text = check(cfg, tmp_path, images=0)
        assert "the student's classes in another order: square, disc; the student disc, square" in text
        assert (level, "teacher big") in levels and levels.count(("error", "teacher big")) == (
            level == "error"
        )


def test_another_number_of_classes_is_not_measured(tmp_path, shapes):
    teacher = detector_cfg(width=8, classes=5)
    node = save_teacher(tmp_path, teacher)
    cfg = shapes(distill_cfg(detector_cfg(), node, {"fm": PAIRS["fm"]}))
    levels, text = check(cfg, tmp_path, images=1)
    assert "it has 5 classes and the student has 2; no pair compares class scores" in text
    assert "not measured on check_shapes" in text and "error" not in dict(levels)


def test_pixels_that_differ_are_told_and_swapped_channels_are_an_error(tmp_path, shapes):
    teacher = detector_cfg(width=8)
    teacher.INPUT.FORMAT, teacher.MODEL.PIXEL_MEAN = "RGB", [123.675, 116.28, 103.53]
    cfg = distillation(tmp_path, shapes, teacher, {"fm": PAIRS["fm"]})
    text = check(cfg, tmp_path, images=0)[1]
    assert "each gets its own, images are normalised twice" in text and "RGB" in text
    teacher.INPUT.FORMAT = "BGR"
    cfg = distillation(tmp_path, shapes, teacher, {"fm": PAIRS["fm"]})
    levels, text = check(cfg, tmp_path, images=0)
    assert ("error", "teacher big") in levels and "in reverse order" in text
    file = torch.load(tmp_path / "teacher.pth", weights_only=True)
    torch.save({**file, "network": {"input_format": "RGB", "classifier": False}}, tmp_path / "teacher.pth")
    assert "were trained on other pixels than its config gives" in check(cfg, tmp_path, images=0)[1]


def test_a_teacher_that_is_no_better_or_smaller_is_a_warning(tmp_path):
    images = write_image_folder(tmp_path / "images")

    def add(cfg):
        cfg.DATASETS.IMAGES.check_images = CfgNode({"ROOT": str(images)})
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("check_images",)
        cfg.OUTPUT_DIR = str(tmp_path / "run")
        return cfg

    node = save_teacher(tmp_path, add(classifier_cfg(depth=8)))
    cfg = add(
        distill_cfg(classifier_cfg(depth=14), node, {"kd": {"METHOD": "SoftTarget", "AT": ["classifier"]}})
    )
    student = build(classifier_cfg(depth=14))
    torch.save({"model": student.state_dict()}, tmp_path / "student.pth")
    levels, text = check(cfg, tmp_path, weights=str(tmp_path / "student.pth"))
    assert ("warning", "teacher big") in levels and "it is the smaller network" in text
    assert "top-1" in text and "student.pth" in text and "error" not in dict(levels)
    DatasetCatalog.remove("check_images")


def test_student_weights_that_are_missing_or_do_not_fit_are_an_error_and_the_teacher_is_measured(
    tmp_path, shapes
):
    cfg = distillation(tmp_path, shapes, pairs={"fm": PAIRS["fm"]})
    torch.save({"model": build(detector_cfg(classes=5)).state_dict()}, tmp_path / "other.pth")
    for file, message in (("nope.pth", "nope.pth"), ("other.pth", "have another shape")):
        levels, text = check(cfg, tmp_path, images=1, weights=str(tmp_path / file))
        assert [about for level, about in levels if level == "error"] == ["student"], text
        assert message in text and any(
            line.split(None, 1)[1].startswith("teacher big:") and "on check_shapes (1 of" in line
            for line in text.splitlines()
        )


def test_the_command_prints_lines_and_a_sum_and_its_status_tells_of_errors(tmp_path, shapes, capsys):
    cfg = distillation(tmp_path, shapes, pairs={"fm": PAIRS["fm"]})
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    words = ["teacher-check", "--config-file", str(tmp_path / "cfg.yaml"), "--images", "0"]
    main(words)
    assert capsys.readouterr().out.endswith("\nno errors, no warnings: a training can begin.\n")
    with pytest.raises(SystemExit) as end:
        main([*words, "DISTILL.TEACHERS.big.WEIGHTS", "gone.pth"])
    assert end.value.code == 1
    assert "\n1 error, no warnings: a training would end" in capsys.readouterr().out
    for more, message in [
        (["DISTILL.ENABLED", "False"], "the config is no distillation"),
        (["--images", "-1"], "--images -1: must be at least 0"),
    ]:
        with pytest.raises(SystemExit, match=f"^det-distill teacher-check: .*{message}"):
            main([*words[:3], *more])


def test_the_last_line_says_what_the_verdicts_mean():
    def of(*levels):
        return summary([Finding(level, "x", "y") for level in levels])

    assert (
        of("ok", "warning")
        == "no errors, 1 warning: a training can begin; see that the warnings are meant so."
    )
    assert of("error", "error", "warning").startswith("2 errors, 1 warning: a training would end")
    assert str(Finding("ok", "teacher a", "fits")) == "ok       teacher a: fits"

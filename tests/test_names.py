"""Keys and names that do not exist: where they stand, and what there is instead."""

import pytest
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from det_distill.config import (
    build_teachers,
    complete_config,
    get_cfg,
    load_teacher,
    merge_file,
    merge_options,
)
from det_distill.names import check_names, did_you_mean
from tests.tiny import build, classifier_cfg, detector_cfg, save_teacher

PAIR = {"METHOD": "SoftTarget", "AT": ["classifier"]}


def distilled():
    cfg = get_cfg()
    cfg.DISTILL.TEACHERS.r56 = CfgNode({"CONFIG": "teacher.yaml"})
    cfg.DISTILL.PAIRS.kd = CfgNode(dict(PAIR))
    complete_config(cfg)
    return cfg


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "INPUT.CLASSIFICATION.CUTMIXX",
            r"INPUT.CLASSIFICATION.CUTMIXX \(did you mean CUTMIX.*; INPUT.CLASSIFICATION has AUGMENTATION,.* CUTMIX",
        ),
        ("solver.max_iter", r"solver.max_iter \(did you mean SOLVER\?\); a config has .*DATASETS, "),
        ("SOLVER.EVAL_PERIOD", r"SOLVER.EVAL_PERIOD \(did you mean TEST.EVAL_PERIOD\?\); SOLVER has .*AMP"),
        ("SOLVER.BASE_LR.X", "SOLVER.BASE_LR.X: SOLVER.BASE_LR has a value and no keys"),
        ("DISTILL.TEACHERS.r20.WEIGHTS", "DISTILL.TEACHERS.r20.WEIGHTS; DISTILL.TEACHERS has r56$"),
        ("DISTILL.PAIRS.ft.WEIGHT", "DISTILL.PAIRS.ft.WEIGHT; DISTILL.PAIRS has kd$"),
        ("DATASETS.VOC.mine.ROOT", "DATASETS.VOC.mine.ROOT; DATASETS.VOC has none$"),
    ],
)
def test_an_unknown_key_of_the_command_line_is_told_with_those_that_there_are(key, message):
    with pytest.raises(ValueError, match=f"^the command line: unknown key {message}"):
        merge_options(distilled(), ["SEED", "1", key, "1"])


def test_an_unknown_key_of_a_file_is_told_with_its_line(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text("SEED: 1\nINPUT:\n  CLASSIFICATION: {CROP: 8,\n    CUTMIXX: 1.0}\n")
    with pytest.raises(ValueError, match=f"^{file}, line 4: unknown key .*CUTMIXX .did you mean CUTMIX"):
        merge_file(get_cfg(), str(file))


def test_an_unknown_key_is_looked_for_in_the_files_that_a_file_is_based_on(tmp_path):
    (tmp_path / "Base.yaml").write_text("_BASE_: 'Root.yaml'\nSEED: 1\n")
    (tmp_path / "Root.yaml").write_text("SOLVER:\n  MAX_ITERS: 3\n")
    for bases in ("Base.yaml", "['Base.yaml']"):
        (tmp_path / "own.yaml").write_text(f"_BASE_: {bases}\nSEED: 2\n")
        with pytest.raises(ValueError, match=f"^{tmp_path}/Root.yaml, line 2: unknown key SOLVER.MAX_ITERS"):
            merge_file(get_cfg(), str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {BASE_LR: high}", "Type mismatch.*SOLVER.BASE_LR"),
        ("SOLVER: [", "is no YAML"),
        (
            "DISTILL: {TEACHERS: {r20: {WEIGHT: x}}}",
            "DISTILL.TEACHERS.r20: unknown key WEIGHT; valid are CONFIG",
        ),
        (
            f"DISTILL: {{PAIRS: {{kd: {PAIR}, ft: {{WEIGHT: 2.0}}}}}}",
            "DISTILL.PAIRS.ft: needs METHOD.* If another one is meant, there are kd",
        ),
    ],
)
def test_any_mistake_of_a_file_is_told_with_the_name_of_the_file(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"^{tmp_path}/wrong.yaml:? ?{message}"):
        merge_file(get_cfg(), str(tmp_path / "wrong.yaml"))


def test_a_teacher_without_a_config_names_the_teachers_that_could_be_meant():
    cfg = distilled()
    cfg.DISTILL.TEACHERS = CfgNode({"r20": {"WEIGHTS": "x.pth"}, "r56": {"CONFIG": "teacher.yaml"}})
    complete_config(cfg)
    with pytest.raises(
        ValueError, match="TEACHERS.r20 has no CONFIG.*If another one is meant, there are r56"
    ):
        build_teachers(cfg)


def test_a_wrong_option_of_a_teacher_is_told_with_the_name_of_the_teacher(tmp_path):
    node = save_teacher(tmp_path, classifier_cfg())
    with pytest.raises(ValueError, match="^OPTS of teacher 'r56': unknown key MODEL.CIFAR_RESNET.DEPHT"):
        load_teacher(*node.values(), options=["MODEL.CIFAR_RESNET.DEPHT", 8], name="r56")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("SEED 1 --resume", "options come before the KEY VALUE pairs: put --resume in front of SEED"),
        ("SEED 1 --num-gpus 2 --resume", "put --num-gpus --resume in front of SEED"),
        ("SOLVER.MAX_ITER=3", "'SOLVER.MAX_ITER=3' is written with a space: SOLVER.MAX_ITER 3"),
        ("SEED 1 SOLVER.MAX_ITER=3", "is written with a space: SOLVER.MAX_ITER 3"),
        ("SEED = 1", "pairs are written with a space and without '='"),
        ("SEED 1 SOLVER.MAX_ITER", "SOLVER.MAX_ITER has no value"),
        ("SOLVER.STEPS (10, 20) SEED 1", r"unknown key 20\).* A value with spaces stands in quotes"),
    ],
)
def test_words_that_are_no_pairs_of_key_and_value_are_an_error_that_says_how_they_are_written(words, message):
    options = default_argument_parser().parse_args(["--config-file", "x.yaml", *words.split()]).opts
    with pytest.raises(ValueError, match=f"^the command line: .*{message}"):
        merge_options(get_cfg(), options)


def test_a_value_may_have_an_equals_sign():
    cfg = get_cfg()
    merge_options(cfg, ["OUTPUT_DIR", "output/lr=1"])
    assert cfg.OUTPUT_DIR == "output/lr=1"


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        (
            "MODEL.BACKBONE.NAME",
            "build_swin",
            "; there are build_cifar_resnet_backbone, .*build_vgg_backbone",
        ),
        ("MODEL.BACKBONE.NAME", "build_vgg", r" \(did you mean build_vgg_backbone.*\?\)"),
        (
            "MODEL.META_ARCHITECTURE",
            "ImageClasifier",
            r" \(did you mean ImageClassifier\?\); there are Distiller",
        ),
        ("MODEL.ROI_HEADS.NAME", "StandardRoIHead", r" \(did you mean StandardROIHeads"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "NoRPN", ".* PrecomputedProposals, RPN"),
    ],
)
def test_a_class_that_is_not_registered_is_an_error_that_lists_those_that_are(key, name, message):
    cfg = detector_cfg()
    cfg.merge_from_list([key, name])
    with pytest.raises(ValueError, match=f"^{key} '{name}' is unknown{message}"):
        build(cfg)


def test_names_that_stand_for_nothing_or_are_not_used_are_no_errors():
    cfg = detector_cfg()
    cfg.MODEL.ROI_BOX_HEAD.NAME = ""
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.DISTILL.STUDENT_ARCHITECTURE = "Unused"
    check_names(cfg)
    cfg.MODEL.META_ARCHITECTURE = "Distiller"
    with pytest.raises(ValueError, match="^DISTILL.STUDENT_ARCHITECTURE 'Unused' is unknown"):
        check_names(cfg)


def test_nothing_near_is_not_mentioned():
    assert did_you_mean("zzz", ["CUTMIX"]) == "" and did_you_mean("cutmix", ["CUTMIX"]).endswith("CUTMIX?)")

"""YAML: pairs and teachers are named mappings, every option can be overridden, every mistake is told by name."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill import Distiller, RCNNTeacher
from det_distill.config import complete_config, get_cfg, load_teacher, merge_options
from det_distill.model_zoo import find_config, get_config, get_config_file, published_weights
from det_distill.targets import Step
from tests.tiny import batch, build, classifier_cfg, detector_cfg, distill_cfg, save_teacher

MIMIC = {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"], "ADAPTER": "auto"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"), detector_cfg(width=8, fpn=24))


def made(teacher, **pairs):
    return build_model(distill_cfg(detector_cfg(), teacher, pairs))


def test_the_registry_builds_a_distiller_with_named_pairs(teacher):
    model = made(
        teacher,
        fm={**MIMIC, "AT": ["backbone:p3", "backbone.bottom_up:res4"]},
        one={**MIMIC, "AT": "roi_heads.box_head"},
        two={"METHOD": "FeatureMimicking", "STUDENT": "backbone:p4", "TEACHER": "backbone:p4", "WEIGHT": 3.0},
    )
    assert isinstance(model, Distiller) and isinstance(model.teachers["big"], RCNNTeacher)
    assert set(model.distill) == {"fm_p3", "fm_res4", "one", "two"}
    assert model.distill["two"].weights == {"l2": 3.0}
    assert model.distill["fm_p3"].strides == (8,)


def test_channels_that_differ_get_an_adapter_or_an_error_that_says_which_to_add(teacher):
    assert made(teacher, fm=MIMIC).distill["fm_p3"].student_adapter.weight.shape == (24, 16, 1, 1)
    with pytest.raises(ValueError, match=r"pair 'fm_p3'.*Conv1x1\(16, 24\)"):
        made(teacher, fm={**MIMIC, "ADAPTER": "none"})


def test_every_option_can_be_overridden_from_the_command_line_after_completion(teacher):
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": MIMIC})
    cfg.merge_from_list(
        ["DISTILL.PAIRS.fm.START", "7", "DISTILL.PAIRS.fm.LSH", "True", "DISTILL.PAIRS.fm.STD", "0.5"]
    )
    node = cfg.DISTILL.PAIRS.fm
    assert (node.START, node.LSH, node.STD, node.STOP) == (7, True, 0.5, -1)


def test_a_config_survives_a_yaml_round_trip(teacher, tmp_path):
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": MIMIC})
    (tmp_path / "c.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "c.yaml"))
    complete_config(again)
    assert again.DISTILL.dump() == cfg.DISTILL.dump()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"x": {**MIMIC, "WIEGHT": 1.0}}, "DISTILL.PAIRS.x: unknown key WIEGHT; valid are METHOD, AT"),
        ({"x": {"AT": ["backbone:p3"]}}, "needs METHOD, one of AttentionTransfer, BoxRegression"),
        ({"x": {**MIMIC, "METHOD": "Nothing"}}, "'Nothing' is unknown"),
        ({"x": {**MIMIC, "AT": []}}, "either AT"),
        ({"x": {**MIMIC, "STUDENT": "backbone:p3"}}, "either AT"),
        ({"x": {"METHOD": "FeatureMimicking", "STUDENT": "backbone:p3"}}, "either AT"),
        ({"x": {**MIMIC, "AT": ["backbone:p9"]}}, "p2, p3, p4, p5, p6"),
        ({"x": {**MIMIC, "AT": ["bakcbone:p3"]}}, "Nearest: backbone"),
        ({"x": {**MIMIC, "TEACHER_NAME": "huge"}}, "the teachers are big"),
        ({"x": {**MIMIC, "L2": False}}, "has no loss"),
        ({"x": {**MIMIC, "ADAPTER": "conv"}}, "ADAPTER 'conv'"),
        ({"x": {**MIMIC, "STOP": 0}}, "schedule"),
        ({"x": {"METHOD": "FactorTransfer", "AT": ["backbone:p3"]}}, "needs a trained paraphraser"),
        ({"x": {"METHOD": "FeatureMimicking", "STUDENT": "backbone:p3", "TEACHER": "backbone:p4"}}, "stride"),
        ({"x": {**MIMIC, "AT": ["roi_heads.box_pooler"]}}, "STUDENT_CHANNELS"),
        ({"x": {**MIMIC, "AT": [["backbone:p3", "backbone:p4"]]}}, "One list level less"),
        ({"x": {**MIMIC, "SELECT": "big"}}, "SELECT 'big'"),
        ({"x": {**MIMIC, "SELECT": "teacher_correct"}}, "goes with vectors"),
        ({"x": {**MIMIC, "TEACHER_NAMES": ["big", "huge"]}}, "the teachers are big"),
        ({"x": {**MIMIC, "TEACHER_NAMES": ["big"], "TEACHER_NAME": "big"}}, "not both"),
        ({"x": {**MIMIC, "TEACHER_NAMES": ["big"], "AGGREGATE": "max"}}, "AGGREGATE 'max'"),
        ({"x": {**MIMIC, "TEACHER_NAMES": ["big", "big"]}}, "named twice"),
        ({"x": {"METHOD": "SoftTarget", "AT": ["backbone:p3"]}}, "'backbone:p3' gives features"),
        ({"x": {"METHOD": "DarkRank", "AT": ["backbone:p3"]}}, "too few images to rank"),
        ({"x": {**MIMIC, "L2_WEIGHT": -1.0}}, "L2_WEIGHT: -1.0 is not a finite number, at least 0"),
        ({"x": {**MIMIC, "METHOD": "FocalGlobal", "RELATION_WEIGHT": -1}}, "RELATION_WEIGHT"),
        ({"x": {"METHOD": "ReviewFusion", "AT": ["backbone:p3"], "MID_CHANNELS": -4}}, "MID_CHANNELS"),
    ],
)
def test_mistakes_are_told_when_built(teacher, pairs, message):
    with pytest.raises(ValueError, match=message):
        made(teacher, **pairs)


def test_two_pairs_of_one_name_are_an_error(teacher):
    with pytest.raises(ValueError, match="a second pair named 'fm_p3'"):
        made(teacher, fm=MIMIC, fm_p3={**MIMIC, "AT": "backbone:p3"})


def test_whole_numbers_stand_for_floats_in_files_and_on_the_command_line(teacher):
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": {**MIMIC, "WEIGHT": 7}})
    assert cfg.DISTILL.PAIRS.fm.WEIGHT == 7.0 and isinstance(cfg.DISTILL.PAIRS.fm.WEIGHT, float)
    merge_options(
        cfg, ["DISTILL.PAIRS.fm.WEIGHT", "10", "DISTILL.PAIRS.fm.START", "3", "SOLVER.BASE_LR", "1"]
    )
    assert (cfg.DISTILL.PAIRS.fm.WEIGHT, cfg.DISTILL.PAIRS.fm.START, cfg.SOLVER.BASE_LR) == (10.0, 3, 1.0)


def test_hashing_is_guarded_where_nothing_else_holds_the_norm_and_only_there(teacher):
    def ratio(**options):
        node = {"METHOD": "FeatureMimicking", "AT": "roi_heads.box_head", "LSH": True, **options}
        return made(teacher, h=node).distill["h"].losses["lsh"].max_norm_ratio

    assert ratio() is None
    assert ratio(L2=False) == ratio(BIAS="zero") == 2.0
    assert ratio(L2=False, DISTANCE="l2") is None
    assert ratio(L2=False, MAX_NORM_RATIO=-1.0) is None
    assert ratio(MAX_NORM_RATIO=3.0) == 3.0


def test_undeclared_channels_can_be_given(teacher):
    at = {"AT": ["roi_heads.box_pooler"], "STUDENT_CHANNELS": 16, "TEACHER_CHANNELS": 24}
    assert set(made(teacher, roi={**MIMIC, **at, "ADAPTER": "linear"}).distill) == {"roi_box_pooler"}
    at = {"AT": ["proposal_generator.rpn_head:0:1"]}
    assert set(made(teacher, rpn={**MIMIC, **at}).distill) == {"rpn_rpn_head_0_1"}


def test_each_of_several_teachers_gets_a_pair_and_their_sum_or_mean_counts(teacher):
    cfg = distill_cfg(
        detector_cfg(), teacher, {"fm": {**MIMIC, "TEACHER_NAMES": ["big", "second"], "WEIGHT": 6}}
    )
    cfg.DISTILL.TEACHERS.second = CfgNode(dict(teacher))
    complete_config(cfg)
    assert {n: p.weights["l2"] for n, p in build_model(cfg).distill.by_name().items()} == {
        "fm_big_p3": 6.0,
        "fm_second_p3": 6.0,
    }
    merge_options(cfg, ["DISTILL.PAIRS.fm.TEACHER_NAMES", "['*']", "DISTILL.PAIRS.fm.AGGREGATE", "mean"])
    assert {p.weights["l2"] for p in build_model(cfg).distill.by_name().values()} == {3.0}


def test_what_is_to_be_trained_and_the_weight_of_the_task_come_from_the_config(teacher):
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": MIMIC})
    cfg.DISTILL.TASK_WEIGHT, cfg.DISTILL.TRAIN_ONLY = 0.0, ["backbone.bottom_up.res4"]
    model = build_model(cfg).train()
    trained = {n for n, p in model.student.named_parameters() if p.requires_grad}
    assert trained and all(n.startswith("backbone.bottom_up.res4.") for n in trained)
    with EventStorage():
        losses = model(batch())
    assert losses["distill_fm_p3_l2"] > 0
    assert not any(value for name, value in losses.items() if not name.startswith("distill_"))
    cfg.DISTILL.TRAIN_ONLY = ["backbone.bottom_up.res9"]
    with pytest.raises(ValueError, match="Nearest: backbone.bottom_up.res"):
        build_model(cfg)


def test_rows_of_the_foreground_and_rows_that_the_teacher_gets_right_can_be_selected(teacher):
    node = {"METHOD": "FeatureMimicking", "AT": "roi_heads.box_head"}
    model = made(
        teacher, fg={**node, "SELECT": "foreground"}, right={**node, "SELECT": "teacher_correct"}
    ).train()
    with EventStorage():
        torch.manual_seed(0)
        _, student, teachers = model.observe(batch())
    labels = torch.cat([p.gt_classes for p in student["roi_heads:0"]])
    own, its = student["roi_heads.box_head"], teachers["big"]["roi_heads.box_head"]
    right = teachers["big"]["roi_heads.box_predictor:0"].argmax(1) == labels
    for name, keep in (("fg", labels < 2), ("right", right)):
        (value,) = model.distill[name](student, teachers["big"], Step(batch=batch())).values()
        assert 0 < keep.sum() < len(labels)
        torch.testing.assert_close(value, (own[keep] - its[keep]).square().mean())


def with_a_second(student, first, second, pair):
    """A student's config with two teachers."""
    cfg = distill_cfg(student, first, {"x": pair})
    cfg.DISTILL.TEACHERS.second = CfgNode(dict(second))
    complete_config(cfg)
    return cfg


def test_rows_that_a_teacher_of_other_classes_gets_right_are_refused(teacher, tmp_path):
    other = save_teacher(tmp_path, detector_cfg(classes=9), "nine")
    node = {"METHOD": "FeatureMimicking", "AT": "roi_heads.box_head", "SELECT": "teacher_correct"}
    message = "^DISTILL.PAIRS.x: SELECT 'teacher_correct' .*student has 2 classes, the teacher 9"
    with pytest.raises(ValueError, match=message):
        made(other, x=node)
    cfg = with_a_second(detector_cfg(), teacher, other, {**node, "TEACHER_NAMES": ["*"]})
    with pytest.raises(ValueError, match=message):
        build_model(cfg)
    merge_options(cfg, ["DISTILL.PAIRS.x.SELECT", "foreground"])
    assert set(build_model(cfg).distill) == {"x_big", "x_second"}


def test_teachers_whose_logits_make_one_target_must_be_of_the_students_classes_all(teacher, tmp_path):
    other = save_teacher(tmp_path, detector_cfg(classes=9), "nine")
    node = {"METHOD": "SoftTarget", "AT": "roi_heads.box_predictor:0", "TEACHER_NAMES": ["big", "second"]}
    with pytest.raises(ValueError, match="^DISTILL.PAIRS.x: .* has 3 logits.* has 10"):
        build_model(with_a_second(detector_cfg(), teacher, other, node))


def test_an_aggregate_is_refused_where_several_teachers_make_one_target(teacher):
    node = {"METHOD": "SoftTarget", "AT": "roi_heads.box_predictor:0", "TEACHER_NAMES": ["*"]}
    cfg = with_a_second(detector_cfg(), teacher, teacher, {**node, "AGGREGATE": "mean"})
    with pytest.raises(ValueError, match="^DISTILL.PAIRS.x: AGGREGATE 'mean'.*ENSEMBLE: 'none'"):
        build_model(cfg)
    merge_options(cfg, ["DISTILL.PAIRS.x.ENSEMBLE", "none"])
    assert {p.weights[""] for p in build_model(cfg).distill.by_name().values()} == {0.5}
    merge_options(cfg, ["DISTILL.PAIRS.x.ENSEMBLE", "logits", "DISTILL.PAIRS.x.AGGREGATE", "sum"])
    assert list(build_model(cfg).distill) == ["x"]


def test_the_foreground_of_rows_that_are_images_is_refused(tmp_path):
    node = {"METHOD": "FeatureMimicking", "AT": "embedding", "SELECT": "foreground"}
    with pytest.raises(ValueError, match="^DISTILL.PAIRS.x: SELECT 'foreground'.*every row is an object"):
        build_model(
            distill_cfg(classifier_cfg(), save_teacher(tmp_path, classifier_cfg(depth=14)), {"x": node})
        )


def test_a_teacher_needs_config_and_weights(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"TEACHERS\.big has no CONFIG"):
        made({"WEIGHTS": teacher["WEIGHTS"]}, fm=MIMIC)
    with pytest.raises(ValueError, match="'big' has no WEIGHTS"):
        made({"CONFIG": teacher["CONFIG"]}, fm=MIMIC)
    with pytest.raises(FileNotFoundError, match="no file here"):
        made({"CONFIG": "no/such.yaml", "WEIGHTS": teacher["WEIGHTS"]}, fm=MIMIC)
    with pytest.raises(
        ValueError, match=r"TEACHERS\.big: unknown key WEIGHT; valid are CONFIG, WEIGHTS, OPTS"
    ):
        made({**teacher, "WEIGHT": "x"}, fm=MIMIC)


def test_a_teacher_of_another_format_and_class_count_is_built_from_its_own_config(tmp_path):
    cfg = detector_cfg(classes=9)
    cfg.INPUT.FORMAT = "RGB"
    teacher = load_teacher(*save_teacher(tmp_path, cfg).values())
    assert (teacher.input_format, teacher.model.roi_heads.num_classes) == ("RGB", 9)


def test_a_distilled_config_can_teach(teacher, tmp_path):
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": MIMIC})
    loaded = load_teacher(*save_teacher(tmp_path, cfg, seed=3).values())
    assert set(loaded.model.state_dict()) == set(build(detector_cfg()).state_dict())


def test_unnamed_overrides_of_a_teacher_reach_its_config(tmp_path):
    node = save_teacher(tmp_path, detector_cfg())
    loaded = load_teacher(
        **{k.lower(): v for k, v in node.items()}, options=["MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"]
    )
    assert loaded.model.pixel_mean.flatten().tolist() == [1, 2, 3]


def test_the_zoo_finds_ours_then_detectron2s():
    assert isinstance(get_config("BCCD-Detection/student_lcnet_fpn_ft.yaml"), CfgNode)
    assert get_config_file("BCCD-Detection/Base-BCCD.yaml").endswith("Base-BCCD.yaml")
    assert find_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").endswith("faster_rcnn_R_50_FPN_1x.yaml")
    assert published_weights("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").endswith("model_final_b275ba.pkl")
    assert published_weights("BCCD-Detection/Base-BCCD.yaml") == ""
    with pytest.raises(FileNotFoundError, match="BCCD-Detection/Base-BCCD.yaml"):
        get_config_file("nothing.yaml")

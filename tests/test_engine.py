"""Training by config: exact resume, calibration, the teachers' AP, and the plain baseline from the same file."""

import json

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from det_distill.engine import Trainer, load_config, setup
from tests.tiny import build, detector_cfg, distill_cfg, save_teacher, write_voc

PAIRS = {
    "ft": {"METHOD": "FactorTransfer", "AT": ["backbone:p2", "backbone:p3"], "REDUCTION": "scaled"},
    "fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "WEIGHT": 1e-3, "LSH": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def cfg(folder):
    student, teacher = detector_cfg(norm="BN"), detector_cfg(width=8, fpn=24)
    voc = CfgNode({"ROOT": str(write_voc(folder / "voc")), "SPLIT": "all"})
    for node in (student, teacher):
        node.DATASETS.VOC.shapes = voc
        node.DATASETS.TRAIN = node.DATASETS.TEST = ("shapes",)
        node.SOLVER.BASE_LR = 1e-3
    made = distill_cfg(student, save_teacher(folder, teacher), PAIRS)
    made.DISTILL.PAIRS.ft.PARAPHRASER = str(folder / "paraphraser" / "model_final.pth")
    made.DISTILL.CALIBRATION_BATCHES = 2
    made.DISTILL.EVAL_TEACHERS = False
    made.SOLVER.IMS_PER_BATCH = 2
    run(
        folder,
        made,
        "paraphraser",
        "MODEL.META_ARCHITECTURE",
        "ParaphraserPretrainer",
        "SOLVER.MAX_ITER",
        "2",
    )
    (folder / "base.yaml").write_text(made.dump())
    return made


def run(folder, cfg, name, *options, resume=False, seed=7):
    file = folder / f"{name}.yaml"
    file.write_text(cfg.dump())
    loaded = load_config(str(file), ["OUTPUT_DIR", str(folder / name), *options])
    torch.manual_seed(seed)
    trainer = Trainer(loaded)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def model_of(folder, name, file="model_final.pth"):
    return torch.load(folder / name / file)["model"]


def metrics(folder, name):
    """All that a run logged, the last value of each."""
    logged = {}
    for line in (folder / name / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    return logged


def test_resume_is_exact(folder, cfg):
    """20 iterations straight, and 10 + a new process' worth of objects + 10, end in the same weights."""
    steps = ("SOLVER.STEPS", "(14,)", "DATASETS.TEST", "()")
    run(folder, cfg, "straight", "SOLVER.MAX_ITER", "20", *steps)
    (folder / "interrupted").mkdir()
    (folder / "straight" / "model_0000009.pth").rename(folder / "interrupted" / "model_0000009.pth")
    trainer = run(folder, cfg, "interrupted", "SOLVER.MAX_ITER", "20", *steps, resume=True, seed=123)
    assert trainer.start_iter == 10
    straight, resumed = model_of(folder, "straight"), model_of(folder, "interrupted")
    assert straight.keys() == resumed.keys()
    assert any(k.startswith("distill.ft_p2.student_adapter") for k in straight)
    assert "distill.fm_box_head.losses.lsh.bias" in straight
    different = [k for k in straight if not torch.equal(straight[k], resumed[k])]
    assert not different
    begin = build_model(load_config(str(folder / "base.yaml"))).state_dict()
    assert any(not torch.equal(begin[k], straight[k]) for k in begin if "student_adapter" in k)


EVERYTHING = {
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.BASE_LR": "1e-4",
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    "SOLVER.WARMUP_ITERS": "2",
    "SOLVER.CLIP_GRADIENTS.ENABLED": "True",
    "SOLVER.AMP.ENABLED": "True",
    "SOLVER.AMP.PRECISION": "bfloat16",
    "SOLVER.ACCUMULATE": "2",
    "SOLVER.EMA.DECAY": "0.9",
    "SOLVER.CHECKPOINT_PERIOD": "3",
    "SOLVER.MAX_ITER": "6",
    "DATASETS.TEST": "()",
}


def test_resume_is_exact_with_adam_a_cosine_mixed_precision_accumulation_and_an_average(folder, cfg):
    options = [word for option in EVERYTHING.items() for word in option]
    trainer = run(folder, cfg, "all_straight", *options)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.0  # behind the last step
    (folder / "all_interrupted").mkdir()
    (folder / "all_straight" / "model_0000002.pth").rename(folder / "all_interrupted" / "model_0000002.pth")
    assert run(folder, cfg, "all_interrupted", *options, resume=True, seed=123).start_iter == 3
    for file in ("model_final.pth", "model_ema.pth"):
        straight, resumed = (model_of(folder, name, file) for name in ("all_straight", "all_interrupted"))
        assert straight.keys() == resumed.keys()
        assert not [k for k in straight if not torch.equal(straight[k], resumed[k])]
    assert not any(k.startswith("distill.") for k in straight)
    final = model_of(folder, "all_straight")
    assert any(not torch.equal(final[k], straight[k]) for k in straight)
    whole = torch.load(folder / "all_interrupted" / "model_final.pth")
    assert whole["trainer"]["hooks"]["WeightAverage"]["steps"] == 6


def test_the_averaged_weights_are_measured_beside_the_students(folder, cfg):
    options = ("SOLVER.EMA.DECAY", "0.5", "SOLVER.EMA.WARMUP", "False", "SOLVER.MAX_ITER", "2")
    trainer = run(folder, cfg, "averaged", *options, "TEST.EVAL_PERIOD", "1", "SOLVER.BASE_LR", "0.0")
    line = metrics(folder, "averaged")
    assert {"ema/bbox/AP50", "ema/voc/AP50", "bbox/AP50", "voc/AP50"} < set(line)
    assert set(trainer._last_eval_results) == {"bbox", "voc"}
    final, average = (model_of(folder, "averaged", f"model_{name}.pth") for name in ("final", "ema"))
    parameters = [k for k, _ in trainer.model.student.named_parameters()]
    assert all(torch.equal(final[k], average[k]) for k in parameters)  # at a rate of 0
    norm = "backbone.bottom_up.stem.conv1.norm.running_mean"
    assert not torch.equal(final[norm], average[norm])


def test_the_optimizer_and_the_step_are_those_of_the_config_and_a_wrong_one_is_told_when_built(folder, cfg):
    place = ["OUTPUT_DIR", str(folder / "wrong_solver")]
    trainer = Trainer(load_config(str(folder / "base.yaml"), [*place, "SOLVER.OPTIMIZER", "Adam"]))
    assert type(trainer.optimizer) is torch.optim.Adam and trainer.model is trainer._trainer.model
    for key, value, message in [
        ("SOLVER.OPTIMIZER", "Lion", "SOLVER.OPTIMIZER 'Lion' is unknown"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "SOLVER.LR_SCHEDULER_NAME 'Cosine' is unknown"),
        ("TEST.BEST", "ema/bbox/AP", "TEST.BEST 'ema/bbox/AP' is not measured: SOLVER.EMA.DECAY is 0"),
        ("SOLVER.ACCUMULATE", "4", "2 images .* cannot be split into 4 equal parts"),
        ("SOLVER.EMA.DECAY", "1.5", "SOLVER.EMA.DECAY 1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            Trainer(load_config(str(folder / "base.yaml"), [*place, key, value]))


def test_hash_biases_are_estimated_before_the_first_step_and_leave_the_run_as_it_was(folder, cfg):
    trainer = Trainer(load_config(str(folder / "base.yaml"), ["OUTPUT_DIR", str(folder / "calibrated")]))
    lsh = trainer.model.distill["fm_box_head"].losses["lsh"]
    statistics = trainer.model.student.backbone.bottom_up.stem.conv1.norm.running_mean.clone()
    assert lsh.needs_calibration and not lsh.bias.any()
    trainer.iter = trainer.start_iter = 0
    state = torch.get_rng_state()
    next(h for h in trainer._hooks if type(h).__name__ == "CalibrateHashes").before_train()
    assert not lsh.needs_calibration and lsh.bias.any()
    norm = trainer.model.student.backbone.bottom_up.stem.conv1.norm
    assert torch.equal(norm.running_mean, statistics) and norm.training
    assert torch.equal(torch.get_rng_state(), state)


def test_switched_off_it_is_the_plain_student_bitwise(folder, cfg):
    options = ("SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()")
    run(folder, cfg, "off", "DISTILL.ENABLED", "False", *options)
    plain = cfg.clone()
    plain.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    run(folder, plain, "plain", *options)
    off, expected = model_of(folder, "off"), model_of(folder, "plain")
    assert off.keys() == expected.keys()
    assert all(torch.equal(off[k], expected[k]) for k in expected)


def test_the_student_begins_with_the_same_weights_and_random_stream_distilled_or_not(folder, cfg):
    torch.manual_seed(1)
    plain = build(cfg, seed=1)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    distilled = build_model(cfg)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in distilled.student.state_dict().items())


def test_the_teachers_ap_is_measured_once_and_logged(folder, cfg):
    options = ("SOLVER.MAX_ITER", "2", "DISTILL.EVAL_TEACHERS", "True")
    run(folder, cfg, "measured", *options)
    file = folder / "measured" / "teachers.json"
    found = json.loads(file.read_text())["big"]
    assert {"AP", "AP50"} <= set(found["results"]["bbox"]) and "AP50" in found["results"]["voc"]
    assert {"big/bbox/AP50", "bbox/AP50"} < set(metrics(folder, "measured"))
    before = file.stat().st_mtime_ns
    trainer = run(
        folder, cfg, "measured", "SOLVER.MAX_ITER", "3", "DISTILL.EVAL_TEACHERS", "True", resume=True
    )
    hook = next(h for h in trainer._hooks if type(h).__name__ == "EvaluateTeachers")
    hook._evaluate = lambda _: pytest.fail("measured again")
    hook.before_train()
    assert file.stat().st_mtime_ns >= before


def test_every_term_is_a_curve_of_its_own(folder, cfg):
    run(folder, cfg, "curves", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    line = metrics(folder, "curves")
    assert {"distill_ft_p2", "distill_ft_p3", "distill_fm_box_head_l2", "distill_fm_box_head_lsh"} < set(line)


def test_the_reconstruction_error_is_reported_raw_and_scaled(folder, cfg):
    line = metrics(folder, "paraphraser")
    assert {"loss_reconstruct_p2", "reconstruct_scaled_p2", "reconstruction/p2_scaled"} < set(line)


def test_a_gpu_that_is_not_there_means_the_cpu(folder, cfg):
    loaded = load_config(str(folder / "base.yaml"), ["MODEL.DEVICE", "cuda"])
    assert loaded.MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "shapes" in DatasetCatalog


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.MAX_ITERS", "3"], "^the command line: unknown key SOLVER.MAX_ITERS .did you mean MAX_ITER"),
        (["SOLVER.MAX_ITER"], "^the command line: SOLVER.MAX_ITER has no value"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn"], "^MODEL.BACKBONE.NAME 'build_resnet_fpn' is unknown"),
        (["DISTILL.PAIRS.ft.METHOD", "Nothing"], "'Nothing' is unknown"),
        (["DATASETS.TRAIN", "('shapez',)"], None),
    ],
)
def test_a_wrong_override_is_an_error_for_people(folder, cfg, options, message):
    if message is None:
        arguments = default_argument_parser().parse_args(
            ["--config-file", str(folder / "base.yaml"), *options]
        )
        arguments.opts += ["OUTPUT_DIR", str(folder / "wrong")]
        with pytest.raises(ValueError, match="'shapez' is not registered. Nearest names: shapes"):
            setup(arguments)
    else:
        with pytest.raises(ValueError, match=message):
            load_config(str(folder / "base.yaml"), options)

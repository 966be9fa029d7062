"""LazyConfig: the config is the call, and detectron2's own training script runs it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_argument_parser, hooks

from det_distill import Distiller
from det_distill.model_zoo import get_config_file
from tests.tiny import build, detector_cfg, save_teacher, write_voc

CONFIG = "lazy/faster_rcnn_R18_FPN_from_R50.py"
PAIRS = ("fpn_p3_l2", "fpn_p4_l2", "box_l2", "box_lsh")


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lazy")
    root = write_voc(folder / "voc")
    teacher_cfg = detector_cfg(width=8, fpn=32)
    teacher_cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 48
    teacher = save_teacher(folder, teacher_cfg)
    sizes = "model.student.backbone.out_channels=32 model.student.proposal_generator.head.in_channels=32"
    return [
        f"model.teachers.r50.config={teacher['CONFIG']}",
        f"model.teachers.r50.weights={teacher['WEIGHTS']}",
        *sizes.split(),
        "model.student.roi_heads.num_classes=2",
        "model.student.roi_heads.box_head.fc_dims=[48]",
        "model.student.roi_heads.box_head.input_shape.channels=32",
        "model.student.roi_heads.box_predictor.input_shape.channels=48",
        "model.student.roi_heads.batch_size_per_image=16",
        "model.pairs.box.HASHES=64",
        "model.pairs.fpn.WEIGHT=5e-1",
        *[
            f"dataloader.{part}.dataset.names.{k}={v}"
            for part in ("train", "test")
            for k, v in (("root", root), ("split", "all"))
        ],
        "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
        "dataloader.test.mapper.augmentations.0.short_edge_length=64",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        f"train.output_dir={folder / 'output'}",
        "train.device=cpu",
        "train.max_iter=2",
        "train.eval_period=2",
    ]


def load(overrides):
    cfg = LazyConfig.load(get_config_file(CONFIG))
    return LazyConfig.apply_overrides(cfg, overrides)


def test_the_example_trains_evaluates_and_leaves_a_plain_students_checkpoint(overrides):
    """The steps of detectron2's tools/lazyconfig_train_net.py, with detectron2's own objects."""
    cfg = load(overrides)
    model = instantiate(cfg.model)
    assert isinstance(model, Distiller) and model.distill["fpn_p3"].weights == {"l2": 0.5}
    cfg.optimizer.params.model = model
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), instantiate(cfg.optimizer))
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    os.makedirs(cfg.train.output_dir, exist_ok=True)
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    trainer.train(0, cfg.train.max_iter)
    assert {f"distill_{pair}" for pair in PAIRS} <= set(trainer.storage.latest())
    checkpointer.save("model_final")
    state = torch.load(Path(cfg.train.output_dir) / "model_final.pth", weights_only=False)["model"]
    plain = instantiate(load(overrides).model.student)
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("distill.")}, strict=True)


def test_a_saved_lazy_config_loads_again(overrides, tmp_path):
    LazyConfig.save(load(overrides), str(tmp_path / "config.yaml"))
    again = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    assert set(again.distill) == {"fpn_p3", "fpn_p4", "box"}


def test_a_student_that_is_distilled_from_yaml_takes_a_lazy_teacher(overrides, tmp_path):
    from det_distill.config import load_teacher

    student = instantiate(load(overrides).model.student)
    torch.save({"model": student.state_dict()}, tmp_path / "lazy_teacher.pth")
    (tmp_path / "lazy.py").write_text(
        "from detectron2.config import LazyConfig\n"
        f"model = LazyConfig.load({str(tmp_path / 'whole.yaml')!r}).model.student\n"
    )
    LazyConfig.save(load(overrides), str(tmp_path / "whole.yaml"))
    teacher = load_teacher(str(tmp_path / "lazy.py"), str(tmp_path / "lazy_teacher.pth"))
    assert torch.equal(next(teacher.model.parameters()), next(student.parameters()))
    assert build(detector_cfg()).training


def test_detectron2s_own_unmodified_script_runs_the_example(overrides):
    script = Path(sys.prefix, "share/detectron2/tools/lazyconfig_train_net.py")
    if not script.is_file():
        pytest.skip("this detectron2 did not bring its tools/lazyconfig_train_net.py")
    spec = importlib.util.spec_from_file_location("lazyconfig_train_net", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = ["--config-file", get_config_file(CONFIG), *overrides]
    module.main(default_argument_parser().parse_args(arguments))
    folder = next(o for o in overrides if o.startswith("train.output_dir=")).split("=", 1)[1]
    assert "bbox/AP50" in Path(folder, "metrics.json").read_text()

"""The YAML door: every key that det_distill adds to detectron2's config, and how a config becomes objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from . import model_zoo
from .checkpoint import load_teacher_weights
from .classification import add_classification_config, add_metric_learning_config
from .detectron2_readers import make_readers_safe
from .files import FileError
from .lazy_configs import build_lazy_model
from .modeling import add_backbone_config
from .names import check_names, check_options, unknown_key_of_file
from .nodes import Kind, completed, kind_of, read
from .pair_config import PAIR_KEYS, complete_pair, pair_kinds
from .solver import add_solver_config
from .teachers import Teacher, Teachers, as_teacher
from .yaml_files import make_config_safe

__all__ = [
    "PAIR_KEYS",
    "TEACHER_KEYS",
    "add_distill_config",
    "build_teachers",
    "complete_config",
    "get_cfg",
    "load_teacher",
    "merge_file",
    "merge_options",
]

TEACHER_KEYS: dict[str, Any] = {"CONFIG": "", "WEIGHTS": "", "OPTS": []}


def add_distill_config(cfg: CfgNode) -> None:
    """Add det_distill's keys and their defaults to a detectron2 config, in place.

    From then on the config's files are read safely, see `make_config_safe`, and so are those that detectron2 reads for
    it, see `make_readers_safe`.
    """
    make_readers_safe()
    make_config_safe(cfg)
    cfg.DISTILL = CfgNode()
    # False: the plain student from the same file, no teacher is built
    cfg.DISTILL.ENABLED = True
    # the student: any detectron2 meta-architecture, built from the rest of this config
    cfg.DISTILL.STUDENT_ARCHITECTURE = "GeneralizedRCNN"
    # name: {CONFIG: its own YAML, LazyConfig or zoo name, WEIGHTS: file or URL, OPTS: [KEY, value, ...]}
    cfg.DISTILL.TEACHERS = CfgNode(new_allowed=True)
    # name: {METHOD, AT or STUDENT + TEACHER, WEIGHT, ... and the method's own options}
    cfg.DISTILL.PAIRS = CfgNode(new_allowed=True)
    # factor on the student's own losses; 0: distillation alone, the first of two stages
    cfg.DISTILL.TASK_WEIGHT = 1.0
    # paths of modules of the student; all its other parameters are frozen. []: none is
    cfg.DISTILL.TRAIN_ONLY = []
    # every so many iterations, log each loss's share of the gradient at the shared backbone; 0: never
    cfg.DISTILL.GRADIENT_SHARE_PERIOD = 0
    # "auto" (as the trainer), "float32", "bfloat16" or "float16"
    cfg.DISTILL.TEACHER_PRECISION = "auto"
    # measure each teacher's AP on DATASETS.TEST once, before training
    cfg.DISTILL.EVAL_TEACHERS = True
    # batches over which the hashes' biases are estimated before training
    cfg.DISTILL.CALIBRATION_BATCHES = 50
    # ParaphraserPretrainer: which teacher ("": the only one), 1 (L1) or 2 (squared) reconstruction error, and whether
    # it is divided by the feature's spread, so that one learning rate suits features of every scale
    cfg.DISTILL.PARAPHRASER = CfgNode({"TEACHER": "", "P": 1, "SCALED": False})
    # name: {ROOT, SPLIT, CLASSES, DIFFICULT} and name: {JSON, IMAGES}: data sets to register
    cfg.DATASETS.VOC = CfgNode(new_allowed=True)
    cfg.DATASETS.COCO = CfgNode(new_allowed=True)
    # a progress bar with remaining time on standard error: "auto" (if it is a terminal), "on", "off"
    cfg.PROGRESS_BAR = "auto"
    # VOC rules take objects marked difficult as ordinary ones, as some papers do; the devkit ignores them
    cfg.TEST.COUNT_DIFFICULT = False
    add_backbone_config(cfg)
    add_classification_config(cfg)
    add_metric_learning_config(cfg)
    add_solver_config(cfg)
    # IdentitySampler: images of each identity in a batch, and how many of a batch are any images
    cfg.DATALOADER.IDENTITY_SAMPLER = CfgNode({"PER_IDENTITY": 4, "RANDOM_IMAGES": 0})


def get_cfg() -> CfgNode:
    """Return detectron2's default config with det_distill's keys."""
    cfg = get_detectron2_cfg()
    add_distill_config(cfg)
    return cfg


def complete_config(cfg: CfgNode) -> None:
    """Write every option of every teacher and pair into the config, so that the command line can override each.

    Values are read as their keys want them: ``WEIGHT: 7`` and ``WEIGHT: 5e-7``, which is a text in YAML, are numbers.

    Raises:
        ValueError: an unknown key or method (the message lists the valid ones), or a value that a key cannot have.
    """
    for name, node in cfg.DISTILL.TEACHERS.items():
        _write(node, completed(node, TEACHER_KEYS, f"DISTILL.TEACHERS.{name}"))
    for name, node in cfg.DISTILL.PAIRS.items():
        try:
            _write(node, complete_pair(node, f"DISTILL.PAIRS.{name}"))
        except ValueError as error:
            unnamed = isinstance(node, Mapping) and not node.get("METHOD")
            raise ValueError(f"{error}{_others(cfg.DISTILL.PAIRS, name) if unnamed else ''}") from None


def _others(nodes: Mapping[str, Any], name: str) -> str:
    """Of a new teacher or pair that lacks what only an old one may leave out: those that could be meant."""
    others = ", ".join(other for other in nodes if other != name)
    return f". If another one is meant, there are {others}" if others else ""


def _write(node: CfgNode, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        node[key] = value  # an item, not an attribute: also in a config that is frozen


def merge_file(cfg: CfgNode, file: str) -> None:
    """Merge a YAML file as ``cfg.merge_from_file`` does, then complete teachers and pairs, see `complete_config`.

    Raises:
        ValueError: what is wrong in the file, beginning with its name; of an unknown key also the line, and which keys
            there are.
    """
    try:
        cfg.merge_from_file(file)
        complete_config(cfg)
    except FileError:
        raise
    except (KeyError, AssertionError, ValueError) as error:  # as yacs reports unknown keys and wrong values
        unknown = unknown_key_of_file(cfg, file) if isinstance(error, KeyError) else ""
        raise ValueError(unknown or f"{file}: {error.args[0] if error.args else error}") from error


def merge_options(cfg: CfgNode, options: Sequence[Any], where: str = "the command line") -> None:
    """Merge ``[KEY, value, ...]`` as ``cfg.merge_from_list`` does, but let a whole number stand for a float.

    Values of teachers and pairs are read as in a file, see `complete_config`: an ``AT`` may become a list, for example.

    Args:
        cfg: the config, completed.
        options: the pairs.
        where: what messages call their place.

    Raises:
        ValueError: no KEY VALUE pairs, an unknown key (the message lists the valid ones), or a value that a key cannot
            have.
    """
    check_options(cfg, options, where)
    others: list[Any] = []
    for key, value in zip(options[::2], options[1::2], strict=True):
        *path, last = str(key).split(".")
        node: Any = cfg
        for part in path:
            node = node.get(part) if isinstance(node, CfgNode) else None
        known = isinstance(node, CfgNode) and last in node
        kind = _kinds(node, path).get(last) if known else None
        if kind is not None:
            node[last] = read(CfgNode._decode_cfg_value(value), kind, str(key))
            continue
        whole = known and isinstance(node[last], float) and str(value).lstrip("+-").isdigit()
        others += [key, float(value) if whole else value]
    try:
        cfg.merge_from_list(others)
    except (KeyError, AssertionError, ValueError) as error:  # as yacs reports renamed keys and wrong values
        raise ValueError(f"{where}: {error.args[0] if error.args else error}") from error


def _kinds(node: CfgNode, path: Sequence[str]) -> Mapping[str, Kind]:
    """What the values of a teacher's or pair's node must be, by key; empty for other nodes."""
    match path:
        case ["DISTILL", "TEACHERS", _]:
            return {key: kind_of(default) for key, default in TEACHER_KEYS.items()}
        case ["DISTILL", "PAIRS", _]:
            return pair_kinds(node, ".".join(path))
        case _:
            return {}


def build_teachers(cfg: CfgNode) -> Teachers:
    """Build and strictly load every teacher of the config, on ``cfg.MODEL.DEVICE``.

    Raises:
        ValueError, FileNotFoundError: a teacher without config or weights, or whose file does not fit.
    """
    return Teachers(**{name: build_teacher(cfg, name) for name in cfg.DISTILL.TEACHERS})


def build_teacher(cfg: CfgNode, name: str) -> Teacher:
    """Build one teacher of the config from its own config; nothing of that is copied into `cfg`."""
    node = cfg.DISTILL.TEACHERS[name]
    if not node.CONFIG:
        raise ValueError(
            f"DISTILL.TEACHERS.{name} has no CONFIG: name its YAML or LazyConfig file, or a zoo config"
            + _others(cfg.DISTILL.TEACHERS, name)
        )
    return load_teacher(
        node.CONFIG,
        node.WEIGHTS,
        list(node.OPTS),
        device=cfg.MODEL.DEVICE,
        precision=cfg.DISTILL.TEACHER_PRECISION,
        name=name,
    )


def load_teacher(
    config: str,
    weights: str = "",
    options: Sequence[Any] = (),
    *,
    device: str = "cpu",
    precision: str = "auto",
    name: str = "teacher",
) -> Teacher:
    """Build a teacher from a config file and load all of its weights.

    Args:
        config: a YAML or LazyConfig file, or a name in det_distill's or detectron2's model zoo.
        weights: file or URL; "": those that detectron2's model zoo publishes for this config.
        options: overrides of the config, as on the command line; those of a LazyConfig are values only, see
            `build_lazy_model`.
        device: where it is built; it follows the student's ``.to()`` later.
        precision: see `Teacher`.
        name: for messages.

    Raises:
        FileNotFoundError: no such config, no such weights.
        ValueError: no weights named, or they do not fit wholly; options that are refused.
    """
    path = model_zoo.find_config(config)
    if path.endswith(".py"):
        model = build_lazy_model(path, options, f"teacher {name!r}")
    else:
        cfg = get_cfg()
        merge_file(cfg, path)
        merge_options(cfg, options, f"OPTS of teacher {name!r}")
        model = build_student(cfg, device)
    load_teacher_weights(model, weights or model_zoo.published_weights(config), name=name)
    return as_teacher(model.to(device), precision=precision)


def build_student(cfg: CfgNode, device: str | None = None) -> nn.Module:
    """Build the plain model that a config describes, on its ``MODEL.DEVICE``, without teachers, pairs or weights.

    Raises:
        ValueError: a class that is not registered, or what the model's own parts raise.
    """
    check_names(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE in ("Distiller", "ParaphraserPretrainer"):
        cfg.MODEL.META_ARCHITECTURE = cfg.DISTILL.STUDENT_ARCHITECTURE
    if device is not None:
        cfg.MODEL.DEVICE = device
    cfg.freeze()
    model: nn.Module = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(cfg.MODEL.DEVICE)

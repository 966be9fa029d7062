"""All checks of a config's teachers, one after the other; what cannot be checked any more is left out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..benchmark.inputs import synthetic_batches
from ..config import build_student
from ..data import check_datasets
from ..tasks import task_of
from ..training_checks import check_weights
from .candidates import Candidate, candidates, known_classes
from .findings import TROUBLES, Finding, error_text
from .fits import check_classes, check_cost, check_pixels
from .pair_checks import BuiltPair, check_pair, check_step
from .precision import check_precision

__all__ = ["check_teachers"]


def check_teachers(cfg: CfgNode, *, images: int | None = None, weights: str = "") -> Iterator[Finding]:
    """Yield what a person should know about the teachers before the training begins, one thing a finding.

    Each teacher: its config and weights load strictly; its classes are the student's, in the same order; it wants the
    same pixels; it is larger. Each pair: its addresses are in both networks, channels and strides fit. Then all of it
    together: one training step on noise. Last what each teacher finds on the test sets, beside the student if that is
    trained.

    Args:
        cfg: the config of a distillation.
        images: measure on at most this many of each test set, taken evenly; 0: do not measure; None: all.
        weights: of the trained student; "": the last checkpoint of OUTPUT_DIR, if there is one.

    Raises:
        ValueError: the config is no distillation.
    """
    if cfg.MODEL.META_ARCHITECTURE != "Distiller" or not cfg.DISTILL.ENABLED or not cfg.DISTILL.TEACHERS:
        raise ValueError(
            'the config is no distillation: it needs MODEL.META_ARCHITECTURE "Distiller", DISTILL.ENABLED True, and '
            "DISTILL.TEACHERS"
        )
    data = list(_check_data(cfg))
    yield from data
    try:
        student = build_student(cfg)
    except TROUBLES as error:
        yield Finding("error", "student", error_text(error))
        return
    image = _image(cfg)
    names = known_classes(cfg)
    wrong = False
    teachers: dict[str, Candidate] = {}
    for candidate in candidates(cfg):
        yield from candidate.findings
        wrong |= not candidate.trained
        if candidate.teacher is not None:
            teachers[candidate.name] = candidate
    built = {name: c.teacher for name, c in teachers.items() if c.teacher is not None}
    pairs: list[BuiltPair] = []
    told: list[Finding] = []
    for name in cfg.DISTILL.PAIRS:
        for item in check_pair(cfg, name, student, built):
            (pairs if isinstance(item, BuiltPair) else told).append(item)  # type: ignore[arg-type]
    for candidate in teachers.values():
        yield from _check_fit(candidate, student, names, pairs, image)
    yield from told
    if not wrong and all(finding.level != "error" for finding in told):
        yield _check_whole(cfg, image)
    if images != 0 and all(finding.level != "error" for finding in data):
        yield from check_precision(cfg, student, list(teachers.values()), images, weights)


def _check_data(cfg: CfgNode) -> Iterator[Finding]:
    task = task_of(cfg)
    try:
        check_datasets(cfg, task.classes(cfg), classes_key=task.classes_key, other_test_classes=task.open_set)
        names = ", ".join(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))) or "none"
        yield Finding("ok", "data", f"{names}: there, with the classes that the student is built for")
    except TROUBLES as error:
        yield Finding("error", "data", error_text(error))
    try:
        check_weights(cfg)
    except OSError as error:
        yield Finding("error", "student", error_text(error))


def _image(cfg: CfgNode) -> Tensor:
    """An image of noise as large as the tests' images: square crops of a classifier, 3 to 4 of a detector."""
    crop = cfg.INPUT.CLASSIFICATION.CROP
    side = cfg.INPUT.MIN_SIZE_TEST if task_of(cfg).finds_boxes else crop or 224
    width = side * 4 // 3 if task_of(cfg).finds_boxes else side
    image: Tensor = synthetic_batches(cfg, side, width, 1, 1)[0][0]["image"]
    return image


def _check_fit(
    candidate: Candidate,
    student: nn.Module,
    names: tuple[str, ...],
    pairs: list[BuiltPair],
    image: Tensor,
) -> Iterator[Finding]:
    own = [p.pair for p in pairs if candidate.name in p.teachers]
    yield from check_classes(candidate, student, names, own)
    yield from check_pixels(candidate, student)
    yield from check_cost(candidate, student, image)


def _check_whole(cfg: CfgNode, image: Tensor) -> Finding:
    """Build all of it as a training does, and run one step."""
    from ..meta_arch import Distiller

    about = "all together"
    try:
        with torch.random.fork_rng([]):
            distiller = Distiller(cfg)
        batch = synthetic_batches(cfg, image.shape[1], image.shape[2], 2, 1)[0]
    except TROUBLES as error:
        return Finding("error", about, error_text(error))
    return check_step(distiller.to(cfg.MODEL.DEVICE), batch)

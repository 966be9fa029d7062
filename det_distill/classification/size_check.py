"""Do the images fit their augmentation, and the network? Asked when a training is built, of one image of each set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor, nn

from ..data.problems import DatasetError
from ..distiller import Distiller
from ..modeling.plain import PlainNet
from ..modes import batch_norms, restored_modes
from ..randomness import kept_random_state
from ..wrapping import student_of
from .mapper import mapper_for_tests, mapper_for_training
from .model import ImageClassifier

__all__ = ["check_image_size", "first_size"]

logger = logging.getLogger(__name__)

Size = tuple[int, int]

_SINGLE = (
    "%s makes maps of 1 x 1 cell of images of %s pixels, and batch norm works on them: a network so deep for its "
    "images may learn nothing, or give nonsense in tests. Set INPUT.CLASSIFICATION.RESIZE and CROP to a larger size, "
    "or take a backbone of a smaller stride (OUT_FEATURES without the last stage, or 'build_cifar_resnet_backbone')"
)


def first_size(
    name: str, dicts: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any]]
) -> Size:
    """Return height and width of the sample that a mapper makes of a data set's first image.

    Nothing is drawn from the generators of the process.

    Raises:
        DatasetError: the image cannot be read, or is too small to be cropped; names the data set and the image.
    """
    try:
        with kept_random_state():
            height, width = mapper(dicts[0])["image"].shape[-2:]
    except DatasetError as error:
        raise DatasetError(f"the data set {name!r}: {error}") from error
    return height, width


def check_image_size(cfg: CfgNode, model: nn.Module) -> None:
    """Raise what the first step, or the first test, would raise if the images have a size that does not fit.

    A black image of each size that the sets of the config are seen in is run through the backbone of the student and of
    every teacher, in eval mode and without a trace. For other models than an `ImageClassifier` nothing is done.

    A warning is logged if the map that is pooled has a single cell, and trained batch normalisation sees such maps, of
    one number per image and channel: the network is too deep for the images. A `PlainNet` with fully connected layers
    has such maps by construction, and is not warned of.

    Args:
        cfg: DATASETS.TRAIN and DATASETS.TEST, registered, INPUT and MODEL.BACKBONE.NAME.
        model: as built; before it is compiled.

    Raises:
        ValueError: images of a size that a backbone cannot take.
        DatasetError: a test set whose first image cannot be read or is too small; see `first_size`. Of training sets
            images are read where ``INPUT.CLASSIFICATION.CROP`` is 0: else their size is known.
    """
    student = student_of(model)
    if not isinstance(student, ImageClassifier):
        return
    teachers = model.teachers if isinstance(model, Distiller) else {}
    name = f"the backbone {cfg.MODEL.BACKBONE.NAME!r} (MODEL.BACKBONE.NAME)"
    networks = {name: student} | {f"the backbone of teacher {n!r}": t.model for n, t in teachers.items()}
    for size, where in _sizes(cfg).items():
        for what, network in networks.items():
            if isinstance(network, ImageClassifier):
                single = _run(network, size, f"{what} cannot take images of {_text(size)} pixels ({where})")
                if single and network is student:
                    logger.warning(_SINGLE, what, _text(size))


def _sizes(cfg: CfgNode) -> Mapping[Size, str]:
    """What sizes the networks see, and of which images."""
    crop = cfg.INPUT.CLASSIFICATION.CROP
    sizes: dict[Size, str] = {(crop, crop): f"INPUT.CLASSIFICATION.CROP {crop}"} if crop else {}
    for names, mapper in (
        (() if crop else cfg.DATASETS.TRAIN, mapper_for_training(cfg)),
        (cfg.DATASETS.TEST, mapper_for_tests(cfg)),
    ):
        for name in names:
            dicts = DatasetCatalog.get(name)
            if dicts and "label" in dicts[0]:
                sizes.setdefault(first_size(name, dicts, mapper), f"the first of {name!r}")
    return sizes


def _run(network: ImageClassifier, size: Size, complaint: str) -> bool:
    """Run an image through the backbone; return whether trained batch norm and the pooled map have a single cell.

    Raises:
        ValueError: the backbone did not take it; begins with `complaint`.
    """
    pixels = torch.zeros((len(network.pixel_mean), *size), dtype=torch.uint8)
    with _watched(network.backbone) as seen:
        try:
            maps = network.backbone(network.normalized_images([{"image": pixels}]))
        except (RuntimeError, ValueError, AssertionError) as error:  # as layers, our models, timm's refuse
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ValueError(
                f"{complaint} ({reason}): set INPUT.CLASSIFICATION.CROP (and RESIZE) to another size, or take another "
                "backbone"
            ) from error
    connected = isinstance(network.backbone, PlainNet) and network.backbone.image_size
    pooled = maps[network.feature].shape[-2:] == (1, 1)
    return pooled and (1, 1) in seen and not connected


@contextmanager
def _watched(backbone: nn.Module) -> Iterator[set[tuple[int, ...]]]:
    """Within the block the backbone is tested; the sizes of the maps that its trained batch norms see are collected."""
    seen: set[tuple[int, ...]] = set()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.add(tuple(inputs[0].shape[2:]))

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(kept_random_state())
        stack.enter_context(restored_modes(backbone))
        for norm in batch_norms(backbone):
            if norm.training:
                stack.callback(norm.register_forward_pre_hook(note).remove)
        backbone.eval()
        yield seen


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"

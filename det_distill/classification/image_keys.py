"""What the values of ``INPUT.CLASSIFICATION`` may be."""

from __future__ import annotations

from detectron2.config import CfgNode

from .image_format import check_format

__all__ = ["checked"]


def checked(cfg: CfgNode) -> CfgNode:
    """Return ``INPUT.CLASSIFICATION``.

    Raises:
        ValueError: a value of it, or of ``INPUT.FORMAT``, that makes no sense.
    """
    node = cfg.INPUT.CLASSIFICATION
    for key in ("CROP", "PAD", "RESIZE"):
        if node[key] < 0:
            raise ValueError(f"INPUT.CLASSIFICATION.{key} is {node[key]}: pixels, or 0 for none")
    check_format(cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    _check_crop(node)
    for key in ("COLOR_JITTER", "ERASE"):
        if not 0 <= node[key] <= 1:
            raise ValueError(f"INPUT.CLASSIFICATION.{key} is {node[key]}: from 0 (not at all) to 1")
    operations, magnitude = node.RAND_AUGMENT.OPERATIONS, node.RAND_AUGMENT.MAGNITUDE
    if operations < 0 or not 0 <= magnitude <= 30:
        raise ValueError(
            f"INPUT.CLASSIFICATION.RAND_AUGMENT has OPERATIONS {operations} and MAGNITUDE {magnitude}: at least 0 "
            "operations, of a magnitude from 0 to 30"
        )
    return node


def _check_crop(node: CfgNode) -> None:
    if node.AUGMENTATION not in ("crop", "resized_crop"):
        raise ValueError(
            f"INPUT.CLASSIFICATION.AUGMENTATION {node.AUGMENTATION!r}: choose 'crop' or 'resized_crop'"
        )
    if node.PAD_MODE not in ("zero", "reflect"):
        raise ValueError(f"INPUT.CLASSIFICATION.PAD_MODE {node.PAD_MODE!r}: choose 'zero' or 'reflect'")
    if node.RESIZE and node.RESIZE < node.CROP:
        raise ValueError(
            f"INPUT.CLASSIFICATION.RESIZE {node.RESIZE} is smaller than CROP {node.CROP}: images would be too small"
        )
    if node.AUGMENTATION == "crop":
        return
    if not node.CROP:
        raise ValueError("INPUT.CLASSIFICATION.AUGMENTATION 'resized_crop' needs a CROP above 0")
    if len(node.SCALE) != 2 or not 0 < node.SCALE[0] <= node.SCALE[1] <= 1:
        raise ValueError(
            f"INPUT.CLASSIFICATION.SCALE is {list(node.SCALE)}: the least and the greatest share of the image's area, "
            "above 0 and at most 1"
        )

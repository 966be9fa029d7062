"""One way to ask any trained file what it sees: a checkpoint with its config, an export, ONNX or another graph."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from torch import Tensor

from .class_names import class_names
from .classification.augmentations import CentreCrop, resizing
from .classification.mapper import ClassificationMapper, mapper_for_tests
from .config import build_student
from .devices import kind_of_device
from .model_file import GRAPHS, config_of, load_weights, model_file
from .programs import tell_program
from .tasks import task_of

__all__ = ["GRAPHS", "Predictor", "load_predictor"]


class Predictor(ABC):
    """A trained network that is called with one image.

    Attributes:
        file: what was loaded.
        architecture: name of its meta-architecture, such as "GeneralizedRCNN".
        kind: "detector" or "classifier".
        classes: their names, by index.
        score_threshold: detections of a lower score are never returned; 0 for a classifier.
    """

    file: Path
    architecture: str
    kind: str
    classes: tuple[str, ...]
    score_threshold: float = 0.0

    @abstractmethod
    def __call__(self, image: NDArray[np.uint8]) -> Instances | Tensor:
        """Return what is in an image.

        Args:
            image: (H, W, 3), RGB, whatever order of channels the network wants.

        Returns:
            Of a detector: ``Instances`` on the CPU, with ``pred_boxes`` (in pixels of `image`), ``scores`` and
            ``pred_classes``, and whatever else the network finds, such as masks. Of a classifier: probabilities,
            (K,), float32, on the CPU.

        Raises:
            ValueError: not such an image, or one that is too small for a classifier's crop.
        """

    def rename(self, classes: Sequence[str]) -> None:
        """Give the classes other names.

        Raises:
            ValueError: not as many as the network has classes.
        """
        if len(classes) != len(self.classes):
            raise ValueError(
                f"{len(classes)} class names ({', '.join(classes)}) for {self.file}, which tells "
                f"{len(self.classes)} classes apart: give that many, in the order of their numbers"
            )
        self.classes = tuple(classes)


def load_predictor(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | CfgNode | None = None,
    *,
    opts: Sequence[Any] = (),
    device: str = "cpu",
) -> Predictor:
    """Return the trained network of a file or folder, ready to be called with images.

    Nothing is predicted with weights that are not in the file: each tensor of the network has to be there. Of a
    distillation's checkpoint only the student is built and loaded. Class names are those that the file says, else
    those of the config's data sets, else "class 0", "class 1", ... Exported programs (``.ts``, ``.pt2``) are run with a
    warning: open only files that you trust.

    Args:
        path: a folder of `export_student` or of a run, of which ``student.pth``, ``model_final.pth``,
            ``student.safetensors`` or ``student.pkl`` is taken; a checkpoint, ``.pth``, ``.pkl`` or ``.safetensors``;
            or an exported graph, see `GRAPHS`.
        config: of a checkpoint: a YAML file, a zoo name or a loaded config; default: ``config.yaml`` in its folder,
            or the one that a ``.safetensors`` file holds.
        opts: ``KEY, value, ...`` that override the config.
        device: "cpu", "cuda", ...; of a graph "cpu".

    Raises:
        FileNotFoundError: no such file, no weights in the folder, or no config.
        ValueError: the weights are not those of the config's network, a kind of file that is not known, or a network
            that tells no classes.
    """
    file = model_file(path)
    if file.suffix in GRAPHS:
        if config is not None or opts or device != "cpu":
            raise ValueError(
                f"{file} is an exported graph: it runs on the CPU and takes neither config nor options"
            )
        if file.suffix != ".onnx":
            tell_program(
                str(file), f"a {file.suffix} file, is a program and is run now: open only files you trust"
            )
        return _Graph(file)
    _check_device(device)
    if isinstance(config, CfgNode):
        if opts:
            raise ValueError("load_predictor: opts override a config that is read from a file")
        cfg = config
    else:
        cfg = config_of(file, config, list(opts))
    return _Network(file, cfg, device)


class _Network(Predictor):
    """A model of detectron2; detections are `DefaultPredictor`'s, bit for bit."""

    def __init__(self, file: Path, cfg: CfgNode, device: str) -> None:
        task = task_of(cfg)
        if task.open_set:
            raise ValueError(
                f"{file} holds a metric learner, which says how alike two images are and names no classes"
            )
        self.file, self.kind = file, "detector" if task.finds_boxes else "classifier"
        self._model: Any = build_student(cfg, device).eval()
        self.architecture = type(self._model).__name__
        note = load_weights(self._model, file)
        named = tuple(map(str, note.get("classes") or ()))
        number = task.classes(cfg)
        self.classes = named if named and number in (None, len(named)) else class_names(cfg)
        self._format = cfg.INPUT.FORMAT
        if self.kind == "classifier":
            self._prepare = mapper_for_tests(cfg)
            return
        self._resize = _resize(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        retina = self.architecture == "RetinaNet"
        self.score_threshold = (cfg.MODEL.RETINANET if retina else cfg.MODEL.ROI_HEADS).SCORE_THRESH_TEST
        _check_format(self._format, file)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Instances | Tensor:
        _check_image(image)
        if self.kind == "classifier":
            logits: Tensor = self._model([self._prepare({"pixels": image})])[0]["logits"]
            return logits.float().cpu().softmax(0)
        height, width = image.shape[:2]
        sample = {"image": _pixels(image, self._format, self._resize), "height": height, "width": width}
        found: Instances = self._model([sample])[0]["instances"]
        return found.to("cpu")


class _Graph(Predictor):
    """An exported graph with the normalisation inside, see `det_distill.export.runtimes`."""

    def __init__(self, file: Path) -> None:
        from .export.runtimes import open_runtime  # whose packages come with an extra

        self.file, self._run = file, open_runtime(file)
        said: Mapping[str, Any] = self._run.metadata
        if said["kind"] not in ("detector", "classifier"):
            raise ValueError(f"{file} holds a {said['kind']} alone, which predicts nothing")
        self.kind, self.architecture = said["kind"], str(said.get("architecture", "unknown"))
        self.classes = tuple(map(str, said["classes"]))
        self._format = said["input_format"]
        if self.kind == "classifier":
            side, crop = said.get("resize") or 0, said.get("crop") or 0
            self._prepare = ClassificationMapper(
                self._format,
                prepare=resizing(CfgNode({"RESIZE": side})),
                augment=[CentreCrop(crop, f"RESIZE {side}")] if crop else [],
            )
            return
        self._resize = _resize(said["min_size_test"], said["max_size_test"])
        self.score_threshold = float(said.get("score_threshold") or 0)
        _check_format(self._format, file)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Instances | Tensor:
        _check_image(image)
        if self.kind == "classifier":
            sample = self._prepare({"pixels": image})["image"].float()
            return self._run(sample)["logits"].float().softmax(0)
        pixels = _pixels(image, self._format, self._resize)
        found = self._run(pixels)
        seen = Instances((pixels.shape[1], pixels.shape[2]))
        seen.pred_boxes, seen.scores = Boxes(found["boxes"]), found["scores"]
        seen.pred_classes = found["classes"]
        return detector_postprocess(seen, image.shape[0], image.shape[1])


def _check_device(device: str) -> None:
    if kind_of_device(device, "device") == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: torch finds no usable GPU here; choose cpu")


def _check_format(image_format: str, file: Path) -> None:
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"{file}: INPUT.FORMAT {image_format!r}: detectors see RGB or BGR")


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"an image is an array (height, width, 3) of RGB bytes, not {image.dtype} of shape {image.shape}"
        )


def _resize(shortest: int, longest: int) -> T.Augmentation:
    return T.ResizeShortestEdge([shortest, shortest], longest)


def _pixels(image: NDArray[np.uint8], image_format: str, resize: T.Augmentation) -> Tensor:
    """(3, H, W), float32, 0 to 255, in the network's order and size."""
    ordered = image if image_format == "RGB" else image[:, :, ::-1]
    resized = resize.get_transform(ordered).apply_image(ordered)
    return torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))

"""Frozen models to learn from. A teacher is no `nn.Module`, so nothing of it can become the student's state.

`Teacher` runs a model whole; `RCNNTeacher` runs only those parts of a detector that are tapped, on the student's own
pixels and sampled proposals.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .taps import AddressError, FeatureTap, module_path

__all__ = ["RCNNTeacher", "Teacher", "Teachers", "as_teacher", "fingerprint"]

logger = logging.getLogger(__name__)

_PRECISIONS = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def fingerprint(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that identify a model's weights: SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Teacher:
    """A frozen model that is called like the student, ``model(batch)``, with its taps open.

    Always in eval mode, never with gradients.

    Args:
        model: any module.
        precision: ``"auto"`` follows the trainer's autocast; ``"float32"``, ``"bfloat16"`` or ``"float16"`` set the
            teacher's own, and the lower two lay its weights out channels-last.

    Raises:
        ValueError: an unknown precision.
    """

    def __init__(self, model: nn.Module, *, precision: str = "auto") -> None:
        if precision not in _PRECISIONS:
            raise ValueError(f"teacher precision {precision!r}: choose one of {', '.join(_PRECISIONS)}")
        self.model = model.eval().requires_grad_(False)
        self.precision = precision
        if precision in ("bfloat16", "float16"):
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tap = FeatureTap(model, ())
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the weights; see `fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def bind(self, student: object, addresses: Collection[str]) -> None:
        """Prepare to record `addresses` beside `student`.

        Raises:
            AddressError: an address that the model lacks or that this teacher cannot run.
        """
        self._tap = FeatureTap(self.model, addresses)

    def student_addresses(self, addresses: Collection[str]) -> tuple[str, ...]:
        """Return what must be recorded in the student for this teacher to compute `addresses`."""
        return ()

    def classifier_weight(self) -> Tensor | None:
        """Return the weight of the last classifier, (classes, features, ...), or None if it is not known."""
        linear = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        return linear[-1].weight if linear else None

    def to(self, *args: Any, **kwargs: Any) -> Teacher:
        """Move the model, as ``nn.Module.to`` does."""
        self.model.to(*args, **kwargs)
        return self

    def __call__(
        self,
        batch: Any,
        student: Mapping[str, Any] | None = None,
        addresses: Collection[str] | None = None,
        *,
        differentiable: Collection[str] = (),
    ) -> dict[str, Any]:
        """Run what is needed and return address -> value.

        Args:
            batch: what the student was called with.
            student: values recorded in the student at `student_addresses`.
            addresses: record just these of the bound addresses (default: all).
            differentiable: inputs (``@input``) of the model with respect to which something will be differentiated:
                the forward pass is then run with gradients. The weights never get any.
        """
        if self.model.training:
            self.model.eval()
        wanted = self._tap.addresses if addresses is None else tuple(addresses)
        with (
            torch.set_grad_enabled(bool(differentiable)),
            self._autocast(),
            self._tap.record(wanted, differentiable=differentiable) as values,
        ):
            self.run(batch, student or {}, wanted)
        return values

    def run(self, batch: Any, student: Mapping[str, Any], addresses: Collection[str]) -> None:
        """Make the modules at `addresses` run once; taps and gradients are the caller's business."""
        self.model(batch)

    @torch.no_grad()
    def predict(self, batch: Any) -> Any:
        """Return the whole model's output for the student's batch."""
        with self._autocast():
            return self.model(batch)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _PRECISIONS[self.precision]
        if dtype is None:
            return nullcontext()
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)


class RCNNTeacher(Teacher):
    """A detectron2 detector: runs backbone, RPN head, box head and box predictor only as far as they are tapped.

    RoI features are those of the *student's* sampled proposals, pooled from the teacher's maps: the boxes that the
    student's pooler gets are replayed through the teacher's own pooler, head and predictor. The teacher's RPN
    never proposes and its heads never sample. Box-regression classes, class counts and backbones may differ.

    The student's normalised images are used as they are when both models agree on pixel mean, std and format;
    otherwise the same pixels are normalised once more with the teacher's, channels reversed if one is RGB and the
    other BGR.

    Args:
        model: a ``GeneralizedRCNN``, or a one-stage detector with ``backbone`` and ``head`` (``RetinaNet``).
        precision: see `Teacher`.
        input_format: ``"RGB"`` or ``"BGR"``; default: the model's own ``input_format``, or else the student's.
    """

    def __init__(self, model: nn.Module, *, precision: str = "auto", input_format: str | None = None) -> None:
        super().__init__(model, precision=precision)
        self.input_format = input_format or getattr(model, "input_format", None)
        self._proposals = "roi_heads:0"
        self._shares_pixels = False
        self._reverses_channels = False

    def bind(self, student: object, addresses: Collection[str]) -> None:  # noqa: D102
        super().bind(student, addresses)
        for address in addresses:
            self._check_reachable(address)
        heads = getattr(student, "roi_heads", None)
        self._proposals = _proposals_address(heads)
        own, other = self.input_format, getattr(student, "input_format", None)
        self._reverses_channels = bool(own and other and own != other)
        self._shares_pixels = not self._reverses_channels and all(
            _equal(getattr(self.model, name, None), getattr(student, name, None))
            for name in ("pixel_mean", "pixel_std")
        )
        logger.info(
            "teacher %s: %s", self.fingerprint, "student's images" if self._shares_pixels else "own images"
        )

    def _check_reachable(self, address: str) -> None:
        heads = getattr(self.model, "roi_heads", None)
        parts = ["backbone"]
        if hasattr(self.model, "head") and hasattr(self.model, "head_in_features"):
            parts.append("head")
        if hasattr(getattr(self.model, "proposal_generator", None), "rpn_head"):
            parts.append("proposal_generator.rpn_head")
        if hasattr(heads, "box_pooler") and not isinstance(getattr(heads, "box_head", None), nn.ModuleList):
            parts += ["roi_heads.box_pooler", "roi_heads.box_head", "roi_heads.box_predictor"]
        elif hasattr(heads, "_shared_roi_transform"):
            parts += ["roi_heads.pooler", "roi_heads.res5", "roi_heads.box_predictor"]
        path = module_path(address)
        if not any(path == part or path.startswith(part + ".") for part in parts):
            raise AddressError(
                f"teacher address {address!r}: RCNNTeacher runs {', '.join(parts)} of this "
                f"{type(self.model).__name__}; use Teacher(model) to run the whole model"
            )

    def student_addresses(self, addresses: Collection[str]) -> tuple[str, ...]:  # noqa: D102
        needed = ("backbone@input",) if self._shares_pixels else ()
        roi = any(a.startswith("roi_heads.") for a in addresses)
        return (*needed, self._proposals) if roi else needed

    def classifier_weight(self) -> Tensor | None:  # noqa: D102
        predictor = getattr(getattr(self.model, "roi_heads", None), "box_predictor", None)
        for owner in (predictor, getattr(self.model, "head", None)):
            layer = getattr(owner, "cls_score", None)
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                return layer.weight
        return None

    def run(self, batch: Any, student: Mapping[str, Any], addresses: Collection[str]) -> None:  # noqa: D102
        images = self._images(batch, student)
        features = self.model.backbone(images)  # type: ignore[operator]
        if any(a.startswith("proposal_generator.") for a in addresses):
            generator: Any = self.model.proposal_generator
            generator.rpn_head([features[f] for f in generator.in_features])
        if any(module_path(a).split(".")[0] == "head" for a in addresses):
            self.model.head([features[f] for f in self.model.head_in_features])  # type: ignore[operator,union-attr]
        if any(a.startswith("roi_heads.") for a in addresses):
            self._run_roi_heads(features, student[self._proposals], addresses)

    def _run_roi_heads(
        self, features: Mapping[str, Tensor], proposals: Sequence[Any], addresses: Collection[str]
    ) -> None:
        heads: Any = self.model.roi_heads
        boxes = [getattr(p, "proposal_boxes", p) for p in proposals]
        if hasattr(heads, "box_pooler"):
            x = heads.box_pooler([features[f] for f in heads.box_in_features], boxes)
            if all(a.startswith("roi_heads.box_pooler") for a in addresses if a.startswith("roi_heads.")):
                return
            x = heads.box_head(x)
        else:
            x = heads._shared_roi_transform([features[f] for f in heads.in_features], boxes).mean(dim=[2, 3])
        if any(a.startswith("roi_heads.box_predictor") for a in addresses):
            heads.box_predictor(x)

    def _images(self, batch: Sequence[Mapping[str, Any]], student: Mapping[str, Any]) -> Tensor:
        shared = student.get("backbone@input")
        if isinstance(shared, Tensor) and self._shares_pixels:
            divisibility = max(getattr(self.model.backbone, "size_divisibility", 0), 1)
            bottom, right = (-size % divisibility for size in shared.shape[-2:])
            return F.pad(shared, (0, right, 0, bottom)) if bottom or right else shared
        return self.model.preprocess_image(self._in_own_format(batch)).tensor  # type: ignore[operator]

    def predict(self, batch: Any) -> Any:  # noqa: D102
        return super().predict(self._in_own_format(batch))

    def _in_own_format(self, batch: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return [{**x, "image": x["image"].flip(0)} for x in batch] if self._reverses_channels else batch


def _proposals_address(heads: Any) -> str:
    """Where a student's sampled boxes are: its pooler's input, or, if the heads run in stages, what they sampled."""
    if hasattr(heads, "pooler"):
        return "roi_heads.pooler@input1"
    in_stages = isinstance(getattr(heads, "box_head", None), nn.ModuleList)
    return "roi_heads:0" if in_stages else "roi_heads.box_pooler@input1"


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a.cpu(), b.cpu())


class Teachers(Mapping[str, Teacher]):
    """Teachers by name. Takes keyword arguments, `Teacher` objects or plain modules, so that LazyConfig builds it."""

    def __init__(self, **teachers: Teacher | nn.Module) -> None:
        self._teachers = {name: as_teacher(model) for name, model in teachers.items()}

    def __getitem__(self, name: str) -> Teacher:
        return self._teachers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._teachers)

    def __len__(self) -> int:
        return len(self._teachers)


def as_teacher(model: Teacher | nn.Module, *, precision: str = "auto") -> Teacher:
    """Wrap `model`: an `RCNNTeacher` if it has a detectron2 detector's parts, else a plain `Teacher`.

    A distilled model stands for its student.
    """
    if isinstance(model, Teacher):
        return model
    inner = getattr(model, "student", None)
    model = inner if isinstance(inner, nn.Module) else model
    detector = hasattr(model, "backbone") and hasattr(model, "preprocess_image")
    return (RCNNTeacher if detector else Teacher)(model, precision=precision)

"""Feature mimicking: Wang, Ge, Wu, "Distilling Knowledge by Mimicking Features", TPAMI 2021.

The student's feature is pulled to the teacher's, by its value (`L2`) and by its direction (`LSH`). The
paper's loss is the sum of both under one weight: two losses of one pair. What enters them is decided before: the
pair's selection keeps samples which the teacher classifies correctly, the adapter `Neighbourhood` unfolds
RetinaNet's tower maps.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arithmetic import in_parts
from .calibration import StreamedMean, StreamedMedian, centre_over_ranks
from .inputs import check_valid, full_precision, image_mean, prepare, rows_of

Distance = Literal["bce", "l1", "l2"]

_NO_ESTIMATE = (
    "this loss estimates no bias: it was given one, is calibrated already, or has a distance in which it "
    "cancels. Only LSH.random(..., bias='mean' or 'median') does, while its needs_calibration is True."
)


class L2(nn.Module):
    """Mean squared difference: sum((F_s - F_t)^2) divided by the number of elements.

    (R, C) rows: over all R * C elements. (B, C, H, W) maps: over all elements; with `valid`, over the valid
    cells and channels of each image, then over the B images, as if each map had been cropped. Zero with zero
    gradient at F_s = F_t. The teacher's side is detached, arithmetic is in float32, no row gives 0.

    Source: DoctorKey/LSHFM.detection (11755ab), `MSELoss(reduction="mean")` on the RoI box-head feature;
    weight 7.
    """

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two equal shapes (R, C) or (B, C, H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            if student.numel() == 0:
                return student.sum() * 0
            return image_mean((student - teacher).square().mean(1), valid)


def limit_norm(student: Tensor, teacher: Tensor, ratio: float) -> Tensor:
    """Shorten the rows of `student` (R, C) that are longer than `ratio` times the teacher's to that length.

    Differentiable: of a shortened row only the direction counts, its gradient along the row itself is zero.
    """
    limit = ratio * torch.linalg.vector_norm(teacher, dim=1, keepdim=True)
    length = torch.linalg.vector_norm(student, dim=1, keepdim=True)
    return torch.where(length > limit, student * (limit / length.clamp(min=1e-6)), student)


class LSH(nn.Module):
    """Agreement of N locality-sensitive hashes of the student's and the teacher's feature.

        u_s = W f_s + b,    u_t = W f_t + b,    h = 1 if u_t > 0 else 0        W (N, D), b (N,), both constant

        "bce"   binary cross entropy of sigmoid(u_s) against the bit h (the method)
        "l1"    |u_s - u_t|                 "l2"    (u_s - u_t)^2

    The value is the mean over rows and over the N hashes. Of a map (B, D, H, W) every cell is a row; with
    `valid` the mean is over the valid cells of each image, then over images, as if each map had been cropped.

    "l1" and "l2" compare the projections before the sign, as the authors' switch `LSH_loss` does; b cancels
    and they are zero at f_s = f_t. "bce" is not: it asks for the side of each hyperplane, and for distance
    from it.

    The bias. 0 is what the authors' detection and ImageNet runs have; minus the median of W f_t over the
    training set is their CIFAR default. With b = 0 the bits ignore lengths and "bce" falls as f_s grows,
    without end once the directions agree: alone, with a large weight, it diverges. Three cures that combine:
    `L2` beside it, `bias="median"` or "mean", and `max_norm_ratio`. Estimate a bias before training:
    `observe` some hundred batches of teacher features, then `calibrate`; `needs_calibration` says whether
    that is still to be done.

    `weight`, `bias` and the flag `calibrated` are buffers: saved, never trained. No rows give 0, the
    teacher's side is detached, arithmetic is in float32. Under several processes all must hold one W:
    `calibrate` sees to that, and the trainer's hook `CalibrateHashes` where nothing is to be calibrated.

    Source: DoctorKey/LSHFM.detection (11755ab) `src/model/KD/LSH.py` without its L2 term: N = 4 D = 4096,
    weight 7.

    Args:
        weight: W (N, D); copied.
        bias: b (N,); None is zero.
        distance: "bce", "l1" or "l2".
        max_norm_ratio: student rows longer than this many times their teacher row are shortened to that first
            (`limit_norm`), so that growing beyond gains nothing. None is the authors' formula.
    """

    weight: Tensor
    bias: Tensor
    calibrated: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        distance: Distance = "bce",
        max_norm_ratio: float | None = None,
    ) -> None:
        super().__init__()
        bias = weight.new_zeros(weight.shape[:1]) if bias is None else bias
        if weight.dim() != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"LSH needs a weight (N, D) and a bias (N,), not {tuple(weight.shape)}, {tuple(bias.shape)}."
            )
        if distance not in ("bce", "l1", "l2"):
            raise ValueError(f'LSH measures the distance "bce", "l1" or "l2", not {distance!r}.')
        if max_norm_ratio is not None and max_norm_ratio <= 0:
            raise ValueError(f"max_norm_ratio must be positive (2 is usual) or None, not {max_norm_ratio}.")
        self.distance, self.max_norm_ratio = distance, max_norm_ratio
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())
        self.register_buffer("calibrated", torch.tensor(True, device=weight.device))
        self._known_calibrated = False
        self._estimate: StreamedMean | StreamedMedian | None = None
        self.register_load_state_dict_post_hook(_look_again)

    @classmethod
    def random(
        cls,
        dim: int,
        hashes: int,
        std: float,
        *,
        bias: Literal["zero", "mean", "median"] = "zero",
        generator: torch.Generator | None = None,
        distance: Distance = "bce",
        max_norm_ratio: float | None = None,
        reservoir: int = 8192,
    ) -> LSH:
        """Draw W (hashes, dim) from a normal distribution with mean 0.

        Args:
            dim: width D of the features.
            hashes: number N of hash functions (the authors: 4 D in detection, 2048 on ImageNet).
            std: standard deviation of W (the authors: that of the teacher's last classifier's weight).
            bias: "zero", or minus the "mean" or "median" of W f_t, to be calibrated before training.
            generator: source of W; None is torch's global one.
            distance: see the class. For "l1" and "l2" no bias is estimated, because it cancels.
            max_norm_ratio: see the class.
            reservoir: most feature rows that the median is taken over (memory: reservoir * dim * 4 bytes).
        """
        if bias not in ("zero", "mean", "median"):
            raise ValueError(f'LSH.random knows the bias "zero", "mean" and "median", not {bias!r}.')
        if min(dim, hashes) < 1 or std <= 0:
            raise ValueError(f"LSH.random needs dim, hashes and std above zero, not {dim}, {hashes}, {std}.")
        device = None if generator is None else generator.device
        weight = std * torch.randn(hashes, dim, generator=generator, device=device)
        loss = cls(weight, distance=distance, max_norm_ratio=max_norm_ratio)
        if bias != "zero" and distance == "bce":
            loss._estimate = StreamedMean() if bias == "mean" else StreamedMedian(reservoir)
            loss.calibrated.fill_(False)
        return loss

    @property
    def needs_calibration(self) -> bool:
        """Whether the bias is still to be estimated by `observe` and `calibrate`."""
        if not self._known_calibrated:  # once true it stays so, and a GPU is not asked again at every step
            self._known_calibrated = bool(self.calibrated)
        return not self._known_calibrated

    @torch.no_grad()
    def observe(self, teacher: Tensor, valid: Tensor | None = None) -> None:
        """Take the teacher's features (R, D) or (B, D, H, W), valid cells only, into the bias's estimate.

        Raises:
            RuntimeError: the bias is given or already calibrated.
            ValueError: the width is not D, or `valid` does not fit.
        """
        if not self.needs_calibration or self._estimate is None:
            raise RuntimeError(f"LSH.observe(): {_NO_ESTIMATE}")
        self._check_width(teacher)
        rows = rows_of(teacher)
        if valid is not None:
            check_valid(valid, teacher)
            rows = rows[valid.flatten()]
        self._estimate.add(rows)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Set the bias to minus the centre of the hash values observed, and forget the observations.

        Under `torch.distributed` every rank must call it. Afterwards `weight` (rank 0's) and `bias` (the
        ranks' estimates averaged by their number of rows: for the mean exactly the mean of all) are the same
        on all.

        Raises:
            RuntimeError: nothing was observed, or the bias is there already.
        """
        if not self.needs_calibration or self._estimate is None:
            raise RuntimeError(f"LSH.calibrate(): {_NO_ESTIMATE}")
        self.bias.copy_(-centre_over_ranks(self._estimate, self.weight))
        self.calibrated.fill_(True)
        self._estimate = None

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two equal shapes (R, D) or (B, D, H, W); see the class. Returns a scalar.

        Raises:
            RuntimeError: the bias is to be calibrated first.
            ValueError: the shapes differ, or the width is not that of `weight`.
        """
        if self.needs_calibration:
            raise RuntimeError(
                "The bias of this LSH loss is not set yet: before training, call observe(teacher_feature) on "
                "some batches and then calibrate(), or use the bias 'zero'. (The trainer's calibration hook "
                "does so before the first step; if a trainer called this, the hook did not run.)"
            )
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            self._check_width(student)
            if student.numel() == 0:
                return student.sum() * 0
            cells = student.shape[:1] + student.shape[2:]
            return image_mean(self._row_distances(rows_of(student), rows_of(teacher)).view(cells), valid)

    def _row_distances(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Distance of each pair of rows, (R, D) to (R,); many rows in parts, recomputed for the gradient."""
        return in_parts(self._distances, len(self.weight), student, teacher)

    def _distances(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.max_norm_ratio is not None:
            student = limit_norm(student, teacher, self.max_norm_ratio)
        weight, bias = self.weight.to(student.dtype), self.bias.to(student.dtype)
        ours, theirs = F.linear(student, weight, bias), F.linear(teacher, weight, bias)
        if self.distance == "bce":
            bits = (theirs > 0).to(ours.dtype)
            return F.binary_cross_entropy_with_logits(ours, bits, reduction="none").mean(1)
        return ((ours - theirs).abs() if self.distance == "l1" else (ours - theirs).square()).mean(1)

    def _check_width(self, feature: Tensor) -> None:
        if feature.dim() not in (2, 4) or feature.shape[1] != self.weight.shape[1]:
            raise ValueError(
                f"This LSH hashes rows (R, D) or maps (B, D, H, W) of width D = {self.weight.shape[1]}, but "
                f"got the shape {tuple(feature.shape)}. D is the teacher's width; a student of another width "
                "needs an adapter to it (Linear for rows, Conv1x1 for maps)."
            )

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        hashes, dim = self.weight.shape
        return f"dim={dim}, hashes={hashes}, distance={self.distance!r}, max_norm_ratio={self.max_norm_ratio}"


def _look_again(loss: LSH, _keys: object) -> None:
    loss._known_calibrated = False

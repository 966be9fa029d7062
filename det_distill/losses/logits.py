"""Logit regression: the student's raw logits are pulled to the teacher's by their squared difference.

Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NIPS 2014, and the loss of Sau and Balasubramanian, "Deep
Model Compression: Distilling Knowledge from Noisy Teachers", 2016, whose noise is the adapter `LogitNoise`.
"""

from __future__ import annotations

from torch import Tensor, nn

from .inputs import full_precision, image_mean, prepare


class LogitRegression(nn.Module):
    """Half the squared distance of the logits: 1/2 sum_k (z_s,k - z_t,k)^2.

    Summed over the K classes, then the mean over the R rows of (R, K): the paper's 1 / (2 B). That is K / 2 times
    the mean over all elements, which other codes use, so a weight w there is 2 w / K here. Of maps (B, K, H, W)
    every cell is a row: the mean over the valid cells of each image, then over images. Zero with zero gradient
    where the logits agree. The teacher's side is detached, arithmetic is in float32, no rows give 0.

    Raw logits are compared, as in the paper: a constant added to all classes of one side, which changes no
    probability, changes the value. `centre` takes it out.

    Source: the noisy-teachers paper; no code of its authors is known. Not implemented: noise on the student's
    logits, which the paper found to be worse.

    Args:
        centre: subtract from each row's logits their mean over the classes first, on both sides.
    """

    def __init__(self, *, centre: bool = False) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare logits of two equal shapes (R, K) or (B, K, H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            if student.numel() == 0:
                return student.sum() * 0
            difference = student - teacher
            if self.centre:
                difference = difference - difference.mean(1, keepdim=True)
            return image_mean(difference.square().sum(1) / 2, valid)

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"centre={self.centre}"

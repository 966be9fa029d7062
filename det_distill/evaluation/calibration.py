"""How far a classifier's confidence is from how often it is right.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expected_calibration_error"]


def expected_calibration_error(confidence: Tensor, right: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error, ``sum_m n_m / N * |right_m - confidence_m|``, from 0 to 1 (eqs. 2, 3, 5).

    The interval (0, 1] of the confidence is cut into M bins of equal width, bin m being ((m - 1) / M, m / M]; n_m of
    the N images fall into bin m, right_m is the share of them that are right and confidence_m their mean confidence.
    Empty bins count nothing; a confidence of 0 goes into the first bin. M is 15, as in the paper's tables.

    Args:
        confidence: (N,), the probability of the predicted class.
        right: bool (N,), whether that class is the true one.
        bins: M.

    Returns:
        The error; NaN without an image or with a confidence that is not finite.
    """
    if len(confidence) == 0 or not confidence.isfinite().all():
        return float("nan")
    confidence = confidence.double().contiguous()
    inner = torch.arange(1, bins, dtype=torch.float64) / bins
    place = torch.bucketize(confidence, inner)  # inner[m - 1] < confidence <= inner[m]
    # n_m * (right_m - confidence_m) is the sum of (right - confidence) over the bin
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right.double() - confidence)
    return float(gap.abs().sum() / len(confidence))

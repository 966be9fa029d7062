"""How hard the features of finished networks are to reconstruct: the analysis of FEED, Park and Kwak 2019.

The same auto-encoder, a paraphraser of factor transfer, is trained on the features of each network at one address:
equal seed, batches, iterations and learning rate. The curves of its error are compared. By the authors' account
the error goes down along better feature transfer, and up along soft targets; it is a description of finished
networks and no training signal.

The raw error grows with the features' scale alone. Beside it stands the error divided by their spread, which a
change of unit leaves as it is; a difference in the raw error only says that one network's features are larger.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..adapters import Paraphraser
from ..paraphrasers import ParaphraserTrainee
from ..randomness import kept_random_state
from ..teachers import Teacher
from .figures import COLOURS, new_figure, save_figure

__all__ = ["Curve", "curves_text", "draw_curves", "reconstruction_curve", "write_curves"]

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Of the authors' training of paraphrasers (Jangho-Kim/Factor-Transfer-pytorch, 19cce26)."""


class Curve(NamedTuple):
    """The error of one network's paraphraser in each iteration: mean over all elements, and divided by the spread.

    A training that diverged ends there: the last errors are NaN.
    """

    network: str
    raw: tuple[float, ...]
    scaled: tuple[float, ...]

    @property
    def diverged(self) -> bool:
        """Whether the error stopped being a number in the last iteration."""
        return math.isnan(self.raw[-1])

    def final(self) -> tuple[float, float]:
        """Raw and scaled error, averaged over the last tenth of the iterations; NaN of a training that diverged."""
        last = max(1, len(self.raw) // 10)
        return float(np.mean(self.raw[-last:])), float(np.mean(self.scaled[-last:]))


def reconstruction_curve(
    name: str,
    network: Teacher,
    address: str,
    batches: Iterable[Any],
    *,
    rate: float = 0.5,
    p: int = 1,
    lr: float = 0.1,
    scaled: bool = False,
    seed: int = 0,
    input_format: str | None = None,
) -> Curve:
    """Train a new paraphraser on the frozen network's eval-mode features, one iteration a batch.

    Plain SGD with momentum 0.9 and weight decay 5e-4, constant learning rate. Two networks whose features have as many
    channels get paraphrasers with the same initial weights. Training stops where the error is no longer finite.

    Args:
        name: for the report.
        network: on its device.
        address: of a feature map.
        batches: the same for every network.
        rate: factor channels / channels.
        p: 1: mean absolute error (the authors' code), 2: mean squared error.
        lr: learning rate.
        scaled: train on the scaled error, so that the learning rate means the same for features of any scale. False:
            on the raw one, as the authors do.
        seed: of the paraphraser's initial weights.
        input_format: channel order of the batches' images; None: the network's own.

    Raises:
        AddressError: no such address.
        ValueError: no map is there, or no batch.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no batch to train paraphrasers on: at least one iteration is needed")
    channels = _channels(network, address, first, input_format)
    with kept_random_state():
        torch.manual_seed(seed)
        paraphraser = Paraphraser(channels, rate)
    other: list[float] = []
    trainee = ParaphraserTrainee(
        network,
        {address: paraphraser},
        p=p,
        scaled=scaled,
        input_format=input_format,
        log=lambda _, value: other.append(value),
    )
    trainee.to(next(network.model.parameters()).device).train()
    optimizer = torch.optim.SGD(paraphraser.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    trained: list[float] = []
    for batch in itertools.chain([first], iterator):
        loss = sum(trainee(batch).values(), torch.zeros(()).to(trainee.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trained.append(float(loss.detach()))
        if not math.isfinite(trained[-1] + other[-1]):
            trained[-1] = other[-1] = math.nan
            break
    raw, relative = (other, trained) if scaled else (trained, other)
    return Curve(name, tuple(raw), tuple(relative))


def _channels(network: Teacher, address: str, batch: Any, input_format: str | None) -> int:
    """Look at the feature once: what a model declares may be less than what is there."""
    network.bind(SimpleNamespace(input_format=input_format), (address,))
    if network.student_addresses((address,)):
        raise ValueError(
            f"{address!r} is no map of the whole image; a paraphraser needs one, as 'backbone:p3'"
        )
    feature = network(batch)[address]
    if not isinstance(feature, Tensor) or feature.dim() != 4:
        shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise ValueError(f"{address!r} gives {shape}; a paraphraser needs a feature map (B, C, H, W)")
    return int(feature.shape[1])


def curves_text(curves: Sequence[Curve]) -> str:
    """Return the last errors as a table for the console."""
    width = max(len("network"), *(len(c.network) for c in curves))
    lines = [f"{'network':{width}}  {'raw':>10}  {'scaled':>10}"]
    for curve in curves:
        raw, scaled = curve.final()
        note = f"  diverged in iteration {len(curve.raw)}" if curve.diverged else ""
        lines.append(f"{curve.network:{width}}  {raw:10.4g}  {scaled:10.4g}{note}")
    count = max(1, max(len(curve.raw) for curve in curves) // 10)
    return "\n".join(
        [*lines, "", f"Reconstruction errors, mean of the last {count} iterations; compare 'scaled'."]
    )


def write_curves(curves: Sequence[Curve], path: str | Path) -> Path:
    """Write a CSV of a line for each network and iteration: network, iteration (from 1), raw, scaled, note.

    The last line of a training that diverged has ``nan`` twice and the note ``diverged``; the note is else empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["network", "iteration", "raw", "scaled", "note"])
        for curve in curves:
            for iteration, errors in enumerate(zip(curve.raw, curve.scaled, strict=True), 1):
                note = "diverged" if math.isnan(errors[0]) else ""
                table.writerow([curve.network, iteration, *(f"{e:.6g}" for e in errors), note])
    return path


def draw_curves(curves: Sequence[Curve], path: str | Path, *, address: str, p: int = 1) -> Path:
    """Write a PNG of two panels with logarithmic axes: raw error and scaled error over the iterations.

    Pale: every iteration's value. Full: the mean over a window of a twentieth of the iterations. A training that
    diverged ends there, and the legend says so.
    """
    figure = new_figure(11, 4.6)
    axes = figure.subplots(1, 2)
    unit = "mean absolute error" if p == 1 else "mean squared error"
    spread = "standard deviation" if p == 1 else "variance"
    titles = (f"raw: {unit}", f"scaled: divided by the features' {spread}")
    for axis, title, values in zip(
        axes, titles, ([c.raw for c in curves], [c.scaled for c in curves]), strict=True
    ):
        for number, (curve, errors) in enumerate(zip(curves, values, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            style = ("-", "--", ":")[number // len(COLOURS) % 3]
            iterations, smooth = _smoothed(errors)
            axis.plot(range(1, len(errors) + 1), errors, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(iterations, smooth, color=colour, linestyle=style, linewidth=2, label=_label(curve))
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(partial(_minor_label, digits="235" if high > 4 * low else "23456789"))
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("iteration")
        axis.grid(True, which="both", linewidth=0.4, alpha=0.5)
    axes[0].set_ylabel("reconstruction error")
    figure.suptitle(f"How hard the features at {address} are to reconstruct", fontsize=13, fontweight="bold")
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(len(labels), 4)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return save_figure(figure, path)


def _label(curve: Curve) -> str:
    return f"{curve.network} (diverged)" if curve.diverged else curve.network


def _minor_label(value: float, _: int, *, digits: str) -> str:
    """Label a tick between powers of ten as a plain number, if its first digit is wanted."""
    return f"{value:g}" if f"{value:e}"[0] in digits else ""


def _smoothed(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows of a twentieth of the values, and the iteration at each window's middle."""
    window = max(1, len(values) // 20)
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    return np.arange(len(means)) + (window + 1) / 2, means

#!/usr/bin/env python
"""Draw docs/images/data_flow.png, the README's picture of one distilled training step.

python docs/data_flow.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

BLUE, GREY, ORANGE, GREEN, INK = "#2f6db3", "#7a7a7a", "#d9822b", "#3c8d5a", "#222222"
OUTPUT = Path(__file__).parent / "images" / "data_flow.png"


def box(
    ax: Axes,
    place: tuple[float, float, float, float],
    text: str,
    *,
    edge: str = INK,
    fill: str = "white",
    dashed: bool = False,
) -> None:
    """Draw a rounded box at (x, y, width, height) with text in its middle."""
    x, y, width, height = place
    style = {"linestyle": (0, (4, 3)) if dashed else "-", "linewidth": 1.6, "edgecolor": edge}
    ax.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", facecolor=fill, **style
        )
    )
    ink = GREY if dashed else INK
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=12)


def arrow(ax: Axes, *points: tuple[float, float], color: str = INK, dashed: bool = False) -> None:
    """Draw a line through the points, with a head at the last."""
    style = {"color": color, "linewidth": 1.8, "linestyle": (0, (4, 2)) if dashed else "-"}
    if len(points) > 2:
        ax.plot(*zip(*points[:-1], strict=True), solid_capstyle="butt", **style)
    head = {"arrowstyle": "-|>", "mutation_scale": 16, "shrinkA": 0, "shrinkB": 0, **style}
    ax.annotate("", xy=points[-1], xytext=points[-2], arrowprops=head)


def note(ax: Axes, x: float, y: float, text: str, *, color: str = INK, align: str = "center") -> None:
    """Write a small text."""
    ax.text(x, y, text, ha=align, va="center", color=color, fontsize=11)


def tap(ax: Axes, x: float, y: float, address: str) -> None:
    """Draw a tap: a dot where an output is recorded, with its address."""
    ax.plot([x], [y], marker="o", markersize=9, color=GREEN, zorder=5)
    ax.text(x + 0.14, y, address, ha="left", va="center", family="monospace", fontsize=10.5, color=GREEN)


def draw_models(ax: Axes) -> None:
    """Draw the batch, the student above and the teacher below."""
    box(ax, (0.2, 5.75, 1.5, 0.9), "batch")
    box(ax, (2.5, 5.1, 7.6, 1.95), "", edge=BLUE, fill="#eef4fb")
    note(ax, 2.7, 6.83, "student (trained; the only thing you keep)", color=BLUE, align="left")
    box(ax, (2.8, 5.4, 2.4, 1.1), "backbone + FPN", edge=BLUE)
    box(ax, (5.65, 5.4, 1.3, 1.1), "RPN", edge=BLUE)
    box(ax, (7.4, 5.4, 2.4, 1.1), "RoI heads", edge=BLUE)
    box(ax, (2.5, 0.2, 7.6, 1.95), "", edge=GREY, fill="#f4f4f4")
    note(ax, 2.7, 0.47, "teacher (frozen; runs only what is tapped)", color="#555555", align="left")
    box(ax, (2.8, 0.75, 2.4, 1.1), "backbone + FPN", edge=GREY)
    box(ax, (5.65, 0.75, 1.3, 1.1), "RPN\nnot run", edge=GREY, dashed=True)
    box(ax, (7.4, 0.75, 2.4, 1.1), "RoI heads", edge=GREY)
    for y in (5.95,):
        arrow(ax, (5.2, y), (5.65, y))
        arrow(ax, (6.95, y), (7.4, y))
    arrow(ax, (5.2, 0.95), (7.4, 0.95), color=GREY)
    arrow(ax, (1.7, 6.2), (2.5, 6.2))
    arrow(ax, (0.95, 5.75), (0.95, 1.2), (2.5, 1.2))
    note(ax, 1.07, 2.6, "same\npixels", align="left")


def draw_pairs(ax: Axes) -> None:
    """Draw what is compared: taps, adapters, losses."""
    box(ax, (2.8, 3.1, 2.4, 1.05), "pair ft\nfactor transfer", edge=ORANGE, fill="#fdf3e7")
    box(ax, (7.4, 3.1, 2.4, 1.05), "pair fm\nfeature mimicking", edge=ORANGE, fill="#fdf3e7")
    for x, above, below in ((3.4, "translator", "paraphraser"), (8.0, "", "")):
        arrow(ax, (x, 5.4), (x, 4.15), color=GREEN)
        arrow(ax, (x, 1.85), (x, 3.1), color=GREEN)
        note(ax, x + 0.14, 4.4, above, color=ORANGE, align="left")
        note(ax, x + 0.14, 2.83, below, color=ORANGE, align="left")
    tap(ax, 3.4, 4.82, "backbone:p3")
    tap(ax, 8.0, 4.82, "roi_heads.box_head")
    tap(ax, 3.4, 2.42, "backbone:p3")
    tap(ax, 8.0, 2.42, "roi_heads.box_head")
    arrow(ax, (7.15, 5.95), (7.15, 1.55), (7.4, 1.55), color=BLUE, dashed=True)
    note(ax, 7.02, 3.62, "the student's\nsampled\nproposals", color=BLUE, align="right")


def draw_losses(ax: Axes) -> None:
    """Draw the loss dict and who steps."""
    box(ax, (11.0, 5.45, 2.7, 1.0), "loss_cls\nloss_box_reg ...")
    box(ax, (11.0, 2.95, 2.7, 1.35), "distill_ft_p3\ndistill_fm_box_head_l2\n..._lsh", edge=ORANGE)
    arrow(ax, (10.1, 5.95), (11.0, 5.95))
    arrow(ax, (9.8, 3.62), (11.0, 3.62), color=ORANGE)
    arrow(ax, (5.2, 3.3), (5.45, 3.3), (5.45, 2.75), (10.4, 2.75), (10.4, 3.3), (11.0, 3.3), color=ORANGE)
    box(ax, (14.6, 4.1, 2.3, 1.3), "detectron2's\ntrainer: sum,\nlog, step")
    arrow(ax, (13.7, 5.95), (15.75, 5.95), (15.75, 5.4))
    arrow(ax, (13.7, 3.62), (15.75, 3.62), (15.75, 4.1))


def main() -> None:
    """Draw and write the picture."""
    figure, ax = plt.subplots(figsize=(13.6, 5.9))
    ax.set(xlim=(0, 17.1), ylim=(0.05, 7.2))
    ax.axis("off")
    for draw in (draw_models, draw_pairs, draw_losses):
        draw(ax)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110, bbox_inches="tight", pad_inches=0.08, facecolor="white")


if __name__ == "__main__":
    main()

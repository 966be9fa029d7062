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
) -> None:
    """Draw a rounded box at (x, y, width, height) with text in its middle."""
    x, y, width, height = place
    corners = "round,pad=0,rounding_size=0.12"
    style = {"facecolor": fill, "edgecolor": edge, "linewidth": 1.6}
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=corners, **style))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, fontsize=11)


def arrow(ax: Axes, *points: tuple[float, float], color: str = INK, dashed: bool = False) -> None:
    """Draw a line through the points, with a head at the last."""
    style = {"color": color, "linewidth": 1.8, "linestyle": (0, (4, 2)) if dashed else "-"}
    if len(points) > 2:
        ax.plot(*zip(*points[:-1], strict=True), solid_capstyle="butt", **style)
    head = {"arrowstyle": "-|>", "mutation_scale": 16, "shrinkA": 0, "shrinkB": 0, **style}
    ax.annotate("", xy=points[-1], xytext=points[-2], arrowprops=head)


def note(ax: Axes, x: float, y: float, text: str, *, color: str = INK, align: str = "left") -> None:
    """Write a small text."""
    ax.text(x, y, text, ha=align, va="center", color=color, fontsize=11)


def tap(ax: Axes, x: float, y: float, address: str) -> None:
    """Draw a tap: a dot where an output is recorded, with its address."""
    ax.plot([x], [y], marker="o", markersize=9, color=GREEN, zorder=5)
    ax.text(x + 0.14, y, address, ha="left", va="center", family="monospace", fontsize=10.5, color=GREEN)


def draw_models(ax: Axes) -> None:
    """Draw the batch, the student above and the teacher below."""
    box(ax, (0.2, 5.75, 1.5, 0.9), "batch")
    box(ax, (2.5, 5.1, 7.9, 2.0), "", edge=BLUE, fill="#eef4fb")
    note(ax, 2.75, 6.82, "student: trained, the only thing you keep", color=BLUE)
    box(ax, (2.8, 5.4, 2.5, 1.1), "backbone + FPN", edge=BLUE)
    box(ax, (5.75, 5.4, 1.2, 1.1), "RPN", edge=BLUE)
    box(ax, (7.6, 5.4, 2.5, 1.1), "RoI heads", edge=BLUE)
    box(ax, (2.5, 0.2, 7.9, 2.0), "", edge=GREY, fill="#f4f4f4")
    note(ax, 2.75, 0.5, "teacher: frozen, runs only what is tapped", color="#555555")
    box(ax, (2.8, 0.8, 2.5, 1.1), "backbone + FPN", edge=GREY)
    box(ax, (7.6, 0.8, 2.5, 1.1), "RoI heads", edge=GREY)
    arrow(ax, (5.3, 5.95), (5.75, 5.95))
    arrow(ax, (6.95, 5.95), (7.6, 5.95))
    arrow(ax, (5.3, 1.1), (7.6, 1.1))
    arrow(ax, (1.7, 6.2), (2.5, 6.2))
    arrow(ax, (0.95, 5.75), (0.95, 1.2), (2.5, 1.2))
    note(ax, 1.07, 3.65, "the same\npixels")


def draw_pairs(ax: Axes) -> None:
    """Draw what is compared: taps, adapters, losses."""
    box(ax, (2.5, 3.0, 7.9, 1.3), "", edge=ORANGE, fill="#fdf3e7")
    for x, text in ((2.8, "factor transfer"), (7.6, "feature mimicking")):
        box(ax, (x, 3.2, 2.5, 0.9), text, edge=ORANGE)
    for x in (3.3, 8.1):
        arrow(ax, (x, 5.4), (x, 4.1), color=GREEN)
        arrow(ax, (x, 1.9), (x, 3.2), color=GREEN)
        for y in (4.7, 2.6):
            tap(ax, x, y, "backbone:p3" if x < 5 else "roi_heads.box_head")
    arrow(ax, (7.25, 5.95), (7.25, 1.6), (7.6, 1.6), color=BLUE, dashed=True)
    note(ax, 7.12, 2.6, "the student's\nproposals", color=BLUE, align="right")
    note(ax, 5.9, 3.65, "pairs", color="#a85f12")


def draw_losses(ax: Axes) -> None:
    """Draw the loss dict and who steps."""
    box(ax, (11.2, 5.3, 3.1, 1.3), "loss_cls\nloss_box_reg\n...")
    box(ax, (11.2, 2.9, 3.1, 1.5), "distill_ft_p3\ndistill_fm_box_head_l2\n...", edge=ORANGE)
    arrow(ax, (10.4, 5.95), (11.2, 5.95))
    arrow(ax, (10.4, 3.65), (11.2, 3.65), color=ORANGE)
    box(ax, (15.0, 4.1, 2.0, 1.4), "detectron2's\ntrainer: sum,\nlog, step")
    arrow(ax, (14.3, 5.95), (16.0, 5.95), (16.0, 5.5))
    arrow(ax, (14.3, 3.65), (16.0, 3.65), (16.0, 4.1))


def main() -> None:
    """Draw and write the picture."""
    figure, ax = plt.subplots(figsize=(13.8, 5.9))
    ax.set(xlim=(0, 17.1), ylim=(0.05, 7.2))
    ax.axis("off")
    for draw in (draw_models, draw_pairs, draw_losses):
        draw(ax)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=120, bbox_inches="tight", pad_inches=0.08, facecolor="white")


if __name__ == "__main__":
    main()

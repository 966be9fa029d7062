"""The photos of the report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Measured
from .photos import detector_panel, differences, jpeg_url, truth_panel

__all__ = ["gallery"]


def gallery(
    measured: Sequence[Measured],
    records: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    limit: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every photo that is shown, once, and for each student those on which it differs most from the teacher."""
    teacher, store, sections = measured[0], {}, []
    sizes = teacher.truth.sizes
    for number, one in enumerate(measured):
        if one.found.source.is_teacher:
            continue
        counts = differences(teacher.found.detections, one.found.detections, len(records), one.threshold)
        chosen = [int(i) for i in np.argsort(-counts, kind="stable")[:limit] if counts[i]]
        shown = []
        for image in chosen:
            width, height = (int(side) for side in sizes[image])
            if image not in store:
                store[image] = {
                    "image": image,
                    "width": width,
                    "height": height,
                    "url": jpeg_url(records[image]),
                }
            panels = [
                (None, truth_panel(teacher, image, classes)),
                (0, detector_panel(teacher, image, classes)),
                (number, detector_panel(one, image, classes)),
            ]
            shown.append(
                {
                    "image": image,
                    "name": Path(str(records[image]["file_name"])).name,
                    "difference": int(counts[image]),
                    "width": width,
                    "height": height,
                    "font": round(max(width, height) / 30, 1),
                    "panels": [{"detector": d, "boxes": p.boxes, "caption": p.caption} for d, p in panels],
                }
            )
        sections.append({"detector": number, "photos": shown})
    return list(store.values()), sections

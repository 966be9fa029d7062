"""The report on detections as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...evaluation.cost import ModelCost
from ..figures import COLOURS
from .charts import PANEL, SCATTER, curve_panel, scatter
from .findings import findings
from .gallery import gallery
from .groups import cost_note, error_groups, facts, no_cost, size_groups
from .measure import Measured
from .wording import number, parts, signed

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["MOST_PHOTOS", "environment", "page", "write_page"]

MOST_PHOTOS = 24
"""Of each student; all are within the page."""

_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2", "12 3", "1 2")
_COLUMNS = (
    ("voc/AP", "AP"),
    ("voc/AP50", "AP50"),
    ("voc/AP75", "AP75"),
    ("voc/AP50-11point", "AP50, 11-point"),
    ("coco/AP", "AP"),
    ("coco/AP50", "AP50"),
    ("coco/AP75", "AP75"),
)
_BOX_KINDS = (
    ("object", "an object"),
    ("right", "right: finds an object"),
    ("wrong", "wrong"),
    ("missed", "missed object"),
    ("uncounted", "does not count"),
)
_SHOWN = 9


@dataclass(frozen=True)
class _Detector:
    """How the page shows a detector."""

    number: int
    m: Measured
    colour: str
    dash: str

    @property
    def name(self) -> str:
        return self.m.name

    @property
    def short(self) -> str:
        return self.name if len(self.name) <= 24 else f"{self.name[:23]}…"

    @property
    def role(self) -> str:
        return "teacher" if self.m.found.source.is_teacher else "student"

    @property
    def cost(self) -> ModelCost | None:
        return self.m.found.cost


def write_page(
    measured: Sequence[Measured],
    records: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    data: str,
    path: str | Path,
    *,
    photos: int = 6,
    count_difficult: bool = False,
) -> Path:
    """Write the page; its folder is made. See `page`."""
    path = Path(path)
    text = page(measured, records, classes, data, photos=photos, count_difficult=count_difficult)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def page(
    measured: Sequence[Measured],
    records: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    data: str,
    *,
    photos: int = 6,
    count_difficult: bool = False,
) -> str:
    """Return the page as a text.

    Args:
        measured: the detectors; the first is the teacher that the others are compared with.
        records: the data set's dicts, with "file_name"; image i is the i-th.
        classes: names of the classes.
        data: name of the data set.
        photos: how many of each student's are shown at most; `MOST_PHOTOS` is the limit.
        count_difficult: with what `measured` was made.

    Raises:
        ImportError: jinja2 is not installed.
        ValueError: nothing to compare, or too many photos.
    """
    if len(measured) < 2 or not measured[0].found.source.is_teacher:
        raise ValueError("a report needs a teacher, which comes first, and a student")
    if not 0 <= photos <= MOST_PHOTOS:
        raise ValueError(
            f"{photos} photos of each student: choose 0 to {MOST_PHOTOS}, they are all in the page"
        )
    detectors = [_Detector(i, m, COLOURS[i], _DASHES[i]) for i, m in enumerate(measured)]
    panels = [curve_panel(measured, i, name) for i, name in enumerate(classes)]
    panels.sort(key=lambda panel: -panel.gap)
    if len(classes) != 1:
        panels.insert(0, curve_panel(measured, None, "All classes (mean)"))
    store, sections = gallery(measured, records, classes, photos)
    env = environment()
    return env.get_template("report.html.j2").render(
        title=f"Detection report: {', '.join(m.name for m in measured)} on {data}",
        data=data,
        facts=facts(measured[0], len(classes)),
        detectors=detectors,
        teachers=[d.name for d in detectors if d.role == "teacher"],
        students=[d.name for d in detectors if d.role == "student"],
        findings=findings(measured),
        columns=_COLUMNS,
        classes=classes,
        class_rows=[
            {
                "name": name,
                "objects": parts(*measured[0].all_objects(i)),
                "tables": [m.class_table(i) for m in measured],
            }
            for i, name in enumerate(classes)
        ],
        panels=panels,
        shown=_SHOWN,
        box=PANEL,
        sbox=SCATTER,
        threshold=measured[0].threshold,
        size_groups=size_groups(measured),
        error_groups=error_groups(measured),
        scatter=scatter(measured),
        cost_note=cost_note(measured),
        no_cost=no_cost(measured),
        store=store,
        photo_sections=sections,
        box_kinds=_BOX_KINDS,
        labels=len(classes) > 1,
        any_difficult=measured[0].all_objects()[1] > 0,
        count_difficult=count_difficult,
        made_by=f"det_distill {__version__}",
    )


def environment() -> Environment:
    """Return jinja2's environment of the page: every value is escaped, an unknown one is an error.

    Raises:
        ImportError: jinja2 is not installed; says how to install it.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise ImportError(
            "the report's page needs jinja2, which is not installed here: pip install jinja2"
        ) from None
    env = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["number"] = number
    env.filters["signed"] = signed
    folder = files(__package__) / "templates"
    style, script = ((folder / name).read_text("utf-8") for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    env.globals.update(style=Markup(style), script=Markup(script), script_digest=digest)
    return env

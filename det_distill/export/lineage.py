"""Where a student comes from, as its run's config and records say it: teachers, pairs, recorded precision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict

from ..evaluation.comparison import recorded_results
from ..evaluation.teachers import TEACHERS_FILE

__all__ = ["recorded_scores", "taught_by", "told"]

_SHOWN = {
    "bbox/AP": "AP",
    "bbox/AP50": "AP50",
    "voc/AP50": "AP50 (VOC)",
    "classification/top1": "top-1",
    "classification/top5": "top-5",
    "retrieval/R1": "R@1",
    "retrieval/mAP": "mAP",
}


def taught_by(cfg: CfgNode, weights: str) -> list[str]:
    """Return lines of Markdown with the teachers and what each pair did; one that says so, if there was no teacher.

    A teacher's precision is there if the run, in whose folder the checkpoint `weights` is, measured it.
    """
    if cfg.MODEL.META_ARCHITECTURE != "Distiller" or not cfg.DISTILL.ENABLED or not cfg.DISTILL.TEACHERS:
        return ["It was trained without a teacher."]
    measured = _teachers_scores(Path(weights).parent)
    lines = []
    for name, node in cfg.DISTILL.TEACHERS.items():
        source = _short(node.get("CONFIG", "")) or "no config named"
        end = _short(node.get("WEIGHTS", "")) or "none named"
        lines.append(f"- Teacher `{name}`: config `{source}`, weights `{end}`{_told(measured.get(name, {}))}")
    lines += [f"- Method: {_method(name, node)}" for name, node in cfg.DISTILL.PAIRS.items()]
    return lines


def _method(name: str, node: Mapping[str, object]) -> str:
    places = node.get("AT") or [node.get("STUDENT"), node.get("TEACHER")]
    places = [places] if isinstance(places, str) else places
    where = ", ".join(f"`{place}`" for place in places if place) if isinstance(places, (list, tuple)) else ""
    weight = node.get("WEIGHT")
    return (
        f"{node.get('METHOD')} (pair `{name}`{', at ' + where if where else ''}"
        f"{f', weight {weight:g}' if isinstance(weight, (int, float)) else ''})"
    )


def _short(path: str) -> str:
    """The end of an absolute path, which means nothing elsewhere; a name or an address as it is."""
    parts = PurePath(path).parts
    return str(PurePath(*parts[-2:])) if PurePath(path).is_absolute() and len(parts) > 2 else path


def recorded_scores(weights: str) -> dict[str, float]:
    """Return what the run of a ``model_final.pth`` measured last, heading -> percent; {} of any other file, or if none.

    Other checkpoints of the run may be better or worse than what it measured last.
    """
    path = Path(weights)
    if path.name != "model_final.pth":
        return {}
    return _shown(recorded_results(path.parent))


def _shown(results: Mapping[str, float]) -> dict[str, float]:
    return {
        heading: results[key] for key, heading in _SHOWN.items() if math.isfinite(results.get(key, math.nan))
    }


def _teachers_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Teacher -> what the run in a folder measured of it; {} if it measured none."""
    try:
        known = json.loads((folder / TEACHERS_FILE).read_text())
        results = {name: flatten_results_dict(entry["results"]) for name, entry in known.items()}
        return {name: _shown(found) for name, found in results.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def told(scores: Mapping[str, float]) -> str:
    """Return percentages by their headings, for a person."""
    return ", ".join(f"{heading} {value:.2f}" for heading, value in scores.items())


def _told(scores: Mapping[str, float]) -> str:
    return f"; on the same test data {told(scores)}" if scores else ""

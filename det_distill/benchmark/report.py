"""What a benchmark measured, as a table for people and as data."""

from __future__ import annotations

import csv
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Report"]

_NAMES = {
    "plain": "plain student step",
    "teacher": "teacher forward",
    "pairs": "pairs (adapters + losses)",
    "distilled": "distilled step",
}
_RATIOS = {
    "distilled / plain": ("plain",),
    "distilled / (plain + teacher)": ("plain", "teacher"),
    "distilled / (plain + teacher + pairs)": ("plain", "teacher", "pairs"),
}


@dataclass(frozen=True)
class Report:
    """Times and memory of one run.

    Attributes:
        setting: what was run where: texts and numbers by name.
        seconds: part, one of `PARTS`, -> seconds of each repeat.
        peak_bytes: part -> peak memory, see `peak_memory`; empty: not measured.
        teacher_bytes: parameters and buffers of all teachers.
        tapped_bytes: the teachers' tapped features of one batch.
    """

    setting: Mapping[str, Any]
    seconds: Mapping[str, Sequence[float]]
    peak_bytes: Mapping[str, int]
    teacher_bytes: int
    tapped_bytes: int

    def medians(self) -> dict[str, float]:
        """Return part -> median seconds."""
        return {part: statistics.median(times) for part, times in self.seconds.items()}

    def ratios(self) -> dict[str, float]:
        """Return name -> median over the repeats of each repeat's own ratio.

        Both sides of a ratio were measured within seconds of each other, so that a machine that is now
        faster, now slower, does not change it.
        """
        return {name: statistics.median(self._quotients(parts)) for name, parts in _RATIOS.items()}

    def _quotients(self, parts: Sequence[str]) -> list[float]:
        sums = [sum(times) for times in zip(*(self.seconds[p] for p in parts), strict=True)]
        return [d / s for d, s in zip(self.seconds["distilled"], sums, strict=True)]

    def memory_bound(self) -> int | None:
        """Return plain step + teachers' weights + tapped features in bytes; None if not measured."""
        plain = self.peak_bytes.get("plain")
        return None if plain is None else plain + self.teacher_bytes + self.tapped_bytes

    def table(self) -> str:
        """Return the lines that the tool prints."""
        lines = [
            ", ".join(f"{k} {v}" for k, v in self.setting.items()),
            f"{'':28}{'median':>11}{'peak memory':>14}",
        ]
        for part, seconds in self.medians().items():
            peak = f"{self.peak_bytes[part] / 1e6:11.0f} MB" if part in self.peak_bytes else ""
            lines.append(f"{_NAMES[part]:28}{1e3 * seconds:8.1f} ms{peak}")
        lines += [f"{name:40}{ratio:6.3f}" for name, ratio in self.ratios().items()]
        bound = self.memory_bound()
        if bound is not None:
            weights, tapped = self.teacher_bytes / 1e6, self.tapped_bytes / 1e6
            lines.append(
                f"peak of plain step + teacher weights {weights:.0f} MB + tapped features {tapped:.0f} MB "
                f"= {bound / 1e6:.0f} MB; distilled step / that: {self.peak_bytes['distilled'] / bound:.3f}"
            )
        return "\n".join(lines)

    def write_json(self, path: str) -> None:
        """Write everything, single times too."""
        derived = {"medians": self.medians(), "ratios": self.ratios(), "python": platform.python_version()}
        Path(path).write_text(json.dumps({**asdict(self), **derived}, indent=1) + "\n")

    def write_csv(self, path: str) -> None:
        """Write a header and one row: settings, medians in milliseconds, ratios, peaks in megabytes."""
        row = {
            **self.setting,
            **{f"{part} ms": round(1e3 * seconds, 3) for part, seconds in self.medians().items()},
            **{name: round(ratio, 4) for name, ratio in self.ratios().items()},
            **{f"{part} peak MB": round(size / 1e6, 1) for part, size in self.peak_bytes.items()},
        }
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)

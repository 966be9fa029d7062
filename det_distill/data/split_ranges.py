"""The text of a SPLIT such as "train[6000:]+extra": which images of which parts of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SplitRange", "parse_split"]

_PART = re.compile(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?")


@dataclass(frozen=True)
class SplitRange:
    """Images `start` to `stop` (not included) of the part `name`, counted as Python's slices are."""

    name: str
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        if self.start is None and self.stop is None:
            return self.name
        return f"{self.name}[{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}]"

    def of(self, count: int) -> range:
        """The numbers of its images in a part of `count`.

        Raises:
            ValueError: it reaches beyond the part, or is empty.
        """
        far = [bound for bound in (self.start, self.stop) if bound is not None and abs(bound) > count]
        found = range(count)[self.start : self.stop]
        if far or not found:
            problem = f"there is no number {far[0]}" if far else "the range is empty"
            raise ValueError(f"'{self}': '{self.name}' has {count} images, {problem}")
        return found


def parse_split(text: str, names: Sequence[str]) -> tuple[SplitRange, ...]:
    """Read "train", "train[:5000]", "train[-5000:]", or several of these joined by "+".

    Args:
        text: the split; spaces around the parts are passed over.
        names: the parts that there are.

    Raises:
        ValueError: it is not written like this, or names a part that is not there.
    """
    found = []
    for part in text.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None or match[1] not in names:
            raise ValueError(
                f"SPLIT '{text}' cannot be read at '{part.strip()}': write {' or '.join(map(repr, names))}, with a "
                f"range of images or without ('{names[0]}[:5000]', '{names[0]}[5000:]'), several joined by '+'"
            )
        found.append(
            SplitRange(match[1], *(None if bound is None else int(bound) for bound in match.groups()[1:]))
        )
    return tuple(found)

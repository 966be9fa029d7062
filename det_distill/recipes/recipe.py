"""A recipe as it is written: its file, read and checked as far as that is possible without a config.

output: "output/demo"                       # the steps' folders and the report are made in it
data: "tree_tiles"                          # optional: a demonstration set to prepare first
steps:
  - {name: teacher, config: demo/teacher.yaml}
  - name: student
    config: demo/student.yaml               # a file, or a config of det_distill's or detectron2's model zoo
    options: {DISTILL.TEACHERS.teacher.WEIGHTS: "{teacher}"}   # the checkpoint that step `teacher` ends with
compare: {teacher: teacher, student distilled: student}           # optional: rows of the table -> steps
picture: {photos: 3, threshold: 0.5}        # optional: what the compared steps find on test photos
export: student                             # optional: the step whose student is exported
next: "..."                                 # optional: printed at the end
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import model_zoo
from ..yaml_files import load_yaml

__all__ = ["CHECKPOINT", "PictureOptions", "Recipe", "Step", "load_recipe"]

CHECKPOINT = "model_final.pth"
"""The file of a step that ``{step}`` stands for."""

_REFERENCE = re.compile(r"\{([^{}]*)\}")
_KEY = re.compile(r"[A-Z]\S*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RECIPE_KEYS = ("output", "data", "steps", "compare", "picture", "export", "next")
_STEP_KEYS = ("name", "config", "options")
_PICTURE_KEYS = ("photos", "threshold")
_RESERVED = ("export", "replaced")


@dataclass(frozen=True)
class Step:
    """One run of the trainer.

    Attributes:
        name: also its folder in the recipe's output.
        config: a file, or a name in the model zoo.
        options: config key -> value; in texts, ``{step}`` stands for that step's last checkpoint.
    """

    name: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps whose checkpoints this one starts from, in the order of the options."""
        found = [ref for value in self.options.values() for ref in _references(value)]
        return tuple(dict.fromkeys(found))

    def arguments(self, output: Path | None = None) -> list[str]:
        """Return the options as a command line, ``[KEY, value, ...]``.

        Args:
            output: the recipe's output folder; None: leave ``{step}`` as it is written.
        """
        texts: list[str] = []
        for key, value in self.options.items():
            text = str(value)
            for ref in self.needs if output is not None else ():
                text = text.replace(f"{{{ref}}}", str(Path(str(output)) / ref / CHECKPOINT))
            texts += [key, text]
        return texts


@dataclass(frozen=True)
class PictureOptions:
    """What the picture shows.

    Attributes:
        photos: how many test photos (rows).
        threshold: smallest score of a box that is drawn.
    """

    photos: int = 3
    threshold: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; see the module for the format."""

    path: str
    output: Path
    steps: tuple[Step, ...]
    data: str | None = None
    compare: Mapping[str, str] = field(default_factory=dict)
    picture: PictureOptions | None = None
    export: str | None = None
    next: str = ""

    def step(self, name: str) -> Step:
        """Return the step of that name."""
        return next(step for step in self.steps if step.name == name)

    def dependents(self, name: str) -> tuple[str, ...]:
        """Return `name` and every step that starts, directly or not, from its files, in their order."""
        found = [name]
        for step in self.steps:
            if step.name not in found and set(step.needs) & set(found):
                found.append(step.name)
        return tuple(found)


def load_recipe(path: str, output: str | None = None, options: Sequence[Any] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: a file, or a name relative to det_distill's configs.
        output: instead of the file's own output folder.
        options: ``[KEY, value, ...]`` for every step, behind the step's own and instead of those of the same key.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not YAML, a key that is unknown, missing or of the wrong kind, a step named twice, a reference to a
            step that does not come before, or `options` that are no pairs.
    """
    common = _pairs(options)
    path = model_zoo.find_config(path)
    content = load_yaml(path)
    try:
        return _recipe(path, content, output, common)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _pairs(options: Sequence[Any]) -> dict[str, Any]:
    """``[KEY, value, ...]`` as a mapping."""
    form = "options are pairs, KEY VALUE, as in SOLVER.MAX_ITER 20"
    if len(options) % 2:
        raise ValueError(f"{options[-1]!r} has no value: {form}")
    pairs: dict[str, Any] = {}
    for key, value in zip(options[::2], options[1::2], strict=True):
        if not _KEY.fullmatch(str(key)):
            raise ValueError(f"{key!r} is no config key: {form}")
        if key == "OUTPUT_DIR":
            raise ValueError(
                "OUTPUT_DIR: every step has a folder of its own; set --output, for all of them together"
            )
        if key in pairs:
            raise ValueError(f"{key} is given twice")
        pairs[key] = value
    return pairs


def _recipe(path: str, content: Any, output: str | None, common: Mapping[str, Any]) -> Recipe:
    _check_keys(content, _RECIPE_KEYS, "a recipe", required=("output", "steps"))
    if not isinstance(content["steps"], list) or not content["steps"]:
        raise ValueError("'steps' must be a list with at least one step")
    steps = tuple(_step(entry, number, common) for number, entry in enumerate(content["steps"], 1))
    _check_order(steps)
    names = [step.name for step in steps]
    compare = content.get("compare") or {}
    if not isinstance(compare, Mapping):
        raise ValueError(
            "'compare' must map the rows of the table to steps, as in {student alone: student_alone}"
        )
    for where, name in [
        *((f"compare: {row}", n) for row, n in compare.items()),
        ("export", content.get("export")),
    ]:
        if name is not None and name not in names:
            raise ValueError(f"{where}: there is no step {name!r}{_nearest(str(name), names)}")
    picture = _picture(content["picture"]) if "picture" in content else None
    if picture and not compare:
        raise ValueError("'picture' shows what the steps of 'compare' find; add 'compare'")
    return Recipe(
        path=path,
        output=Path(output or _text(content["output"], "output")),
        steps=steps,
        data=None if content.get("data") is None else _text(content["data"], "data"),
        compare={str(row): name for row, name in compare.items()},
        picture=picture,
        export=content.get("export"),
        next=_text(content.get("next", ""), "next"),
    )


def _step(entry: Any, number: int, common: Mapping[str, Any]) -> Step:
    where = f"step {number}"
    _check_keys(entry, _STEP_KEYS, where, required=("name", "config"))
    name, options = _text(entry["name"], f"{where}: name"), entry.get("options") or {}
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            f"{where}: the name {name!r} becomes a folder: use letters, digits, '_' and '-', and none of the "
            f"names {', '.join(_RESERVED)}"
        )
    if not isinstance(options, Mapping):
        raise ValueError(f"step {name}: 'options' must map config keys to values")
    for key, value in options.items():
        if not isinstance(key, str) or isinstance(value, Mapping):
            raise ValueError(
                f"step {name}: write option {key!r} with its full key, as in SOLVER.MAX_ITER: 100"
            )
    own = {key: value for key, value in options.items() if key not in common}
    return Step(name, _text(entry["config"], f"step {name}: config"), {**own, **common})


def _check_order(steps: tuple[Step, ...]) -> None:
    names = [step.name for step in steps]
    for position, step in enumerate(steps):
        if step.name in names[:position]:
            raise ValueError(f"two steps have the name {step.name!r}")
        for ref in step.needs:
            if ref not in names:
                raise ValueError(
                    f"step {step.name} starts from {{{ref}}}, but there is no such step{_nearest(ref, names)}"
                )
            if ref not in names[:position]:
                raise ValueError(
                    f"step {step.name} starts from {{{ref}}}, which does not come before it: steps run in "
                    "the order of the list, and none can start from itself or in a circle"
                )


def _picture(entry: Any) -> PictureOptions:
    entry = entry or {}
    _check_keys(entry, _PICTURE_KEYS, "picture")
    options = PictureOptions(**entry)
    if not isinstance(options.photos, int) or options.photos < 1:
        raise ValueError(f"picture: photos must be a number from 1 on, not {options.photos!r}")
    if not isinstance(options.threshold, (int, float)) or not 0 <= options.threshold <= 1:
        raise ValueError(f"picture: threshold must be a score from 0 to 1, not {options.threshold!r}")
    return options


def _check_keys(entry: Any, valid: tuple[str, ...], where: str, required: Iterable[str] = ()) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(valid)}, not {entry!r}")
    for key in entry:
        if key not in valid:
            raise ValueError(
                f"{where}: unknown key {key!r}{_nearest(str(key), valid)}; valid are {', '.join(valid)}"
            )
    for key in required:
        if entry.get(key) is None:
            raise ValueError(f"{where} needs {key!r}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, not {value!r}")
    return value


def _references(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [ref for item in value for ref in _references(item)]
    return _REFERENCE.findall(value) if isinstance(value, str) else []


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""

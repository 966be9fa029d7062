"""From inputs to results: predict, draw, note; a file that cannot be read is told, and the others go on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import replace_file
from ..predictors import Predictor
from .drawing import draw_classes, draw_detections, lacking
from .images import count_frames, read_rgb
from .inputs import Input
from .journal import Journal
from .records import above, describe, record
from .video import VideoReader, VideoWriter, need_av

__all__ = ["Outcome", "predict_files"]


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        file: ``predictions.json``.
        images: how many have a result.
        videos: likewise, whole or in part.
        failed: path -> why there is no result, or not all of it.
    """

    file: Path
    images: int = 0
    videos: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Input],
    output: Path,
    *,
    threshold: float = 0.5,
    pictures: bool = True,
    say: Callable[[str], Any] = print,
) -> Outcome:
    """Write ``predictions.json`` and the pictures of some images and videos to a folder; see `Journal`.

    A run that was interrupted goes on where it stopped if it is called again with the same model, threshold and choice
    of pictures.

    Args:
        predictor: the network.
        inputs: see `find_inputs`.
        output: the folder, which is made.
        threshold: detections of a lower score are left out.
        pictures: draw.
        say: gets a line for each input.

    Raises:
        ImportError: there is a video but no PyAV; nothing has been done yet.
        ValueError: the folder has the unfinished results of another run, or a threshold beyond 0 to 1.
        OSError: the folder cannot be written to.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold of {threshold:g}: scores are from 0 to 1")
    if any(i.is_video for i in inputs):
        need_av()
    if pictures and (letters := lacking(predictor.classes)):
        say(
            f"The font of the pictures lacks {letters}: the pictures have ? there, the JSON has the whole names"
        )
    about = {**describe(predictor, _sha256(predictor.file), threshold), "pictures": pictures}
    with Journal(output, about) as journal:
        work = _Work(predictor, output, threshold, pictures, journal)
        outcome = Outcome(journal.file)
        for number, item in enumerate(inputs, 1):
            path = str(item.path)
            before = f"{number}/{len(inputs)} {path}: "
            if path in journal.done:
                what, problem = "done before the interruption", journal.done[path]
            else:
                what, problem = work.video(item) if item.is_video else work.image(item)
            if problem:
                outcome.failed[path] = problem
            outcome.images += not item.is_video and not problem
            outcome.videos += item.is_video and bool(what)
            say(before + "; ".join(filter(None, (what, problem and f"FAILED: {problem}"))))
        journal.finish(outcome.failed)
    return outcome


@dataclass(frozen=True)
class _Work:
    """One run's; both methods return what was found, in words, and what went wrong."""

    predictor: Predictor
    output: Path
    threshold: float
    pictures: bool
    journal: Journal

    def image(self, item: Input) -> tuple[str, str]:
        try:
            pixels = read_rgb(item.path)
            found = self._record(pixels)
        except (
            ValueError,
            RuntimeError,
        ) as error:  # RuntimeError: torch's, such as one for too little memory
            return "", _one_line(error)
        frames = count_frames(item.path)
        note = f"only the first of its {frames} frames was looked at" if frames > 1 else ""
        entry = {**_size(pixels), **self._picture(item), **({"note": note} if note else {}), **found}
        if self.pictures:
            _save(self._draw(pixels, found), self.output / item.picture)
        self.journal.image(str(item.path), entry)
        return "; ".join(filter(None, (_words(found), note))), ""

    def video(self, item: Input) -> tuple[str, str]:
        path = str(item.path)
        try:
            reader = VideoReader(item.path)
        except ValueError as error:
            return "", _one_line(error)
        video = VideoWriter(self.output / item.picture, reader.rate) if self.pictures else nullcontext()
        with reader, video as writer:
            count, entry, problem = self._frames(path, reader, writer)
        if not count:
            return "", problem or "it has no frames"
        rate = round(float(reader.rate), 6)
        incomplete = {"incomplete": problem} if problem else {}
        self.journal.video(path, {**entry, "frames_per_second": rate, **self._picture(item), **incomplete})
        return "1 frame" if count == 1 else f"{count} frames", problem

    def _frames(
        self, path: str, reader: VideoReader, writer: VideoWriter | None
    ) -> tuple[int, dict[str, Any], str]:
        """How many frames were done, their size, and why not all."""
        count, size = 0, dict[str, Any]()
        frames = iter(reader)
        while True:
            try:
                frame = next(frames, None)
                found = self._record(frame.pixels) if frame else {}
            except (ValueError, RuntimeError) as error:
                return count, size, _one_line(error)
            if frame is None:
                return count, size, ""
            size = size or _size(frame.pixels)
            if writer:
                writer.write(np.asarray(self._draw(frame.pixels, found)), frame.seconds)
            self.journal.frame(path, {"frame": frame.number, "seconds": round(frame.seconds, 6), **found})
            count += 1

    def _record(self, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        return record(above(self.predictor(pixels), self.threshold), self.predictor.classes)

    def _draw(self, pixels: NDArray[np.uint8], found: Mapping[str, Any]) -> Image.Image:
        if "detections" in found:
            return draw_detections(pixels, found["detections"])
        return draw_classes(pixels, found["classes"])

    def _picture(self, item: Input) -> dict[str, str]:
        return {"picture": item.picture.as_posix()} if self.pictures else {}


def _size(pixels: NDArray[np.uint8]) -> dict[str, int]:
    return {"width": pixels.shape[1], "height": pixels.shape[0]}


def _save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if file.suffix == ".jpg" else "PNG"
    options = {"quality": 92, "subsampling": 0} if kind == "JPEG" else {}
    replace_file(str(file), lambda temporary: picture.save(temporary, kind, **options))


def _words(found: Mapping[str, Any]) -> str:
    """How many of which class, or which class, for a person."""
    if "classes" in found:
        best = found["classes"][0]
        return f"{best['class']} ({100 * best['probability']:.1f} %)"
    counted = Counter(d["class"] for d in found["detections"])
    return ", ".join(f"{count} {name}" for name, count in counted.most_common()) or "nothing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

"""Videos, a frame at a time, in and out: by PyAV, which comes with the extra ``video``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLD = ("avi", "matroska", "mov", "mp4", "flv", "asf")
"""Containers that say how long they are; of others PyAV's durations are guesses."""

__all__ = ["Frame", "VideoReader", "VideoWriter", "need_av"]

_CODECS = ("libx264", "libopenh264", "mpeg4")
"""What an .mp4 is written with, the first that this PyAV has; every player plays H.264."""

_OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}


def need_av() -> Any:
    """Return PyAV.

    Raises:
        ImportError: it is not installed; says how to install it.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "videos need PyAV, which is not installed: pip install 'det_distill[video]' (or pip install av)"
        ) from error
    return av


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        number: from 0.
        seconds: when it is shown, from the first.
        pixels: (H, W, 3), RGB, upright.
    """

    number: int
    seconds: float
    pixels: NDArray[np.uint8]


class VideoReader:
    """The frames of a video's first stream of pictures, each decoded when it is asked for; use as a context.

    Args:
        path: the file.

    Attributes:
        rate: frames per second, on average.

    Raises:
        ImportError: no PyAV.
        ValueError: the file is no video.
    """

    def __init__(self, path: Path) -> None:
        self._av = need_av()
        try:
            self._container = self._av.open(str(path))
        except (self._av.error.FFmpegError, OSError) as error:
            raise ValueError(f"it is no readable video ({_reason(error)})") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError("it has no pictures, only sound or text")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            ValueError: the rest cannot be decoded, or the file ends before the end that it announces.
        """
        first: float | None = None
        number, end = 0, 0.0
        frames = self._container.decode(self._stream)
        while True:
            try:
                frame = next(frames)
            except StopIteration:
                self._check_whole(number, end)
                return
            except (self._av.error.FFmpegError, OSError) as error:
                raise ValueError(
                    f"frames behind the first {number} cannot be read ({_reason(error)})"
                ) from error
            time = float(frame.time) if frame.time is not None else float(number / self.rate)
            first = time if first is None else first
            shown = float((getattr(frame, "duration", 0) or 0) * (frame.time_base or 0))
            end = max(end, time + (shown or float(1 / self.rate)))
            pixels = _upright(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0))
            yield Frame(number, time - first, pixels)
            number += 1

    def _check_whole(self, number: int, end: float) -> None:
        """Raise if frames are missing at the end; two frames are let pass, for containers count differently.

        Frames that are announced but lie outside the part that is played, or repeat the one before, are not missing:
        the time decides, too.

        Args:
            number: of the frames that came.
            end: of the last of them, in seconds.
        """
        announced, seconds = int(self._stream.frames or 0), self._seconds()
        if announced and number + 2 >= announced:
            return
        others = len(self._container.streams) > 1 and not self._own_seconds()
        slack = float(2 / self.rate) + (1 + 0.1 * seconds if others else 0)  # the sound may be the longer one
        if end + slack < seconds - 1e-3:
            whole = f"{announced} frames" if announced else f"{seconds:.1f} s"
            came = "1 frame" if number == 1 else f"{number} frames"
            raise ValueError(f"it is cut off: it has {came} ({end:.1f} s), but announces {whole}")

    def _seconds(self) -> float:
        """How long the file says that it is; 0: it does not say."""
        if not set(self._container.format.name.split(",")) & set(_TOLD):
            return 0.0
        guessed = self._container.format.name == "avi"
        return self._own_seconds() or (0 if guessed else self._container.duration or 0) / self._av.time_base

    def _own_seconds(self) -> float:
        """The same of the stream of pictures alone."""
        if self._container.format.name == "avi":  # whose durations shrink with the file
            return float(self._stream.frames / self.rate)
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        parts = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", self._stream.metadata.get("DURATION", ""))
        return sum(float(p) * s for p, s in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0.0


class VideoWriter:
    """Writes an .mp4 that has its frames at the times they are given; whole or, after an error, not at all.

    Use as a context. Frames of an odd width or height, which H.264 does not take, get their last column or row twice.

    Args:
        path: the file; its folder is made.
        rate: frames per second, on average.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._av = need_av()
        self._path, self._rate = path, rate
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self._temporary), "w", format="mp4")
        self._stream: Any = None
        self._last = -1
        # ticks: a multiple of the rate, so that frames at a constant rate lie on them, and fine enough for others
        self._ticks = rate * max(1, round(90000 / rate))

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, picture: NDArray[np.uint8], seconds: float) -> None:
        """Add a frame, (H, W, 3), RGB, of the size of the first."""
        height, width = picture.shape[:2]
        even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._start(even.shape[1], even.shape[0])
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        self._last = max(round(seconds * self._ticks), self._last + 1)
        frame.pts, frame.time_base = self._last, 1 / self._ticks
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if error is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
            if error is None and self._stream is not None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _start(self, width: int, height: int) -> None:
        codec = next(c for c in _CODECS if c in self._av.codecs_available or c == _CODECS[-1])
        self._stream = self._container.add_stream(codec, rate=self._rate, options=_OPTIONS.get(codec, {}))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = 1 / self._ticks


def _upright(pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turned as the file asks players to, in quarters; telephones write their videos lying."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90) % 4))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

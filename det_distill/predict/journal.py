"""The results of a run: a line for each image or frame as soon as it is done, one JSON file when all are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..files import replace_file

__all__ = ["Journal"]


class Journal:
    """Collects results in ``predictions.partial.jsonl`` and makes ``predictions.json`` of them at the end.

    The former has a first line about the run, then one JSON text a line: nothing is held in memory, and whatever stops
    a run leaves all that was finished. Opened again with the same words about the run, it goes on behind the last image
    or video that was finished. ``predictions.json`` appears when it is whole, in the place of that of an earlier run:

        {..., "images": {path: {"width", "height", "picture", "detections": [...]}},
         "videos": {path: {"width", "height", "frames_per_second", "picture", "frames": [
             {"frame": 0, "seconds": 0.0, "detections": [...]}]}},
         "failed": {path: why}}

    Use as a context, which closes it.

    Args:
        folder: is made.
        about: what the run is; stands first in both files.

    Raises:
        ValueError: the folder has the unfinished results of another run.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.partial, self.file = folder / "predictions.partial.jsonl", folder / "predictions.json"
        self._about = _text(about)
        self.done: dict[str, str] = {}
        """Path -> "", or why it is incomplete, of the images and videos of an earlier, interrupted run."""
        folder.mkdir(parents=True, exist_ok=True)
        end = self._read() if self.partial.exists() else 0
        self._lines: IO[str] = _open(self.partial, "a")
        self._lines.truncate(end)
        if not end:
            self._write(self._about)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()

    def image(self, path: str, result: Mapping[str, Any]) -> None:
        """Note an image."""
        self._write(_text({"image": path, **result}))

    def frame(self, path: str, result: Mapping[str, Any]) -> None:
        """Note a frame of a video; frames come in turn, and videos one after the other."""
        self._write(_text({"frame_of": path, **result}))

    def video(self, path: str, result: Mapping[str, Any]) -> None:
        """Note that a video is done, and what holds for all of it."""
        self._write(_text({"video": path, **result}))

    def finish(self, failed: Mapping[str, str]) -> None:
        """Write ``predictions.json``, and drop the lines.

        Args:
            failed: path -> why there is no result, or not all of it.
        """
        self._lines.close()
        replace_file(str(self.file), lambda temporary: self._compose(temporary, failed))
        self.partial.unlink()

    def _write(self, line: str) -> None:
        self._lines.write(f"{line}\n")
        self._lines.flush()

    def _read(self) -> int:
        """Note what is done, and return where the last line of something finished ends, in bytes."""
        end = position = 0
        with open(self.partial, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if position == 0 and json.loads(line) != json.loads(self._about):
                    raise ValueError(
                        f"{self.partial} has unfinished predictions of another model, or with other options: finish "
                        "them with the command that began them, remove the file, or name another folder"
                    )
                entry = json.loads(line) if position else {}
                position += len(line)
                if "frame_of" in entry:
                    continue
                if entry:
                    self.done[entry.get("image") or entry["video"]] = entry.get("incomplete", "")
                end = position
        return end

    def _entries(self) -> Iterator[dict[str, Any]]:
        with _open(self.partial, "r") as lines:
            next(lines)
            for line in lines:
                yield json.loads(line)

    def _compose(self, temporary: str, failed: Mapping[str, str]) -> None:
        with _open(temporary, "w") as out:
            out.write(self._about[:-1])
            out.write(',\n"images": {')
            self._images(out.write)
            out.write('},\n"videos": {')
            self._videos(out.write)
            out.write('},\n"failed": ')
            out.write(_text(failed))
            out.write("}\n")

    def _images(self, write: Callable[[str], Any]) -> None:
        comma = ""
        for entry in self._entries():
            if "image" in entry:
                path = entry.pop("image")
                write(f"{comma}\n{_text(path)}: {_text(entry)}")
                comma = ","

    def _videos(self, write: Callable[[str], Any]) -> None:
        ends = {e["video"]: e for e in self._entries() if "video" in e}
        current = ""
        for entry in self._entries():
            path = entry.pop("frame_of", "")
            if path and path != current:
                whole = {k: v for k, v in ends[path].items() if k != "video"}
                write(f'{"]}," if current else ""}\n{_text(path)}: {_text(whole)[:-1]}, "frames": [')
            if path:
                write(f"{',' if path == current else ''}\n{_text(entry)}")
                current = path
        write("]}" if current else "")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _open(file: str | Path, mode: str) -> IO[str]:
    """As UTF-8; of file names that are none, the odd bytes as JSON writes them."""
    return open(file, mode, encoding="utf-8", errors="backslashreplace" if mode != "r" else None)

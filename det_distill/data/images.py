"""Image files of a dataset: found by name, checked without decoding the pixels."""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from det_distill.data.pillow_formats import refuse_postscript
from det_distill.data.problems import DatasetReport

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Image suffixes, in any case; of two files with the same stem the earlier suffix wins."""

_ORIENTATION = 0x0112
_TAIL = 64


class ImageFolder:
    """Finds images by name without suffix, reading each folder once.

    Args:
        root: the folder; a name may contain sub-folders ("night/0001").
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path | None:
        """The image file called `name` plus one of `SUFFIXES`, or None."""
        wanted = self.root / name
        if wanted.parent not in self._listings:
            self._listings[wanted.parent] = _images_by_stem(wanted.parent)
        return self._listings[wanted.parent].get(wanted.name)


def _images_by_stem(folder: Path) -> dict[str, Path]:
    """Stem -> image file, for the images of one folder."""
    if not folder.is_dir():
        return {}
    ranked = [
        (SUFFIXES.index(suffix.lower()), stem, folder / (stem + suffix))
        for stem, suffix in map(os.path.splitext, os.listdir(folder))
        if suffix.lower() in SUFFIXES
    ]
    return {stem: path for _, stem, path in sorted(ranked, reverse=True)}


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says.

    Attributes:
        width: in pixels, as detectron2 reads the image (after the turn that an EXIF tag asks for).
        height: likewise.
        turned: whether an EXIF tag swaps width and height.
    """

    width: int
    height: int
    turned: bool


def read_header(path: Path) -> ImageHeader:
    """Read an image's header and make sure that its end is there.

    The pixels are decoded only if the file does not end as its format demands, or has no such mark.

    Args:
        path: the image file.

    Raises:
        OSError: the file is not an image, or is cut off.
    """
    refuse_postscript()
    try:
        with Image.open(path) as image:
            # Asking Pillow for a PNG's EXIF data decodes the pixels, unless the header had them.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            turned = exif.get(_ORIENTATION) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
            if not _ends_well(path, image.format):
                image.load()
    except OSError:
        raise
    except (Image.DecompressionBombError, ValueError, SyntaxError, EOFError) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    return ImageHeader(width, height, turned)


def _ends_well(path: Path, image_format: str | None) -> bool:
    """Whether the last bytes prove that nothing is cut off."""
    with open(path, "rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(_TAIL, size), os.SEEK_END)
        tail = file.read()
    if image_format == "JPEG":
        return tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if image_format == "PNG":
        return b"IEND" in tail
    if image_format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return False


def checked_size(
    path: Path, annotated: tuple[int, int] | None, report: DatasetReport
) -> tuple[int, int] | None:
    """The (width, height) of an image, compared with what its annotation says.

    Args:
        path: the image file.
        annotated: (width, height) by the annotation, or None where it has none.
        report: gets "image missing", "image not readable", "image size differs" or "image rotated by its
            EXIF tag" (the annotation has the size of the unturned image: its boxes would be wrong).

    Returns:
        The size as detectron2 will read it, or None if the image cannot be read.
    """
    if not path.is_file():
        report.add("image missing", path)
        return None
    try:
        header = read_header(path)
    except OSError as error:
        report.add("image not readable", path, str(error).replace(str(path), path.name))
        return None
    size = (header.width, header.height)
    if annotated is not None and annotated != size:
        detail = f"annotation: {annotated[0]}x{annotated[1]}, file: {size[0]}x{size[1]}"
        unturned = header.turned and annotated == size[::-1]
        report.add("image rotated by its EXIF tag" if unturned else "image size differs", path, detail)
    return size

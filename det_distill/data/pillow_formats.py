"""Pillow reads over forty formats; one of them is a program."""

from __future__ import annotations

from PIL import EpsImagePlugin, Image

__all__ = ["refuse_postscript"]


def refuse_postscript() -> None:
    """Have Pillow open no PostScript, in the whole process; does nothing the second time.

    Of an EPS file, whatever its name ends in, Pillow has Ghostscript run the program that it is. Without that format
    it is "no image that can be identified". Writing EPS is left as it is.
    """
    name = EpsImagePlugin.EpsImageFile.format  # imported above, so `Image.init` does not register it again
    Image.OPEN.pop(name, None)
    if name in Image.ID:
        Image.ID.remove(name)

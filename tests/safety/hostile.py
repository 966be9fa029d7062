"""Files that would make a folder, were anything in them run."""

import os
import pickle
import zipfile
from pathlib import Path

import torch


class Bomb:
    """Its pickle makes the folder `marker` when it is read; the call is `function`'s."""

    def __init__(self, marker: Path, function: str = "system") -> None:
        self.marker, self.function = str(marker), function

    def __reduce__(self):
        calls = {
            "system": (os.system, (f"mkdir {self.marker}",)),
            "eval": (eval, (f"__import__('os').mkdir({self.marker!r})",)),
            "mkdir": (os.mkdir, (self.marker,)),
        }
        return calls[self.function]


def torch_file(file: Path, content: object) -> Path:
    """As ``torch.save`` writes it today, a zip archive."""
    torch.save(content, file)
    return file


def legacy_torch_file(file: Path, content: object) -> Path:
    """As torch wrote it before 1.6, several pickles after each other."""
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file


def pickle_file(file: Path, content: object, protocol: int = 2) -> Path:
    file.write_bytes(pickle.dumps(content, protocol))
    return file


def text_file(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def torchscript_like(file: Path, content: object) -> Path:
    """An archive whose ``data.pkl`` is a plain pickle, as an attacker would write it by hand."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return file

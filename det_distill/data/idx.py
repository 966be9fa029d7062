"""The IDX format of the MNIST sets: four bytes (0, 0, type, dimensions), the sizes, the values."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

__all__ = ["read_idx"]

_UINT8 = 8


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes, plain or, with the suffix .gz, packed by gzip.

    Args:
        path: the file.
        dimensions: how many the array must have: 3 for images (N, H, W), 1 for labels (N,).

    Returns:
        uint8, not writable, as the file's bytes lie in memory.

    Raises:
        ValueError: it is not such a file, or is cut off, or longer than it says.
        OSError: it cannot be read.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes((0, 0, _UINT8, dimensions)):
        raise ValueError(f"it is no IDX file of bytes with {dimensions} dimensions")
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, head, 4)]
    if len(content) - head != math.prod(sizes):
        shape = " x ".join(map(str, sizes))
        raise ValueError(f"it should have {shape} values behind its head but has {len(content) - head}")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(sizes)

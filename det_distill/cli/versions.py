"""What is installed: the versions of this package, of what it needs and of what it can use."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from .. import __version__

__all__ = ["OPTIONAL", "versions_text"]

_NEEDED = ("torch", "torchvision", "detectron2", "pycocotools", "safetensors")
OPTIONAL = {
    "hotcoco": ("fast evaluation by COCO rules", "eval"),
    "onnx": ("export to ONNX", "export"),
    "onnxruntime": ("running and checking an exported ONNX file", "export"),
    "onnxscript": ("export to ONNX", "export"),
    "timm": ("timm's backbones", "timm"),
    "matplotlib": ("pictures of the analyses", "analysis"),
    "jinja2": ("the report of detections", "analysis"),
    "av": ("prediction on videos", "video"),
    "pytorch-metric-learning": ("its losses", "metric"),
    "scipy": ("the SVHN data set", "svhn"),
}
"""Distribution -> what it is for, and the extra of this package that installs it."""


def versions_text() -> str:
    """Return a line for each distribution with its version, and of one that is absent how to install it.

    Nothing is imported: torch takes seconds.
    """
    width = max(map(len, OPTIONAL)) + 2
    lines = [f"{'det_distill':{width}}{__version__}"]
    lines += [f"{name:{width}}{_version(name) or 'not installed'}" for name in _NEEDED]
    for name, (purpose, extra) in OPTIONAL.items():
        found = _version(name) or f"not installed; for {purpose}: pip install 'det_distill[{extra}]'"
        lines.append(f"{name:{width}}{found}")
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

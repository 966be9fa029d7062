"""Stands where detectron2's compiled extension would be: every operator is an error that says what to do.

Feature probes work as usual, because the error is an AttributeError: ``hasattr(_C, name)`` is False and
``from detectron2._C import name`` raises ImportError.
"""


def get_compiler_version() -> str:
    """Return the text that detectron2's environment report shows as its compiler."""
    return "none (pure-Python build, no compiled operators)"


def get_cuda_version() -> str:
    """Return the text that detectron2's environment report shows as its CUDA compiler."""
    return "none (pure-Python build)"


def has_cuda() -> bool:
    """Return False: nothing here was compiled for CUDA (torch and torchvision have their own kernels)."""
    return False


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"detectron2's compiled operator '{name}' is missing: this is the pure-Python build of version 0.6. "
        "Rotated boxes, deformable convolution and the C++ COCO evaluation need a detectron2 compiled from "
        "its sources; everything else works without."
    )

"""What is changed in detectron2 0.6 so that it runs on current Python, torch, numpy and Pillow, and why.

Every edit replaces an exact piece of text that must occur exactly ``count`` times; otherwise the build stops.
"""

from pathlib import Path
from typing import NamedTuple


class Edit(NamedTuple):
    """One replacement in one file of the package ``detectron2``."""

    file: str
    old: str
    new: str
    why: str
    count: int = 1


NUMPY = "numpy 1.24 removed its aliases of Python's own types"
NUMPY_COPY = "numpy 2 takes copy=False as a promise and fails where a copy is needed"
CAFFE2 = "caffe2 is no longer part of torch; tracing and scripting need none of it"
NO_EXTENSION = "there is no compiled extension here"
SET = "random.sample refuses a set since Python 3.11; sorted, so that the draw depends on the seed alone"
SCHEDULER = (
    "since torch 2.0 its own schedulers are LRScheduler, not _LRScheduler: they were not saved or resumed"
)
BLACK = "black only formats the text; without it the text is returned as it is"
MESHGRID = "torch warns at every call that says nothing of the indexing, and will require it"
PKG_RESOURCES = "new setuptools no longer brings pkg_resources"

EDITS = (
    Edit("data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", "Pillow 10 removed the old name"),
    Edit("data/build.py", "dtype=np.int)", "dtype=int)", NUMPY),
    Edit("data/build.py", "dtype=np.int\n", "dtype=int\n", NUMPY),
    Edit("data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", NUMPY),
    Edit("evaluation/pascal_voc_evaluation.py", "astype(np.bool)", "astype(bool)", NUMPY, 2),
    Edit("evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", NUMPY, 2),
    Edit("evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", NUMPY, 2),
    Edit("evaluation/sem_seg_evaluation.py", "astype(np.float)", "astype(float)", NUMPY, 3),
    Edit("structures/masks.py", "astype(np.bool)", "astype(bool)", NUMPY, 2),
    Edit("structures/masks.py", "dtype=np.bool)", "dtype=bool)", NUMPY),
    Edit("utils/visualizer.py", "astype(np.bool)", "astype(bool)", NUMPY, 3),
    Edit("utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", NUMPY),
    Edit("layers/mask_ops.py", "np.array(mask, copy=False)", "np.asarray(mask)", NUMPY_COPY),
    Edit(
        "data/common.py",
        "_rng.sample(self._fallback_candidates,",
        "_rng.sample(sorted(self._fallback_candidates),",
        SET,
    ),
    Edit("engine/hooks.py", "lr_scheduler._LRScheduler)", "lr_scheduler.LRScheduler)", SCHEDULER, 2),
    Edit(
        "modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        MESHGRID,
    ),
    Edit(
        "projects/panoptic_deeplab/post_processing.py",
        "torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n",
        'torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n        indexing="ij",\n',
        MESHGRID,
    ),
    Edit("model_zoo/model_zoo.py", "import pkg_resources\n", "", PKG_RESOURCES),
    Edit(
        "model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        PKG_RESOURCES,
    ),
    Edit(
        "config/lazy.py",
        "        import black\n",
        "        try:\n            import black\n        except ImportError:\n            black = None\n",
        BLACK,
    ),
    Edit(
        "config/lazy.py",
        "        try:\n            return black.",
        "        if black is None:\n            return py_str\n        try:\n            return black.",
        BLACK,
    ),
    Edit(
        "export/__init__.py",
        "from .api import *\n",
        "try:\n    import caffe2\nexcept ImportError:\n    pass\nelse:\n    from .api import *\n",
        CAFFE2,
    ),
    Edit(
        "evaluation/fast_eval_api.py",
        "from detectron2 import _C\n",
        "from detectron2 import _C\n\n"
        'if not hasattr(_C, "COCOevalAccumulate"):\n'
        '    raise ImportError("COCOeval_opt needs the compiled extension; pycocotools has COCOeval")\n',
        NO_EXTENSION + ": the import of the C++ evaluator must fail, so that users of it can fall back",
    ),
    Edit(
        "evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval\n",
        NO_EXTENSION + ": pycocotools' own evaluation gives the same numbers",
    ),
    Edit(
        "layers/nms.py",
        "from torchvision.ops import nms  # BC-compat\n",
        "from torchvision.ops import nms  # BC-compat\n\nfrom detectron2 import _C\n",
        NO_EXTENSION + ": the operator's name raises the same clear error as the others",
    ),
    Edit(
        "layers/nms.py",
        "torch.ops.detectron2.nms_rotated(",
        "_C.nms_rotated(",
        NO_EXTENSION + ": the operator's name raises the same clear error as the others",
    ),
)


def apply_edits(package: Path, edits: tuple[Edit, ...] = EDITS) -> None:
    """Apply ``edits`` to the files below the folder ``package``.

    Raises RuntimeError, naming the file and the text, if a text does not occur exactly as often as it should.
    """
    for edit in edits:
        path = package / edit.file
        text = path.read_text(encoding="utf-8")
        found = text.count(edit.old)
        if found != edit.count:
            raise RuntimeError(
                f"cannot edit detectron2/{edit.file}: {edit.old!r} occurs {found} times, not {edit.count}. "
                "The source archive is not the one that these edits were written for."
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def describe_edits(edits: tuple[Edit, ...] = EDITS) -> str:
    """Return a plain-text list of the changed files with the reasons, one line per file and reason."""
    lines = dict.fromkeys(f"detectron2/{edit.file}: {edit.why}" for edit in edits)
    return "Changes made to detectron2 0.6 when this wheel was built:\n\n" + "\n".join(lines) + "\n"

"""How an exported student is used from Python, as lines to be copied."""

from __future__ import annotations

from pathlib import Path

from ..classification import ImageClassifier, MetricLearner
from .plain_config import builds
from .result import StudentExport

__all__ = ["start_of_a_detector", "usage"]


_NEEDS_US = "# needs det_distill (pip install det_distill): it has parts that detectron2 alone lacks"


def usage(export: StudentExport, *, here: bool = False) -> list[str]:
    """Return lines of Python that build the exported student from its folder and run it on one image.

    Of a detector: ``found``, its instances in ``image``, pixels (H, W, 3) of 0 to 255 in BGR. Of a classifier:
    ``logits`` (K,) of the image in ``file``; of a metric learner: its ``embedding`` (D,), not normalised. Their images
    are resized and cropped as in the run's tests. The first line says what has to be installed; imports follow; `image`
    or `file` is for the user to name.

    Without a file that detectron2 loads: lines for one that `load_predictor` opens, which give ``found``, the instances
    or probabilities in ``image``, (H, W, 3) in RGB. [] without any file of a whole network.

    Args:
        export: the files.
        here: the lines are for who is in the folder, wherever that is now, with a ``photo.jpg``.
    """
    file = next((name for name in ("student.pth", "student.pkl") if name in export.sizes), None)
    if file is None:
        graph = next((w.file for w in export.written if w.detects), None)
        return [] if graph is None else _by_predictor(export.folder, graph, here)
    config = "config.yaml" if here else str(export.folder / "config.yaml")
    moved = f"; cfg.MODEL.WEIGHTS = {file!r}" if here else ""
    read = f"cfg = get_cfg(); cfg.merge_from_file({config!r}){moved}"
    if builds(export.architecture, ImageClassifier):
        read = f'{read}; file = "photo.jpg"' if here else read
        return _classifier(read, "embedding" if builds(export.architecture, MetricLearner) else "logits")
    module = "det_distill" if export.needs_det_distill else "detectron2.config"
    return [
        _NEEDS_US if export.needs_det_distill else "# needs detectron2, and no det_distill",
        f"from {module} import get_cfg; from detectron2.engine import DefaultPredictor",
        read,
        *(_photo("BGR") if here else []),
        'found = DefaultPredictor(cfg)(image)["instances"]  # image: (H, W, 3), 0 to 255, BGR',
    ]


def _photo(order: str) -> list[str]:
    return [
        "from detectron2.data.detection_utils import read_image",
        f'image = read_image("photo.jpg", format="{order}")',
    ]


def _by_predictor(folder: Path, file: str, here: bool) -> list[str]:
    path = file if here else str(folder / file)
    return [
        "# needs det_distill (pip install det_distill)",
        "from det_distill.predictors import load_predictor",
        f"predictor = load_predictor({path!r})  # predictor.classes: their names",
        *(_photo("RGB") if here else []),
        "found = predictor(image)  # image: (H, W, 3), uint8, RGB",
    ]


def _classifier(read: str, wanted: str) -> list[str]:
    meaning = {
        "logits": "one number for each class",
        "embedding": "alike images have a high cosine similarity",
    }
    return [
        _NEEDS_US,
        "import torch; from det_distill import get_cfg; from detectron2.modeling import build_model",
        "from det_distill.classification.mapper import mapper_for_tests",
        "from detectron2.checkpoint import DetectionCheckpointer",
        read,
        "model = build_model(cfg).eval(); DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)",
        'sample = mapper_for_tests(cfg)({"file_name": file})  # file: the path of an image',
        f'with torch.no_grad(): {wanted} = model([sample])[0]["{wanted}"]  # {meaning[wanted]}',
    ]


def start_of_a_detector(export: StudentExport) -> list[str]:
    """Return lines of Python that make the exported backbone the start of a detector, with stock detectron2, too.

    [] if the backbone alone was not written. They change ``cfg``, the config of a detector whose ``MODEL.BACKBONE`` is
    of the same kind, with an FPN or without.
    """
    if "backbone.pth" not in export.sizes:
        return []
    settings = {"MODEL.WEIGHTS": str(export.folder / "backbone.pth"), **export.pixels}
    values = ", ".join(f"{key!r}, {value!r}" for key, value in settings.items())
    return [
        "# cfg: a detector with this kind of backbone, below an FPN or not; stock detectron2 reads the file, too",
        f"cfg.merge_from_list([{values}])",
    ]

"""How an exported student is used from Python, as lines to be copied."""

from __future__ import annotations

from ..classification import ImageClassifier, MetricLearner
from .plain_config import builds
from .student import StudentExport

__all__ = ["start_of_a_detector", "usage"]


_NEEDS_US = "# needs det_distill (pip install det_distill): it has parts that detectron2 alone lacks"


def usage(export: StudentExport) -> list[str]:
    """Return lines of Python that build the exported student from its folder and run it on one image.

    Of a detector: ``found``, its instances in ``image``, pixels (H, W, 3) of 0 to 255 in BGR. Of a classifier:
    ``logits`` (K,) of the image in ``file``; of a metric learner: its ``embedding`` (D,), not normalised. Their images
    are resized and cropped as in the run's tests. The first line says what has to be installed; imports follow; `image`
    or `file` is for the user to name.
    """
    config = str(export.folder / "config.yaml")
    if builds(export.architecture, ImageClassifier):
        return _classifier(config, "embedding" if builds(export.architecture, MetricLearner) else "logits")
    module = "det_distill" if export.needs_det_distill else "detectron2.config"
    return [
        _NEEDS_US if export.needs_det_distill else "# needs detectron2, and no det_distill",
        f"from {module} import get_cfg; from detectron2.engine import DefaultPredictor",
        f"cfg = get_cfg(); cfg.merge_from_file({config!r})",
        'found = DefaultPredictor(cfg)(image)["instances"]  # image: (H, W, 3), 0 to 255, BGR',
    ]


def _classifier(config: str, wanted: str) -> list[str]:
    meaning = {
        "logits": "one number for each class",
        "embedding": "alike images have a high cosine similarity",
    }
    return [
        _NEEDS_US,
        "import torch; from det_distill import get_cfg; from detectron2.modeling import build_model",
        "from det_distill.classification.mapper import mapper_for_tests",
        "from detectron2.checkpoint import DetectionCheckpointer",
        f"cfg = get_cfg(); cfg.merge_from_file({config!r})",
        "model = build_model(cfg).eval(); DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)",
        'sample = mapper_for_tests(cfg)({"file_name": file})  # file: the path of an image',
        f'with torch.no_grad(): {wanted} = model([sample])[0]["{wanted}"]  # {meaning[wanted]}',
    ]


def start_of_a_detector(export: StudentExport) -> list[str]:
    """Return lines of Python that make the exported backbone the start of a detector, with stock detectron2, too.

    They change ``cfg``, the config of a detector whose ``MODEL.BACKBONE`` is of the same kind, with an FPN or without.
    """
    settings = {"MODEL.WEIGHTS": str(export.folder / "backbone.pth"), **export.pixels}
    values = ", ".join(f"{key!r}, {value!r}" for key, value in settings.items())
    return [
        "# cfg: a detector with this kind of backbone, below an FPN or not; stock detectron2 reads the file, too",
        f"cfg.merge_from_list([{values}])",
    ]

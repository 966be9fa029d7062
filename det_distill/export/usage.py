"""How an exported student is used from Python, as lines to be copied."""

from __future__ import annotations

from ..classification import ImageClassifier, MetricLearner
from .plain_config import builds
from .student import StudentExport

__all__ = ["usage"]


def usage(export: StudentExport) -> list[str]:
    """Return lines of Python that build the exported student from its folder and run it on one image.

    Of a detector: ``found``, its instances in ``image``, pixels (H, W, 3) of 0 to 255 in BGR. Of a classifier:
    ``logits`` (K,) of the image in ``file``; of a metric learner: its ``embedding`` (D,), not normalised. Their images
    are resized and cropped as in the run's tests. Imports come first; `image` or `file` is for the user to name.
    """
    config = str(export.folder / "config.yaml")
    if builds(export.architecture, ImageClassifier):
        return _classifier(config, "embedding" if builds(export.architecture, MetricLearner) else "logits")
    module = "det_distill" if export.needs_det_distill else "detectron2.config"
    return [
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
        "import torch; from det_distill import get_cfg; from detectron2.modeling import build_model",
        "from det_distill.classification.mapper import mapper_for_tests",
        "from detectron2.checkpoint import DetectionCheckpointer",
        f"cfg = get_cfg(); cfg.merge_from_file({config!r})",
        "model = build_model(cfg).eval(); DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)",
        'sample = mapper_for_tests(cfg)({"file_name": file})  # file: the path of an image',
        f'with torch.no_grad(): {wanted} = model([sample])[0]["{wanted}"]  # {meaning[wanted]}',
    ]

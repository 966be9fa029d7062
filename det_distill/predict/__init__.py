"""Predictions for people: images and videos in, pictures with boxes and one JSON file out."""

from .drawing import draw_classes, draw_detections
from .images import read_rgb
from .inputs import Input, find_inputs
from .journal import Journal
from .run import Outcome, predict_files

__all__ = [
    "Input",
    "Journal",
    "Outcome",
    "draw_classes",
    "draw_detections",
    "find_inputs",
    "predict_files",
    "read_rgb",
]

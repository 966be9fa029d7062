"""Work in several steps: runs of the same trainer, each starting from files of earlier ones, listed in YAML."""

from .recipe import PictureOptions, Recipe, Step, load_recipe
from .report import write_report
from .runner import run_recipe
from .subprocess_log import StepFailed

__all__ = ["PictureOptions", "Recipe", "Step", "StepFailed", "load_recipe", "run_recipe", "write_report"]

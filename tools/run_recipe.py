#!/usr/bin/env python
"""Run a recipe: `det-distill recipe`."""

from det_distill.cli import recipe
from det_distill.cli.running import run

if __name__ == "__main__":
    run(recipe.main, "run_recipe.py", recipe.ERRORS, recipe.INTERRUPTED)

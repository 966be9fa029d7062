"""What holds for every test."""

import logging

import pytest


@pytest.fixture(autouse=True)
def loggers():
    """The tools take over the loggers of whole packages; give them back."""
    manager = logging.Logger.manager.loggerDict
    kept = {n: (v.handlers[:], v.propagate, v.level) for n, v in manager.items() if hasattr(v, "handlers")}
    yield
    for name, logger in manager.items():
        if hasattr(logger, "handlers"):
            logger.handlers[:], logger.propagate, level = kept.get(name, ([], True, logging.NOTSET))
            logger.setLevel(level)

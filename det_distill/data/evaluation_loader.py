"""detectron2's loader of a test set, but an image that cannot be read is told by its name."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader

from .worker_errors import Guarded, GuardedLoader

__all__ = ["build_test_loader"]


def build_test_loader(cfg: CfgNode, name: str) -> GuardedLoader:
    """Build the loader of a detector's test set: every image once, one at a time, shared among the processes.

    Its iterators raise `DatasetError` for an image that cannot be read.
    """
    made = build_detection_test_loader(cfg, name, mapper=Guarded(DatasetMapper(cfg, False)))
    return GuardedLoader(
        made.dataset,
        batch_size=1,
        sampler=made.sampler,
        num_workers=made.num_workers,
        collate_fn=made.collate_fn,
    )

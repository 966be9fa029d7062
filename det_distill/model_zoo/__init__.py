"""Configs by name, as detectron2's model zoo has them: ours first, then detectron2's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig

__all__ = ["find_config", "get_config", "get_config_file", "is_installed", "published_weights"]


def _folder() -> Path:
    """The configs inside the installed package, or beside it in a source tree."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def get_config_file(name: str) -> str:
    """Return the path of one of det_distill's own configs.

    Args:
        name: relative to ``configs/``, for example ``"demo/student.yaml"``.

    Raises:
        FileNotFoundError: there is none of that name; the message lists those there are.
    """
    path = _folder() / name
    if not path.is_file():
        known = sorted(
            str(p.relative_to(_folder())) for p in _folder().rglob("*") if p.suffix in (".yaml", ".py")
        )
        raise FileNotFoundError(f"det_distill has no config {name!r}; it has: {', '.join(known)}")
    return str(path)


def get_config(name: str) -> Any:
    """Return one of det_distill's configs.

    A YAML file is merged into the defaults, with every option written out (a ``CfgNode``); a ``.py`` file is loaded as
    a LazyConfig (a ``DictConfig``).
    """
    from ..config import complete_config, get_cfg

    if name.endswith(".py"):
        return LazyConfig.load(get_config_file(name))
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    complete_config(cfg)
    return cfg


def find_config(name: str) -> str:
    """Return the path of a config: a file, one of det_distill's, or one of detectron2's model zoo.

    Raises:
        FileNotFoundError: none of the three.
    """
    if os.path.isfile(name):
        return name
    if (_folder() / name).is_file():
        return str(_folder() / name)
    from detectron2 import model_zoo

    try:
        return str(model_zoo.get_config_file(name))
    except RuntimeError:
        raise FileNotFoundError(
            f"config {name!r} is no file here, none of det_distill's (in {_folder()}) and none of detectron2's "
            "model zoo"
        ) from None


def is_installed(path: str) -> bool:
    """Whether a config is one of those that came with det_distill or detectron2."""
    import detectron2

    folders = (_folder(), Path(detectron2.__file__).parent)
    return any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in folders)


def published_weights(name: str) -> str:
    """Return the URL of the weights that detectron2's model zoo publishes for a config of that name, or ""."""
    from detectron2 import model_zoo

    try:
        return str(model_zoo.get_checkpoint_url(name))
    except RuntimeError:
        return ""

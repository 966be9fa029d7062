"""Stride, padding, dilation and groups have no tensors: a file says them, and a model that has others is warned of."""

import pytest
import torch

from det_distill.checkpoint import StudentCheckpointer
from det_distill.classification import ImageClassifier
from det_distill.convolutions import convolutions_of
from det_distill.export import export_student
from tests.handed import c4_cfg, classifier, detector, load, save
from tests.tiny import build


def with_resnet(cfg, **options):
    cfg.MODEL.RESNETS.merge_from_list([x for pair in options.items() for x in pair])
    return cfg


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "det_distill.convolutions"]


def test_a_file_says_how_each_convolution_of_its_backbone_moves(tmp_path):
    file = save(tmp_path, with_resnet(classifier("bottleneck"), STRIDE_IN_1X1=False))
    said = torch.load(file, weights_only=True)["network"]["convolutions"]
    assert len(said) == 53  # of a ResNet-50
    assert said["stem.conv1"] == [2, 3, 1, 1]
    assert said["res3.0.conv1"] == [1, 0, 1, 1] and said["res3.0.conv2"] == [2, 1, 1, 1]


def test_two_numbers_stand_for_two_directions_and_a_text_for_itself():
    uneven = torch.nn.Conv2d(2, 4, (1, 3), stride=(1, 2), padding=(0, 1), groups=2)
    layers = torch.nn.Sequential(uneven, torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding="same"))
    assert convolutions_of(layers) == {"0": [[1, 2], [0, 1], 1, 2], "2": [1, "same", 1, 1]}


@pytest.mark.parametrize("fpn", [True, False], ids=["fpn", "no fpn"])
def test_a_stride_at_another_place_is_one_warning_with_module_values_and_key(tmp_path, caplog, fpn):
    file = save(tmp_path, with_resnet(classifier("bottleneck"), STRIDE_IN_1X1=False))
    load(build(detector("bottleneck", fpn)), file)  # detectron2's default is True
    (warning,) = warnings(caplog)
    place = "backbone.bottom_up.res3.0.conv1" if fpn else "backbone.res3.0.conv1"
    counts = "6 of 53" if fpn else "4 of 43"  # two in the first block of res3, of res4, of res5
    assert f"in {place} stride was 1 and is 2; {counts} differ" in warning
    assert file in warning and "MODEL.RESNETS.STRIDE_IN_1X1" in warning


def test_a_dilated_last_stage_is_a_warning_and_the_weights_arrive(tmp_path, caplog):
    file = save(tmp_path, classifier("bottleneck"))
    cfg = with_resnet(detector("bottleneck", fpn=False), OUT_FEATURES=["res5"], RES5_DILATION=2)
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res5"]
    model = load(build(cfg, seed=9), file)
    (warning,) = warnings(caplog)
    # shortcut and conv1 of the first block, conv2 of all three
    assert "in backbone.res5.0.shortcut stride was 2 and is 1; 5 of 53 differ" in warning
    assert "MODEL.RESNETS.RES5_DILATION" in warning
    res5 = torch.load(file)["model"]["backbone.res5.2.conv2.weight"]
    assert torch.equal(model.backbone.res5[2].conv2.weight, res5)


def test_the_head_of_a_c4_detector_is_compared(tmp_path, caplog):
    file = save(tmp_path, classifier("bottleneck"))
    content = torch.load(file)
    content["network"]["convolutions"]["res5.0.conv2"] = [1, 2, 2, 1]
    torch.save(content, file)
    load(build(c4_cfg()), file)
    (warning,) = warnings(caplog)
    said = "in roi_heads.res5.0.conv2 padding was 2 and is 1, dilation was 2 and is 1; 1 of 53 differ"
    assert said in warning


def test_the_same_convolutions_and_files_that_say_nothing_are_no_warning(tmp_path, caplog):
    file = save(tmp_path, classifier("bottleneck"))
    load(build(detector("bottleneck")), file)
    content = torch.load(file)
    del content["network"]["convolutions"]
    torch.save(content, file)
    load(build(with_resnet(detector("bottleneck"), STRIDE_IN_1X1=False)), file)
    assert not warnings(caplog)


def test_an_exported_backbone_and_a_detectors_own_file_say_it_too(tmp_path, caplog):
    cfg = detector("bottleneck")
    StudentCheckpointer(build(cfg), str(tmp_path)).save("detector")
    export = export_student(cfg, str(tmp_path / "detector.pth"), tmp_path / "export")
    for file in (export.folder / "backbone.pth", tmp_path / "detector.pth"):
        load(build(cfg), str(file))
        assert not warnings(caplog)
        load(build(with_resnet(cfg.clone(), STRIDE_IN_1X1=False)), str(file))
        (warning,) = warnings(caplog)
        assert "in backbone.bottom_up.res3.0.conv1 stride was 2 and is 1; 6 of " in warning
        caplog.clear()


def deformable(cfg):
    return with_resnet(cfg, DEFORM_ON_PER_STAGE=[False, False, True, False])


def test_offsets_of_deformable_convolutions_that_the_file_lacks_stay_at_zero(tmp_path, caplog):
    pytest.importorskip("detectron2._C")
    file = save(tmp_path, classifier("bottleneck"))
    model = build(deformable(detector("bottleneck")), seed=9)
    with caplog.at_level("INFO"):
        load(model, file)
    block = model.backbone.bottom_up.res4[0]
    assert not block.conv2_offset.weight.any()
    assert torch.equal(block.conv2.weight, torch.load(file)["model"]["backbone.res4.0.conv2.weight"])
    assert (
        "backbone.bottom_up.res4, 12 tensors (such as backbone.bottom_up.res4.0.conv2_offset" in caplog.text
    )
    assert not warnings(caplog)


def test_offsets_that_the_file_has_arrive_and_must_fit(tmp_path):
    pytest.importorskip("detectron2._C")
    first = build(deformable(classifier("bottleneck")), seed=1)
    torch.nn.init.ones_(first.backbone.res4[0].conv2_offset.weight)
    StudentCheckpointer(first, str(tmp_path)).save("deformable")
    file = str(tmp_path / "deformable.pth")
    model = load(build(deformable(detector("bottleneck")), seed=9), file)
    assert model.backbone.bottom_up.res4[0].conv2_offset.weight.all()
    modulated = with_resnet(deformable(detector("bottleneck")), DEFORM_MODULATED=True)
    with pytest.raises(ValueError, match=r"of other shapes: \S+res4\.0\.conv2_offset\.weight"):
        load(build(modulated), file)


def test_a_tensor_that_only_sounds_like_an_offset_is_missed(tmp_path):
    """`conv2_offset` beside a plain convolution is something else, which begins at random."""

    class Backbone(torch.nn.Module):
        def __init__(self, offset):
            super().__init__()
            self.conv2 = torch.nn.Conv2d(3, 4, 3)
            if offset:
                self.conv2_offset = torch.nn.Conv2d(3, 2, 3)

    def model(offset):
        whole = torch.nn.Module()
        whole.backbone = Backbone(offset)
        return whole

    note = {"classifier": True, "architecture": ImageClassifier.__name__}
    torch.save({"model": model(False).state_dict(), "network": note}, tmp_path / "plain.pth")
    with pytest.raises(ValueError, match=r"not in the file: backbone\.conv2_offset, 2 tensors"):
        load(model(True), str(tmp_path / "plain.pth"))

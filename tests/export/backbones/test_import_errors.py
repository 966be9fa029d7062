"""A file that is another network than it is said to be is an error, and which network it is."""

import pickle
import re

import numpy as np
import pytest
import timm
import torch
import torchvision

from det_distill.cli import import_backbone as command
from det_distill.export.backbones import import_backbone, importing
from det_distill.export.backbones.pixels import RgbPixels
from det_distill.export.check import ExportError
from tests.documents import ROOT
from tests.export.backbones.networks_for_tests import settle


def refused(tmp_path, state, source, model, message, name="net.pth"):
    """Import a state dict; it has to fail with this message, and nothing may be written."""
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, tmp_path / name)
    with pytest.raises(ValueError, match=message):
        import_backbone(str(tmp_path / name), source, model, tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.fixture(scope="module")
def resnet18():
    return torchvision.models.resnet18().state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_another_depth_is_named(source, tmp_path):
    state = torchvision.models.resnet34().state_dict()
    refused(
        tmp_path,
        *(
            state,
            source,
            "resnet18",
            rf"net\.pth is not {source}'s resnet18: it is resnet34: give --model resnet34",
        ),
    )


@pytest.mark.parametrize("there", [["card.md", "student.pth"], ["config.yaml"]])
def test_a_folder_with_something_else_is_left_alone(tmp_path, resnet18, there):
    torch.save(resnet18, tmp_path / "net.pth")
    (tmp_path / "run").mkdir()
    for name in there:
        (tmp_path / "run" / name).write_text("precious")
    with pytest.raises(FileExistsError, match=rf"is not an earlier import \({', '.join(there)}\)"):
        import_backbone(str(tmp_path / "net.pth"), "torchvision", "resnet18", tmp_path / "run")
    assert all((tmp_path / "run" / name).read_text() == "precious" for name in there)


def test_a_deeper_network_does_not_pass_for_a_part_of_itself(tmp_path, resnet18):
    refused(tmp_path, resnet18, "torchvision", "resnet34", "it is resnet18: give --model resnet18")


def test_a_classifier_of_another_structure_is_told_by_its_tensors(tmp_path, resnet18):
    extra = {**resnet18, "layer1.0.se.weight": torch.ones(3)}
    refused(
        tmp_path,
        *(
            extra,
            "torchvision",
            "resnet18",
            r"1 tensors of the file have no place in it, .*layer1\.0\.se\.weight",
        ),
    )
    missing = {k: v for k, v in resnet18.items() if k != "layer2.0.bn1.bias"}
    refused(
        tmp_path,
        *(
            missing,
            "torchvision",
            "resnet18",
            r"1 of its tensors are not in the file, .*layer2\.0\.bn1\.bias",
        ),
    )
    one = {**resnet18, "conv1.weight": torch.ones(64, 1, 7, 7)}
    refused(
        tmp_path,
        one,
        "torchvision",
        "resnet18",
        r"another shape.*\(file \(64, 1, 7, 7\), network \(64, 3, 7, 7\)\)",
    )


def test_another_network_of_timm_is_refused(tmp_path, resnet18):
    other = timm.create_model("test_resnet").state_dict()
    refused(
        tmp_path,
        other,
        "timm",
        "test_efficientnet",
        "is not timm's test_efficientnet: it holds another network",
    )
    whole = timm.create_model("test_efficientnet").state_dict()
    refused(
        tmp_path,
        {**whole, "more.weight": torch.ones(1)},
        "timm",
        "test_efficientnet",
        r"such as more\.weight",
    )
    refused(
        tmp_path, resnet18, "timm", "resnet_18", "timm has no model 'resnet_18'. Similar names: .*resnet18"
    )


def test_names_that_are_not_known_list_those_that_are(tmp_path, resnet18):
    refused(
        tmp_path,
        resnet18,
        "torchvision",
        "resnet20",
        "does not know torchvision's 'resnet20': it takes resnet18",
    )
    refused(tmp_path, resnet18, "msra", "R-18", "there is no 'R-18' of msra: there are R-50, R-101")
    refused(tmp_path, resnet18, "keras", "resnet18", "there are torchvision, timm, msra, fair")


def blobs(depth_of_res4):
    """Blobs of a ResNet whose values nobody reads, by the shapes of torchvision's."""
    found = {
        "conv1_w": np.zeros((64, 3, 7, 7), "f4"),
        "res_conv1_bn_s": np.ones(64),
        "res_conv1_bn_b": np.ones(64),
    }
    for i in range(depth_of_res4):
        found[f"res4_{i}_branch2a_w"] = np.zeros((1, 1, 1, 1), "f4")
    return found


def test_a_file_of_caffe2_that_is_another_network_is_refused(tmp_path):
    refused(tmp_path, blobs(7), "msra", "R-50", r"net\.pkl is not the R-50 of msra", "net.pkl")
    group_norm = {**blobs(6), "res2_0_branch2a_gn_s": np.ones(3)}
    refused(tmp_path, group_norm, "msra", "R-50", "blob res2_0_branch2a_gn_s is of another kind", "net.pkl")
    refused(tmp_path, {"fc_w": np.ones(3)}, "msra", "R-50", "it has no blob conv1_w", "net.pkl")
    zoo = {"model": {"stem.conv1.weight": np.ones(3)}, "__author__": "torchvision"}
    refused(tmp_path, zoo, "msra", "R-50", "has detectron2's own names: it is loaded as it is", "net.pkl")
    refused(
        tmp_path, zoo, "torchvision", "resnet50", "is a pickle, and neither torchvision nor timm", "net.pkl"
    )


def test_r101_is_not_taken_for_r50_though_it_has_all_of_its_tensors(tmp_path, monkeypatch):
    from det_distill.export.backbones import caffe2
    from tests.export.backbones.test_import import caffe2_blobs

    whole = {k: torch.as_tensor(v) for k, v in caffe2_blobs("resnet101").items()}
    monkeypatch.setattr(caffe2, "read_blobs", lambda path: whole)
    with pytest.raises(ValueError, match="is not the R-50 of msra: it is R-101: give --model R-101"):
        import_backbone(__file__, "msra", "R-50", tmp_path / "in")


def test_broken_and_hostile_files_are_refused(tmp_path, resnet18):
    torch.save(resnet18, tmp_path / "net.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.pth is not a readable checkpoint"):
        import_backbone(str(tmp_path / "cut.pth"), "torchvision", "resnet18", tmp_path / "in")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.pth: name the weights"):
        import_backbone(str(tmp_path / "none.pth"), "torchvision", "resnet18", tmp_path / "in")
    refused(tmp_path, [1, 2], "torchvision", "resnet18", "holds no state dict")
    refused(tmp_path, {"conv1_w": print}, "msra", "R-50", "is refused: reading it would call", "hostile.pkl")


def test_a_backbone_that_does_not_give_back_the_file_is_not_written(tmp_path, resnet18, monkeypatch):
    torch.save(resnet18, tmp_path / "net.pth")
    monkeypatch.setattr(importing, "compare_with", lambda *arguments: (1.0, 0.5))
    with pytest.raises(ExportError, match="maps of torchvision's resnet18 differ by 1 "):
        import_backbone(str(tmp_path / "net.pth"), "torchvision", "resnet18", tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_wrong_channels_are_found_by_the_maps(tmp_path, monkeypatch):
    torch.save(settle(torchvision.models.resnet18()).state_dict(), tmp_path / "net.pth")
    pixels = importing.config_of

    def unswapped(source, model, form, weights):
        return pixels(source, model, "RGB", weights) | {"INPUT": {"FORMAT": form}}

    monkeypatch.setattr(importing, "config_of", unswapped)
    with pytest.raises(ExportError, match="differ by"):
        import_backbone(
            *(str(tmp_path / "net.pth"), "torchvision", "resnet18", tmp_path / "in"),
            input_format="BGR",
            pixels=RgbPixels((0.9, 0.5, 0.1), (0.4, 0.2, 0.1)),
        )


def test_the_command_says_what_it_wrote_and_how_to_build_on_it(tmp_path, resnet18, capsys):
    torch.save(resnet18, tmp_path / "net.pth")
    out = tmp_path / "in"
    command.main(
        [str(tmp_path / "net.pth"), "--from", "torchvision", "--model", "resnet18", "--output", str(out)]
    )
    said = capsys.readouterr().out
    assert sorted(f.name for f in out.iterdir()) == ["backbone.pth", "config.yaml"]
    assert "bit for bit; largest difference to the maps of torchvision's own network" in said
    assert "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]" in said
    assert "Left out, as no backbone has them: fc.weight, fc.bias" in said
    assert re.search(rf'_BASE_: "{out}/config.yaml"', said)


def test_a_mean_without_a_deviation_is_an_error_of_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(
            ["f.pth", "--from", "timm", "--model", "resnet18", "--output", "x", "--mean", "0", "0", "0"]
        )
    assert "--mean and --std go together" in capsys.readouterr().err


def test_the_commands_of_the_page_are_commands():
    lines = re.findall(
        r"^    det-distill import-backbone (.*)$", (ROOT / "docs/backbones.md").read_text(), re.MULTILINE
    )
    parsed = [command.parser().parse_args(line.split()) for line in lines]
    assert [(args.source, args.model) for args in parsed] == [
        ("torchvision", "resnet18"),
        ("timm", "resnet50.a1_in1k"),
        ("msra", "R-50"),
    ]

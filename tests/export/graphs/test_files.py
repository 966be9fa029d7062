"""The files of graphs: they run without this package, at any size of image, and say what they are."""

import json
import subprocess
import sys

import pytest
import torch

from det_distill.export.check import DoesNotFit, ExportError
from det_distill.export.graphs import onnx_format, packages, torchscript
from det_distill.export.graphs.compare import of_model
from det_distill.export.graphs.half import write_bf16
from det_distill.export.graphs.matching import difference
from det_distill.export.graphs.onnx_backbone import write_onnx_backbone
from det_distill.export.graphs.onnx_format import write_onnx
from det_distill.export.graphs.quantised import write_int8
from det_distill.export.graphs.torch_export import write_torch_export
from det_distill.export.graphs.torchscript import write_torchscript
from det_distill.export.runtimes import open_runtime
from tests.export.graphs.graph_models import photo, request, write

ALONE = """
import json, sys
import torch, torchvision
{load}
image = torch.load({image!r})
found = {call}
found = found if isinstance(found, (tuple, list)) else [found]
torch.save([torch.as_tensor(x) for x in found], {output!r})
assert not [m for m in sys.modules if m.split(".")[0] in ("detectron2", "det_distill", "fvcore")]
print(json.dumps(facts))
"""
LOAD = {
    ".ts": "extra = {{'det_distill': ''}}; program = torch.jit.load({path!r}, _extra_files=extra)\n"
    "facts = json.loads(extra['det_distill'])",
    ".pt2": "extra = {{'det_distill.json': ''}}; program = torch.export.load({path!r}, extra_files=extra).module()\n"
    "facts = json.loads(extra['det_distill.json'])",
    ".onnx": "import onnxruntime; program = onnxruntime.InferenceSession({path!r})\n"
    "facts = json.loads(program.get_modelmeta().custom_metadata_map['det_distill'])",
}


def run_alone(path, image, folder):
    """Outputs and facts of a file in a process that has neither detectron2 nor this package."""
    torch.save(image, folder / "image.pt")
    onnx = path.suffix == ".onnx"
    code = ALONE.format(
        load=LOAD[path.suffix].format(path=str(path)),
        image=str(folder / "image.pt"),
        output=str(folder / "found.pt"),
        call="program.run(None, {'image': image.numpy()})" if onnx else "program(image)",
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt"), json.loads(done.stdout.splitlines()[-1])


def check_detector(writer, kind, folder):
    asked, (written,) = write(writer, kind, folder)
    assert written.difference <= written.tolerance and written.detects
    image = photo(210, 130, seed=7)
    (boxes, scores, classes), facts = run_alone(folder / written.file, image.float(), folder)
    expected = of_model(asked.model, image)
    found = {"boxes": boxes, "scores": scores, "classes": classes}
    assert len(expected["scores"]) > 3 and difference(expected, found, 1e-3, 0.05, 100) <= 1e-3
    assert facts["kind"] == "detector" and facts["classes"] == ["disc", "square"]
    assert facts["score_threshold"] == 0.05 and facts["min_size_test"] == 64
    return folder / written.file


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fpn", "c4", "retinanet"])
def test_torchscript_runs_with_torch_alone_at_another_size(kind, tmp_path):
    check_detector(write_torchscript, kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fpn", "c4", "retinanet"])
def test_torch_export_runs_with_torch_alone_at_another_size(kind, tmp_path):
    path = check_detector(write_torch_export, kind, tmp_path)
    run = open_runtime(path)
    if run.metadata["smallest_side"]:
        with pytest.raises(ValueError, match="takes sides of"):
            run(torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    "kind", ["fpn", *(pytest.param(k, marks=pytest.mark.slow) for k in ("c4", "retinanet"))]
)
def test_onnx_runs_with_onnxruntime_alone_at_another_size(kind, tmp_path):
    path = check_detector(write_onnx, kind, tmp_path)
    text = path.read_bytes()
    assert b"height" in text and b"site-packages" not in text
    # sides of one cell of the coarsest map, which were never traced
    asked, tiny = request(kind), photo(20, 30)
    found = open_runtime(path)(tiny.float())
    assert difference(of_model(asked.model, tiny), found, 1e-3, 0.05, 100) <= 1e-3


@pytest.mark.parametrize("writer", [write_torchscript, write_torch_export, write_onnx])
def test_a_classifiers_file_gives_its_logits_and_says_its_crop(writer, tmp_path):
    asked, (written,) = write(writer, "classifier", tmp_path)
    run = open_runtime(tmp_path / written.file)
    expected = of_model(asked.model, asked.images[1])["logits"]
    assert torch.allclose(run(asked.images[1].float())["logits"], expected, atol=1e-5)
    assert run.metadata["kind"] == "classifier" and run.metadata["crop"] == 8


@pytest.mark.slow
def test_the_backbones_onnx_gives_its_maps_by_name_for_any_batch_and_size(tmp_path):
    asked, (written,) = write(write_onnx_backbone, "fpn", tmp_path)
    run = open_runtime(tmp_path / written.file)
    batch = torch.stack([photo(160, 96, seed) for seed in range(3)]).float()
    model = asked.model
    with torch.no_grad():
        expected = model.backbone((batch - model.pixel_mean) / model.pixel_std)
    found = run(batch)
    assert set(found) == set(expected) and not written.detects
    assert all((found[k] - expected[k]).abs().max() <= 1e-3 * expected[k].abs().max() for k in expected)
    assert run.metadata["size_divisibility"] == 32


@pytest.mark.slow
def test_int8_is_smaller_than_float32_and_finds_nearly_the_same(tmp_path):
    asked, (plain,) = write(write_onnx, "fpn", tmp_path)
    (written,) = write_int8(asked, tmp_path)
    sizes = [(tmp_path / w.file).stat().st_size for w in (plain, written)]
    assert sizes[1] < sizes[0] and 0 < written.difference <= written.tolerance
    assert open_runtime(tmp_path / written.file).metadata["precision"] == "int8"


def test_int8_without_training_images_says_so(tmp_path):
    asked = request("fpn")
    object.__setattr__(asked, "calibration", lambda n: [])
    with pytest.raises(DoesNotFit, match="DATASETS.TRAIN gives none"):
        write_int8(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bf16_halves_weights_and_keeps_what_norms_divide_by(tmp_path):
    from safetensors import safe_open

    asked, (written,) = write(write_bf16, "fpn", tmp_path)
    assert written.difference <= written.tolerance
    with safe_open(tmp_path / written.file, "pt") as file:
        assert file.metadata()["precision"] == "bfloat16"
        assert json.loads(file.metadata()["classes"]) == ["disc", "square"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = asked.model.state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.bfloat16 if state[name].dim() > 1 else state[name].dtype)
        assert torch.equal(tensor.float(), state[name].to(tensor.dtype).float())


def test_a_graph_that_gives_other_detections_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torchscript, "graph_of", lambda model: _shifted(model))
    with pytest.raises(ExportError, match=r"student.ts differs from the student on an image of 96 x 131"):
        write(write_torchscript, "fpn", tmp_path)


@pytest.mark.parametrize("writer", [write_torchscript, write_bf16])
def test_a_student_that_finds_nothing_cannot_be_checked(writer, tmp_path):
    asked = request("fpn")
    asked.model.roi_heads.box_predictor.test_score_thresh = 1.0
    with pytest.raises(DoesNotFit, match="finds nothing on the images"):
        writer(asked, tmp_path)


def _shifted(model):
    from det_distill.export.graphs.build import graph_of

    graph = graph_of(model)
    graph.module.pixels.mean += 30
    return graph


def test_a_missing_package_is_said_with_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(packages.importlib, "import_module", missing)
    with pytest.raises(DoesNotFit, match=r"needs the package onnx, .*det_distill\[export\]"):
        onnx_format.write_onnx(request("fpn"), tmp_path)


@pytest.mark.parametrize("name", ["student.onnx", "student.ts", "student.pt2"])
def test_a_broken_file_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=name):
        open_runtime(tmp_path / name)


def test_files_of_other_kinds_and_missing_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no exported graph"):
        open_runtime(tmp_path / "student.pth")
    with pytest.raises(FileNotFoundError):
        open_runtime(tmp_path / "student.onnx")


def test_a_graph_of_someone_else_is_refused(tmp_path):
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(str(tmp_path / "other.ts"))
    with pytest.raises(ValueError, match="does not say what it is"):
        open_runtime(tmp_path / "other.ts")

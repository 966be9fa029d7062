"""A ``.pt2`` file that would run a program when it is opened is refused; others are told as programs."""

import io
import json
import logging
import os

import pytest
import torch
from hostile import Bomb

from det_distill.export.graphs.torch_export import write_torch_export
from det_distill.export.graphs.torchscript import write_torchscript
from det_distill.export.runtimes import open_runtime
from det_distill.files import FileError
from det_distill.predictors import load_predictor
from det_distill.programs import tell_program
from tests.export.graphs.graph_models import write

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"
MODEL = "models/model.json"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A classifier as both kinds of program."""
    folder = tmp_path_factory.mktemp("exports")
    write(write_torch_export, "classifier", folder)
    write(write_torchscript, "classifier", folder)
    return folder


def changed(exports, folder, change):
    """A copy of the ``.pt2`` file with other records."""
    reader = torch._C.PyTorchFileReader(str(exports / "student.pt2"))
    records = {name: reader.get_record(name) for name in reader.get_all_records()}
    own = (
        ".data/serialization_id",
        "byteorder",
        "version",
        ".data/version",
        ".format_version",
        ".storage_alignment",
    )
    change(records)
    writer = torch._C.PyTorchFileWriter(str(folder / "evil.pt2"))
    for name, content in records.items():
        if name not in own or name == "byteorder":
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return folder / "evil.pt2"


def edit(name, change):
    def changed_record(records, marker):
        content = json.loads(records[name])
        change(content, marker)
        records[name] = json.dumps(content).encode()

    return changed_record


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def pickled_weight(records, marker):
    edit(WEIGHTS, lambda c, _: next(iter(c["config"].values())).update(use_pickle=True))(records, marker)
    records["data/weights/weight_0"] = saved(Bomb(marker))


def custom_object(content, marker):
    content["config"]["x"] = {
        "path_name": "custom_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }


def call(content, marker):
    content["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"


def size(content, marker):
    meta = next(iter(content["graph_module"]["graph"]["tensor_values"].values()))
    hint = {"as_int": 8}
    code = f"__import__('os').mkdir({str(marker)!r})"
    meta["sizes"][0] = {"as_expr": {"expr_str": code, "hint": hint}}


def rename(content, marker):
    content["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = (
        f"x=__import__('os').mkdir({str(marker)!r})"
    )


HOSTILE = {
    "a pickled weight": (pickled_weight, "as a pickle"),
    "pickled sample inputs": (
        lambda r, m: r.update({INPUTS: saved((Bomb(m),))}),
        "pickle of more than tensors",
    ),
    "weights of old": (lambda r, m: r.update({"data/weights/model.pt": saved(Bomb(m))}), "no part of"),
    "constants of old": (lambda r, m: r.update({"data/constants/model.pt": saved(Bomb(m))}), "no part of"),
    "a custom object": (edit(CONSTANTS, custom_object), "as a pickle"),
    "a compiled library": (lambda r, m: r.update({"data/aotinductor/model/x.so": b"x"}), "no part of"),
    "a second model": (lambda r, m: r.update({"models/weight_0": r[MODEL]}), "no part of"),
    "a call": (edit(MODEL, call), "calls 'torch.os.mkdir'"),
    "a size": (edit(MODEL, size), "for expr_str"),
    "a name": (edit(MODEL, rename), "for name"),
    "a condition": (
        edit(MODEL, lambda c, m: c.update(guards_code=[f"__import__('os').mkdir({str(m)!r})"])),
        "for guards_code",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pt2_file_that_would_run_a_program_is_refused(exports, tmp_path, kind):
    change, reason = HOSTILE[kind]
    marker = tmp_path / "it_ran"
    file = changed(exports, tmp_path, lambda records: change(records, marker))
    with pytest.raises(FileError, match=f"evil.pt2 is refused: .*{reason}"):
        load_predictor(file)
    assert not marker.exists()


def test_torchs_own_reader_would_run_it(exports, tmp_path):
    marker = tmp_path / "it_ran"
    file = changed(exports, tmp_path, lambda records: pickled_weight(records, marker))
    with pytest.raises(Exception, match="is not an instance of torch.nn.Parameter"):  # too late
        torch.export.load(file)
    assert marker.is_dir()


def test_a_pt2_file_that_is_none_is_an_error_that_names_it(tmp_path):
    for content in (b"", b"PK", os.urandom(1000)):
        (tmp_path / "x.pt2").write_bytes(content)
        with pytest.raises(FileError, match=r"x\.pt2 cannot be read by torch\.export"):
            open_runtime(tmp_path / "x.pt2")


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
def test_our_own_programs_are_opened_with_a_notice(exports, suffix, caplog):
    tell_program.cache_clear()
    file = next(exports.glob(f"*{suffix}"))
    with caplog.at_level(logging.WARNING):
        assert load_predictor(file).kind == "classifier"
    assert f"{file}, a {suffix} file, is a program and is run now: open only files you trust" in caplog.text

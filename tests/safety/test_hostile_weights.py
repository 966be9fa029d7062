"""A file of weights that would run a program is refused, whichever way it comes in, and nothing of it runs."""

import json
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager
from hostile import Bomb, legacy_torch_file, pickle_file, torch_file, torchscript_like
from safetensors.torch import save_file

from det_distill.checkpoint import StrictCheckpointer, StudentCheckpointer, load_teacher_weights, read_weights
from det_distill.config import load_teacher
from det_distill.files import FileError, load_checkpoint, load_model_file, load_safetensors
from det_distill.modeling.timm_backbone import TimmBackbone
from det_distill.paraphrasers import trained_paraphraser
from tests.tiny import classifier_cfg

WRITERS = {
    "w.pth": torch_file,
    "legacy.pth": legacy_torch_file,
    "plain.pth": pickle_file,
    "by_hand.pth": torchscript_like,
    "w.pkl": pickle_file,
    "w.pyth": torch_file,
    "no_suffix": torch_file,
}
DOORS = {
    "MODEL.WEIGHTS": lambda file: StudentCheckpointer(torch.nn.Linear(2, 2)).resume_or_load(
        file, resume=False
    ),
    "a teacher's WEIGHTS": lambda file: load_teacher_weights(torch.nn.Linear(2, 2), file),
    "the weights of an export": lambda file: StrictCheckpointer(torch.nn.Linear(2, 2)).load(file),
}


@pytest.fixture
def marker(tmp_path):
    """The folder that would be made."""
    yield tmp_path / "it_ran"
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("function", ["system", "eval", "mkdir"])
def test_the_bombs_of_these_tests_would_go_off(tmp_path, function):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "it_ran", function)))
    assert (tmp_path / "it_ran").is_dir()


@pytest.mark.parametrize("function", ["system", "eval", "mkdir"])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("door", DOORS)
def test_a_pickle_that_calls_a_program_is_refused(tmp_path, marker, door, name, function):
    file = WRITERS[name](tmp_path / name, {"model": {}, "model_state": {}, "x": Bomb(marker, function)})
    with pytest.raises(ValueError, match=name) as caught:
        DOORS[door](str(file))
    assert "weights_only=False" not in str(caught.value)
    assert caught.match(f".*would call [a-z_.]*{function}, .*Nothing of it was run.*docs/safety.md")
    assert str(caught.value).count(str(file)) == 1


def test_a_bomb_that_is_the_whole_file_is_refused(tmp_path, marker):
    for name, write in WRITERS.items():
        with pytest.raises(FileError, match="refused|not a readable checkpoint"):
            load_model_file(str(write(tmp_path / name, Bomb(marker))))


def test_a_bomb_in_the_state_of_the_optimizer_is_refused_when_a_run_is_resumed(tmp_path, marker):
    model = torch.nn.Linear(2, 2)
    checkpointer = StudentCheckpointer(
        model, str(tmp_path), trainer=torch.optim.SGD(model.parameters(), lr=1.0)
    )
    checkpointer.save("model_0000001", iteration=Bomb(marker))
    with pytest.raises(FileError, match=r"model_0000001\.pth is refused"):
        checkpointer.resume_or_load("", resume=True)


def test_a_teacher_of_a_config_is_refused_by_its_file(tmp_path, marker):
    (tmp_path / "teacher.yaml").write_text(classifier_cfg().dump())
    file = pickle_file(tmp_path / "teacher.pkl", {"model": {}, "__author__": Bomb(marker)})
    with pytest.raises(ValueError, match=r"teacher\.pkl is refused: reading it would call posix\.system"):
        load_teacher(str(tmp_path / "teacher.yaml"), str(file))


def test_weights_of_a_timm_backbone_and_a_paraphraser_are_refused(tmp_path, marker):
    file = str(torch_file(tmp_path / "w.pth", {"model": {}, "x": Bomb(marker)}))
    with pytest.raises(FileError, match="refused"):
        TimmBackbone("resnet18", pretrained_file=file)
    with pytest.raises(FileError, match="refused"):
        trained_paraphraser(file, "backbone:p3", 4)
    with pytest.raises(FileError, match="refused"):
        read_weights(file)


def test_a_url_is_downloaded_and_then_read_by_the_same_readers(tmp_path, marker, monkeypatch):
    file = pickle_file(tmp_path / "w.pkl", {"a": Bomb(marker)})
    monkeypatch.setattr(PathManager, "get_local_path", lambda *_, **__: str(file))
    with pytest.raises(ValueError, match="refused"):
        load_teacher_weights(torch.nn.Linear(2, 2), "https://example.org/w.pkl")


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a/../../../.bashrc",
        "https://example.org/a/.\t./x.pth",
        "detectron2://../../x.pth",
        "https://example.org/..",
    ],
)
def test_a_url_that_would_be_kept_outside_the_folder_of_downloads_is_refused(address, monkeypatch):
    monkeypatch.setattr(PathManager, "get_local_path", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(ValueError, match="outside the folder of downloads"):
        StudentCheckpointer(torch.nn.Linear(2, 2)).load(address)
    with pytest.raises(ValueError, match="outside the folder of downloads"):
        load_teacher_weights(torch.nn.Linear(2, 2), address)
    with pytest.raises(ValueError, match="outside the folder of downloads"):
        TimmBackbone("resnet18", pretrained_file=address)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 12) + b"{" * 12,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 66)
        + b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}   '
        + b"0000",
    ],
    ids=["empty", "cut", "a giant header", "no JSON", "no table", "a shape beyond the data"],
)
def test_a_broken_safetensors_file_is_an_error_for_people(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    for read in (load_safetensors, load_model_file):
        with pytest.raises(FileError, match=r"w\.safetensors is not a readable checkpoint"):
            read(str(tmp_path / "w.safetensors"))


def test_safetensors_load_as_model_weights_and_as_a_teacher_with_their_note(tmp_path):
    state = torch.nn.Linear(2, 2).state_dict()
    note = {"architecture": "Linear", "classifier": False}
    save_file(state, tmp_path / "w.safetensors", metadata={"network": json.dumps(note), "other": "{"})
    model = torch.nn.Linear(2, 2)
    left = StudentCheckpointer(model).load(str(tmp_path / "w.safetensors"))
    assert torch.equal(model.weight, state["weight"]) and left["network"] == note
    teacher = torch.nn.Linear(2, 2)
    load_teacher_weights(teacher, str(tmp_path / "w.safetensors"))
    assert torch.equal(teacher.bias, state["bias"])


@pytest.mark.parametrize(
    "content", [torch.zeros(2), [1, 2], {"model": [1]}, {"model": {3: torch.zeros(1)}}, {"model": None}]
)
def test_a_file_that_holds_no_table_of_tensors_is_an_error_for_people(tmp_path, content):
    with pytest.raises(FileError, match="holds no weights"):
        load_model_file(str(torch_file(tmp_path / "w.pth", content)))


def test_a_checkpoint_of_stock_detectron2_with_numpy_numbers_is_resumed_from(tmp_path):
    """Evaluation results and schedules put numpy's numbers into the state of hooks."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    hooks = {
        "LRScheduler": {"base_lrs": [np.float64(0.02)], "last_epoch": 9},
        "Best": {"best": np.float32(3.5)},
    }
    trainer = {"iteration": np.int64(9), "hooks": hooks, "_trainer": {"optimizer": optimizer.state_dict()}}
    state = OrderedDict((k, v.detach().numpy()) for k, v in model.state_dict().items())
    for write, name in ((torch_file, "model_0000009.pth"), (legacy_torch_file, "legacy.pth")):
        content = {"model": state, "trainer": trainer, "iteration": 9, "scores": np.arange(6.0).reshape(2, 3)}
        write(tmp_path / name, content)
        other = torch.nn.Linear(2, 2)
        left = StudentCheckpointer(other, str(tmp_path)).load(str(tmp_path / name))
        assert torch.equal(other.weight, model.weight)
        assert left["trainer"]["iteration"] == 9
        assert left["trainer"]["hooks"]["Best"]["best"] == np.float32(3.5)
        assert type(left["scores"]) is np.ndarray and left["scores"][1, 2] == 5
        moments = left["trainer"]["_trainer"]["optimizer"]["state"][0]
        assert torch.equal(moments["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_a_numpy_array_of_python_objects_in_a_checkpoint_is_refused(tmp_path, marker):
    for content in (
        np.array([Bomb(marker)], dtype=object),
        np.zeros(1, dtype=[("a", "O")]),
        np.array([None]),
    ):
        with pytest.raises(FileError, match=r"refused|numpy array"):
            load_checkpoint(torch_file(tmp_path / "w.pth", {"model": content}))

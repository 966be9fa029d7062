"""A checkpoint that is cut short, at whatever length, is noticed; the one before is used, with a warning."""

import logging

import pytest
import torch

from det_distill.best import BestCheckpoint
from det_distill.checkpoint import StudentCheckpointer
from det_distill.ema import FILE as AVERAGE
from det_distill.files import FileError, is_whole, load_checkpoint, replace_file, replace_text
from det_distill.paraphrasers import trained_paraphraser
from det_distill.recipes.state import StepState, read_state, write_state


class Counted(torch.nn.Module):
    """Its only weight says at which iteration it was saved."""

    def __init__(self, iteration=0.0):
        super().__init__()
        self.iteration = torch.nn.Parameter(torch.full((500,), float(iteration)))


def saved(folder, *iterations):
    """Files of these iterations; return the last one."""
    for i in iterations:
        StudentCheckpointer(Counted(i), str(folder)).save(f"model_{i:07d}", iteration=i)
    return folder / f"model_{iterations[-1]:07d}.pth"


def resumed(folder):
    model = Counted()
    StudentCheckpointer(model, str(folder)).resume_or_load("", resume=True)
    return model.iteration[0].item()


def test_a_file_cut_at_any_length_is_not_whole_and_cannot_be_read(tmp_path):
    file = saved(tmp_path, 1)
    content = file.read_bytes()
    assert is_whole(str(file))
    for length in (*range(0, 200), *range(200, len(content), 37), *range(len(content) - 100, len(content))):
        file.write_bytes(content[:length])
        assert not is_whole(str(file)), length
    for length in (0, 1, 30, 500, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(FileError, match="not a readable checkpoint"):
            load_checkpoint(file)


@pytest.mark.parametrize("left", [0.0, 0.01, 0.5, 0.99])
def test_the_previous_checkpoint_is_used_with_a_warning(tmp_path, left, caplog):
    file = saved(tmp_path, 1, 2, 3)
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 2
    assert (
        f"the last checkpoint, {file}, is cut short or damaged: taking {tmp_path}/model_0000002.pth"
        in caplog.text
    )


@pytest.mark.parametrize("damage", ["zeroed", "flipped", "lost"])
def test_a_checkpoint_with_bytes_changed_in_its_middle_is_passed_over(tmp_path, damage, caplog):
    file = saved(tmp_path, 1, 2)
    content = bytearray(file.read_bytes())
    start = content.index(torch.full((500,), 2.0).numpy().tobytes())
    if damage == "lost":
        del content[start : start + 300]
    else:
        content[start : start + 512] = bytes(512) if damage == "zeroed" else b"\x01" * 512
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 1
    assert f"the last checkpoint, {file}, is cut short or damaged: taking" in caplog.text


def test_a_checkpoint_that_torch_wrote_without_checksums_is_whole(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(tmp_path, 1)
    finally:
        torch.serialization.set_crc32_options(before)
    assert is_whole(str(file)) and resumed(tmp_path) == 1


def test_of_several_damaged_ones_the_newest_whole_one_is_used(tmp_path, caplog):
    saved(tmp_path, 1, 2, 3)
    for i in (2, 3):
        (tmp_path / f"model_000000{i}.pth").write_bytes(b"PK")
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 1
    assert "model_0000002.pth is cut short" in caplog.text
    (tmp_path / "model_0000001.pth").unlink()
    assert not StudentCheckpointer(Counted(), str(tmp_path)).has_checkpoint()


def test_a_note_that_names_a_missing_file_leads_to_the_newest_that_is_there(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    (tmp_path / "model_0000002.pth").unlink()
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path) == 1
    assert "model_0000002.pth, does not exist: taking" in caplog.text


@pytest.mark.parametrize(
    "note",
    [
        "../other/model_0000009.pth",
        "/etc/passwd",
        "{other}/model_0000009.pth",
        "",
        "a\nb.pth",
        "\0.pth",
        "https://h/x.pth",
    ],
)
def test_a_note_that_names_no_file_of_the_folder_does_not_count(tmp_path, note, caplog):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir(), other.mkdir()
    saved(run, 1)
    saved(other, 9)
    (run / "last_checkpoint").write_text(note.format(other=other))
    with caplog.at_level(logging.WARNING):
        assert resumed(run) == 1
    assert "names no checkpoint of its folder" in caplog.text


def test_a_best_checkpoint_that_is_cut_short_is_passed_over_with_a_warning(tmp_path, caplog):
    file = tmp_path / "model_best.pth"
    torch.save({"model": {}, "best": {"measure": "bbox/AP", "value": 5.0, "iteration": 1}}, file)
    content = file.read_bytes()

    class Trainer:
        start_iter = 3

    for length, expected in (
        (len(content), {"measure": "bbox/AP", "value": 5.0, "iteration": 1}),
        (99, {}),
        (0, {}),
    ):
        file.write_bytes(content[:length])
        hook = BestCheckpoint("bbox/AP", str(tmp_path), 1, dict)
        hook.trainer = Trainer()
        with caplog.at_level(logging.WARNING):
            hook.before_train()
        assert hook.state_dict() == expected
        assert bool(expected) or "model_best.pth is not a readable checkpoint" in caplog.text


@pytest.mark.parametrize("name", [AVERAGE, "model_best.pth", "paraphrasers.pth"])
def test_other_files_that_are_cut_short_are_an_error_that_names_them(tmp_path, name):
    torch.save({"model": {"iteration": torch.zeros(500)}}, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:700])
    with pytest.raises(FileError, match=f"{name} is not a readable checkpoint"):
        StudentCheckpointer(Counted()).resume_or_load(str(tmp_path / name), resume=False)
    with pytest.raises(FileError, match=f"{name} is not a readable checkpoint"):
        trained_paraphraser(str(tmp_path / name), "backbone:p3", 4)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    replace_text(file, "first")

    def killed(temporary):
        with open(temporary, "w") as f:
            f.write("sec")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(str(file), killed)
    assert file.read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("note", ["", '{"fingerprint": "a', "[1]", '{"other": 1}', "[" * 100_000])
def test_a_recipes_note_that_is_cut_short_counts_as_another_step(tmp_path, note, caplog):
    write_state(tmp_path, StepState("a", finished=True))
    assert read_state(tmp_path) == StepState("a", finished=True)
    (tmp_path / "recipe_step.json").write_text(note)
    with caplog.at_level(logging.WARNING):
        assert read_state(tmp_path) == StepState("")
    assert "recipe_step.json cannot be read" in caplog.text

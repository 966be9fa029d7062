"""Results survive whatever stops a run, and become one file that says what it is."""

import json

import pytest

from det_distill.predict import Journal

ABOUT = {"content": "predictions of det_distill", "classes": ["cat", "Kühe"]}


def test_images_videos_and_failures_become_one_file(tmp_path):
    with Journal(tmp_path, ABOUT) as journal:
        journal.image("a.png", {"width": 4, "detections": []})
        journal.frame("v.mp4", {"frame": 0, "seconds": 0.0})
        journal.frame("v.mp4", {"frame": 1, "seconds": 0.5})
        journal.video("v.mp4", {"frames_per_second": 2.0})
        journal.frame("w.mp4", {"frame": 0, "seconds": 0.0})
        journal.video("w.mp4", {"frames_per_second": 3.0, "incomplete": "cut"})
        journal.image("b.png", {"width": 5, "detections": []})
        journal.finish({"c.png": "broken"})
    assert json.loads((tmp_path / "predictions.json").read_text()) == {
        **ABOUT,
        "images": {"a.png": {"width": 4, "detections": []}, "b.png": {"width": 5, "detections": []}},
        "videos": {
            "v.mp4": {
                "frames_per_second": 2.0,
                "frames": [{"frame": 0, "seconds": 0.0}, {"frame": 1, "seconds": 0.5}],
            },
            "w.mp4": {
                "frames_per_second": 3.0,
                "incomplete": "cut",
                "frames": [{"frame": 0, "seconds": 0.0}],
            },
        },
        "failed": {"c.png": "broken"},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.json"]


def test_a_run_without_any_result_writes_a_file_too(tmp_path):
    with Journal(tmp_path, ABOUT) as journal:
        journal.finish({})
    assert json.loads(journal.file.read_text()) == {**ABOUT, "images": {}, "videos": {}, "failed": {}}


def test_what_stops_in_the_middle_keeps_what_was_finished_and_the_earlier_file(tmp_path):
    with Journal(tmp_path, ABOUT) as journal:
        journal.image("old.png", {})
        journal.finish({})
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path, ABOUT) as journal:
        journal.image("a.png", {})
        raise KeyboardInterrupt
    assert "old.png" in json.loads(journal.file.read_text())["images"]
    assert '"image": "a.png"' in journal.partial.read_text()


def test_the_next_run_goes_on_behind_the_last_whole_image_or_video(tmp_path):
    with Journal(tmp_path, ABOUT) as journal:
        journal.image("a.png", {"width": 1})
        journal.frame("v.mp4", {"frame": 0})
        journal.video("v.mp4", {"incomplete": "cut"})
        journal.frame("w.mp4", {"frame": 0})
    with open(journal.partial, "a") as lines:
        lines.write('{"image": "b.pn')
    with Journal(tmp_path, ABOUT) as journal:
        assert journal.done == {"a.png": "", "v.mp4": "cut"}
        journal.image("b.png", {"width": 2})
        journal.finish({})
    found = json.loads(journal.file.read_text())
    assert found["images"] == {"a.png": {"width": 1}, "b.png": {"width": 2}}
    assert list(found["videos"]) == ["v.mp4"] and found["videos"]["v.mp4"]["frames"] == [{"frame": 0}]


def test_a_run_that_died_before_its_first_line_was_whole_begins_again(tmp_path):
    (tmp_path / "predictions.partial.jsonl").write_text('{"content"')
    with Journal(tmp_path, ABOUT) as journal:
        journal.image("a.png", {})
        journal.finish({})
    assert list(json.loads(journal.file.read_text())["images"]) == ["a.png"]


def test_the_unfinished_results_of_another_model_are_not_mixed_in_nor_lost(tmp_path):
    with Journal(tmp_path, ABOUT) as journal:
        journal.image("a.png", {})
    before = journal.partial.read_text()
    with pytest.raises(ValueError, match="unfinished predictions of another model, or with other options"):
        Journal(tmp_path, {**ABOUT, "classes": ["dog"]})
    assert journal.partial.read_text() == before


def test_a_file_name_that_is_no_text_comes_back_the_same(tmp_path):
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    with Journal(tmp_path, ABOUT) as journal:
        journal.image(name, {})
    with Journal(tmp_path, ABOUT) as journal:
        assert list(journal.done) == [name]
        journal.finish({})
    assert list(json.loads(journal.file.read_text())["images"]) == [name]

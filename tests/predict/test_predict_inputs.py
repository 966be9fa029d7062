"""Files, folders and patterns as a list of inputs."""

from pathlib import Path

import pytest

from det_distill.predict.inputs import find_inputs


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def pictures(inputs):
    return [i.picture.as_posix() for i in inputs]


def test_a_folder_stands_for_its_images_and_videos_in_order_without_its_sub_folders(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "c.mp4", "notes.txt", ".hidden.jpg", "below/d.jpg")
    found = find_inputs([str(tmp_path)], tmp_path / "out")
    assert [i.path.name for i in found] == ["a.png", "b.JPG", "c.mp4"]
    assert [i.is_video for i in found] == [False, False, True]
    assert pictures(found) == ["a.png", "b.jpg", "c.mp4"]


def test_recursive_enters_sub_folders_but_not_the_one_of_the_results(tmp_path):
    touch(tmp_path, "a.png", "below/a.png", "out/a.png", ".git/a.png")
    found = find_inputs([str(tmp_path)], tmp_path / "out", recursive=True)
    assert pictures(found) == ["a.png", "below/a.png"]


def test_a_pattern_is_expanded_and_a_file_of_such_a_name_is_no_pattern(tmp_path):
    touch(tmp_path, "x1.png", "x2.png", "y.png", "x[1].png")
    found = find_inputs([str(tmp_path / "x?.png")], tmp_path / "out")
    assert [i.path.name for i in found] == ["x1.png", "x2.png"]
    assert find_inputs([str(tmp_path / "x[1].png")], tmp_path / "out")[0].path.name == "x[1].png"


def test_a_file_named_twice_is_one_and_two_files_of_one_name_get_two_pictures(tmp_path):
    touch(tmp_path, "a/x.png", "b/x.png", "b/X.bmp")
    names = [str(tmp_path / n) for n in ("a/x.png", "b/x.png", "a", "b/X.bmp")]
    found = find_inputs(names, tmp_path / "out")
    assert [i.path.parent.name for i in found] == ["a", "b", "b"]
    assert pictures(found) == ["x.png", "x-2.png", "X-3.png"]


def test_a_file_that_is_named_is_an_image_whatever_it_is_called(tmp_path):
    touch(tmp_path, "scan.jfif")
    assert find_inputs([str(tmp_path / "scan.jfif")], tmp_path / "out")[0].picture == Path("scan.png")


def test_nothing_found_is_an_error_that_says_where(tmp_path):
    touch(tmp_path, "notes.txt", "below/a.png")
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder 'absent\.jpg'"):
        find_inputs(["absent.jpg"], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing has a name like .*\*\.jpg"):
        find_inputs([str(tmp_path / "*.jpg")], tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"has no image .* among its 1 files; its 1 sub-folders .*--recursive"
    ):
        find_inputs([str(tmp_path)], tmp_path / "out")


def test_a_picture_never_takes_the_place_of_an_input(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match="which is an input: name another folder"):
        find_inputs([str(tmp_path)], tmp_path)

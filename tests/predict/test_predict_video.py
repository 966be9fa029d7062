"""Videos: frames in, one at a time, and out as an .mp4 with the same times."""

import struct
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from det_distill.predict.video import VideoReader, VideoWriter, need_av

av = pytest.importorskip("av")

RED, DARK = (220, 30, 30), (40, 40, 40)


def write(path, count=8, rate=Fraction(30000, 1001), size=(96, 64), times=None):
    """Red on the left, dark on the right; one brighter column wanders."""
    with VideoWriter(path, rate) as video:
        for i in range(count):
            pixels = np.full((size[1], size[0], 3), DARK, np.uint8)
            pixels[:, : size[0] // 2] = RED
            pixels[:, size[0] // 2 + 4 * i : size[0] // 2 + 4 * i + 4] = 250
            video.write(pixels, float(i / rate) if times is None else times[i])
    return path


def read(path):
    with VideoReader(path) as video:
        return video.rate, list(video)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(10), Fraction(120)])
def test_frames_rate_and_times_survive_writing_and_reading(tmp_path, rate):
    found, frames = read(write(tmp_path / "x.mp4", rate=rate))
    assert found == rate and [f.number for f in frames] == list(range(8))
    assert [f.seconds for f in frames] == pytest.approx([float(i / rate) for i in range(8)], abs=1e-5)
    assert abs(frames[5].pixels[32, 10].astype(int) - RED).max() < 12
    assert frames[5].pixels[32, 48 + 4 * 5 + 2].min() > 200  # it is the sixth frame


def test_frames_at_uneven_times_keep_them(tmp_path):
    times = [0.0, 0.04, 0.2, 0.24, 1.0, 1.04, 1.5, 1.54]
    _, frames = read(write(tmp_path / "x.mp4", rate=Fraction(25), times=times))
    assert [f.seconds for f in frames] == pytest.approx(times, abs=1e-4)


def test_an_odd_size_gets_a_column_and_a_row_more(tmp_path):
    _, frames = read(write(tmp_path / "x.mp4", size=(95, 63)))
    assert frames[0].pixels.shape == (64, 96, 3)


def test_it_is_h264_in_the_colours_that_players_take(tmp_path):
    with av.open(str(write(tmp_path / "x.mp4"))) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert not file.streams.audio


def test_a_telephones_lying_video_is_read_upright(tmp_path):
    content = bytearray(write(tmp_path / "x.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)  # by a quarter, clockwise: what was left is above
    _, frames = read(tmp_path / "turned.mp4")
    assert frames[0].pixels.shape == (96, 64, 3)
    assert abs(frames[0].pixels[10, 32].astype(int) - RED).max() < 12
    assert frames[0].pixels[90, 32].max() < 60


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    path = write(tmp_path / "x.mp4", count=200, size=(192, 128))
    whole = 200 * 192 * 128 * 3
    tracemalloc.start()
    with VideoReader(path) as video, VideoWriter(tmp_path / "y.mp4", video.rate) as copy:
        for frame in video:
            copy.write(frame.pixels, frame.seconds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 10


def test_what_is_no_video_or_has_no_pictures_is_told(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="no readable video"):
        VideoReader(tmp_path / "text.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(ValueError, match="no pictures, only sound"):
        VideoReader(tmp_path / "sound.mp4")


def in_container(path, frames=20, rate=10, codec="mjpeg"):
    """Noise, so that each frame takes its share of the file."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(frames):
            pixels = np.random.default_rng(i).integers(0, 256, (64, 96, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["x.avi", "x.mkv"])
def test_a_video_that_ends_before_the_end_it_announces_is_told_behind_its_last_frame(tmp_path, name):
    path = in_container(tmp_path / name)
    assert len(read(path)[1]) == 20
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    numbers = []
    with (
        VideoReader(path) as video,
        pytest.raises(ValueError, match=r"cut off: it has \d+ frames .*announces (20 frames|2\.0 s)"),
    ):
        for frame in video:
            numbers.append(frame.number)
    assert numbers == list(range(len(numbers))) and 5 < len(numbers) < 15


@pytest.mark.parametrize(("name", "codec"), [("x.mpg", "mpeg2video"), ("x.mts", "mpeg2video")])
def test_of_a_video_that_announces_no_length_any_end_is_taken(tmp_path, name, codec):
    path = in_container(tmp_path / name, rate=25, codec=codec)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 0 < len(read(path)[1]) < 20


def test_a_video_that_is_not_finished_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "x.mp4", Fraction(25)) as video:
        video.write(np.zeros((16, 16, 3), np.uint8), 0.0)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_without_pyav_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'det_distill\[video\]'"):
        need_av()

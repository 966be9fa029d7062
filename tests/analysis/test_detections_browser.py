"""The report on detections in a real browser: the script runs, nothing is complained of, the picture is there."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from det_distill.analysis.detections import Found, Source, measure, write_page
from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.cost import ModelCost

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECTIONS = ("ap", "curves", "sizes", "errors", "speed", "photos", "about")
CLASSES = tuple(f"<em>class {i}</em>" for i in range(12))


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        text = f"no browser here to open the report in: install one of {', '.join(NAMES)}"
        if os.environ.get("CI"):
            pytest.fail(f"{text}; with CI set it must be there")
        pytest.skip(text)
    return found


def open_page(browser: str, file: Path, folder: Path, *, width: int = 1280, height: int = 2000):
    """Open a file: its DOM after the scripts ran, what the console says, and a picture (H, W, 3)."""
    picture = folder / f"{file.stem}_{width}.png"
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr "
        "--disable-dev-shm-usage --allow-file-access-from-files"
    )
    done = subprocess.run(
        [
            browser, *options.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom",
            f"--window-size={width},{height}", f"--screenshot={picture}", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    console = re.findall(r"CONSOLE[:(]\d+\)?\]? (.*)", done.stderr)
    return done.stdout, console, np.asarray(Image.open(picture).convert("RGB"))


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner = generator.integers(0, 150, (count, 2))
    return np.concatenate([corner, corner + generator.integers(10, 90, (count, 2))], axis=1).astype(float)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page of 12 classes, 4 photos and three detectors, the second of which is worse than the third."""
    folder, generator = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    records = []
    for i in range(4):
        pixels = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((240, 180)).save(folder / f"<{i}>.jpg")
        records.append({"file_name": str(folder / f"<{i}>.jpg"), "image_id": i})
    image, category = np.repeat(np.arange(4), 12), np.tile(np.arange(12), 4)
    box, none = random_boxes(generator, 48), np.zeros(48, dtype=bool)
    area = (box[:, 2:] - box[:, :2]).prod(axis=1)
    truth = GroundTruth(image, category, box, area, none, none, np.full((4, 2), (240, 180)))
    found = []
    for name, noise in (("big", 1), ("small </script>", 9), ("better", 4)):
        moved = box + generator.normal(0, noise, box.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        guessed = np.where(generator.random(48) < noise / 20, 0, category)
        cost = ModelCost(1_000_000 * (10 - noise), 1.0, 5.0 + noise, 180, 240, 1, "cpu")
        detections = Detections(image, guessed, moved, generator.random(48))
        found.append(Found(Source(name, name == "big"), detections, cost, f"{name}.pth"))
    return write_page(measure(found, truth, 12), records, CLASSES, "shapes", folder / "page.html")


def test_the_page_works_in_a_browser_without_a_complaint(browser, report, tmp_path):
    dom, console, picture = open_page(browser, report, tmp_path)
    assert console == []
    assert 'data-script="ran"' in dom
    assert all(f'<section id="{name}">' in dom for name in SECTIONS)
    shown = [p for p in re.findall(r"<figure[^>]*data-panel[^>]*>", dom) if "hidden" not in p]
    assert len(shown) == 1 + 9 and dom.count('data-panel="') == 13  # the script hid the classes of small gaps
    assert '<p id="chooser">' in dom
    assert "<em>" not in dom
    assert picture.shape == (2000, 1280, 3)
    colours = {tuple(c) for c in picture.reshape(-1, 3)}
    for expected in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):  # of the three detectors
        assert expected in colours
    middle = picture[:, 300:980].astype(int)
    assert (np.ptp(middle, axis=(1, 2)) > 100).mean() > 0.3  # rows with ink


def test_on_a_phone_nothing_stands_out_to_the_right_and_the_photos_are_drawn(browser, report, tmp_path):
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<body style="margin:0"><iframe id="f" src="{report.as_uri()}" style="width:390px;height:30000px;border:0">'
        "</iframe><script>f.onload = () => { const d = f.contentDocument; "
        "const p = d.querySelector('.three svg').getBoundingClientRect(); "
        "f.style.marginTop = -Math.round(p.top) + 'px'; document.body.dataset.seen = "
        "[d.documentElement.scrollWidth, Math.round(p.width), Math.round(p.height), Math.round(p.left)] }</script>"
    )
    dom, console, picture = open_page(browser, frame, tmp_path, width=600, height=400)
    assert console == []
    width, wide, high, left = map(int, re.search(r'data-seen="([\d,]+)"', dom)[1].split(","))
    assert width == 390
    assert 300 < wide < 390 and high == pytest.approx(wide * 180 / 240, abs=1)
    photo = picture[5 : high - 5, left + 5 : left + wide - 5].reshape(-1, 3)
    assert photo.std(axis=0).min() > 20  # the photo behind the boxes, not one colour


def test_a_page_that_is_broken_would_be_noticed(browser, report, tmp_path):
    """The script changed by one letter: the page's own policy refuses it, and the console says so."""
    broken = tmp_path / "broken.html"
    text = report.read_text()
    assert text.count('"use strict"') == 1
    broken.write_text(text.replace('"use strict"', '"use  strict"'))
    dom, console, _ = open_page(browser, broken, tmp_path)
    assert len(console) == 1 and "Content Security Policy" in console[0]
    assert "data-script" not in dom

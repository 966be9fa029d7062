"""Build backend (PEP 517) that makes a pure-Python wheel of detectron2 0.6 from its published source archive.

pip fetches the archive from wherever pip is configured to look, and checks its hash before anything in it
runs; ``edits.py`` makes it fit for current Python, torch, numpy and Pillow; ``_C.py`` replaces the extension.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from edits import apply_edits, describe_edits

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
PYPROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SOURCE = PYPROJECT["project"], PYPROJECT["tool"]["detectron2-source"]
STEM = f"{PROJECT['name']}-{PROJECT['version']}"
PROJECTS = {
    "point_rend": "PointRend/point_rend",
    "deeplab": "DeepLab/deeplab",
    "panoptic_deeplab": "Panoptic-DeepLab/panoptic_deeplab",
}


class UnsupportedOperation(Exception):
    """Raised, as PEP 517 asks, by a hook that this backend does not offer."""


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Write the wheel to ``wheel_directory`` and return its file name."""
    with tempfile.TemporaryDirectory() as scratch:
        source = _unpack(_download(Path(scratch)), Path(scratch))
        tree = _arrange(source, Path(scratch) / "wheel")
        _write_metadata(tree, source / "LICENSE")
        name = f"{STEM}-py3-none-any.whl"
        _pack(tree, Path(wheel_directory) / name)
    return name


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: dict[str, Any] | None = None
) -> str:
    """Write the wheel's metadata, for which nothing needs to be downloaded, and return its folder's name."""
    return _write_metadata(Path(metadata_directory)).name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Refuse: this folder is a recipe for a wheel, the sources are published elsewhere."""
    raise UnsupportedOperation(
        f"There is no source archive to build here: {SOURCE['name']} {SOURCE['version']} is the source. "
        "Build the wheel alone, for example with `pip wheel --no-deps third_party/detectron2`."
    )


def _download(folder: Path) -> Path:
    """Let pip fetch the source archive and check its hash; RuntimeError with pip's own words if it cannot."""
    wanted = f"{SOURCE['name']}=={SOURCE['version']}"
    (folder / "requirements.txt").write_text(f"{wanted} --hash=sha256:{SOURCE['sha256']}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--require-hashes",
    ]
    command += ["--no-binary", SOURCE["name"], "--dest", str(folder), "-r", str(folder / "requirements.txt")]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        raise RuntimeError(
            f"pip could not download {wanted}, the source of detectron2. Check the network and pip's "
            f"configuration (`pip config list`). pip said:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return archives[0]


def _environment() -> dict[str, str]:
    """Return the environment for the inner pip: without the outer build's hook settings, with the stub.

    The archive's setup.py imports torch for its metadata alone; the stub spares the download of the real one.
    An outer pip hands its isolated packages down in PYTHONPATH, so that is kept.
    """
    hooks = ("PEP517_", "_PYPROJECT_HOOKS_", "PIP_BUILD_TRACKER")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hooks)}
    paths = [str(HERE / "stub"), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONNOUSERSITE": "1"}


def _unpack(archive: Path, folder: Path) -> Path:
    """Check the hash of ``archive`` once more, unpack it into ``folder``, return the folder of its files."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SOURCE["sha256"]:
        raise RuntimeError(f"{archive.name} has sha256 {digest}, expected {SOURCE['sha256']}: not unpacked.")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(folder)
    return folder / f"{SOURCE['name']}-{SOURCE['version']}"


def _arrange(source: Path, tree: Path) -> Path:
    """Copy package, projects and tools to their places in the wheel ``tree``, edited, and return it."""
    package = tree / "detectron2"
    shutil.copytree(source / "detectron2", package)
    for name, folder in PROJECTS.items():
        shutil.copytree(source / "projects" / folder, package / "projects" / name)
    apply_edits(package)
    shutil.copy(HERE / "_C.py", package / "_C.py")
    shutil.copytree(source / "tools", tree / f"{STEM}.data" / "data" / "share" / "detectron2" / "tools")
    return tree


def _write_metadata(tree: Path, license_file: Path | None = None) -> Path:
    """Write the ``.dist-info`` folder into ``tree``, with the licence and list of changes if known."""
    info = tree / f"{STEM}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    fields = ["Metadata-Version: 2.1", f"Name: {PROJECT['name']}", f"Version: {PROJECT['version']}"]
    fields += [f"Summary: {PROJECT['description']}", f"License: {PROJECT['license']}"]
    fields += [f"Requires-Python: {PROJECT['requires-python']}"]
    fields += [f"Requires-Dist: {requirement}" for requirement in PROJECT["dependencies"]]
    (info / "METADATA").write_text("\n".join(fields) + "\n", encoding="utf-8")
    wheel = "Wheel-Version: 1.0\nGenerator: detectron2-recipe\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    (info / "WHEEL").write_text(wheel, encoding="utf-8")
    if license_file is not None:
        shutil.copy(license_file, info / "LICENSE")
        (info / "CHANGES").write_text(describe_edits(), encoding="utf-8")
    return info


def _pack(tree: Path, wheel: Path) -> None:
    """Zip ``tree`` into ``wheel`` with a RECORD of every file; equal trees give equal bytes."""
    record = f"{STEM}.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            name, data = path.relative_to(tree).as_posix(), path.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            archive.writestr(_entry(name), data)
            lines.append(f"{name},sha256={digest},{len(data)}")
        archive.writestr(_entry(record), "\n".join([*lines, f"{record},,"]) + "\n")


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry for ``name`` with a fixed date and ordinary file permissions."""
    entry = zipfile.ZipInfo(name, date_time=(2021, 11, 1, 0, 0, 0))
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry

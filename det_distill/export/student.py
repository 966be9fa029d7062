"""The student of a run as files of its own, each loaded again and compared before it is handed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from detectron2.config import CfgNode
from torch import Tensor, nn

from ..checkpoint import StrictCheckpointer
from ..class_names import class_names
from ..classification import ImageClassifier
from ..config import build_student
from ..data.problems import DatasetError
from ..evaluation.cost import model_cost
from .card import CARD, CardFacts, card, sha256
from .check import DoesNotFit, ExportError
from .folder import check_replaceable, files_in, new_folder, write_manifest
from .formats import DEFAULT_FORMATS, FORMATS, ExportRequest, Written, writer_of
from .images import first_images, images_to_compare
from .measured import check_test_data, measure_files
from .plain_config import needs_det_distill, plain_config, read_plain_config
from .result import StudentExport

__all__ = ["ALL", "chosen_formats", "export_student"]

ALL = "all"
_CARD = "card"


def _quiet(line: str) -> None:
    """Say nothing."""


def export_student(
    cfg: CfgNode,
    weights: str,
    output: str | os.PathLike[str],
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    images: Sequence[Tensor] = (),
    evaluate: int | None = None,
    say: Callable[[str], None] = _quiet,
) -> StudentExport:
    """Write the student of a distilled or plain run to a folder.

    * ``config.yaml``: the student's config, see `plain_config`; ``MODEL.WEIGHTS`` names ``student.pth`` or, if only
      that is written, ``student.pkl``.
    * the files of each format of `FORMATS` that is asked for.
    * ``card.md``: what the student is, for a stranger, see `card`; and ``export.json``: sizes and digests of the files.

    Every file is loaded again, and its outputs on images of several sizes must be those of the student, within the
    tolerance that the format states. All runs on the CPU. Teachers are neither built nor loaded. The folder appears
    when all is written and checked; an earlier export there is replaced then, and stays as it was if anything fails.

    Args:
        cfg: a run's config, distilled or not.
        weights: its checkpoint: any file or URL that detectron2 loads and that has all of the student.
        output: the folder.
        formats: names of `FORMATS`; ``all``: whatever can hold this network; ``card``: no other file.
        images: (C, H, W), 0 to 255, as in a test and channels as in ``cfg.INPUT.FORMAT``, to compare on; they and
            smaller ones made from them are taken. Default: the first of ``DATASETS.TEST``; noise if there are none.
        evaluate: measure the files on so many images of the first of ``DATASETS.TEST``; 0: on all; None: not at all.
        say: called with a line about each step that takes long.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        FileExistsError: the folder holds something other than an export.
        ValueError: the checkpoint is not this student's; there is no such format; or nothing to evaluate on.
        ExportError: a reloaded file gives other outputs, a format cannot hold this network, or weights are not finite.
        ImportError: a format needs a package that is not installed.
    """
    names = chosen_formats(formats)
    folder = Path(output).absolute()
    check_replaceable(folder)
    if evaluate is not None:
        check_test_data(cfg)
    request, source = _request(cfg, weights, images)
    file = "student.pkl" if "pkl" in names and "pth" not in names else "student.pth"
    plain = request.plain
    plain.MODEL.WEIGHTS = str(folder / file)
    with new_folder(folder) as temporary:
        (temporary / "config.yaml").write_text(plain.dump())
        read_plain_config(temporary / "config.yaml")
        written, left_out = _write(request, temporary, names, ALL in formats, say)
        measurement = None
        if evaluate is not None:
            measurement = measure_files(cfg, request.model, temporary, written, evaluate, say)
        export = StudentExport(
            folder,
            _sizes(temporary),
            {w.file: w.difference for w in written},
            needs_det_distill(plain),
            plain.MODEL.META_ARCHITECTURE,
            {
                "INPUT.FORMAT": plain.INPUT.FORMAT,
                "MODEL.PIXEL_MEAN": list(plain.MODEL.PIXEL_MEAN),
                "MODEL.PIXEL_STD": list(plain.MODEL.PIXEL_STD),
            },
            tuple(written),
            source,
            left_out,
            measurement,
        )
        _write_papers(request, weights, export, temporary)
        sizes = _sizes(temporary)
    return replace(export, sizes=sizes)


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in files_in(folder)}


def _write_papers(request: ExportRequest, weights: str, export: StudentExport, folder: Path) -> None:
    """Write the card and the manifest of all that is in the folder."""
    image = request.images[0]
    cost = model_cost(request.model, image.shape[1], image.shape[2], image=image, seconds=0.5)
    digests = {name: sha256(folder / name) for name in files_in(folder)}
    facts = CardFacts(request, weights, export, digests, cost)
    (folder / CARD).write_text(card(facts), encoding="utf-8")
    write_manifest(folder, export.written, {**digests, CARD: sha256(folder / CARD)})


def chosen_formats(names: Sequence[str]) -> list[str]:
    """Return the formats of a list of names, each once.

    Raises:
        ValueError: there is no such format.
    """
    for name in names:
        if name not in (*FORMATS, ALL, _CARD):
            raise ValueError(
                f"there is no export format {name!r}: choose from {', '.join(FORMATS)}, {ALL}, {_CARD}"
            )
    return list(FORMATS) if ALL in names else [name for name in dict.fromkeys(names) if name != _CARD]


def _request(cfg: CfgNode, weights: str, given: Sequence[Tensor]) -> tuple[ExportRequest, str]:
    """What the formats get, and what its images are."""
    plain = plain_config(cfg)
    model = _loaded(cfg, weights)
    _check_finite(model, weights)
    images, source = images_to_compare(cfg, _side(cfg, model), given)

    def calibration(count: int) -> Iterable[Tensor]:
        try:
            return list(islice(first_images(cfg, cfg.DATASETS.TRAIN), count))
        except (DatasetError, OSError) as error:
            raise DoesNotFit(
                f"images of DATASETS.TRAIN are needed to measure activations: {error}"
            ) from error

    return ExportRequest(cfg, plain, model, images, calibration, class_names(cfg)), source


def _check_finite(model: nn.Module, weights: str) -> None:
    wrong = [
        k for k, v in model.state_dict().items() if v.is_floating_point() and not bool(v.isfinite().all())
    ]
    if wrong:
        raise ExportError(
            f"{weights} has numbers that are not finite in {', '.join(wrong[:4])} ({len(wrong)} tensors): the training "
            "diverged, or the file is damaged; nothing was written"
        )


def _write(
    request: ExportRequest, folder: Path, names: Sequence[str], forgiving: bool, say: Callable[[str], None]
) -> tuple[list[Written], dict[str, str]]:
    """Write the formats; return their files and, if that is forgiven, which ones could not be and why."""
    written: list[Written] = []
    left_out: dict[str, str] = {}
    for name in names:
        say(f"Writing and checking {name} ...")
        try:
            found = writer_of(name)(request, folder)
        except (DoesNotFit, ImportError) as error:
            if not forgiving:
                raise
            left_out[name] = str(error)
            continue
        for file in found:
            if not file.difference <= file.tolerance:
                raise ExportError(
                    f"{file.file}: outputs differ by {file.difference:g} from the student's, more than "
                    f"{file.tolerance:g} (nan: they are not finite), so nothing was written"
                )
        written += found
    return written, left_out


def _loaded(cfg: CfgNode, weights: str) -> nn.Module:
    if "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(
            f"the checkpoint {weights!r} does not exist: name the student's trained weights"
        )
    model = build_student(cfg, "cpu").eval()
    try:
        StrictCheckpointer(model).load(weights)
    except ValueError as error:
        raise ValueError(
            f"{weights} does not hold the student of this config (is it a teacher's, a paraphraser's or only "
            f"a backbone's file?): {error}"
        ) from error
    return model


def _side(cfg: CfgNode, model: nn.Module) -> int:
    """Height and width of the only images that a network takes: of a classifier its crops, or what it is built for."""
    if not isinstance(model, ImageClassifier):
        return 0
    return int(cfg.INPUT.CLASSIFICATION.CROP or getattr(model.backbone, "image_size", 0) or 0)

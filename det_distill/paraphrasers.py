"""The unsupervised first stage of factor transfer: train paraphrasers on a frozen teacher, keep them in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import AutoEncoder, Paraphraser, Reconstructor
from .checkpoint import read_weights
from .padding import image_sizes, valid_cells
from .taps import FeatureSpec, feature_spec
from .teachers import Teacher

__all__ = ["ParaphraserTrainee", "new_paraphraser", "trained_paraphraser"]

_FINGERPRINT = "teacher_fingerprint"


def new_paraphraser(
    channels: int, *, kind: str = "paraphraser", rate: float = 0.5, layers: int = 3, batch_norm: bool = False
) -> Reconstructor:
    """Return an untrained paraphraser of one of the kinds that a ``FactorTransfer`` pair may ask for.

    Args:
        channels: of the teacher's map.
        kind: ``"paraphraser"`` or ``"autoencoder"``.
        rate: see `Paraphraser` and `AutoEncoder`, as for the rest.
        layers: of the encoder, and of the decoder.
        batch_norm: whether it has batch normalisation.

    Raises:
        ValueError: an unknown kind, or a rate or number of layers that makes no sense.
    """
    kinds: dict[str, type[Paraphraser] | type[AutoEncoder]]
    kinds = {"paraphraser": Paraphraser, "autoencoder": AutoEncoder}
    if kind not in kinds:
        raise ValueError(f"PARAPHRASER_KIND {kind!r}: choose 'paraphraser', 'autoencoder' or 'none'")
    return kinds[kind](channels, rate, layers=layers, batch_norm=batch_norm)


def _key(address: str) -> str:
    """The address as a module name, which may not hold a dot."""
    return address.replace(".", "/")


class ParaphraserTrainee(nn.Module):
    """A model whose training losses are the reconstruction errors of paraphrasers at several sites of a teacher.

    ``model(batch)`` returns ``loss_reconstruct_<site>`` (mean over all elements, raw or scaled) in training. In
    eval mode it returns, per site, the raw error and the one divided by the feature's spread, as `Reconstructor`
    defines them.
    Its state holds the paraphrasers (of any kind) by address, and the teacher's fingerprint.

    Args:
        teacher: frozen; runs only what is tapped.
        sites: address in the teacher -> paraphraser.
        p: 1: L1 error (authors' code), 2: squared error (paper).
        scaled: train on the error divided by the feature's spread (standard deviation for p = 1, variance for p = 2):
            the gradient, and with it the learning rate, no longer depends on the feature's scale. False: raw, as the
            authors do.
        input_format: channel order of the batches' images; None: the teacher's own.
        log: called with (name, value) while training, for the form of the error that is not the loss.

    Raises:
        ValueError: no site, or one that is no map of the whole image.
        AddressError: a site that the teacher lacks.
    """

    def __init__(
        self,
        teacher: Teacher,
        sites: Mapping[str, Reconstructor],
        *,
        p: int = 1,
        scaled: bool = False,
        input_format: str | None = None,
        log: Callable[[str, float], None] | None = None,
    ) -> None:
        super().__init__()
        roi = [a for a in sites if a.startswith("roi_heads.")]
        if not sites or roi:
            raise ValueError(
                f"paraphrasers are trained on feature maps of the whole image, not on {roi or 'nothing'}"
            )
        self._teacher = teacher
        teacher.bind(SimpleNamespace(input_format=input_format), tuple(sites))
        self._sites = {address: _short(address, sites) for address in sites}
        self.paraphrasers = nn.ModuleDict({_key(a): module for a, module in sites.items()})
        digits = torch.tensor(list(teacher.fingerprint.encode()), dtype=torch.uint8)
        self.register_buffer(_FINGERPRINT, digits)
        self._specs: dict[str, FeatureSpec] = {a: feature_spec(teacher.model, a) for a in sites}
        self._p, self._scaled, self._log = p, scaled, log

    def forward(self, batch: Any) -> dict[str, Any]:
        """Return losses by name in training, ``{site: (raw, scaled)}`` in eval."""
        values = self._teacher(batch)
        sizes = image_sizes(batch)
        errors = {
            name: self._error(address, values[address].float(), sizes)
            for address, name in self._sites.items()
        }
        if not self.training:
            return {
                name: (float(raw.detach()), float(scaled.detach())) for name, (raw, scaled) in errors.items()
            }
        if self._log is not None:
            other = "raw" if self._scaled else "scaled"
            for name, error in errors.items():
                self._log(f"reconstruct_{other}_{name}", float(error[not self._scaled].detach()))
        return {f"loss_reconstruct_{name}": error[self._scaled] for name, error in errors.items()}

    def _error(
        self, address: str, feature: Tensor, sizes: Sequence[tuple[int, int]] | None
    ) -> tuple[Tensor, Tensor]:
        paraphraser: Any = self.paraphrasers[_key(address)]
        valid = valid_cells(feature, self._specs[address].stride, sizes)
        return paraphraser.reconstruction_loss(feature, p=self._p, valid=valid)

    @property
    def device(self) -> torch.device:
        """Where the paraphrasers are."""
        return next(self.parameters()).device

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> ParaphraserTrainee:
        super()._apply(fn, recurse)
        self._teacher.model._apply(fn, recurse)
        return self


def _short(address: str, sites: Mapping[str, Any]) -> str:
    """The part after the last ':' or '.', or the whole address where that is not unique."""
    tail = address.replace(":", ".").rsplit(".", 1)[-1]
    unique = [a.replace(":", ".").rsplit(".", 1)[-1] for a in sites].count(tail) == 1
    return tail if unique else address.replace(".", "_").replace(":", "_")


def trained_paraphraser(
    path: str,
    address: str,
    channels: int,
    rate: float = 0.5,
    *,
    kind: str = "paraphraser",
    layers: int = 3,
    batch_norm: bool = False,
    teacher: str | None = None,
) -> Reconstructor:
    """Return the frozen paraphraser that `ParaphraserTrainee` trained at `address` of a teacher.

    Args:
        path: a checkpoint file.
        address: the site in the teacher.
        channels: of the teacher's map there.
        rate: factor channels / channels (of each layer, in an auto-encoder).
        kind: ``"paraphraser"`` or ``"autoencoder"``.
        layers: of its encoder.
        batch_norm: whether it has batch normalisation.
        teacher: the teacher's fingerprint; None: do not compare.

    Raises:
        ValueError: no path, no such site, another teacher, or another kind or shapes.
        FileNotFoundError: no such file.
    """
    paraphraser = new_paraphraser(channels, kind=kind, rate=rate, layers=layers, batch_norm=batch_norm)
    how = "train it with META_ARCHITECTURE: ParaphraserPretrainer and this config's TEACHERS and PAIRS"
    if not path:
        raise ValueError(
            f"factor transfer at {address!r} needs a trained paraphraser (PARAPHRASER: file): {how}"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the paraphraser file {path!r} of {address!r} does not exist: {how}")
    state = read_weights(path)
    prefix = f"paraphrasers.{_key(address)}."
    own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not own:
        sites = {k.split(".")[1].replace("/", ".") for k in state if k.startswith("paraphrasers.")}
        raise ValueError(
            f"{path} has no paraphraser for {address!r}; it has: {', '.join(sorted(sites)) or 'none'}"
        )
    made_for = bytes(_fingerprint_of(state)).decode()
    if teacher is not None and made_for != teacher:
        raise ValueError(
            f"the paraphraser in {path} was trained on teacher {made_for or 'unknown'}, this teacher's weights are "
            f"{teacher}: {how}"
        )
    _load_strictly(paraphraser, own, path, address)
    return paraphraser.freeze()


def _fingerprint_of(state: Mapping[str, Tensor]) -> list[int]:
    return state[_FINGERPRINT].tolist() if _FINGERPRINT in state else []


def _load_strictly(module: Reconstructor, state: Mapping[str, Tensor], path: str, address: str) -> None:
    expected = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if expected != found:
        raise ValueError(
            f"the paraphraser in {path} does not fit {address!r}: the file holds {_described(found)}, the pair asks "
            f"for {_described(expected)}. Give the pair the PARAPHRASER_KIND, LAYERS, RATE and BATCH_NORM that it was "
            "trained with, or train another"
        )
    module.load_state_dict(state)


def _described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What kind of paraphraser has parameters of these names and shapes, in words."""
    encoder = [k for k in shapes if re.fullmatch(r"(conv|down)\d+\.weight", k)]
    if not encoder:
        return f"no paraphraser but {', '.join(sorted(shapes)[:4])}"
    kind = "an autoencoder" if encoder[0].startswith("down") else "a paraphraser"
    count = f"{len(encoder)} layer{'s' if len(encoder) > 1 else ''}"
    norm = "with" if any("norm" in k for k in shapes) else "without"
    widths = [shapes[encoder[0]][1], *(shapes[key][0] for key in encoder)]
    return f"{kind} of {count} ({' -> '.join(map(str, widths))} channels) {norm} batch normalisation"

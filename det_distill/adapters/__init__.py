"""Adapters: small networks between a tapped feature and a loss. They own parameters and know no loss.

An adapter maps one tensor to one tensor, or with `takes_all` a list of levels to a list. On the student's side it
trains with the student and is not exported; on the teacher's side it is frozen. The initial values are PyTorch's
defaults, as in the authors' codes, unless a class says otherwise.
"""

from .autoencoder import AutoEncoder, AutoEncoderTranslator
from .each import Each
from .ensemble import LogitEnsemble
from .factor import Paraphraser, Translator
from .generation import Generation
from .global_context import GlobalContext
from .linear import Conv1x1, Conv3x3, Linear
from .neighbourhood import Neighbourhood
from .noise import LogitNoise
from .reconstruction import Reconstructor
from .review import ReviewFusion

__all__ = [
    "AutoEncoder",
    "AutoEncoderTranslator",
    "Conv1x1",
    "Conv3x3",
    "Each",
    "Generation",
    "GlobalContext",
    "Linear",
    "LogitEnsemble",
    "LogitNoise",
    "Neighbourhood",
    "Paraphraser",
    "Reconstructor",
    "ReviewFusion",
    "Translator",
]

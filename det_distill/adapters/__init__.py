"""Adapters: small networks between a tapped feature and a loss. They own parameters and know no loss.

An adapter maps one tensor to one tensor. On the student's side it trains with the student and is not
exported; on the teacher's side it is frozen. The initial values are PyTorch's defaults everywhere, as in the
authors' codes.
"""

from .factor import Paraphraser, Translator
from .linear import Conv1x1, Linear

__all__ = ["Conv1x1", "Linear", "Paraphraser", "Translator"]

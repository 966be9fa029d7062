"""Backbones by the names of torchvision and timm, and back: the student's for them, and theirs for a detector.

Every file is checked by loading it again, strictly, and comparing the maps of both networks on the same photos, each
with its own library's preparation of a photo.
"""

from .importing import ImportedBackbone, import_backbone
from .networks import NETWORKS

__all__ = ["NETWORKS", "ImportedBackbone", "import_backbone"]

"""The little of torch that the archive's setup.py touches; it lets pip read the archive's metadata."""

import sys
from types import SimpleNamespace

from setuptools import Extension
from setuptools.command.build_ext import build_ext

__version__, version, cuda = "1.8", SimpleNamespace(hip=None), SimpleNamespace(is_available=lambda: False)
cpp_extension = SimpleNamespace(CUDA_HOME=None, ROCM_HOME=None, CUDAExtension=None, BuildExtension=build_ext)
cpp_extension.CppExtension = lambda name, sources, **options: Extension(name, [])
utils = SimpleNamespace(cpp_extension=cpp_extension)
sys.modules |= {"torch.utils": utils, "torch.utils.cpp_extension": cpp_extension}

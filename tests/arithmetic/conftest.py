"""Property tests here have no deadline: a slow machine is not a wrong one. The kernels are compiled once."""

import ctypes

import pytest
from hypothesis import settings
from kernel_runner import compile_kernels

settings.register_profile("arithmetic", deadline=None)
settings.load_profile("arithmetic")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA kernels, compiled for the CPU."""
    return compile_kernels(tmp_path_factory.mktemp("kernels"))

"""The kernels compiled for the CPU, from the tests of the arithmetic."""

import ctypes
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "arithmetic"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    from kernel_runner import compile_kernels

    return compile_kernels(tmp_path_factory.mktemp("kernels"))

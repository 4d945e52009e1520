"""What all tests share: which skips are expected, and what a GPU test needs."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

EXPECTED_SKIPS = (
    "no NVIDIA GPU",
    "nvcc is not installed",
    "only root can be several users",
    "Ray is not installed",
    "Lightning is not installed",
    "Accelerate is not installed",
    "torchdata is not installed",
    "s3fs is not installed",
    "moto is not installed",
    "moto's server is not installed",
)
"""Beginnings of the reasons for which a test may be skipped in CI."""

_skipped: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def _own_secret() -> Iterator[None]:
    """Tests neither read nor make the secret of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DALI_PIPES_CACHE_SECRET", "of the tests")
        yield


@pytest.fixture(scope="session")
def passes(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library, compiled here with the options that the package is built with, and all warnings as errors."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("these tests need a C compiler: install gcc")
    root = Path(__file__).parent.parent
    extension = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]
    target = tmp_path_factory.mktemp("passes") / "passes.so"
    options = [*extension["extra-compile-args"], "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [compiler, *options, *(str(root / source) for source in extension["sources"]), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    lacks = None if torch.cuda.is_available() else "on this machine, or torch finds none"
    for module in ("cupy", "nvidia", "nvidia.dali"):
        if lacks is None and importlib.util.find_spec(module) is None:
            lacks = f"tests without {module}, which is not installed"
    if lacks:
        if os.environ.get("DALI_PIPES_REQUIRE_GPU") == "1":
            pytest.fail(f"DALI_PIPES_REQUIRE_GPU=1, but no NVIDIA GPU {lacks}")
        pytest.skip(f"no NVIDIA GPU {lacks}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(EXPECTED_SKIPS):
            _skipped.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _skipped and os.environ.get("DALI_PIPES_FAIL_ON_UNEXPECTED_SKIPS") == "1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.get_terminal_writer().write("\n  ".join(["\nunexpected skips:", *_skipped, ""]))

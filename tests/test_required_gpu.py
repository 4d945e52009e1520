"""A GPU that is required and not there, or CuPy or DALI beside it, fails the tests that need them: they cannot skip."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def setup() -> Any:
    """The hook of `conftest.py`, for an item that is marked `gpu`."""
    spec = importlib.util.spec_from_file_location("tests_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: module.pytest_runtest_setup(SimpleNamespace(get_closest_marker=lambda name: name))


@pytest.mark.parametrize(
    ("gpu", "lacking", "told"),
    [
        (False, None, "no NVIDIA GPU on this machine, or torch finds none"),
        (True, "cupy", "no NVIDIA GPU tests without cupy, which is not installed"),
        (True, "nvidia.dali", "no NVIDIA GPU tests without nvidia.dali, which is not installed"),
    ],
)
def test_what_is_required_and_not_there_is_a_failure(
    gpu: bool, lacking: str | None, told: str, setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else name)
    for required, outcome in ((None, pytest.skip.Exception), ("1", pytest.fail.Exception)):
        monkeypatch.delenv("DALI_PIPES_REQUIRE_GPU", raising=False)
        if required:
            monkeypatch.setenv("DALI_PIPES_REQUIRE_GPU", required)
        with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match=told) as raised:
            setup()
        assert raised.type is outcome

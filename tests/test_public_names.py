"""The names that scripts rely on: they may grow in number, but none may go."""

import importlib
import subprocess
import sys

import pytest

import dali_pipes
from dali_pipes import cache

PROMISED = {
    "dali_pipes": {
        "Augment", "BackendError", "Batch", "CacheError", "ConfigError", "DaliPipesError", "DecodeError", "FixedWindow",
        "LimitError", "Loader", "Manifest", "ManifestError", "ParityError", "PercentileWindow", "Recipe", "Sample",
        "StateError", "TruncatedError", "UnsupportedError", "VOIWindow",
    },
    "dali_pipes.cache": {
        "DISK_MODES", "MODES", "CacheError", "EntryError", "IntegrityError", "Key", "PinnedMapping", "SecretError",
        "SingleFlight", "SourceIndex", "Store", "StoreConfigError", "StoreIOError", "content_digest", "default_secret",
        "open_store",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names_are_there(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) >= PROMISED[name]
    assert len(set(module.__all__)) == len(module.__all__)
    for each in module.__all__:
        assert getattr(module, each) is not None


def test_errors_have_one_root_each() -> None:
    for module, roots in ((dali_pipes, (dali_pipes.DaliPipesError, cache.CacheError)), (cache, (cache.CacheError,))):
        for name in module.__all__:
            if name.endswith("Error"):
                assert issubclass(getattr(module, name), roots), name


def test_modes_and_backends() -> None:
    assert cache.MODES == ("none", "memory", "disk", "npy", "tensor-disk", "tensor-memmap", "pinned", "tiered")
    assert dali_pipes.backends.BACKENDS == ("dali-gpu", "dali-cpu", "torch")


def test_importing_reads_no_environment_and_starts_nothing() -> None:
    code = (
        "import os, sys, threading\n"
        "import torch\n"
        "threads = threading.active_count()\n"
        "import dali_pipes, dali_pipes.cache\n"
        "assert 'nvidia.dali' not in sys.modules and 'cupy' not in sys.modules\n"
        "assert threading.active_count() == threads\n"
        "print(sorted(name for name in os.environ if name.startswith('DALI_PIPES')))\n"
    )
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr

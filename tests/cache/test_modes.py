"""The registry: one line and one module make a cache mode."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dali_pipes
from dali_pipes.cache import DISK_MODES, MODES, PERSISTENT_MODES, StoreConfigError
from dali_pipes.cache.base import Store
from dali_pipes.cache.modes import REGISTRY, find, find_disk

PACKAGE = Path(dali_pipes.__file__).parent

TOY = '''
"""A toy."""
from .filestore import FileStore, entry_pattern
from .npyfile import NpyStore


class ToyStore(NpyStore):
    mode = "toy"
    suffix = ".toy"
    pattern = entry_pattern(r"\\.toy")
'''

LINE = '    Mode("toy", "toy:ToyStore", on_disk=True, persistent=True, ease=8),\n'

USE = """
import numpy as np, sys, tempfile
from dali_pipes import cache
from dali_pipes.cache import Key, open_store, upkeep
from dali_pipes.cli.warm import add
import argparse
assert cache.__file__.startswith(sys.argv[1]), cache.__file__
folder, key, array = tempfile.mkdtemp(dir=sys.argv[1]), Key.of(a=1), np.arange(5)
for mode in ({}, {"over": "toy"}):
    with open_store("tiered" if mode else "toy", folder, strict=True, disk_bytes=1 << 20, **mode) as store:
        store.put(key, array)
        assert (store.get(key) == array).all()
        assert (store.page_lock(), store.orphans(), store.trim(), store.compact()) == (0, [], 0, 0)
found = upkeep.stats(folder)
assert (found["modes"]["toy"]["entries"], found["unknown"]) == (1, 0), found
assert upkeep.verify(folder)["entries"] == 1
assert upkeep.explain(folder, key)["modes"] == {"toy": "good"}
assert upkeep.gc(folder, disk_bytes=1)["evicted"] == 1
with open_store("toy", folder) as store:
    store.put(key, array)
assert upkeep.purge(folder, dry_run=False)["files"] == 1
assert upkeep.stats(folder)["entries"] == 0
parser = argparse.ArgumentParser()
add(parser)
assert "toy" in parser.format_help()
from dali_pipes.tools.advice import estimate
"""


def test_a_mode_is_its_module_and_a_line_of_the_registry(tmp_path: Path) -> None:
    copy = tmp_path / "dali_pipes"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "cache/toy.py").write_text(TOY)
    registry = copy / "cache/modes.py"
    text = registry.read_text()
    last = '    Mode("tiered"'
    assert text.count(last) == 1
    registry.write_text(text.replace(last, LINE + last))
    command = [sys.executable, "-c", USE, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", REGISTRY, ids=lambda mode: mode.name)
def test_what_the_registry_says_is_what_the_class_says(mode: object) -> None:
    store = find(mode.name).store()  # type: ignore[attr-defined]
    assert issubclass(store, Store)
    assert store.mode == mode.name  # type: ignore[attr-defined]
    assert store.persistent == mode.persistent  # type: ignore[attr-defined]
    assert (store.pattern is not None) == mode.on_disk  # type: ignore[attr-defined]


def test_the_lists() -> None:
    assert DISK_MODES == ("disk", "npy", "tensor-disk", "tensor-memmap", "pinned")
    assert set(PERSISTENT_MODES) == {*DISK_MODES, "tiered"}
    assert set(PERSISTENT_MODES) < set(MODES)
    assert sorted(mode.ease for mode in REGISTRY) == list(range(len(REGISTRY)))
    with pytest.raises(StoreConfigError, match="no disk mode 'memory': choose one of disk, npy"):
        find_disk("memory")

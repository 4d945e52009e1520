"""1, on the whole path: processes that warm a cache are killed at random moments, in every mode on disk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import dali_pipes as dp
from dali_pipes.cache import open_store, upkeep
from tests.faults.conftest import MODES
from tests.faults.pictures import RECIPE, Images, make_set, pipe, right_or_nothing, start, truth, warming

FILES = 30


def warm(manifest: dp.Manifest, mode: str, directory: Path, tell: Any) -> None:
    """In a child: warms with two threads and tells each sample."""
    with warming(manifest, RECIPE, mode, directory, workers=2) as loader:
        tell.send(None)
        for _ in loader.warm():
            tell.send(None)


def kill_warmers(manifest: dp.Manifest, images: Images, mode: str, directory: Path, kills: int) -> None:
    """Each victim goes on from what the one before it left, less a random part; after each all is read back."""
    rng, alive_at_death, most = random.Random(mode), 0, 0
    for attempt in range(1, kills + 1):
        hear, tell = pipe()
        child = start(warm, manifest, mode, directory, tell)
        tell.close()
        try:
            for _ in range(rng.randint(0, 24)):
                hear.recv()
        except EOFError:  # it was done before
            pass
        child.kill()
        child.join()
        hear.close()
        assert child.exitcode in (0, -9)
        alive_at_death += child.exitcode == -9
        child.close()
        with open_store(mode, directory, strict=True, verify="always") as store:
            there = right_or_nothing(store, images)
            stats = store.stats()
            assert (stats["corrupt"], stats["errors"]) == (0, 0), "a killed process leaves whole entries or none"
            assert there == stats["entries"]
            most = max(most, there)
            for key in store.keys():  # noqa: SIM118
                if rng.random() < 0.7:
                    store.delete(key)
        if attempt % 5 == 0:
            warming(manifest, RECIPE, mode, directory).close()
            found = upkeep.verify(directory)
            assert (found["orphans"], found["corrupt"], found["errors"]) == (0, 0, 0), "the next opening sweeps"
    assert alive_at_death > kills / 2
    assert most > 5
    with warming(manifest, RECIPE, mode, directory) as loader:
        assert len(list(loader.warm())) == FILES
    with open_store(mode, directory, strict=True, verify="always") as store:
        assert right_or_nothing(store, images) == FILES


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """30 tiny files, a few of them DICOM."""
    return make_set(tmp_path_factory.mktemp("images"), FILES)


@pytest.mark.parametrize("mode", MODES)
def test_killed_while_warming(manifest: dp.Manifest, mode: str, tmp_path: Path) -> None:
    kill_warmers(manifest, truth(manifest, RECIPE), mode, tmp_path, 40)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", MODES)
def test_killed_while_warming_at_length(manifest: dp.Manifest, mode: str, tmp_path: Path) -> None:
    kill_warmers(manifest, truth(manifest, RECIPE), mode, tmp_path, 2000)

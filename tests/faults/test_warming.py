"""9: many processes warm one manifest into one cache. Each file is decoded once; one more if a process is killed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import dali_pipes as dp
from dali_pipes.cache import open_store, upkeep
from tests.faults.pictures import DEEP, RECIPE, log_decodes, make_set, pipe, right_or_nothing, start, truth, warming

FILES = 200


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    """200 tiny files, a few of them DICOM."""
    return make_set(tmp_path_factory.mktemp("images"), FILES)


def warm(manifest: dp.Manifest, recipe: dp.Recipe, mode: str, folder: Path, number: int, ready: Any, go: Any) -> None:
    """In a child: warms once all are ready, tells each sample, and leaves its counters."""
    log_decodes(folder / "decoded")
    with warming(manifest, recipe, mode, folder / "cache", workers=1) as loader:
        ready.send(number)
        go.poll(None)  # until the other end is closed
        for sample in loader.warm():
            ready.send(sample)
        (folder / f"{number}.json").write_text(json.dumps(loader.stats()))


def warm_together(manifest: dp.Manifest, recipe: dp.Recipe, mode: str, folder: Path, victim_after: int | None) -> int:
    """Eight processes warm one cache; the first is killed when it has done so many samples. Images decoded in all."""
    go, gate = pipe()
    ends = [pipe() for _ in range(8)]
    children = []
    for number, (_, ready) in enumerate(ends):
        children.append(start(warm, manifest, recipe, mode, folder, number, ready, go))
        ready.close()
    for tell, _ in ends:
        tell.recv()
    go.close()
    gate.close()
    if victim_after is not None:
        for _ in range(victim_after):
            ends[0][0].recv()
        children[0].kill()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0 if victim_after is None else -9] + [0] * 7
    for tell, _ in ends:
        tell.close()
    survivors = [json.loads(path.read_text()) for path in folder.glob("?.json")]
    assert len(survivors) == 8 - (victim_after is not None)
    assert all(one["hits"] + one["misses"] == len(manifest) and not one["failed"] for one in survivors)
    assert all(one["decoded"] == one["misses"] for one in survivors)
    assert all(one["cache"]["errors"] == one["cache"]["corrupt"] == 0 for one in survivors)
    return sum(one["decoded"] for one in survivors)


def everything_is_there(manifest: dp.Manifest, mode: str, cache: Path) -> None:
    images = truth(manifest, RECIPE)
    with open_store(mode, cache, strict=True, verify="always") as store:
        assert right_or_nothing(store, images) == FILES == len(images)
    found = upkeep.verify(cache)
    assert (found["entries"], found["corrupt"], found["orphans"], found["errors"]) == (FILES, 0, 0, 0)
    assert list((cache / "claims").iterdir()) == []


@pytest.mark.parametrize("mode", ["pinned", "npy"])
def test_each_file_is_decoded_once(manifest: dp.Manifest, mode: str, tmp_path: Path) -> None:
    assert warm_together(manifest, RECIPE, mode, tmp_path, None) == FILES
    decoded = Counter((tmp_path / "decoded").read_text().split())
    assert len(decoded) == FILES
    assert set(decoded.values()) == {1}
    everything_is_there(manifest, mode, tmp_path / "cache")


def test_each_file_is_decoded_once_at_depth_16(manifest: dp.Manifest, tmp_path: Path) -> None:
    few = manifest.subset(range(40))
    assert warm_together(few, DEEP, "pinned", tmp_path, None) == len(few)
    assert len((tmp_path / "decoded").read_text().split()) == len(few)


@pytest.mark.parametrize(("mode", "after"), [("pinned", 0), ("pinned", 60), ("npy", 60)])
def test_one_of_them_is_killed(manifest: dp.Manifest, mode: str, after: int, tmp_path: Path) -> None:
    by_survivors = warm_together(manifest, RECIPE, mode, tmp_path, after)
    decoded = Counter((tmp_path / "decoded").read_text().split())
    assert len(decoded) == FILES
    assert sum(decoded.values()) <= FILES + 1, "at most the one that the dead process had in hand"
    assert by_survivors <= FILES
    everything_is_there(manifest, mode, tmp_path / "cache")

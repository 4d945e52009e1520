"""Batches written by threads in C have the bits of the passes, whoever waits for them, and whether anybody does."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes import Recipe, backends, compiled
from dali_pipes.compiled import writing
from dali_pipes.draws import draw

ROOT = Path(__file__).parent.parent
SIZES = st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 70) | st.integers(1000, 1100))
CONSTANTS = (np.array([1.5, 100.25, 3.0], np.float32), np.array([0.1, 0.02, 7.0], np.float32))


def given_pictures(seed: int, kind: Any, size: tuple[int, int, int], count: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, np.iinfo(kind).max + 1, size).astype(kind) for _ in range(count)]
    return pictures, rng.integers(0, 4, count).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint8, np.uint16]),
    SIZES,
    st.integers(1, 40),
    st.integers(1, 5),
    st.booleans(),
)
def test_the_bits_of_the_passes(
    passes: ctypes.CDLL, seed: int, kind: Any, size: tuple[int, int, int], count: int, threads: int, normalised: bool
) -> None:
    pictures, flips = given_pictures(seed, kind, size, count)
    constants = tuple(each[: size[0]].copy() for each in CONSTANTS) if normalised else None
    wanted = np.full((count, *size), 7, np.float32 if normalised else kind)
    out = wanted.copy()
    if constants is None:
        compiled.copy_pictures(passes, wanted, range(count), pictures, flips)
    else:
        compiled.normalise_pictures(passes, wanted, range(count), pictures, flips, *constants)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "AT_ONCE", 1 << (seed % 20))  # some of them in the calling thread
        patch.setattr(writing, "WORTH_A_THREAD", 1000)
        begun = writing.begin(passes, out, pictures, flips, constants, threads)  # type: ignore[arg-type]
    assert begun is not None
    begun.wait()
    assert np.array_equal(out, wanted)
    begun.wait()  # nothing more happens


def test_what_is_dropped_is_waited_for(passes: ctypes.CDLL) -> None:
    """Nobody writes into memory that was given back."""
    waited: list[int] = []
    pictures, flips = given_pictures(1, np.uint8, (3, 512, 512), 16)
    out = np.zeros((16, 3, 512, 512), np.uint8)
    begun = writing.begin(passes, out, pictures, flips, None, 4)
    assert begun is not None
    for name in ("_join", "_wait"):
        real = getattr(begun, name)
        setattr(begun, name, lambda job, real=real: (real(job), waited.append(job)))
    del begun, real
    gc.collect()
    assert len(waited) == 1


def test_a_child_leaves_the_threads_of_its_parent_alone(passes: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, flips = given_pictures(2, np.uint8, (3, 8, 8), 2)
    begun = writing.begin(passes, np.zeros((2, 3, 8, 8), np.uint8), pictures, flips, None, 2)
    assert begun is not None
    job = begun._job
    monkeypatch.setattr(begun, "_process", os.getpid() + 1)
    monkeypatch.setattr(begun, "_join", lambda job: pytest.fail("a thread that is not there was waited for"))
    monkeypatch.setattr(begun, "_wait", begun._join)
    begun.wait()
    monkeypatch.undo()
    begun._job = job  # give its memory back after all
    begun.wait()


@pytest.mark.parametrize("lacking", ["threads", "library"])
@pytest.mark.parametrize("recipe", [Recipe(16), Recipe(16, mean=0.5, std=0.2)], ids=["uint8", "float32"])
def test_without_them_pythons_threads_write(
    passes: ctypes.CDLL, recipe: Recipe, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, _ = given_pictures(3, np.uint8, (3, 16, 16), 9)
    drawn = draw(recipe.augment, 0, 0, np.arange(9))
    backend = backends.create("torch", recipe, batch_size=9, threads=3, decode=False)
    monkeypatch.setattr("dali_pipes.finish.finish.library", lambda: passes)
    expected = backend.run(pictures, drawn)
    if lacking == "threads":
        monkeypatch.setattr(writing, "_functions", lambda path: None)
    else:
        monkeypatch.setattr("dali_pipes.finish.finish.library", lambda: None)
    assert torch.equal(backend.run(pictures, drawn), expected)
    backend.close()


def test_a_library_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or pytest.fail("these tests need a C compiler: install gcc")
    target = tmp_path / "passes.so"
    source = ROOT / "dali_pipes" / "compiled" / "passes.c"
    subprocess.run([compiler, "-std=c11", "-shared", "-fPIC", str(source), "-o", str(target)], check=True)
    pictures, flips = given_pictures(4, np.uint8, (3, 8, 8), 2)
    assert writing.begin(ctypes.CDLL(str(target)), np.zeros((2, 3, 8, 8), np.uint8), pictures, flips, None, 2) is None

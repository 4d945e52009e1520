"""Choosing a backend, what each says when it cannot run, and the graphs it builds."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

import dali_pipes as dp
from dali_pipes import backends
from dali_pipes.backends import select
from dali_pipes.backends.graphs import Graph
from dali_pipes.draws import Draws, draw
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.fetch import Encoded

RECIPES: dict[str, dict[str, Any]] = {
    "uint8": {},
    "float": {"mean": 0.5, "std": 0.25},
    "gray": {"channels": 1, "mean": 0.5, "std": 0.25},
    "uint16": {"depth": 16, "window": None},
    "uint16-float": {"depth": 16, "window": None, "mean": 0.5, "std": 0.25},
}


def still(count: int) -> Draws:
    return draw(None, 0, 0, np.arange(count))


def test_unknown_names_are_refused_with_the_list() -> None:
    for ask in (backends.missing, backends.resolve):
        with pytest.raises(ConfigError, match="'auto', 'dali-gpu', 'dali-cpu', 'torch'"):
            ask("tpu")


def test_auto_takes_the_first_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for present in (["dali-gpu", "torch"], ["dali-cpu", "torch"], ["torch"]):
        monkeypatch.setattr(select, "missing", lambda name, present=present: None if name in present else "it")
        assert backends.resolve("auto") == present[0]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "missing", lambda name: "no CUDA device was found")
    with pytest.raises(BackendError, match=r"'dali-gpu' cannot run here: no CUDA device was found\."):
        backends.resolve("dali-gpu")


def test_without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    assert "DALI is not installed" in (backends.missing("dali-cpu") or "")
    assert backends.missing("torch") is None
    assert backends.resolve("auto") == "torch"


@pytest.mark.parametrize("name", ["torch", "dali-cpu"])
@pytest.mark.parametrize("which", RECIPES)
def test_outputs(name: str, which: str) -> None:
    recipe = dp.Recipe(size=(5, 7), **RECIPES[which])
    rng = np.random.default_rng(1)
    top, kind = (65536, np.uint16) if recipe.integer_dtype is torch.uint16 else (256, np.uint8)
    items = [rng.integers(0, top, (recipe.channels, 5, 7)).astype(kind) for _ in range(3)]
    backend = backends.create(name, recipe, batch_size=4, threads=1, decode=False)
    try:
        found = backend.run(items, still(3))
        assert found.shape == (3, recipe.channels, 5, 7)
        stacked = np.stack(items)
        if recipe.mean is None:
            assert found.dtype is recipe.integer_dtype
            assert np.array_equal(found.numpy(), stacked)
        else:
            m = np.float32(0.5 * recipe.full_scale)
            inv = np.float32(1 / np.float64(np.float32(0.25 * recipe.full_scale)))
            assert found.dtype is torch.float32
            assert np.array_equal(found.numpy(), (stacked.astype(np.float32) - m) * inv)
    finally:
        backend.close()


@pytest.mark.parametrize(("theirs", "found"), [(None, "1M"), ("32M", "32M")])
def test_dali_keeps_the_memory_of_batches_unless_told_otherwise(
    theirs: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DALI_MALLOC_POOL_THRESHOLD", raising=False)
    if theirs is not None:
        monkeypatch.setenv("DALI_MALLOC_POOL_THRESHOLD", theirs)
    backends.create("dali-cpu", dp.Recipe((5, 7)), batch_size=2, threads=1, decode=False).close()
    assert os.environ["DALI_MALLOC_POOL_THRESHOLD"] == found


@pytest.mark.parametrize("name", ["torch", "dali-cpu"])
@pytest.mark.parametrize("more", [{}, {"augment": dp.Augment(brightness=0.5)}, {"parity": "fast"}], ids=str)
@pytest.mark.parametrize("decode", [False, True])
def test_a_batch_is_no_view_of_the_cache(name: str, more: dict[str, Any], decode: bool) -> None:
    """Integers could come out as they went in, above all images that lie side by side, as a batch does; who writes to a
    batch must not write to what is cached."""
    images = np.arange(210, dtype=np.uint8).reshape(2, 3, 5, 7)
    backend = backends.create(name, dp.Recipe((5, 7), **more), batch_size=2, threads=1, decode=decode)
    try:
        for items in ([images[0]], [images[0], images[1]], [images[1], images[1]]):
            backend.run(items, still(len(items))).zero_()
            assert np.array_equal(images.reshape(-1), np.arange(210))
    finally:
        backend.close()


@pytest.mark.parametrize("name", ["torch", "dali-cpu"])
def test_a_wrong_item_is_one_batchs_error(name: str) -> None:
    backend = backends.create(name, dp.Recipe((5, 7), mean=0.5, std=0.5), batch_size=4, threads=1, decode=False)
    good = np.zeros((3, 5, 7), np.uint8)
    try:
        for wrong in (np.zeros((3, 5, 8), np.uint8), Encoded(np.zeros(9, np.uint8))):
            with pytest.raises(BackendError, match=name):
                backend.run([good, wrong], still(2))
            assert backend.run([good], still(1)).shape == (1, 3, 5, 7)  # the next call starts clean
    finally:
        backend.close()


def feeding(monkeypatch: pytest.MonkeyPatch, **other: Any) -> None:
    """Graphs are fed something else."""
    genuine = Graph.values
    monkeypatch.setattr(Graph, "values", lambda self, items, changes: {**genuine(self, items, changes), **other})


def test_samples_in_another_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.create("dali-cpu", dp.Recipe((5, 7)), batch_size=2, threads=1, decode=False)
    feeding(monkeypatch, sample=np.array([1, 0]))
    try:
        with pytest.raises(BackendError, match="samples came out of DALI in another order"):
            backend.run([np.zeros((3, 5, 7), np.uint8)] * 2, still(2))
    finally:
        backend.close()


def test_what_was_fed_in_part_does_not_meet_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.create("dali-cpu", dp.Recipe((5, 7)), batch_size=2, threads=1, decode=False)
    try:
        with monkeypatch.context() as patch:
            feeding(patch, sample="no array")
            with pytest.raises(BackendError, match="could not compute a batch of 1"):
                backend.run([np.full((3, 5, 7), 9, np.uint8)], still(1))
        assert (backend.run([np.full((3, 5, 7), 4, np.uint8)], still(1)) == 4).all()
    finally:
        backend.close()


def test_a_jpeg_that_dali_cannot_read_is_one_batchs_error() -> None:
    backend = backends.create("dali-cpu", dp.Recipe(4), batch_size=2, threads=1, decode=True)
    try:
        with pytest.raises(BackendError, match="DALI could not compute a batch of 1"):
            backend.run([Encoded(np.frombuffer(b"\xff\xd8\xff\xe0 no jpeg", np.uint8))], still(1))
        assert backend.run([np.zeros((3, 4, 4), np.uint8)], still(1)).shape == (1, 3, 4, 4)
    finally:
        backend.close()


@pytest.mark.parametrize("parity", ["exact", "fast"])
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("which", ["uint8", "float"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_graphs_pass_dalis_schema_checks(device: str, which: str, decode: bool, parity: str) -> None:
    """GPU graphs too, without a GPU: serialising checks every operator's arguments."""
    recipe = dp.Recipe((5, 7), parity=parity, augment=dp.Augment(0.5), **RECIPES[which])  # type: ignore[arg-type]
    graph = Graph(recipe, device, decode and not (device == "gpu" and parity == "exact"), 2, 1)
    pipeline = graph.pipeline()
    if graph.decode and parity == "exact":
        pipeline.build()  # a graph with a Python function in it cannot be serialised
    else:
        assert len(pipeline.serialize()) > 100

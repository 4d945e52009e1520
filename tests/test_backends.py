"""Choosing a backend, what each says when it cannot run, and the graphs it builds."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dali_pipes as dp
from dali_pipes import backends
from dali_pipes.arithmetic import kernels
from dali_pipes.backends import dali_check, select
from dali_pipes.backends.graphs import Graph
from dali_pipes.backends.portable import PortableOnGpu
from dali_pipes.draws import Draws, draw
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.finish.finish import Finish

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
        monkeypatch.setattr(
            select, "missing", lambda name, *_, present=present, **__: None if name in present else "it"
        )
        assert backends.resolve("auto") == present[0]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "missing", lambda name, *_, **__: "no CUDA device was found")
    with pytest.raises(BackendError, match=r"'dali-gpu' cannot run here: no CUDA device was found\."):
        backends.resolve("dali-gpu")


def test_without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    assert "DALI is not installed" in (backends.missing("dali-cpu") or "")
    assert backends.missing("torch") is None
    assert backends.resolve("auto") == "torch"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, DALI, CuPy and a CUDA build of torch."""
    monkeypatch.setattr(select, "gpu_is_there", lambda: True)
    monkeypatch.setattr(select, "_installed", lambda module: True)
    monkeypatch.setattr(select, "problem", lambda: None)
    monkeypatch.setattr(select, "_told", set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)


@pytest.mark.usefixtures("cuda")
def test_auto_says_once_why_a_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backends.resolve("auto") == "dali-gpu"
    monkeypatch.setattr(select, "_installed", lambda module: module != "cupy")
    told = r"a CUDA device is there.*takes 'dali-cpu': CuPy is not installed \(pip install 'dali-pipes\[cuda\]'\)"
    with pytest.warns(dp.DaliPipesWarning, match=told):
        assert backends.resolve("auto") == "dali-cpu"
    assert backends.resolve("auto") == "dali-cpu"  # a second warning would be an error here
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.warns(dp.DaliPipesWarning, match="this PyTorch is a CPU build"):
        backends.resolve("auto")
    monkeypatch.setattr(select, "gpu_is_there", lambda: False)
    monkeypatch.setattr(select, "_told", set())
    assert backends.resolve("auto") == "dali-cpu"  # nothing to tell without a GPU


@pytest.mark.usefixtures("cuda")
def test_cupy_is_asked_for_where_a_recipe_needs_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_installed", lambda module: module != "cupy")
    flips, turns = dp.Augment(horizontal_flip=0.5), dp.Augment(rotation=5)
    needs = {
        ("exact", None, True): True,  # it decodes
        ("exact", flips, False): False,
        ("exact", turns, False): True,
        ("fast", turns, True): False,
        ("exact", dp.Augment(quarter_turns=0.5), False): True,
    }
    for (parity, augment, decode), needed in needs.items():
        recipe = dp.Recipe(8, parity=parity, augment=augment)  # type: ignore[arg-type]
        assert bool(backends.missing("dali-gpu", recipe, decode=decode)) is needed, (parity, augment, decode)
    assert backends.missing("dali-gpu") is not None


@pytest.mark.usefixtures("cuda")
def test_kernels_that_do_not_compile_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "problem", lambda: "NVRTC is not here")
    with pytest.raises(BackendError, match="'dali-gpu' cannot run here: NVRTC is not here"):
        backends.resolve("dali-gpu")


def test_a_first_check_that_cannot_run_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA driver too old")

    monkeypatch.setattr(dali_check, "check", fail)
    backend = backends.create("dali-cpu", dp.Recipe(4), batch_size=1, threads=1, decode=False)
    try:
        with pytest.raises(BackendError, match=r"checked at its first use: CUDA driver too old\. `dali-pipes doctor`"):
            backend.run([np.zeros((3, 4, 4), np.uint8)], still(1))
    finally:
        backend.close()


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


def test_one_decoder_takes_a_file_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that share a batch, as DALI would have it, each decodes to pixels of its own."""
    from nvidia.dali import fn

    given: list[dict[str, Any]] = []
    genuine = fn.decoders.image
    monkeypatch.setattr(fn.decoders, "image", lambda *a, **kw: given.append(kw) or genuine(*a, **kw))
    assert len(Graph(dp.Recipe(4, parity="fast"), "gpu", True, 2, 1).pipeline().serialize()) > 100
    assert [(each["device"], each["hw_decoder_load"]) for each in given] == [("mixed", 0.0)]


def test_constants_lie_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in main memory are uploaded with each batch."""
    from nvidia.dali import types

    given: list[Any] = []
    genuine = types.Constant

    def constant(value: Any, **more: Any) -> Any:
        given.append(more.get("device"))
        return genuine(value, **more)

    monkeypatch.setattr(types, "Constant", constant)
    recipe = dp.Recipe(4, mean=0.5, std=0.5)
    assert len(Graph(recipe, "gpu", False, 2, 1).pipeline().serialize()) > 100
    assert given == ["gpu", "gpu"]


def test_nothing_is_uploaded_in_place_of_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded on the GPU leaves no image behind in main memory whose zeros would be copied beside it."""
    uploaded: list[str] = []
    genuine = Graph._there

    def there(self: Graph, values: Any) -> Any:
        uploaded.append(values.name)
        return genuine(self, values)

    monkeypatch.setattr(Graph, "_there", there)
    graph = Graph(dp.Recipe(64, parity="fast"), "gpu", True, 2, 1)
    assert len(graph.pipeline().serialize()) > 100
    assert uploaded
    assert "image" not in uploaded, "the whole batch is uploaded, and not what is no JPEG"
    changes = Finish(graph.recipe).changes(still(2))
    values = graph.values([Encoded(np.zeros(9, np.uint8)), np.zeros((3, 64, 64), np.uint8)], changes)
    assert [each.nbytes for each in values["image"]] == [1, 3 * 64 * 64]


def test_dalis_stream_is_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy destroys the stream that an object holds when it goes away; DALI would lease it to the next pipeline."""
    stream = SimpleNamespace(ptr=77)
    monkeypatch.setattr(kernels, "current_stream", lambda: stream)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(kernels, "base_images", fail)
    monkeypatch.setattr(kernels, "varied_images", fail)
    functions = PortableOnGpu(dp.Recipe(4, augment=dp.Augment(rotation=5)))
    for call in (functions.base_images, lambda images: functions.vary(images, [])):
        stream.ptr = 77
        with pytest.raises(MemoryError):
            call([])
        assert stream.ptr == 0
    stream.ptr = 77
    monkeypatch.setattr(kernels, "base_images", lambda *_, **__: [])
    functions.base_images([])
    assert stream.ptr == 77, "DALI takes it back itself where nothing was wrong"


@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_planned_recipes_need_kernels_on_a_gpu(parity: Any) -> None:
    from dali_pipes.backends.graphs import needs_kernels

    planned = dp.Recipe((5, 7), base_size=20, parity=parity)
    assert needs_kernels(planned, decode=False)
    assert not needs_kernels(dp.Recipe((5, 7), parity=parity), decode=False)

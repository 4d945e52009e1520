"""Iterating: batches, order, epochs, shares, early ends, several iterators, memory, closing, forking, resuming."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS, coded, images, indices, label_of, manifest_of

import dali_pipes as dp
from dali_pipes.errors import BackendError, ConfigError, StateError

COUNT = 13
RECIPE = dp.Recipe(size=(6, 5), window=None)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    files = {f"{i}.img": coded(i, ("jpeg", "png")[i % 2]) for i in range(COUNT)}
    return manifest_of(tmp_path_factory.mktemp("archive"), files)


def loader_of(manifest: dp.Manifest, **options: Any) -> dp.Loader:
    return dp.Loader(manifest, **{"recipe": RECIPE, "batch_size": 4, "backend": "torch", "num_workers": 2, **options})


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_what_a_batch_holds(manifest: dp.Manifest, backend: str) -> None:
    with loader_of(manifest, backend=backend) as loader:
        batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 4, 1]
    for batch in batches:
        assert batch.image.dtype == torch.uint8
        assert batch.image.shape == (len(batch), 3, 6, 5)
        assert batch.label.dtype == batch.index.dtype == torch.int64
        assert batch.id == [manifest[i].id for i in batch.index.tolist()]
        assert [label_of(image) for image in batch.image] == batch.label.tolist() == batch.index.tolist()
        assert batch["image"] is batch.image
        assert dict(batch).keys() == {"image", "label", "index", "id", "valid"}
        assert batch.valid.dtype == torch.bool
        assert batch.valid.all()
        assert "uint8" in repr(batch)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("size", [1, 4, 13, 50])
@pytest.mark.parametrize("drop_last", [False, True])
def test_length_and_last_batch(manifest: dp.Manifest, backend: str, size: int, drop_last: bool) -> None:
    with loader_of(manifest, backend=backend, batch_size=size, drop_last=drop_last) as loader:
        if drop_last and size > COUNT:
            with pytest.raises(
                ConfigError, match=r"13 samples on 1 ranks make no whole batch; give a smaller batch_size"
            ):
                iter(loader)
            return
        batches = list(loader)
        assert len(batches) == len(loader)
        assert indices(batches) == list(range(COUNT // size * size if drop_last else COUNT))


def test_an_empty_manifest(manifest: dp.Manifest) -> None:
    with loader_of(manifest.subset([])) as loader:
        assert len(loader) == 0
        with pytest.raises(ConfigError, match="no samples"):
            iter(loader)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_shuffled_epochs(manifest: dp.Manifest, backend: str) -> None:
    with loader_of(manifest, backend=backend, shuffle=True, seed=4) as loader:
        orders = []
        for epoch in range(3):
            loader.set_epoch(epoch)
            batches = list(loader)
            assert [label_of(image) for image in images(batches)] == indices(batches)
            orders.append(indices(batches))
        loader.set_epoch(1)
        assert indices(loader) == orders[1]
        assert indices(loader) == orders[2]  # without set_epoch the next epoch follows
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(COUNT)) for order in orders)
    with loader_of(manifest, shuffle=True, seed=5) as other:
        assert indices(other) != orders[0]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_early_break_leaves_nothing_behind(manifest: dp.Manifest, backend: str, taken: int) -> None:
    with loader_of(manifest, backend=backend) as loader:
        for _ in range(5):
            for step, batch in enumerate(loader):
                assert batch.index[0] == 4 * step
                if step == taken:
                    break
        assert indices(loader) == list(range(COUNT))
        assert [label_of(image) for image in images(loader)] == list(range(COUNT))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("mode", ["none", "memory"])
def test_two_iterators_at_once(manifest: dp.Manifest, backend: str, mode: str) -> None:
    with loader_of(manifest, backend=backend, cache_mode=mode) as loader:
        left, right = iter(loader), iter(loader)
        next(left)
        for a, b in zip(left, right):
            assert b.index[0] + 4 == a.index[0]
            for batch in (a, b):
                assert [label_of(image) for image in batch.image] == batch.index.tolist()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("recipe", [RECIPE, dp.Recipe(6, window=None, mean=0.5, std=0.5)], ids=["uint8", "float"])
def test_kept_batches_are_never_overwritten(manifest: dp.Manifest, backend: str, recipe: dp.Recipe) -> None:
    with loader_of(manifest, backend=backend, recipe=recipe, batch_size=2, cache_mode="memory") as loader:
        kept, copies = [], []
        for _ in range(4):
            for batch in loader:
                kept.append(batch.image)
                copies.append(batch.image.clone())
        loader.set_epoch(1)
    gc.collect()
    assert all(torch.equal(image, copy) for image, copy in zip(kept, copies))
    kept[0].fill_(1)  # a batch belongs to the caller: writing to it harms nothing
    assert all(torch.equal(image, copy) for image, copy in zip(kept[1:], copies[1:]))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_writing_to_a_batch_does_not_reach_the_cache(manifest: dp.Manifest, backend: str) -> None:
    with loader_of(manifest, backend=backend, cache_mode="memory") as loader:
        for batch in loader:
            batch.image.fill_(0)
            batch.label.fill_(-5)
        batches = list(loader)
        assert [label_of(image) for image in images(batches)] == list(range(COUNT))
        assert torch.cat([batch.label for batch in batches]).tolist() == list(range(COUNT))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("world", [2, 3, 20])
def test_ranks_share_an_epoch(manifest: dp.Manifest, backend: str, world: int) -> None:
    seen: list[int] = []
    lengths = set()
    for rank in range(world):
        with loader_of(manifest, backend=backend, shuffle=True, rank=rank, world_size=world) as loader:
            batches = list(loader)
            lengths.add((len(loader), len(batches), len(indices(batches))))
            assert [label_of(image) for image in images(batches)] == indices(batches)
            seen += indices(batches)
    assert set(seen) == set(range(COUNT))
    assert len(lengths) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"prefetch": 0}, "prefetch=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"on_error": "ignore"}, "'raise', 'skip', 'substitute'"),
        ({"backend": "cuda"}, "'dali-gpu', 'dali-cpu', 'torch'"),
        ({"rank": 0}, "give both or neither"),
        ({"rank": 2, "world_size": 2}, "rank must lie in"),
        ({"cache_options": {"size": 3}}, "cache_options"),
        ({"decode_options": {"colour": 3}}, "decode_options"),
    ],
)
def test_arguments_that_cannot_work(manifest: dp.Manifest, arguments: dict[str, Any], message: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ConfigError, match=message):
        loader_of(manifest, **arguments)
    assert set(threading.enumerate()) <= before


def test_an_unknown_cache_mode_is_the_caches_error(manifest: dp.Manifest) -> None:
    from dali_pipes import cache

    with pytest.raises(cache.CacheError, match="no cache mode"):
        loader_of(manifest, cache_mode="tape")
    with pytest.raises(cache.CacheError, match="directory"):
        loader_of(manifest, cache_mode="pinned")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("taken", [0, 1, 4])
def test_close_ends_threads_and_iterations(manifest: dp.Manifest, backend: str, taken: int) -> None:
    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("dali-pipes")}

    gc.collect()
    before = ours()
    loader = loader_of(manifest, backend=backend)
    epoch, unstarted = iter(loader), iter(loader)
    for _ in range(taken):
        next(epoch)
    loader.close()
    loader.close()
    assert ours() <= before
    if taken:
        assert list(epoch) == []
    with pytest.raises(BackendError, match="closed"):
        next(unstarted)
    with pytest.raises(BackendError, match="closed"):
        iter(loader)


def test_a_loader_that_is_dropped_cleans_up(manifest: dp.Manifest) -> None:
    gc.collect()
    before = set(threading.enumerate())
    loader = loader_of(manifest)
    epoch = iter(loader)
    next(epoch)
    (run,) = loader._runs
    del loader, epoch
    run.close()
    del run
    gc.collect()
    assert set(threading.enumerate()) <= before


FORK = """
import os, sys
import dali_pipes as dp
manifest = dp.Manifest.from_csv(sys.argv[1])
loader = dp.Loader(manifest, dp.Recipe(6, window=None), batch_size=4, backend=sys.argv[2], num_workers=1)
epoch = iter(loader)
next(epoch)
child = os.fork()
if child == 0:
    try:
        iter(loader)
    except dp.BackendError as error:
        os._exit(7 if "fork" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert sum(len(batch) for batch in epoch) == len(manifest) - 4
child = os.fork()
if child == 0:
    loader.close()  # must neither hang nor harm the parent's
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
assert sum(len(batch) for batch in loader) == len(manifest)
loader.close()
print("fine")
"""


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_forked_child_is_told_to_make_its_own(manifest: dp.Manifest, backend: str) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(manifest.root / "list.csv"), backend],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent,
    )
    assert told.stdout.strip() == "fine", told.stderr


def test_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    from archives import of_every_syntax

    files = {name: data for name, data in of_every_syntax().items() if name in ("j2k.dcm", "rle.dcm", "jls.dcm")}
    manifest_of(tmp_path, files)
    script = tmp_path / "train.py"
    script.write_text(
        "import dali_pipes as dp\n"
        f"loader = dp.Loader(dp.Manifest.from_csv({str(tmp_path / 'list.csv')!r}), dp.Recipe(5), batch_size=2)\n"
        "print(sum(len(batch) for batch in loader), loader.backend)\n"
    )
    root = str(Path(__file__).parent.parent)
    code = f"import sys, runpy; sys.path.insert(0, {root!r}); runpy.run_path({str(script)!r}, run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.startswith("3 dali-"), told.stderr


def test_stats_count(manifest: dp.Manifest) -> None:
    with loader_of(manifest, cache_mode="memory") as loader:
        assert loader.stats().keys() >= {"decoded", "hits", "misses", "failed", "seconds_waiting"}
        list(loader)
        list(loader)
        stats = loader.stats()
        assert (stats["decoded"], stats["misses"], stats["hits"], stats["failed"]) == (COUNT, COUNT, COUNT, 0)
        assert stats["seconds_waiting"] > 0
        json.dumps(stats)
        assert "13 samples in 4 batches of 4" in repr(loader)


def test_warm_fills_the_cache(manifest: dp.Manifest, tmp_path: Path) -> None:
    with loader_of(manifest, cache_mode="pinned", cache_dir=tmp_path) as loader:
        assert sorted(loader.warm()) == list(range(COUNT))
        assert loader.stats()["decoded"] == COUNT
        list(loader)
        assert loader.stats()["decoded"] == COUNT


RESUMED = {
    "recipe": dp.Recipe(6, window=None, mean=0.5, std=0.5, augment=dp.Augment(0.5, 0.5)),
    "shuffle": True,
    "seed": 9,
}
VARIED = dp.Augment(0.5, 0.5, 45, (0.7, 1.4), 0.2, 0.4, 0.4, 0.8, 120)


def rows(batches: list[dp.Batch]) -> list[tuple[int, bytes]]:
    return [(i, image.numpy().tobytes()) for batch in batches for i, image in zip(batch.index.tolist(), batch.image)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("varied", [{}, {"augment": VARIED}, {"augment": VARIED, "parity": "fast"}], ids=str)
@pytest.mark.parametrize(("writer", "reader"), [("torch", "dali-cpu"), ("dali-cpu", "torch"), ("torch", "torch")])
def test_resume_at_every_step(
    manifest: dp.Manifest, writer: str, reader: str, varied: dict[str, Any], drop_last: bool
) -> None:
    """The state is saved by one backend after each batch, end of epoch included, and read by another; what was drawn
    for a sample is drawn again."""
    options = {**RESUMED, "recipe": replace(RESUMED["recipe"], **varied), "drop_last": drop_last}
    with (
        loader_of(manifest, backend=writer, **options) as loader,
        loader_of(manifest, backend=reader, **options) as other,
    ):
        loader.set_epoch(2)
        whole, states = [], [loader.state_dict()]
        for batch in loader:
            whole.append(batch)
            states.append(json.loads(json.dumps(loader.state_dict())))
        states[-1] = json.loads(json.dumps(loader.state_dict()))
        following = loader_of(manifest, **options)
        following.set_epoch(3)
        after = rows(list(following))
        following.close()
        for step, state in enumerate(states):
            other.load_state_dict(state)
            assert other.state_dict() == state
            if step == len(whole):
                assert rows(list(other)) == after  # a state of an epoch's end goes on with the next
                other.load_state_dict(state)
                other.set_epoch(2)  # unless the old one is asked for by its number: nothing remains of it
            assert rows(list(other)) == rows(whole[step:])
            assert rows(list(other)) == after


@pytest.mark.parametrize("size", [1, 3, 50])
def test_resume_with_another_batch_size_and_cache(manifest: dp.Manifest, size: int) -> None:
    with loader_of(manifest, **RESUMED) as loader:
        whole = rows(list(loader))
        loader.set_epoch(0)
        epoch = iter(loader)
        next(epoch)
        next(epoch)
        state = loader.state_dict()
    with loader_of(manifest, **RESUMED, cache_mode="memory") as other:
        other.batch_size = size
        other.load_state_dict(state)
        assert rows(list(other)) == whole[8:]
        other.set_epoch(0)
        assert rows(list(other)) == whole  # and then a whole epoch again


def test_setting_the_epoch_that_the_state_holds_keeps_the_place(manifest: dp.Manifest) -> None:
    """As training loops do: `for epoch in range(start, n): loader.set_epoch(epoch)`."""
    with loader_of(manifest, **RESUMED) as loader:
        loader.set_epoch(1)
        epoch = iter(loader)
        next(epoch)
        state = loader.state_dict()
        loader.set_epoch(0)
        loader.load_state_dict(state)
        loader.set_epoch(1)
        assert len(indices(loader)) == COUNT - 4


def test_batches_made_ahead_do_not_count_as_consumed(manifest: dp.Manifest) -> None:
    with loader_of(manifest, prefetch=3) as loader:
        epoch = iter(loader)
        assert loader.state_dict()["position"] == 0
        next(epoch)
        assert loader.state_dict()["position"] == 4


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
@pytest.mark.parametrize("skipped", [[], [0, 1, 2, 3], [4, 5, 12]])
def test_resume_over_bad_samples(tmp_path: Path, skipped: list[int]) -> None:
    files = {f"{i}.img": b"" if i in skipped else coded(i) for i in range(COUNT)}
    bad = manifest_of(tmp_path, files)
    with loader_of(bad, on_error="skip") as loader, loader_of(bad, on_error="skip") as other:
        whole = indices(loader)
        done: list[int] = []
        for batch in loader:
            done += batch.index.tolist()
            other.load_state_dict(loader.state_dict())
            other.set_epoch(1)
            assert done + indices(other) == whole


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"shuffle": True}, {"manifest": 12}, {"state": "x"},
               {"epoch": None}, {"position": -1}, {"position": 14}, {"position": 1.5}, {"version": 3}, {"epoch": "1"}],
    ids=str,
)  # fmt: skip
def test_a_state_of_another_run_is_refused(manifest: dp.Manifest, change: dict[str, Any]) -> None:
    with loader_of(manifest) as loader:
        state: Any = loader.state_dict()
    if change.keys() & {"epoch", "position", "version"}:
        state, change = {**state, **change}, {}
    elif "state" in change:
        state, change = change["state"], {}
    chosen = manifest.subset(range(change.pop("manifest", COUNT)))
    with loader_of(chosen, **change) as other:
        with pytest.raises(StateError, match=r"state"):
            other.load_state_dict(state)
        assert other.state_dict()["position"] == 0
        list(other)


def test_the_callers_arrays_are_left_alone(manifest: dp.Manifest) -> None:
    before = manifest.labels.copy()
    with loader_of(manifest) as loader:
        for batch in loader:
            batch.label.zero_()
            batch.index.zero_()
    assert np.array_equal(manifest.labels, before)


def test_an_epoch_counted_by_numpy_makes_a_state_of_plain_numbers(manifest: dp.Manifest) -> None:
    with dp.Loader(manifest, dp.Recipe(size=8), batch_size=2, backend="torch") as loader:
        loader.set_epoch(np.int64(3))
        state = json.loads(json.dumps(loader.state_dict()))
        loader.load_state_dict(state)
        assert state["epoch"] == 3

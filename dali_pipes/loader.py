"""The iterable that a training loop sees: order, fetching ahead, batches, resuming.

One thread works ahead of the loop (see `epoch`). It asks the fetcher for the samples of a few batches at a time, so
that decoding never waits at the end of a batch, and hands each complete batch to a backend.
"""

from __future__ import annotations

import logging
import operator
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch

from dali_pipes import backends, cache, sampling
from dali_pipes.batch import Batch
from dali_pipes.cores import workers_of
from dali_pipes.epoch import ON_ERROR, Epoch, take_over
from dali_pipes.errors import BackendError, ConfigError, StateError
from dali_pipes.fetch import Failure, Fetcher, ready
from dali_pipes.manifest import Manifest
from dali_pipes.prefetch import Prefetch, lookahead
from dali_pipes.recipe import Recipe

log = logging.getLogger(__name__)

EPOCHS_KEPT = 100
"""How many epochs `stats()` remembers one by one."""

_STATE_VERSION = 1


class Loader:
    """Batches of a manifest's samples, decoded once, cached, and computed by the backend of choice.

    >>> loader = Loader(Manifest.from_csv("train.csv"), Recipe(size=32), batch_size=2, cache_mode="memory")
    >>> for epoch in range(2):
    ...     loader.set_epoch(epoch)
    ...     for batch in loader:
    ...         print(epoch, batch.image.shape, batch.label.tolist())
    0 torch.Size([2, 3, 32, 32]) [0, 1]
    1 torch.Size([2, 3, 32, 32]) [0, 1]
    >>> loader.close()

    Args:
        manifest: the samples.
        recipe: the whole pixel policy.
        batch_size: samples a batch.
        cache_mode: one of `cache.MODES`; where base images are kept after the first epoch.
        cache_dir: folder of the modes that persist.
        backend: "auto", "dali-gpu", "dali-cpu" or "torch"; `backend` (attribute) says which was taken.
        shuffle: another order each epoch, from `seed` and the number given to `set_epoch`.
        seed: decides the order and every random draw.
        drop_last: leave out a last batch that is smaller.
        num_workers: CPU threads (and decoding processes) in use; one for 0; by default all cores, divided among the
            ranks of the machine where the environment tells their number (`LOCAL_WORLD_SIZE`, as torchrun sets it).
        on_error: what becomes of a sample that cannot be decoded. "raise": the epoch ends with its error; "skip":
            the batch is smaller by it; "substitute": the next good sample of the epoch's order takes its place, label
            included. Skipped and substituted samples are logged once and counted in `stats()["failed"]`.
        rank, world_size: this process's share of a distributed run; taken from `torch.distributed` where it is
            initialised.
        matrix: tell in `batch.matrix` where source pixels went, for boxes and key points of your own.
        prefetch: finished batches that may wait for the loop.
        sandbox: decode every file in a child process with limits of time and memory, for files from strangers.
        cache_options: further arguments of `cache.open_store` (budgets, `verify`, `read_only`...).
        decode_options: fields of `DecodePolicy` that do not change pixels: `limits`, `burned_in`, `processing`. With
            `{"burned_in": "error"}` and `on_error="skip"` files whose pixels name the patient are left out.

    Raises:
        ConfigError: an argument that cannot work. BackendError: a backend that cannot run here.
    """

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        *,
        batch_size: int,
        cache_mode: str = "none",
        cache_dir: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        num_workers: int | None = None,
        on_error: str = "raise",
        rank: int | None = None,
        world_size: int | None = None,
        matrix: bool = False,
        prefetch: int = 2,
        sandbox: bool = False,
        cache_options: dict[str, Any] | None = None,
        decode_options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(manifest, Manifest) or not isinstance(recipe, Recipe):
            raise ConfigError(
                f"Loader({type(manifest).__name__}, {type(recipe).__name__}): give a Manifest (Manifest.from_csv reads "
                "one) and a Recipe."
            )
        if on_error not in ON_ERROR:
            raise ConfigError(f"Loader(on_error={on_error!r}): allowed are {', '.join(map(repr, ON_ERROR))}.")
        if cache_mode == "none" and cache_dir is not None:
            log.warning('cache_dir is not used: cache_mode is "none"; give one of %s.', ", ".join(cache.MODES[1:]))
        self.manifest = manifest
        self.recipe = recipe
        self.batch_size = _whole("batch_size", batch_size, 1)
        self.backend = backends.resolve(backend, recipe, decode=cache_mode == "none" and not sandbox)
        self._shuffle, self._seed, self._drop_last = bool(shuffle), _whole("seed", seed), bool(drop_last)
        self._on_error, self._matrix = on_error, bool(matrix)
        self._rank, self._world_size = _place(rank, world_size)
        self._ahead = _whole("prefetch", prefetch, 1)
        self._workers = workers_of(None if num_workers is None else _whole("num_workers", num_workers, 0))
        self._epoch = 0
        self._position = 0
        self._resume = False
        self._seconds_waiting = 0.0
        self._epochs: list[dict[str, Any]] = []
        self._process = os.getpid()
        sampling.shard(np.empty(0, np.int64), rank=self._rank, world_size=self._world_size, drop_last=drop_last)
        # A thread has a current device of its own, so that of the thread that makes the loader is noted here.
        self._device_id = torch.cuda.current_device() if self.backend == "dali-gpu" else None
        self._decode = (
            cache_mode == "none" and self.backend.startswith("dali") and not sandbox and backends.decodes(recipe)
        )
        try:
            policy = replace(recipe.decode_policy, **(decode_options or {}))
            self._store = cache.open_store(cache_mode, cache_dir, **(cache_options or {}))
        except TypeError as error:
            raise ConfigError(
                f"Loader: cache_options or decode_options has a name that is not known: {error}."
            ) from error
        self._fetcher = Fetcher(
            manifest,
            recipe,
            self._store,
            workers=self._workers,
            encoded=self._decode,
            sandbox=sandbox,
            policy=policy,
            extents=self._matrix,
        )
        self._idle: list[backends.Backend] = []
        self._runs: weakref.WeakSet[Prefetch[Any]] = weakref.WeakSet()
        self._close = weakref.finalize(self, _close, self._process, self._runs, self._idle, self._fetcher, self._store)

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        count = (
            len(self.manifest) // self._world_size if self._drop_last else -(-len(self.manifest) // self._world_size)
        )
        return count // self.batch_size if self._drop_last else -(-count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration runs: its order and its draws. Without it every iteration is
        alike.
        """
        epoch = _whole("epoch", epoch)
        if epoch != self._epoch:
            self._epoch, self._position, self._resume = epoch, 0, False

    def __iter__(self) -> Iterator[Batch]:
        if not self._close.alive:
            raise BackendError("this Loader is closed; make a new one.")
        if os.getpid() != self._process:
            raise BackendError("this Loader was made in another process; make one after the fork.")
        epoch, start = self._epoch, self._position if self._resume else 0
        self._position, self._resume = start, False
        return self._iterate(epoch, start)

    def _iterate(self, epoch: int, start: int) -> Iterator[Batch]:
        if not self._close.alive:
            raise BackendError("this Loader is closed; make a new one.")
        for earlier in [run for run in self._runs if run.stopped]:
            earlier.close()  # its backend is free then
        run = Prefetch(lambda: self._produce(epoch, start), self._ahead)
        self._runs.add(run)
        position, waited = start, 0.0
        begun, before = time.perf_counter(), self._fetcher.counts()
        try:
            for taken, batch, made in run:
                position += taken
                self._epoch, self._position = epoch, position
                self._seconds_waiting += run.seconds_waiting - waited
                waited = run.seconds_waiting
                if batch is not None:
                    yield take_over(batch, made)
            self._note_epoch(epoch, position - start, time.perf_counter() - begun, waited, before)
        finally:
            run.stop()  # no waiting here: this may run where garbage is collected, in a thread that the run needs

    def _note_epoch(self, epoch: int, samples: int, seconds: float, waited: float, before: dict[str, Any]) -> None:
        counts = {name: count - before[name] for name, count in self._fetcher.counts().items()}
        times = {"seconds": seconds, "seconds_waiting": waited, "share_waiting": waited / seconds if seconds else 0.0}
        self._epochs = [*self._epochs, {"epoch": epoch, "samples": samples, **counts, **times}][-EPOCHS_KEPT:]

    def _produce(self, epoch: int, start: int) -> Iterator[tuple[int, Batch | None, torch.cuda.Event | None]]:
        if self._device_id is not None and hasattr(self._store, "page_lock"):
            self._store.page_lock()  # what is cached so far is copied to the GPU from where it lies
        backend = self._take_backend()
        try:
            for taken, batch in self.work(backend, epoch, start):
                yield taken, batch, backend.mark()
        finally:
            self._idle.append(backend)

    def work(self, backend: backends.Backend, epoch: int, start: int = 0) -> Iterator[tuple[int, Batch | None]]:
        """Do the work of an epoch in the calling thread: for those who bring a backend of their own.

        Args:
            backend: computes the batches; used by nobody else meanwhile.
            epoch: decides order and draws.
            start: samples of this rank to leave out.

        Yields:
            Samples taken, and the batch, None where all of them were skipped.
        """
        order = sampling.epoch_order(len(self.manifest), seed=self._seed, epoch=epoch, shuffle=self._shuffle)
        mine = sampling.shard(order, rank=self._rank, world_size=self._world_size, drop_last=self._drop_last)
        plan = sampling.batches(mine, position=start, batch_size=self.batch_size, drop_last=self._drop_last)
        fixed = (self.manifest, self.recipe, self._fetcher, backend, self._on_error, self._seed)
        work = Epoch(*fixed, epoch, mine, self._matrix)
        return work.batches(plan, start, ahead=max(1, -(-2 * self._workers // self.batch_size)))

    def _take_backend(self) -> backends.Backend:
        try:
            return self._idle.pop()
        except IndexError:
            return backends.create(
                self.backend,
                self.recipe,
                batch_size=self.batch_size * self.recipe.views,
                threads=self._workers,
                decode=self._decode,
                device_id=self._device_id,
            )

    def warm(self, samples: Iterable[int] | None = None) -> Iterator[int]:
        """Decode into the cache whatever is not there yet; yield each sample's number when it is done.

        Raises what a bad sample raises under `on_error="raise"`; otherwise bad samples are counted and passed over.

        Args:
            samples: the numbers of the samples, in the order in which to decode them; all of them by default.
        """
        chosen = range(len(self.manifest)) if samples is None else samples
        requests = ((sample, self._fetcher.request(sample)) for sample in chosen)
        for sample, request in lookahead(requests, 4 * self._workers):
            item = ready(request)
            if isinstance(item, Failure) and self._on_error == "raise":
                raise item.error
            yield sample

    def is_cached(self, sample: int) -> bool:
        """Whether the cache holds a sample's base image; decodes nothing, but reads a file that the cache never saw."""
        return self._fetcher.is_cached(sample)

    def stats(self) -> dict[str, Any]:
        """Counters since the loader was made.

        `decoded`, `hits`, `misses`: images; `failed`: different samples that could not be had; `bytes_read`: of
        source files; `seconds_decoding`: summed over workers; `seconds_waiting`: how long the training loop waited for
        batches; `cache`: what the store counts; `epochs`: the same counts for each of the last epochs that ran to their
        end, with `seconds` and the share of them that the loop waited.
        """
        return {
            **self._fetcher.counts(),
            "seconds_waiting": self._seconds_waiting,
            "cache": self._store.stats(),
            "epochs": list(self._epochs),
        }

    def failures(self) -> dict[int, str]:
        """Sample number to error message, for every sample that could not be had so far."""
        return {sample: str(error) for sample, error in self._fetcher.failures().items()}

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands, as plain JSON values: the batches delivered so far count as consumed."""
        return {"version": _STATE_VERSION, "epoch": self._epoch, "position": self._position, **self._belongs_to()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration go on where `state` was taken, with any batch size, backend and cache mode.

        Raises:
            StateError: the state is malformed, or belongs to other samples, another order or another shard.
        """
        expected = {"version": _STATE_VERSION, **self._belongs_to()}
        found = {name: state.get(name) for name in expected} if isinstance(state, dict) else {}
        if found != expected:
            wrong = [
                f"{name} is {found.get(name)!r}, here {value!r}"
                for name, value in expected.items()
                if found.get(name) != value
            ]
            raise StateError(f"this state belongs to another run: {'; '.join(wrong)}.")
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or type(position) is not int or not 0 <= position <= len(self.manifest):
            raise StateError(
                f"state: epoch={epoch!r}, position={position!r}; both must be whole numbers inside the epoch."
            )
        self._epoch, self._position, self._resume = epoch, position, True

    def _belongs_to(self) -> dict[str, Any]:
        return {
            "samples": self.manifest.digest(),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "rank": self._rank,
            "world_size": self._world_size,
        }

    def close(self) -> None:
        """Ends threads and child processes, and closes the cache. Iterations under way end."""
        self._close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Loader({len(self.manifest)} samples in {len(self)} batches of {self.batch_size}, "
            f"backend={self.backend!r}, cache={self._store.mode!r}, epoch={self._epoch}, position={self._position})"
        )


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is None and world_size is None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if (rank is None) != (world_size is None):
        raise ConfigError(f"Loader(rank={rank!r}, world_size={world_size!r}): give both or neither.")
    return 0 if rank is None else _whole("rank", rank, 0), 1 if world_size is None else _whole(
        "world_size", world_size, 1
    )


def _whole(name: str, value: Any, least: int | None = None) -> int:
    try:
        number: int | None = operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        allowed = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(f"Loader: {name}={value!r}; give {allowed}.")
    return number


def _close(
    process: int,
    runs: weakref.WeakSet[Prefetch[Any]],
    idle: list[backends.Backend],
    fetcher: Fetcher,
    store: cache.Store,
) -> None:
    if os.getpid() != process:  # in a forked child there are no threads to end, and the files are the parent's
        for backend in idle:
            backend.close()
        return
    for run in list(runs):
        run.close()
    fetcher.close()
    for backend in idle:
        backend.close()
    store.close()

"""The iterable that a training loop sees: order, fetching ahead, batches, resuming.

One thread works ahead of the loop (see `epoch`). It asks the fetcher for the samples of a few batches at a time, so
that decoding never waits at the end of a batch, and hands each complete batch to a backend.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from dali_pipes import backends, cache
from dali_pipes.cores import workers_of
from dali_pipes.draws import seeded
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.fetch.fetcher import Failure, ready
from dali_pipes.fetch.notices import Notices
from dali_pipes.fetch.study_fetch import fetcher_of, has_masks, masks_of, outputs_of
from dali_pipes.loader import sampling
from dali_pipes.loader.accounts import Accounts
from dali_pipes.loader.arguments import check_cache, check_callable, check_sources, failures_allowed, whole
from dali_pipes.loader.batch import Batch
from dali_pipes.loader.closing import close_all
from dali_pipes.loader.epoch import ON_ERROR, Epoch, take_over
from dali_pipes.loader.losses import Losses
from dali_pipes.loader.order import Order, Ordering
from dali_pipes.loader.prefetch import Prefetch, chunked, lookahead
from dali_pipes.loader.progress import shown
from dali_pipes.loader.ranks import place_of
from dali_pipes.loader.sharing import shared_options
from dali_pipes.loader.standing import Standing, Turn
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe
from dali_pipes.spelling import NotPickled

WARMED = 32
"""Samples that `Loader.warm` looks up together."""


class Loader(NotPickled):
    """Batches of a manifest's samples, decoded once, cached, and computed by the backend of choice.

    >>> loader = Loader(Manifest.from_csv("train.csv"), Recipe(size=32), batch_size=2, cache_mode="memory")
    >>> for epoch in range(2):
    ...     for images, labels in loader:
    ...         print(epoch, images.shape, labels.tolist())
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
        shuffle: another order each epoch, from `seed` and the epoch's number.
        order: another order than these: `Weighted`, `Balanced`, `ClassesAndSamples` or `Grouped`.
        seed: decides the order and every random draw.
        drop_last: leave out a last batch that is smaller.
        pad: repeat samples so that all ranks take equally many, which training needs; `batch.valid` is False for the
            repeated ones. With False (for evaluation) none is repeated, and some ranks take one less.
        num_workers: CPU threads (and decoding processes) in use; one for 0; by default all cores, divided among the
            ranks of the machine where the environment tells their number (`LOCAL_WORLD_SIZE`, as torchrun sets it).
        on_error: what becomes of a sample that cannot be decoded. "raise": the epoch ends with its error; "skip":
            the batch is smaller by it; "substitute": the next good sample of the epoch's order takes its place, label
            included. The first of them are named in warnings; `failures()` names all.
        max_failures: end an epoch with DecodeError where more samples than this cannot be decoded: a number, or a share
            of this rank's samples (0.01). Without it the epoch ends only where no sample at all can be decoded.
        rank, world_size: this process's share of a distributed run. By default whatever is known when an iteration
            begins: `torch.distributed`, else torchrun's or Slurm's variables; see `ranks.place_of`.
        distributed: False lets `rank` and `world_size` alone count; without them every process takes all samples.
        matrix: keep the sizes of sources, and tell with every batch where source pixels went, for boxes and key points.
        batch_transform: called with every batch in the thread that iterates; what it returns is handed out. PyTorch's
            random numbers in it are a function of seed, epoch, batch and rank, and the same after resuming.
        prefetch: finished batches that may wait for the loop; up to two more are in work.
        progress: show on stderr how far an epoch is and how long the rest takes.
        sandbox: decode every file in a child process with limits of time and memory, for files from strangers.
        trust_sources: take source files that the cache knows for unchanged, without looking at them: quicker where a
            look takes long (network folders, buckets). A file that was replaced since is not noticed then.
        gpu_bytes: memory of the GPU in which base images may stay, so that later epochs copy nothing; for "dali-gpu"
            and exact parity. What does not fit is copied anew.
        cache_options: further arguments of `cache.open_store` (budgets, `verify`, `read_only`...).
        decode_options: fields of `DecodePolicy` that do not change pixels: `limits`, `burned_in`, `processing`. With
            `{"burned_in": "error"}` and `on_error="skip"` files whose pixels name the patient are left out.

    Raises:
        ConfigError: an argument that cannot work. BackendError: a backend that cannot run here.
    """

    batch_sampler = None  # trainers that find a sampler look for this too

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
        order: Order | None = None,
        seed: int = 0,
        drop_last: bool = False,
        pad: bool = True,
        num_workers: int | None = None,
        on_error: str = "raise",
        max_failures: float | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        distributed: bool = True,
        matrix: bool = False,
        batch_transform: Callable[[Batch], Any] | None = None,
        prefetch: int = 2,
        progress: bool = False,
        sandbox: bool = False,
        trust_sources: bool = False,
        gpu_bytes: int = 0,
        cache_options: dict[str, Any] | None = None,
        decode_options: dict[str, Any] | None = None,
    ) -> None:
        check_sources(manifest, recipe, "Loader")
        if on_error not in ON_ERROR:
            raise ConfigError(f"Loader(on_error={on_error!r}): allowed are {', '.join(map(repr, ON_ERROR))}.")
        check_cache(cache_mode, cache_dir, "Loader")
        check_callable(batch_transform, "Loader: batch_transform")
        self.manifest = manifest
        self.recipe = recipe
        self.batch_size = whole("batch_size", batch_size, 1)
        self.backend = backends.resolve(backend, recipe, decode=cache_mode == "none" and not sandbox)
        self._seed = whole("seed", seed)
        self._ordering = Ordering(order, shuffle, manifest, self._seed)
        self._drop_last, self._pad = bool(drop_last), bool(pad)
        self._on_error, self._matrix, self._progress = on_error, bool(matrix), bool(progress)
        self._max_failures = failures_allowed(max_failures, on_error)
        numbers = (None if n is None else whole(name, n) for name, n in (("rank", rank), ("world_size", world_size)))
        self._place = partial(place_of, *numbers, distributed=bool(distributed))
        self._place()  # arguments that cannot work are refused here
        self._batch_transform = batch_transform
        self._ahead = whole("prefetch", prefetch, 1)
        self._workers = workers_of(None if num_workers is None else whole("num_workers", num_workers, 0))
        self._standing = Standing()
        self._notices = Notices()
        self._process = os.getpid()
        # A thread has a current device of its own; that of the thread that makes the loader is meant.
        self._device_id = torch.cuda.current_device() if self.backend == "dali-gpu" else None
        if whole("gpu_bytes", gpu_bytes, 0) and self.backend != "dali-gpu":
            self._notices.add(f"gpu_bytes is not used: the backend is {self.backend!r}.")
        undecoded = cache_mode == "none" and not sandbox and not gpu_bytes  # what stays on a GPU is not decoded there
        self._decode = undecoded and self.backend.startswith("dali") and backends.decodes(recipe)
        try:
            policy = replace(recipe.decode_policy, **(decode_options or {}))
            self._store = cache.open_store(cache_mode, cache_dir, **shared_options(cache_mode, cache_options, manifest))
        except TypeError as error:
            raise ConfigError(
                f"Loader: cache_options or decode_options has a name that is not known: {error}."
            ) from error
        self._fetcher = fetcher_of(
            manifest,
            recipe,
            self._store,
            workers=self._workers,
            encoded=self._decode,
            sandbox=sandbox,
            policy=policy,
            extents=self._matrix or has_masks(manifest),
            notices=self._notices,
            trust=bool(trust_sources),
        )
        shared = {"workers": self._workers, "policy": policy, "sandbox": sandbox, "trust": bool(trust_sources)}
        self._masks = masks_of(manifest, recipe, self._store, **shared)
        self._accounts = Accounts(self._fetcher.counts)
        self._backends = backends.Pool(
            self.backend,
            recipe,
            batch_size=self.batch_size * math.prod(outputs_of(manifest, recipe)),
            threads=self._workers,
            decode=self._decode,
            device_id=self._device_id,
            gpu_bytes=gpu_bytes,
        )
        self._runs: weakref.WeakSet[Prefetch[Any]] = weakref.WeakSet()
        self._close = weakref.finalize(
            self, close_all, self._process, self._runs, self._backends, (self._fetcher, self._masks), self._store
        )

    def __len__(self) -> int:
        """Return the batches of an epoch on this rank, as far as the rank is known now."""
        return self._shares().steps()

    @property
    def sampler(self) -> sampling.EpochSampler:
        """What trainers look for to say which epoch begins: `loader.sampler.set_epoch(epoch)`."""
        return sampling.EpochSampler(self.set_epoch, self._coming)

    def _coming(self) -> sampling.Samples:
        shares = self._shares()
        turn = self._standing.next_turn(shares.steps)
        return self._ordering.of(shares, turn.epoch)[shares.places(turn.start) % max(1, shares.count)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration: its order and its draws.

        Not needed where iterations simply follow each other. Of an epoch that a state was loaded for, what remains.
        """
        self._standing.set_epoch(whole("epoch", epoch))

    def __iter__(self) -> Iterator[Any]:
        self._check_usable()
        self._shares().check()
        return self._iterate()

    def _shares(self) -> sampling.Shares:
        place = self._place()
        count = self._ordering.count(place.world_size, self.batch_size)
        return sampling.Shares(count, place.rank, place.world_size, self.batch_size, self._drop_last, self._pad)

    def _check_usable(self) -> None:
        if not self._close.alive:
            raise BackendError("this Loader is closed; make a new one.")
        if os.getpid() != self._process:
            raise BackendError("this Loader was made in another process; make one after the fork.")

    def _iterate(self) -> Iterator[Any]:
        self._check_usable()
        shares = self._shares()
        turn = self._standing.begin(shares.steps)  # no earlier: Lightning sets the epoch after iter()
        batches = self._batches(turn, shares)
        yield from shown(batches, turn, shares) if self._progress else batches

    def _batches(self, turn: Turn, shares: sampling.Shares) -> Iterator[Any]:
        for earlier in [run for run in self._runs if run.stopped]:
            earlier.close()  # its backend is free then
        losses = Losses(self._notices, self._max_failures, shares.size())
        begun = self._accounts.begin()
        run = Prefetch(lambda: self._produce(turn, shares, losses), self._ahead)
        self._runs.add(run)
        waited, delivered = 0.0, 0
        try:
            for steps, (batch, made) in enumerate(run, 1):
                position = shares.after(turn.start, steps)
                turn.consumed(position)
                self._accounts.seconds_waiting += run.seconds_waiting - waited
                waited = run.seconds_waiting
                self._notices.say(stacklevel=3)
                if batch is not None:
                    delivered += len(batch)
                    number = shares.after(turn.start, steps - 1) + shares.rank  # no other batch has it, on any rank
                    yield self._transformed(take_over(batch, made), turn.epoch, number)
            if not run.complete:  # the loader was closed meanwhile
                return
            self._notices.say(stacklevel=3)
            if not delivered and not turn.start:
                losses.check(self.manifest)
            turn.finish(shares.count)
            self._accounts.finish(begun, turn.epoch, shares.size(turn.start), waited)
        finally:
            run.stop()  # no waiting here: this may run where garbage is collected, in a thread that the run needs

    def _transformed(self, batch: Batch, epoch: int, number: int) -> Any:
        if self._batch_transform is None:
            return batch
        with seeded(self._seed, epoch, number, batch.image.device):
            return self._batch_transform(batch)

    def _produce(
        self, turn: Turn, shares: sampling.Shares, losses: Losses
    ) -> Iterator[tuple[Batch | None, torch.cuda.Event | None]]:
        self._store.refresh()
        with self._backends.lent() as backend:
            backends.lock_pages(backend, self._store)
            with closing(self._work(backend, turn.epoch, turn.start, shares, losses)) as work:  # nothing stays in work
                yield from ((batch, backend.mark()) for batch in work)

    def work(self, backend: backends.Backend, epoch: int, steps: int = 0) -> Iterator[Batch | None]:
        """Do the work of an epoch in the calling thread: for those who bring a backend of their own.

        Args:
            backend: computes the batches; used by nobody else meanwhile.
            epoch: decides order and draws.
            steps: batches of this rank to leave out.

        Yields:
            Each batch, None where all of its samples were skipped.
        """
        shares = self._shares()
        losses = Losses(self._notices, self._max_failures, shares.size())
        with closing(self._work(backend, epoch, shares.after(0, steps), shares, losses)) as work:
            for batch in work:
                self._notices.say(stacklevel=2)
                yield batch

    def _work(
        self, backend: backends.Backend, epoch: int, start: int, shares: sampling.Shares, losses: Losses
    ) -> Generator[Batch | None, None, None]:
        plan = sampling.batches(shares.places(start), batch_size=shares.batch_size, drop_last=self._drop_last)
        fixed = (self.manifest, self.recipe, self._fetcher, backend, self._on_error, self._seed)
        order = self._ordering.of(shares, epoch)
        work = Epoch(*fixed, epoch, order, losses, self._matrix, self._masks, self._ordering.firsts(order))
        return work.batches(plan, ahead=max(1, -(-self._fetcher.ahead // shares.batch_size)))

    def warm(self, samples: Iterable[int] | None = None) -> Iterator[int]:
        """Decode into the cache whatever is not there yet; yield each sample's number when it is done.

        Raises what a bad sample raises under `on_error="raise"`; otherwise bad samples are counted and passed over.

        Args:
            samples: the numbers of the samples, in the order in which to decode them; all of them by default.
        """
        chosen = range(len(self.manifest)) if samples is None else samples
        losses = Losses(self._notices, self._max_failures, len(self.manifest))
        requests = (each for part in chunked(chosen, WARMED) for each in zip(part, self._fetcher.requests(part)))
        for sample, request in lookahead(requests, 2 * self._fetcher.ahead):
            item = ready(request)
            if self._masks is not None and not isinstance(item, Failure):
                item = self._masks.checked(sample, self._masks.request(sample), self._fetcher)
            if isinstance(item, Failure):
                if self._on_error == "raise":
                    raise item.error
                losses.note(sample, item, "it is left out")
            self._notices.say(stacklevel=2)
            yield sample

    def is_cached(self, sample: int) -> bool:
        """Whether the cache holds a sample's base image and mask; decodes nothing, but reads files it never saw."""
        return bool(self._fetcher.is_cached(sample)) and (self._masks is None or self._masks.is_cached(sample))

    def stats(self) -> dict[str, Any]:
        """Counters since the loader was made.

        `decoded`, `hits`, `misses`: images; `failed`: different samples that could not be had; `bytes_read`: of
        source files; `seconds_decoding`: summed over workers; `seconds_for_others`: how long workers waited for what
        other processes decoded into the same cache; `seconds_waiting`: how long the training loop waited for
        batches; `cache`: what the store counts; `epochs`: the same counts for each of the last epochs that ran to their
        end, with `seconds` and the share of them that the loop waited.
        """
        return {
            **self._fetcher.counts(),
            **({} if self._masks is None else {"masks": self._masks.counts()}),
            "seconds_waiting": self._accounts.seconds_waiting,
            "cache": self._store.stats(),
            "epochs": list(self._accounts.epochs),
        }

    def failures(self) -> dict[int, str]:
        """Sample number (of studies: number of an image) to error message, for all that could not be had so far."""
        errors = self._fetcher.failures() | ({} if self._masks is None else self._masks.failures())
        return {sample: str(error) for sample, error in errors.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, as plain JSON values: the batches delivered so far count as consumed.

        It is the same on all ranks after the same number of steps, so one rank may save it for all.
        """
        return self._standing.state(self._belongs_to)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration go on where `state` was taken.

        The number of ranks, the batch size, the backend and the cache may be others than those of the run that saved
        it: each remaining sample of the epoch is taken exactly once. A state that was saved when its epoch was over
        goes on with the next epoch.

        Raises:
            StateError: the state is malformed, or belongs to other samples or another order.
        """
        self._standing.load(state, self._belongs_to)

    @property
    def _belongs_to(self) -> dict[str, Any]:
        return self._ordering.belongs_to(self._place().world_size, self.batch_size)

    def close(self) -> None:
        """End threads and child processes, and close the cache; iterations under way end."""
        self._close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Loader({len(self.manifest)} samples in {len(self)} batches of {self.batch_size}, "
            f"backend={self.backend!r}, cache={self._store.mode!r}, epoch={self._standing.epoch}, "
            f"position={self._standing.position})"
        )

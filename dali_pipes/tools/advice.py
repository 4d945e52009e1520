"""Which cache mode suits one's data on this machine: costs measured on some samples, totals computed from them.

Measured, on up to 24 samples: starting the decoders, decoding with all workers, turning base images into batches,
putting into and getting out of a store of each mode on the disk that the cache would lie on, the bytes that this took,
and how fast that disk reads what no memory holds. Then, for N samples of S source bytes each, with n workers, memory M
and disk rate R:

    first epoch   start + N (decode + put / n + batch), at least N S / R
    later, none   N (decode + batch), at least N S / R where the sources exceed M
    later, disk   N (get + batch), at least (bytes on disk) / R where these exceed M
    later, memory as of the part f that fits its budget, and as with none (tiered: as from its disk) of the rest

Estimates, then: right in the order of the modes and within a factor of two or so in time, as long as the machine is no
busier than it was; bytes are those of the samples, scaled.
"""

from __future__ import annotations

import collections
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes import backends, cache
from dali_pipes.cache.limits import memory_groups
from dali_pipes.cache.modes import find
from dali_pipes.cores import default_workers
from dali_pipes.draws import draw, random_bits
from dali_pipes.errors import DecodeError
from dali_pipes.fetch.fetcher import Failure, Fetcher, Pixels, ready
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe

SAMPLES = 24
"""How many samples are measured."""

EPOCHS = 10
"""How long a training the recommendation has in mind."""

OVER = "npy"
"""The disk mode that "tiered" lies over by default."""

_BATCH = 8
_PROBE_BYTES = 16 << 20
_STEADY_SECONDS, _STEADY_ROUNDS = 0.1, 3
_DISK_SHARE, _MEMORY_SHARE = 0.9, 0.8
_CLOSE = 1.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModeCosts:
    """What a mode takes for one sample.

    The values are seconds of one thread to put, elapsed seconds to get with all workers at work, and bytes on disk.
    """

    put_seconds: float
    get_seconds: float
    disk_bytes: float


@dataclass(frozen=True)
class Costs:
    """What one sample costs on this machine.

    Attributes:
        start_seconds: of the first samples beyond what they take later: decoders start, once a run.
        decode_seconds: from a source file in memory to its base image, with all workers at work: elapsed time.
        batch_seconds: from a base image to its place in a batch: elapsed time.
        source_bytes: of its file, on average.
        base_bytes: of its base image, exactly.
        modes: of each mode that stores.
    """

    start_seconds: float
    decode_seconds: float
    batch_seconds: float
    source_bytes: float
    base_bytes: int
    modes: dict[str, ModeCosts]


@dataclass(frozen=True)
class Machine:
    """What this machine offers.

    These are `workers`; bytes of `memory` to be had, `memory_budget` of a memory store and `free_disk`; `disk_rate` of
    the cache's disk in bytes a second.
    """

    workers: int
    memory: int
    memory_budget: int
    free_disk: int
    disk_rate: float


@dataclass(frozen=True)
class Estimate:
    """One mode for all samples.

    Attributes:
        mode: its name.
        disk_bytes: that the cache will take.
        memory_bytes: that the process will hold for it; what the system keeps of files comes and goes on its own.
        first_epoch, later_epoch: seconds.
        lacking: why it cannot be used here, or "".
    """

    mode: str
    disk_bytes: int
    memory_bytes: int
    first_epoch: float
    later_epoch: float
    lacking: str


@dataclass(frozen=True)
class Advice:
    """What was measured, what follows, and the mode to take.

    Attributes:
        samples, measured, failed: how many there are, were tried, and could not be decoded.
        recommended, reason: the mode, and why.
        costs, machine, modes: the figures behind it.
    """

    samples: int
    measured: int
    failed: int
    recommended: str
    reason: str
    costs: Costs
    machine: Machine
    modes: tuple[Estimate, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def advise(
    manifest: Manifest,
    recipe: Recipe,
    directory: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Measures some samples of `manifest` and recommends a mode.

    Args:
        manifest, recipe: what is to be loaded.
        directory: where the cache would lie; the folder of temporary files by default. It is left as it was.
        workers: as `Loader`'s num_workers.
        progress: called with (steps done, steps in all).

    Raises:
        DecodeError: none of the samples that were tried can be decoded.
    """
    workers = workers or default_workers()
    place = _existing(Path(directory) if directory is not None else Path(tempfile.gettempdir()))
    chosen = np.argsort(random_bits(0, 0, "advice", np.arange(len(manifest))), kind="stable")[:SAMPLES]
    few = manifest.subset(sorted(chosen.tolist()))
    stored = [mode for mode in cache.MODES if mode not in ("none", "tiered")]
    steps = iter(range(1, len(stored) + 3))

    def step() -> None:
        if progress is not None:
            progress(next(steps), len(stored) + 2)

    images, start_seconds, decode_seconds, source_bytes = _decode(few, recipe, workers)
    step()
    batch_seconds = _batch(images, recipe, workers)
    with tempfile.TemporaryDirectory(prefix="dali-pipes-advice-", dir=place) as temporary:
        modes = {}
        for mode in stored:
            modes[mode] = _store(mode, Path(temporary) / mode, images, workers)
            step()
        rate = disk_rate(Path(temporary))
    step()
    memory = available_memory()
    with cache.open_store("memory") as store:
        budget = min(int(store.stats()["budget"]), memory)
    machine = Machine(workers, memory, budget, shutil.disk_usage(place).free, rate)
    costs = Costs(start_seconds, decode_seconds, batch_seconds, source_bytes, images[0].nbytes, modes)
    estimates = estimate(len(manifest), costs, machine)
    recommended, reason = recommend(estimates)
    return Advice(
        len(manifest), len(few), len(few) - len(images), recommended, reason, costs, machine, tuple(estimates)
    )


def estimate(samples: int, costs: Costs, machine: Machine) -> list[Estimate]:
    """Return the totals of every mode, by the formulas of this module."""
    sources, total = samples * costs.source_bytes, samples * costs.base_bytes
    fitting = min(1.0, machine.memory_budget / max(1, total))

    def from_disk(size: float) -> float:
        return size / machine.disk_rate if size > machine.memory else 0.0

    live = max(samples * (costs.decode_seconds + costs.batch_seconds), from_disk(sources))
    found = []
    for mode in cache.MODES:
        disk, put, later = 0.0, 0.0, live
        held = mode in ("memory", "tiered")
        if mode != "none":
            own = costs.modes[OVER if mode == "tiered" else mode]
            disk, put = samples * own.disk_bytes, own.put_seconds
            later = samples * (own.get_seconds + costs.batch_seconds)
            later = max(later, from_disk(disk))
        if held:
            kept = samples * (costs.modes["memory"].get_seconds + costs.batch_seconds)
            later = fitting * kept + (1 - fitting) * (live if mode == "memory" else later)
        first = costs.start_seconds + samples * (costs.decode_seconds + put / machine.workers + costs.batch_seconds)
        memory = min(total, machine.memory_budget) if held else 0
        lacking = ""
        if disk > _DISK_SHARE * machine.free_disk:
            lacking = "the disk has too little room"
        elif memory > _MEMORY_SHARE * machine.memory or (mode == "memory" and fitting < 1):
            lacking = "not all of it fits into the memory that a cache may take"
        found.append(
            Estimate(mode, round(disk), memory, max(first, sources / machine.disk_rate), later, lacking)
        )  # fmt: skip
    return found


def recommend(estimates: list[Estimate]) -> tuple[str, str]:
    """Return (mode, reason): the shortest training of `EPOCHS` epochs among the modes that can be used.

    Of those about as short, it is the one that asks least of the machine.
    """
    usable = {each.mode: each for each in estimates if not each.lacking}

    def training(each: Estimate) -> float:
        return each.first_epoch + (EPOCHS - 1) * each.later_epoch

    shortest = min(map(training, usable.values()))
    close = [each for each in usable.values() if training(each) <= _CLOSE * shortest]
    best = min(close, key=lambda each: find(each.mode).ease)
    gain = training(usable["none"]) / training(best)
    if gain < _CLOSE:
        refused = sorted({each.lacking for each in estimates if each.lacking})
        because = f" ({'; '.join(refused)})" if refused else ": decoding is not what takes the time"
        return "none", f"no cache would shorten {EPOCHS} epochs by a tenth{because}."
    return best.mode, f"{EPOCHS} epochs take {gain:.1f} times less than without a cache."


def available_memory() -> int:
    """Bytes of memory that could be taken now without swapping, in this machine or control group."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass  # another system
    return max(1, min([free, *(limit - used for limit, used in memory_groups())]))


def disk_rate(directory: Path) -> float:
    """Bytes a second that the disk of a folder reads, what memory holds of the file dropped first."""
    path = directory / "probe"
    block = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8).tobytes()
    with open(path, "wb") as file:
        for _ in range(_PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as unbuffered:
        while unbuffered.read(len(block)):
            pass
    seconds = time.perf_counter() - start
    path.unlink()
    return _PROBE_BYTES / max(seconds, 1e-6)


def _existing(path: Path) -> Path:
    """Return the nearest folder above that exists: it is on the same disk."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _decode(few: Manifest, recipe: Recipe, workers: int) -> tuple[list[Pixels], float, float, float]:
    """Return base images, seconds to start, seconds each, bytes of each source.

    The first round starts decoders and fills the system's memory.
    """
    with cache.open_store("none") as store:
        fetcher = Fetcher(few, recipe, store, workers=workers)
        try:
            start = time.perf_counter()
            tried = [(sample, ready(item)) for sample, item in [(i, fetcher.request(i)) for i in range(len(few))]]
            good = [sample for sample, item in tried if isinstance(item, np.ndarray)]
            if not good:
                first = next((item.error for _, item in tried if isinstance(item, Failure)), "the manifest is empty")
                raise DecodeError(f"none of {len(few)} samples that were tried can be decoded: {first}")
            middle = time.perf_counter()
            again = [ready(item) for item in [fetcher.request(sample) for sample in good]]
            end = time.perf_counter()
        finally:
            fetcher.close()
    read = fetcher.counts()["bytes_read"] / len(few)
    sizes = [read if few.remote else few.resolve(sample).stat().st_size for sample in good]
    images, seconds = [item for item in again if isinstance(item, np.ndarray)], end - middle
    return images, max(0.0, middle - start - seconds), seconds / len(good), statistics.fmean(sizes)


def _batch(images: list[Pixels], recipe: Recipe, workers: int) -> float:
    """Seconds for each image on the way into a batch."""
    backend = backends.create("torch", recipe, batch_size=_BATCH, threads=workers, decode=False)

    def run() -> None:
        for at in range(0, len(images), _BATCH):
            part = images[at : at + _BATCH]
            backend.run(part, draw(recipe.augment, 0, 0, np.arange(len(part))))

    try:
        return _steady(run) / len(images)
    finally:
        backend.close()


def _steady(work: Callable[[], None]) -> float:
    """Median seconds of a round of work after the first, over rounds that together are not too short to measure."""
    work()
    rounds: list[float] = []
    while len(rounds) < _STEADY_ROUNDS or sum(rounds) < _STEADY_SECONDS:
        start = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - start)
    return statistics.median(rounds)


def _store(mode: str, directory: Path, images: list[Pixels], workers: int) -> ModeCosts:
    """Costs of putting and getting; the first get of each does not count: later epochs need not check an entry."""
    keys = [cache.Key.of(advice=i) for i in range(len(images))]
    place = None if mode == "memory" else directory
    with cache.open_store(mode, place) as store, ThreadPoolExecutor(workers) as threads:
        start = time.perf_counter()
        for key, image in zip(keys, images):
            store.put(key, image)
        put = (time.perf_counter() - start) / len(images)

        def get_all() -> None:
            collections.deque((map if store.direct else threads.map)(store.get, keys), maxlen=0)

        get = _steady(get_all) / len(images)
    files = (path.stat() for path in (directory / mode).rglob("*") if path.is_file())
    used = sum(status.st_blocks * 512 for status in files)
    return ModeCosts(put, get, used / len(images))

"""Fill a cache before training: all of a data set, a host's shard of it, or with a Ray cluster.

A cache needs no coordinator. Entries are published whole, and every process finds what the others published. So a
cluster shares a data set out by the digest of each source path: all frames of a file fall to one host, hosts never wait
for each other's decoding, and a host that was killed is simply run again.

    manifest ──> shard (digest of the path) ──> chunks ──> Loader.warm, here or in Ray tasks ──> counts, failures
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.cores import workers_of
from dali_pipes.errors import ConfigError
from dali_pipes.loader.loader import Loader
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe

ENGINES = ("local", "ray")
SHARD_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("RANK", "WORLD_SIZE", None),
)
"""Where a shard and the number of shards are found if none are given; a Slurm array may begin at another number."""

_STEP = "SLURM_ARRAY_TASK_STEP"  # of an array such as 0-15:4

COUNTED = ("decoded", "hits", "misses", "failed", "seconds_for_others")
"""What `Report` takes over from `Loader.stats`."""

SHARE = 256
"""Samples that a process takes at once, at most."""

MOST_THREADS = 16
"""Threads of a process, where there are several: with more, they wait for its interpreter."""

Progress = Callable[[int], Any]


@dataclass(frozen=True)
class Job:
    """How samples are decoded and kept, in every process that takes part.

    Attributes:
        cache_dir: the folder of the cache.
        cache_mode: a mode that persists.
        num_workers: CPU threads and decoding processes of each process; all cores by default.
        on_error: "skip" counts files that cannot be decoded; "raise" ends with the first.
        cache_options, decode_options, sandbox, trust_sources: as of `Loader`.
    """

    cache_dir: str
    cache_mode: str = "pinned"
    num_workers: int | None = None
    on_error: str = "skip"
    cache_options: dict[str, Any] | None = None
    decode_options: dict[str, Any] | None = None
    sandbox: bool = False
    trust_sources: bool = False

    def loader(self, manifest: Manifest, recipe: Recipe) -> Loader:
        """Open a loader that fills the cache; it needs no DALI."""
        return Loader(
            manifest,
            recipe,
            batch_size=1,
            backend="torch",
            cache_mode=self.cache_mode,
            cache_dir=self.cache_dir,
            num_workers=self.num_workers,
            on_error=self.on_error,
            cache_options=self.cache_options,
            decode_options=self.decode_options,
            sandbox=self.sandbox,
            trust_sources=self.trust_sources,
        )


@dataclass
class Report:
    """What warming did.

    Attributes:
        samples: how many samples were asked for.
        decoded, hits, misses, failed: images, as `Loader.stats` counts them.
        seconds_for_others: how long threads waited for what other processes decoded.
        cache_errors: how often the cache could not be read or written; the cache is not complete if this is not 0.
            Failures of a base, which is only read, are not among them: what it does not give is decoded.
        seconds: from the first sample to the last.
        failures: sample number to error message.
        killed: how each process ended that ended before its work was done; what it had in hand was done again. What it
            did after it last asked for samples is counted in none of the numbers.
    """

    samples: int = 0
    decoded: int = 0
    hits: int = 0
    misses: int = 0
    failed: int = 0
    seconds_for_others: float = 0.0
    cache_errors: int = 0
    seconds: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Add what another process did; the seconds are left as they are."""
        for name in ("samples", *COUNTED, "cache_errors"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures.update(other.failures)
        self.killed += other.killed


def warm(
    manifest: Manifest,
    recipe: Recipe,
    cache_dir: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    engine: str = "local",
    address: str | None = None,
    chunk: int = 2000,
    processes: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Decode into a cache whatever is not there yet.

    Args:
        manifest: the samples. recipe: decides the base images. cache_dir: the folder of the cache.
        shard: (number, count), numbered from 0: only the files whose digest falls to this shard.
        engine: "local", or "ray": Ray tasks over chunks of samples, each of which writes its own segments.
        address: of a Ray cluster; by default the one that this process is connected to, else one on this machine.
        chunk: about how many samples a Ray task takes; the frames of a file stay together.
        processes: of this machine, among which samples and threads are shared out: more than one interpreter is needed
            where files are small or cores are many. By default one for each 16 threads. A process that is killed is
            replaced.
        progress: called with the number of samples done since the last call.
        options: fields of `Job`: `cache_mode`, `num_workers`, `on_error`, `cache_options`, `decode_options`, `sandbox`,
            `trust_sources`.

    Raises:
        ConfigError: an argument that cannot work. cache.CacheError: the cache cannot be opened.
        DecodeError: a bad file, under `on_error="raise"`.
    """
    if processes is not None and (engine == "ray" or processes < 1):
        raise ConfigError(
            f"warm(processes={processes}, engine={engine!r}): at least one process, of this machine; Ray has its own."
        )
    if engine not in ENGINES:
        raise ConfigError(f"warm(engine={engine!r}): allowed are {', '.join(map(repr, ENGINES))}.")
    try:
        job = Job(os.fspath(cache_dir), **options)
    except TypeError as error:
        raise ConfigError(f"warm: {error}; allowed are the fields of Job: {', '.join(Job.__annotations__)}.") from None
    cache.default_secret()  # a loader goes on without a cache where no secret can be had; here that is an error
    samples = shard_of(manifest, shard)
    start = time.perf_counter()
    told = progress or (lambda done: None)
    if engine == "ray":
        from dali_pipes.integrations.ray import warm_chunks

        report = warm_chunks(manifest, recipe, job, chunks(manifest, samples, chunk), address, told)
    elif (count := processes or -(-workers_of(job.num_workers) // MOST_THREADS)) > 1:
        from dali_pipes.crew.parent import warm_by_processes

        each = replace(job, num_workers=min(MOST_THREADS, max(1, workers_of(job.num_workers) // count)))
        size = max(1, min(SHARE, len(samples) // (8 * count)))
        report = warm_by_processes(manifest, recipe, each, chunks(manifest, samples, size), count, told)
    else:
        report = warm_samples(manifest, recipe, job, samples, told)
    report.seconds = time.perf_counter() - start
    return report


def warm_samples(
    manifest: Manifest, recipe: Recipe, job: Job, samples: npt.NDArray[np.int64], progress: Progress
) -> Report:
    """Decode the samples in this process."""
    with opened(job, manifest, recipe) as loader:
        for _ in loader.warm(samples.tolist()):
            progress(1)
        return Report(len(samples), **counts_of(loader), failures=loader.failures())


def counts_of(loader: Loader) -> dict[str, Any]:
    """Return what a loader has done so far, by the names of `Report`."""
    stats = loader.stats()
    return {name: stats[name] for name in COUNTED} | {"cache_errors": own_errors(stats["cache"])}


def opened(job: Job, manifest: Manifest, recipe: Recipe) -> Loader:
    """Open a loader that fills the cache. Raises CacheError where the cache cannot be opened."""
    loader = job.loader(manifest, recipe)
    if own_errors(loader.stats()["cache"]):
        loader.close()
        raise cache.CacheError(f"{job.cache_dir}: no cache can be opened here, so nothing was decoded.")
    return loader


def own_errors(stats: dict[str, Any]) -> int:
    """Return how often a store could not be read or written, by its `stats`, without the base that it only reads.

    What a base does not give is decoded.
    """
    base = stats.get("tiers", {}).get("base", {})
    return int(stats["errors"] - base.get("errors", 0))


def missing(
    manifest: Manifest, recipe: Recipe, cache_dir: str | os.PathLike[str], **options: Any
) -> Iterator[tuple[int, bool]]:
    """Yield for each sample of a shard its number and whether the cache lacks it; decodes nothing and writes nothing.

    Files that the cache has not seen are read for their digest.

    Args:
        manifest, recipe, cache_dir: as for `warm`. options: `shard`, and fields of `Job`.
    """
    samples = shard_of(manifest, options.pop("shard", None))
    cache_options = {**(options.pop("cache_options", None) or {}), "read_only": True}
    job = Job(os.fspath(cache_dir), cache_options=cache_options, **options)
    with job.loader(manifest, recipe) as loader:
        for sample in samples.tolist():
            yield sample, not loader.is_cached(sample)


def shard_from_environment() -> tuple[int, int] | None:
    """Find the shard that Slurm's array variables or torchrun's variables name; None without any."""
    for number, count, first in SHARD_VARIABLES:
        if os.environ.get(number) and os.environ.get(count):
            try:
                begin = int(os.environ.get(first) or 0) if first else 0
                step = max(1, int(os.environ.get(_STEP) or 1)) if first else 1
                return (int(os.environ[number]) - begin) // step, int(os.environ[count])
            except ValueError:
                raise ConfigError(
                    f"{number}={os.environ[number]!r} and {count}={os.environ[count]!r}: both must be whole numbers; "
                    "give --shard NUMBER/COUNT instead."
                ) from None
    return None


def shard_of(manifest: Manifest, shard: tuple[int, int] | None) -> npt.NDArray[np.int64]:
    """Choose the samples of a shard, in manifest order; int64[n]. None: all samples.

    A file belongs to the shard that the BLAKE2b digest of its path says, so shards do not depend on the order or the
    length of the manifest.
    """
    everything = np.arange(len(manifest), dtype=np.int64)
    if shard is None:
        return everything
    number, count = shard
    if not 0 <= number < count:
        raise ConfigError(f"shard {number}/{count}: shards are numbered from 0 to {count - 1 if count > 0 else 0}.")
    homes = np.fromiter((_digest(path) % count for path in manifest.paths), np.int64, len(manifest))
    mine: npt.NDArray[np.int64] = everything[homes == number]
    return mine


def chunks(manifest: Manifest, samples: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Cut samples into chunks of about `size`; the frames of a file stay in one chunk."""
    if size < 1:
        raise ConfigError(f"chunk={size}: give a whole number of at least 1.")
    by_file: dict[str, list[int]] = {}
    for sample in samples.tolist():
        by_file.setdefault(manifest.paths[sample], []).append(sample)
    found: list[list[int]] = [[]]
    for frames in by_file.values():
        if found[-1] and len(found[-1]) + len(frames) > size:
            found.append([])
        found[-1] += frames
    return [np.asarray(each, np.int64) for each in found if each]


def _digest(path: str) -> int:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")

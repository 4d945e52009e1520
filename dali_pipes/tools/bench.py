"""Epoch times on one's own samples: each cache mode on each backend, in a process of its own, with its memory and disk.

`measure` starts one child a combination (`python -m dali_pipes.tools.bench`, the job as JSON on its standard input), so
that neither memory nor warm pipelines leak from one measurement into the next. Source files are read once
beforehand, so that every first epoch finds them in the page cache; what is measured is decoding, not the disk.

Memory is proportional set size (PSS, shared pages divided among their users), of the child and its decoder processes
together, sampled ten times a second:

    ram     memory that nobody else can use: anonymous and shared memory (the decoders' pixels are shared memory)
    mapped  pages of mapped files, mostly the cache's own: the system takes them back when it needs them
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_pipes import cache
from dali_pipes.cores import usable_cores
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.files.urls import root_of
from dali_pipes.loader.loader import Loader
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe

PACKAGES = ("torch", "numpy", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "simplejpeg", "imagecodecs", "pydicom")
"""Packages whose versions decide how fast things are."""

SHARED = {"none": "nothing kept", "memory": "DataLoader workers do", "tiered": "disk shared"}
"""How several processes get along with a mode: "yes" for those that are not named."""

_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Measurement:
    """One cache mode on one backend.

    Attributes:
        cache_mode, backend: what was measured.
        images: how many samples an epoch delivered.
        first_epoch: seconds, from an empty cache; the backend's start is in it.
        later_epochs: seconds, each.
        ram_mib, mapped_mib: peaks of memory, as the module says; `ram_mib` is above that of the idle interpreter.
        idle_mib: what the interpreter with its libraries holds before the loader is made.
        disk_mib: what the cache takes on disk.
        decoded: images decoded in all epochs together.
        failed: samples that could not be had.
    """

    cache_mode: str
    backend: str
    images: int
    first_epoch: float
    later_epochs: tuple[float, ...]
    ram_mib: float
    mapped_mib: float
    idle_mib: float
    disk_mib: float
    decoded: int
    failed: int

    @property
    def later_epoch(self) -> float:
        """Median seconds of a later epoch."""
        return statistics.median(self.later_epochs)

    @property
    def persistent(self) -> bool:
        """Whether the next run finds the cache warm."""
        return self.cache_mode in cache.PERSISTENT_MODES

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with images per second and what the mode promises."""
        return {
            **asdict(self),
            "images_per_second": {
                "first_epoch": round(self.images / self.first_epoch, 1),
                "later_epochs": round(self.images / self.later_epoch, 1),
            },
            "multi_process_safe": SHARED.get(self.cache_mode, "yes"),
            "persistent": self.persistent,
        }


def measure(
    manifest: Manifest,
    recipe: Recipe,
    modes: Sequence[str],
    backends: Sequence[str],
    *,
    epochs: int = 4,
    batch_size: int = 32,
    num_workers: int | None = None,
    folder: Path | None = None,
) -> Iterator[Measurement]:
    """Measures every mode on every backend, one after another.

    Args:
        manifest, recipe: what is loaded; samples that do not decode are skipped and counted.
        modes: of `cache.MODES`. backends: resolved names.
        epochs: the first and the later ones together, at least 2.
        batch_size, num_workers: as for `Loader`.
        folder: where the caches lie while they are measured; a temporary folder by default.

    Raises:
        ConfigError: fewer than 2 epochs. BackendError: a child failed; its last words are in the message.
    """
    if epochs < 2:
        raise ConfigError(f"epochs={epochs}: give at least 2: the first, and one that finds the cache filled.")
    with tempfile.TemporaryDirectory(prefix="dali-pipes-bench-", dir=folder) as temporary:
        _read_sources(manifest)
        for mode in modes:
            for backend in backends:
                job = {
                    "samples": _rows(manifest),
                    "recipe": recipe.to_dict(),
                    "cache_mode": mode,
                    "cache_dir": str(Path(temporary) / f"{mode}-{backend}"),
                    "backend": backend,
                    "epochs": epochs,
                    "batch_size": batch_size,
                    "num_workers": num_workers,
                }
                yield _in_child(job)


def _in_child(job: dict[str, Any]) -> Measurement:
    done = subprocess.run(
        [sys.executable, "-m", "dali_pipes.tools.bench"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise BackendError(f"{job['cache_mode']} on {job['backend']} could not be measured: {last[0]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Measurement(**{**found, "later_epochs": tuple(found["later_epochs"])})


def run_job(job: dict[str, Any]) -> Measurement:
    """Measures one combination in this process."""
    manifest = _manifest(**job["samples"])
    persistent = job["cache_mode"] in cache.PERSISTENT_MODES
    directory = Path(job["cache_dir"])
    with (
        Memory() as memory,
        Loader(
            manifest,
            Recipe.from_dict(job["recipe"]),
            batch_size=job["batch_size"],
            cache_mode=job["cache_mode"],
            cache_dir=directory if persistent else None,
            backend=job["backend"],
            num_workers=job["num_workers"],
            on_error="skip",
        ) as loader,
    ):
        seconds, images = [], 0
        for epoch in range(job["epochs"]):
            loader.set_epoch(epoch)
            start = time.perf_counter()
            images = sum(len(batch) for batch in loader)
            seconds.append(round(time.perf_counter() - start, 4))
        stats = loader.stats()
        disk = sum(file.stat().st_blocks * 512 for file in directory.rglob("*")) if persistent else 0
    return Measurement(
        cache_mode=job["cache_mode"],
        backend=loader.backend,
        images=images,
        first_epoch=seconds[0],
        later_epochs=tuple(seconds[1:]),
        ram_mib=round(memory.ram - memory.idle, 1),
        mapped_mib=round(memory.mapped, 1),
        idle_mib=round(memory.idle, 1),
        disk_mib=round(disk / 2**20, 3),
        decoded=stats["decoded"],
        failed=stats["failed"],
    )


class Memory:
    """Peaks of the memory of this process and its children, in MiB, while this is open: `idle`, `ram`, `mapped`."""

    def __init__(self) -> None:
        self.idle, self.mapped = _memory()
        self.ram = self.idle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dali-pipes-memory", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        ram, mapped = _memory()
        self.ram, self.mapped = max(self.ram, ram), max(self.mapped, mapped)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()


def _memory() -> tuple[float, float]:
    """(anonymous and shared, mapped files) in MiB of PSS, of this process and its children; (0, 0) without /proc."""
    here = Path("/proc/self")
    children: list[str] = []
    for each in here.glob("task/*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            children += each.read_text().split()
    total = {"Pss_Anon": 0, "Pss_Shmem": 0, "Pss_File": 0}
    for process in (here, *(Path("/proc") / child for child in children)):
        with contextlib.suppress(OSError):  # a child that has just ended
            for line in (process / "smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in total:
                    total[name] += int(rest.split()[0])
    return (total["Pss_Anon"] + total["Pss_Shmem"]) / 1024, total["Pss_File"] / 1024


def _rows(manifest: Manifest) -> dict[str, Any]:
    """Return what a child needs of a manifest; JSON holds file names that are no UTF-8 too."""
    root = manifest.root if isinstance(manifest.root, str) else str(manifest.root.absolute())
    frames, labels = manifest.frames.tolist(), manifest.labels.tolist()
    return {"root": root, "paths": [*manifest.paths], "ids": [*manifest.ids], "frames": frames, "labels": labels}


def _manifest(root: str, paths: list[str], ids: list[str], frames: list[int], labels: list[int]) -> Manifest:
    blank = TextColumn([""] * len(paths))
    columns = (TextColumn(paths), TextColumn(ids), np.array(frames, np.int32), np.array(labels, np.int64))
    return Manifest(root_of(root), *columns, blank, blank)


def _read_sources(manifest: Manifest) -> None:
    """Brings the source files into the page cache, as far as a quarter of the memory holds them."""
    if manifest.remote:
        return
    left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    for sample in range(len(manifest)):
        with contextlib.suppress(OSError):  # a bad file is the loader's to report
            path = manifest.resolve(sample)
            left -= path.stat().st_size
            if left < 0:
                return
            path.read_bytes()


def machine() -> dict[str, Any]:
    """Return what figures were measured on: processor, cores in use, memory, GPU, versions.

    It has no names of hosts or people.
    """
    installed = {(each.name or "").lower(): each.version for each in metadata.distributions()}
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not run on a GPU",
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Run as the child: a job as JSON on standard input, its measurement as JSON on standard output."""
    done = run_job(json.loads(sys.stdin.read()))
    sys.stdout.write(json.dumps(asdict(done)) + "\n")


if __name__ == "__main__":
    main()

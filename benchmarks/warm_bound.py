"""Warm epochs from the `pinned` cache against what memory allows: copying the same bytes from the map into a batch.

    python benchmarks/warm_bound.py [--samples 320] [--rounds 7] [--backends torch dali-cpu] [--tiny] [--json FILE]

"of processor time" compares what both take of all cores together (the last bound named before it); it holds on a
machine that others use too. With `--img-size 32 --samples 3200` there is next to nothing to copy: the rates are then
what the interpreter allows one process.

One round measures the bounds and every loader once, in turns, so that a busy machine slows all of them; a ratio is the
median over the rounds of loader against bound. Bounds:

    copy    np.copyto of every sample from the map into one batch buffer that begins at a page, with one and with two
            threads that never wait for each other
    ring    the same with two threads into a ring of four such buffers, as a loader must that hands batches out: what
            is written does not stay in the processor's caches
    memset  filling a float32 batch buffer with a constant, one and two threads: what writing the output costs
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import argument_parser, write
from data import manifest_of, write_thumbnails

from dali_pipes import Loader, Recipe, cache
from dali_pipes.backends.buffers import page_aligned

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def copying(views: list[np.ndarray], batch: int, threads: int, ring: int = 1) -> Callable[[], None]:
    """Copies all views, each thread its share of them into buffers of its own, `ring` of them in turns."""
    shares = [views[i::threads] for i in range(threads)]
    shape, dtype = (ring * batch, *views[0].shape), views[0].dtype
    whole = page_aligned(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    buffers = np.array_split(whole, threads)

    def copy(part: list[np.ndarray], buffer: np.ndarray) -> None:
        for i, view in enumerate(part):
            np.copyto(buffer[i % len(buffer)], view)

    return lambda: together(copy, list(zip(shares, buffers)))


def filling(samples: int, shape: tuple[int, ...], batch: int, threads: int) -> Callable[[], None]:
    """Fills float32 samples of a batch buffer, as many as an epoch has."""
    whole = page_aligned(4 * batch * math.prod(shape)).view(np.float32).reshape(batch, *shape)
    buffers = np.array_split(whole, threads)

    def fill(count: int, buffer: np.ndarray) -> None:
        for i in range(count):
            buffer[i % len(buffer)].fill(1.0)

    return lambda: together(
        fill, [(len(part), buffer) for part, buffer in zip(np.array_split(range(samples), threads), buffers)]
    )


def together(work: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    """Runs `work` once for each tuple of arguments, each in a thread."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        for done in [pool.submit(work, *each) for each in arguments]:
            done.result()


def epoch(loader: Loader) -> Callable[[], None]:
    """One epoch, batches dropped at once."""

    def run() -> None:
        for _ in loader:
            pass

    return run


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--img-size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backends", nargs="+", default=["torch", "dali-cpu"])
    parser.add_argument("--dir", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.samples, options.img_size, options.batch_size, options.rounds = 6, 32, 4, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(options, folder)
    write(options.json, "warm_bound", **figures)
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures: images per second by name, and ratios to the bounds."""
    manifest = manifest_of(folder, write_thumbnails(folder, options.samples))
    side, batch, directory = options.img_size, options.batch_size, folder / f"cache-{options.img_size}"
    recipes = {"uint8": Recipe(size=side), "float32": Recipe(size=side, mean=MEAN, std=STD)}
    loaders = {
        f"{backend} {dtype}": Loader(
            manifest, recipe, batch_size=batch, cache_mode="pinned", cache_dir=directory, backend=backend
        )
        for backend in options.backends
        for dtype, recipe in recipes.items()
    }
    for loader in loaders.values():
        epoch(loader)()  # fills the cache, checks its entries, builds the pipelines, makes the buffers
    with cache.open_store("pinned", directory) as store:
        keys = store.keys()[: options.samples]  # a folder used before may hold more
        views = [store.get(key) for key in keys]
        works = {
            **{f"copy, {n} thread{'s' * (n > 1)}": copying(views, batch, n) for n in (1, 2)},
            "ring, 2 threads": copying(views, batch, 2, ring=4),
            **{
                f"memset float32, {n} thread{'s' * (n > 1)}": filling(len(views), views[0].shape, batch, n)
                for n in (1, 2)
            },
            **{name: epoch(loader) for name, loader in loaders.items()},
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        processor: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(options.rounds):
            for name, work in works.items():
                start, used = time.perf_counter(), time.process_time()
                work()
                times[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - used)
    for loader in loaders.values():
        loader.close()
    rates = {name: options.samples / statistics.median(taken) for name, taken in times.items()}
    ratios: dict[str, dict[str, float]] = {}
    for name in loaders:
        copied = ("copy, 1 thread", "copy, 2 threads", "ring, 2 threads")
        filled = ("memset float32, 1 thread", "memset float32, 2 threads")
        for bound in copied if name.endswith("uint8") else filled:
            each = [there / here for there, here in zip(times[bound], times[name])]
            ratios.setdefault(name, {})[bound] = round(statistics.median(each), 3)
        each = [there / here for there, here in zip(processor[bound], processor[name])]
        ratios[name]["processor time"] = round(statistics.median(each), 3)
    megabytes = views[0].nbytes / 1e6
    for name, rate in rates.items():
        text = "  ".join(f"{ratio:.2f} of {bound}" for bound, ratio in ratios.get(name, {}).items())
        print(f"{name:26s} {rate:8.0f} images/s  {rate * megabytes / 1e3:6.2f} GB/s of uint8  {text}", flush=True)
    return {
        "samples": options.samples,
        "img_size": side,
        "batch_size": batch,
        "rounds": options.rounds,
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratios": ratios,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

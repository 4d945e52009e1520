"""Cold epochs (decode, resize, cache, deliver) against what decoding alone allows on two cores in the same run.

    python benchmarks/cold_bound.py [--mammograms 16] [--photos 96] [--rounds 3] [--backend torch] [--tiny]
                                    [--json FILE]

    mammograms  3328x2560, 12 of 16 bits, half uncompressed, a quarter JPEG lossless, a quarter JPEG 2000 lossless.
                Bound: their codecs alone, in two processes that share the files in this order: from the encoded frame
                in memory to samples, nothing after it (for an uncompressed file, the copy of its samples).
    photos      JPEGs of 1.9 megapixels. Bound: decoding and resizing alone, in two threads, from bytes in memory.

Bound and loader run in turns; a ratio is the median over the rounds. "of processor time" compares what both take of all
cores together; it holds on a machine that others use too. Every epoch begins with two small files, after
which the clock starts: the start of processes and the loading of codecs are in neither figure.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import argument_parser, write
from data import MAMMOGRAM, PHOTO, manifest_of, write_mammograms, write_photos

from dali_pipes import Loader, Recipe
from dali_pipes.arithmetic import base_image
from dali_pipes.decode import DecodePolicy, decode, identify
from dali_pipes.decode.dicom.codecs import codec_for
from dali_pipes.decode.dicom.fragments import frame_bytes
from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.dicom.native import native_samples
from dali_pipes.decode.limits import Limits

WORKERS = 2


@dataclass(frozen=True)
class Cost:
    """What images cost: images per second, and processor seconds an image, of all processes together."""

    rate: float
    processor: float


def codec_alone(path: str) -> tuple[float, float]:
    """Seconds, and processor seconds, that the codec takes for a DICOM file's first frame, without reading it."""
    header = read_header(Path(path).read_bytes(), Limits())
    encoded = frame_bytes(header, 0)[0] if header.syntax.encapsulated else b""
    start, used = time.perf_counter(), time.process_time()
    if header.syntax.encapsulated:
        codec_for(header.syntax.uid).use(encoded, header)
    else:
        np.array(native_samples(header, 0))
    return time.perf_counter() - start, time.process_time() - used


def decode_and_resize(data: bytes, size: int) -> None:
    """A JPEG to its base image."""
    pixels = decode(data, identify("", data), 0, DecodePolicy()).pixels
    base_image(pixels, (size, size), "stretch", "bilinear")


def codecs_bound(pool: Executor, paths: list[str]) -> Cost:
    """The codecs, each file going to the process that is free first."""
    busy, processor = [0.0] * WORKERS, 0.0
    for seconds, used in pool.map(codec_alone, paths):
        busy[busy.index(min(busy))] += seconds
        processor += used
    return Cost(len(paths) / max(busy), processor / len(paths))


def photos_bound(pool: Executor, files: list[bytes], size: int) -> Cost:
    """Decoding and resizing in threads."""
    start, used = time.perf_counter(), time.process_time()
    list(pool.map(decode_and_resize, files, [size] * len(files)))
    return Cost(len(files) / (time.perf_counter() - start), (time.process_time() - used) / len(files))


def processor_seconds() -> float:
    """What this process and its children have used so far."""
    total = time.process_time()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread or a child that has just ended
            for child in task.read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def cold_epoch(folder: Path, names: list[str], options: argparse.Namespace) -> Cost:
    """A loader's first epoch; the first two files are not counted."""
    recipe = Recipe(size=options.img_size)
    with (
        tempfile.TemporaryDirectory(dir=folder) as cache_dir,
        Loader(
            manifest_of(folder, names),
            recipe,
            batch_size=2,
            cache_mode="pinned",
            cache_dir=cache_dir,
            backend=options.backend,
            num_workers=WORKERS,
        ) as loader,
    ):
        batches = iter(loader)
        next(batches)
        start, used = time.perf_counter(), processor_seconds()
        count = sum(len(batch) for batch in batches)
        return Cost(count / (time.perf_counter() - start), (processor_seconds() - used) / count)


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--mammograms", type=int, default=16)
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--img-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--dir", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.mammograms, options.photos, options.img_size, options.rounds = 4, 4, 32, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = measure(options, folder)
    write(
        options.json,
        "cold_bound",
        img_size=options.img_size,
        rounds=options.rounds,
        backend=options.backend,
        results=results,
    )
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Images per second of bounds and loaders, and their ratios."""
    (folder / "small").mkdir(exist_ok=True)
    first = [f"small/{name}" for name in write_mammograms(folder / "small", 4, (64, 48))]
    dicom = write_mammograms(folder, options.mammograms, (64, 48) if options.tiny else MAMMOGRAM)
    small = [f"small/{name}" for name in write_photos(folder / "small", 2, (60, 80))]
    photos = write_photos(folder, options.photos, (60, 80) if options.tiny else PHOTO)
    results = {}
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        codecs_bound(pool, [str(folder / name) for name in 4 * first])  # starts the processes, loads the codecs
        paths = [str(folder / name) for name in dicom]
        results["mammograms"] = compare(
            "mammograms",
            lambda: codecs_bound(pool, paths),
            # JPEG lossless and JPEG 2000, so that both children have loaded their codecs when the clock starts
            lambda: cold_epoch(folder, [first[1], first[3], *dicom], options),
            options.rounds,
        )
    with ThreadPoolExecutor(WORKERS) as threads:
        files = [(folder / name).read_bytes() for name in photos]
        results["photos"] = compare(
            "photos",
            lambda: photos_bound(threads, files, options.img_size),
            lambda: cold_epoch(folder, [*small, *photos], options),
            options.rounds,
        )
    return results


def compare(what: str, bound: Callable[[], Cost], loader: Callable[[], Cost], rounds: int) -> dict[str, float]:
    """Runs both in turns; medians, and the median ratios."""
    pairs = [(bound(), loader()) for _ in range(rounds)]
    found = {
        "bound_images_per_second": round(statistics.median(b.rate for b, _ in pairs), 2),
        "loader_images_per_second": round(statistics.median(c.rate for _, c in pairs), 2),
        "ratio": round(statistics.median(c.rate / b.rate for b, c in pairs), 3),
        "bound_processor_ms": round(1e3 * statistics.median(b.processor for b, _ in pairs), 2),
        "loader_processor_ms": round(1e3 * statistics.median(c.processor for _, c in pairs), 2),
        "processor_ratio": round(statistics.median(b.processor / max(c.processor, 1e-9) for b, c in pairs), 3),
    }
    print(
        f"{what:12s} bound {found['bound_images_per_second']:8.2f} images/s   "
        f"loader {found['loader_images_per_second']:8.2f} images/s   ratio {found['ratio']:.2f}   "
        f"of processor time {found['processor_ratio']:.2f}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

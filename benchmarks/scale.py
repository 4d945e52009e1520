"""What a million, or ten million, samples cost: their manifest, the order of an epoch, and the index of their cache.

python benchmarks/scale.py [--rows 1000000] [--entry 16] [--slots N] [--only PART...] [--tiny] [--json FILE]

Manifest: a table with path, label, split and group is written as CSV and as Parquet, and read in processes of their
own; then a split is taken, an epoch ordered, the manifest pickled as for a worker, and a loader's state saved.

Sources: the index that knows what source files held is opened.

Cache: `--rows` entries of `--entry` bytes are put into a `pinned` cache by `put_rows`. A process opens it and asks for
entries in random order; while it holds the cache, a second process does the same. `--slots` bounds the entries of a
segment: with 1365 there are as many segments as with base images of 512x512x3.

Memory is what the process holds for itself alone (RssAnon): pages of mapped files, which processes share, are left out.
"""

import ctypes
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from common import argument_parser, write

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.cache import segment_writer
from dali_pipes.cache.bulk import put_rows
from dali_pipes.cache.files import Folder
from dali_pipes.cache.journal import checks
from dali_pipes.cache.sources import RECORD as SEEN
from dali_pipes.loader.sampling import epoch_order

AT_ONCE = 1 << 16
"""Rows made or put at a time."""

MEGABYTE = 1e6

PARTS = ("manifest", "sources", "cache")


class Clock:
    """Seconds and memory of steps, by their names."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, per: int = 0) -> Iterator[None]:
        """Note how long a step takes; with `per`, by how many bytes each of so many the process is larger after it."""
        before, start, busy = memory(), time.perf_counter(), time.process_time()
        yield
        self.figures[f"{name}, s"] = time.perf_counter() - start
        self.figures[f"{name}, s of processor"] = time.process_time() - busy
        if per:
            self.figures[f"{name}, bytes each"] = (memory() - before) / per

    def each(self, name: str, count: int) -> None:
        """Give the times of a step as microseconds each of so many."""
        for kind in ("", " of processor"):
            self.figures[f"{name}, us{kind}"] = 1e6 * self.figures.pop(f"{name}, s{kind}") / count


def memory(field: str = "RssAnon") -> int:
    """Return bytes of this process: "RssAnon", its own now, or "VmHWM", the most that was ever in memory."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed does not count
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def in_a_process(task: str, *arguments: object) -> dict[str, float]:
    """Return the figures of a task that runs in a process of its own."""
    command = [sys.executable, __file__, "--task", task, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# -- the manifest -----------------------------------------------------------------------------------------------------


def tables(folder: Path, rows: int) -> None:
    """Write `rows.parquet` and `rows.csv`: four images a patient, in a folder of its own."""
    schema = pa.schema({name: pa.string() for name in ("path", "label", "split", "group")})
    with (
        pq.ParquetWriter(folder / "rows.parquet", schema) as parquet,
        pa.csv.CSVWriter(
            folder / "rows.csv", schema, write_options=pa.csv.WriteOptions(quoting_style="needed")
        ) as text,
    ):
        for first in range(0, rows, 16 * AT_ONCE):
            numbers = np.arange(first, min(rows, first + 16 * AT_ONCE))
            table = pa.table([_column(name, numbers) for name in schema.names], schema)
            parquet.write_table(table)
            text.write_table(table)


def _column(name: str, numbers: np.ndarray) -> pa.Array:
    patients = pc.binary_join_element_wise("p", _digits(numbers // 4, 7), "")
    if name == "group":
        return patients
    if name == "path":
        return pc.binary_join_element_wise(patients, "/", _digits(numbers, 8), ".dcm", "")
    names = ["benign", "malignant", "normal"] if name == "label" else ["train"] * 8 + ["val", "test"]
    return pa.array(names).take(pa.array((numbers if name == "label" else numbers // 4) % len(names)))


def _digits(numbers: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), width, padding="0")


def read_manifest(file: Path) -> dict[str, float]:
    """Read a table, and do with the manifest what a training run does."""
    clock, root = Clock(), file.parent
    read = dp.Manifest.from_csv if file.suffix == ".csv" else dp.Manifest.from_parquet
    warm_up = root / f"few{file.suffix}"
    read(warm_up, root=root)  # what is imported is not counted
    count = int(file.with_suffix(".count").read_text())
    with clock.step("read", per=count):
        manifest = read(file, root=root)
    clock.figures["most memory while reading, MB"] = memory("VmHWM") / MEGABYTE
    with clock.step("split"):
        manifest.split("train")
    with clock.step("epoch_order"):
        epoch_order(count, seed=0, epoch=1, shuffle=True)
    with clock.step("digest"):
        manifest.digest()
    with clock.step("pickle"):
        sent = pickle.dumps(manifest, protocol=pickle.HIGHEST_PROTOCOL)
    clock.figures["pickled, bytes a row"] = len(sent) / count
    with clock.step("unpickle"):
        pickle.loads(sent)  # noqa: S301 - made by us, just now
    del sent
    with clock.step("Loader", per=count):
        loader = dp.Loader(manifest, dp.Recipe(size=32), batch_size=256, backend="torch", num_workers=1)
    with loader, clock.step("state_dict"):
        state = loader.state_dict()
    clock.figures["state_dict, bytes"] = len(json.dumps(state))
    return clock.figures


def manifest_figures(folder: Path, rows: int) -> dict[str, Any]:
    """Return the figures of a manifest, from each kind of table."""
    for name, count in (("few", 10), ("rows", rows)):
        tables(folder, count)
        for kind in ("csv", "parquet"):
            if name == "few":
                (folder / f"rows.{kind}").rename(folder / f"few.{kind}")
    (folder / "rows.count").write_text(str(rows))
    return {kind: in_a_process("manifest", folder / f"rows.{kind}") for kind in ("csv", "parquet")}


# -- the cache --------------------------------------------------------------------------------------------------------


def digest(number: int) -> bytes:
    """Return the key of an entry, 16 bytes, as spread as real ones."""
    return blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


def fill(folder: Path, rows: int, entry: int, slots: int) -> dict[str, float]:
    """Put the entries; the value of each is its number."""
    if slots:
        usual = segment_writer.capacity
        segment_writer.capacity = lambda *given: min(slots, usual(*given))
    clock = Clock()
    with clock.step("put"), cache.open_store("pinned", folder, strict=True) as store:
        for first in range(0, rows, AT_ONCE):
            numbers = range(first, min(rows, first + AT_ONCE))
            values = np.zeros((len(numbers), entry // 8), np.int64)
            values[:, 0] = numbers
            put_rows(store, [digest(number) for number in numbers], values)
    clock.each("put", rows)
    return clock.figures


def read_cache(folder: Path, rows: int, asked: int, more: bool) -> dict[str, float]:
    """Open the cache and ask for entries twice, at first checked, then warm; `more`: so does a second process."""
    with cache.open_store("pinned", folder / "none", strict=True) as store:  # what is imported is not counted
        put_rows(store, [digest(0)], np.zeros((1, 2), np.int64))
        store.get(cache.Key(digest(0)))
    clock = Clock()
    with clock.step("open", per=rows):
        store = cache.open_store("pinned", folder, strict=True)
    clock.figures["most memory while opening, MB"] = memory("VmHWM") / MEGABYTE
    with store:
        chosen = np.random.default_rng(1).integers(0, rows, asked).tolist()
        keys = [cache.Key(digest(number)) for number in chosen]
        for name in ("first get", "get"):
            with clock.step(name):
                found = [store.get(key) for key in keys]
            clock.each(name, asked)
        if [int(array[0]) for array in found if array is not None] != chosen:
            raise RuntimeError("the cache gave something else than what was put")
        with clock.step("miss"):
            missing = [store.get(cache.Key(digest(rows + number))) for number in range(100)]
        clock.each("miss", len(missing))
        if any(array is not None for array in missing):
            raise RuntimeError("the cache gave what was never put")
        with clock.step("refresh"):
            store.refresh()
        clock.figures["segments"] = store.stats()["segments"]
        second = in_a_process("cache", folder, rows, asked, 0) if more else {}
    return clock.figures | {f"second process: {name}": figure for name, figure in second.items()}


def cache_figures(folder: Path, rows: int, entry: int, slots: int, asked: int) -> dict[str, float]:
    """Return the figures of a cache."""
    filled = in_a_process("fill", folder, rows, entry, slots)
    return filled | in_a_process("cache", folder, rows, asked, 1)


def read_sources(folder: Path, rows: int) -> dict[str, float]:
    """Open the index of source files: one record for each of `rows` files, whose bytes are random."""
    place, rng, clock = Folder(folder / "sources"), np.random.default_rng(0), Clock()
    with clock.step("write"):
        for number, first in enumerate(range(0, rows, 16 * AT_ONCE)):
            records = np.frombuffer(rng.bytes(SEEN.itemsize * min(16 * AT_ONCE, rows - first)), SEEN).copy()
            records["check"] = checks(records)
            place.publish(f"{number:016x}.seen", [records.data.cast("B")])
    del records
    with clock.step("open", per=rows):
        index = cache.SourceIndex(folder, secret=bytes(32))
    if len(index) != rows:
        raise RuntimeError("the index lacks records")
    clock.figures["most memory while opening, MB"] = memory("VmHWM") / MEGABYTE
    return clock.figures


# -- all of it --------------------------------------------------------------------------------------------------------

TASKS = {
    "manifest": lambda file: read_manifest(Path(file)),
    "fill": lambda folder, *numbers: fill(Path(folder), *map(int, numbers)),
    "sources": lambda folder, rows: read_sources(Path(folder), int(rows)),
    "cache": lambda folder, *numbers: read_cache(Path(folder), *map(int, numbers)),
}


def main() -> None:
    """Measure and print."""
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--entry", type=int, default=16, help="bytes of an entry, a multiple of 8 (default: 16)")
    parser.add_argument("--slots", type=int, default=0, help="entries of a segment, at most (default: what fits)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--task", nargs="+", help="do one part and print its figures (the benchmark calls itself so)")
    args = parser.parse_args()
    if args.task:
        print(json.dumps(TASKS[args.task[0]](*args.task[1:])))
        return
    rows, asked = (3000, 500) if args.tiny else (args.rows, 200_000)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        work = {
            "manifest": partial(manifest_figures, Path(name), rows),
            "sources": partial(in_a_process, "sources", Path(name) / "seen", rows),
            "cache": partial(cache_figures, Path(name) / "cache", rows, args.entry, args.slots, asked),
        }
        for part in args.only:
            found[part] = work[part]()
            show(f"{part}, {rows:,} rows", found[part])
    write(args.json, "scale", rows=rows, entry_bytes=args.entry, slots=args.slots, **found)


def show(title: str, figures: dict[str, Any]) -> None:
    """Print figures by their names."""
    for name, figure in figures.items():
        if isinstance(figure, dict):
            show(f"{title}, {name}", figure)
        else:
            print(f"{title}: {name}: {figure:,.3f}".rstrip("0").rstrip("."))


if __name__ == "__main__":
    main()

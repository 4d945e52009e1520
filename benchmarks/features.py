"""Features of a frozen backbone: computed every time, kept by CachedModule, one .pt a sample, and Arrow segments.

python benchmarks/features.py [--samples 1024] [--large 1000000] [--tiny] [--json FILE]

The first part runs a small ResNet over random images: cold (compute and write until all is flushed), warm (the same
process again) and reopened. The second part keeps `--large` features of 512 float32 and measures, in a process of its
own, opening, random batches of 256, and memory; and while they are written, whether writing gets slower.

"Arrow segments" is what torchcachex publishes, in our own code after its description: append-only Arrow files, values
as lists, an index that is pickled whole at each flush, an LRU of tensors, and a segment opened anew for each look-up.
"""

import importlib.util
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import argument_parser, write
from torch import nn

import dali_pipes as dp

WIDTH = 512
BATCH = 256
EXAMPLE = Path(__file__).parent.parent / "examples" / "features.py"


def backbone() -> nn.Module:
    """Return the ResNet of the example."""
    spec = importlib.util.spec_from_file_location("example_features", EXAMPLE)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found: nn.Module = example.backbone()
    return found


class EachTime:
    """Computes always."""

    def __init__(self, module: nn.Module, folder: Path) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.module(x)

    def close(self) -> None:
        """Nothing is open."""


class Ours:
    """CachedModule, as it comes."""

    def __init__(self, module: nn.Module, folder: Path) -> None:
        self.cached = dp.CachedModule(module, folder, check_batch=False)

    def __call__(self, x: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        found: torch.Tensor = self.cached(x, cache_ids=ids)
        return found

    def close(self) -> None:
        """Write what waits."""
        self.cached.close()


class Kept(EachTime):
    """Computes what `get` does not give, and gives it to `put`."""

    def __call__(self, x: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        found = [self.get(each) for each in ids]
        missing = [at for at, row in enumerate(found) if row is None]
        if missing:
            made = super().__call__(x[missing], ids)
            self.put([ids[at] for at in missing], made)
            for at, row in zip(missing, made):
                found[at] = row
        return torch.stack(found)  # type: ignore[arg-type]

    def get(self, name: int) -> torch.Tensor | None:
        raise NotImplementedError

    def put(self, names: Sequence[int], rows: torch.Tensor) -> None:
        raise NotImplementedError


class Files(Kept):
    """One .pt a sample."""

    def __init__(self, module: nn.Module, folder: Path) -> None:
        super().__init__(module, folder)
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def get(self, name: int) -> torch.Tensor | None:
        path = self.folder / f"{name}.pt"
        return torch.load(path, weights_only=True) if path.exists() else None

    def put(self, names: Sequence[int], rows: torch.Tensor) -> None:
        for name, row in zip(names, rows):
            temporary = self.folder / f"{name}.tmp"
            torch.save(row.clone(), temporary)
            os.replace(temporary, self.folder / f"{name}.pt")


class ArrowSegments(Kept):
    """See the module."""

    def __init__(self, module: nn.Module, folder: Path, lru: int = 4096, flush_every: int = 2048) -> None:
        super().__init__(module, folder)
        folder.mkdir(exist_ok=True)
        self.folder, self.lru, self.flush_every = folder, lru, flush_every
        index = folder / "index.pkl"
        self.index = pickle.loads(index.read_bytes()) if index.exists() else {}  # noqa: S301 - written by us, just now
        self.recent: OrderedDict[int, torch.Tensor] = OrderedDict()
        self.waiting: list[tuple[int, list[float], list[int]]] = []

    def get(self, name: int) -> torch.Tensor | None:
        if name in self.recent:
            self.recent.move_to_end(name)
            return self.recent[name]
        if name not in self.index:
            return None
        segment, row = self.index[name]
        with pa.memory_map(str(self.folder / segment)) as source:
            table = pa.ipc.open_file(source).read_all()
            value = torch.tensor(table["data"][row].as_py()).reshape(table["shape"][row].as_py())
        self._remember(name, value)
        return value

    def _remember(self, name: int, value: torch.Tensor) -> None:
        self.recent[name] = value
        if len(self.recent) > self.lru:
            self.recent.popitem(last=False)

    def put(self, names: Sequence[int], rows: torch.Tensor) -> None:
        for name, row in zip(names, rows):
            self._remember(name, row)
            self.waiting.append((name, row.flatten().tolist(), list(row.shape)))
        if len(self.waiting) >= self.flush_every:
            self.flush()

    def flush(self) -> None:
        """Write a segment, and the whole index."""
        if not self.waiting:
            return
        segment = f"{len(list(self.folder.glob('*.arrow')))}.arrow"
        names, data, shapes = zip(*self.waiting)
        table = pa.table({"key": list(names), "data": list(data), "shape": list(shapes)})
        with pa.ipc.new_file(str(self.folder / segment), table.schema) as file:
            file.write_table(table)
        self.index.update({name: (segment, row) for row, name in enumerate(names)})
        (self.folder / "index.tmp").write_bytes(pickle.dumps(self.index))
        os.replace(self.folder / "index.tmp", self.folder / "index.pkl")
        self.waiting.clear()

    def close(self) -> None:
        """Write what waits."""
        self.flush()


WAYS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "computed each time": EachTime,
    "CachedModule": Ours,
    "one .pt a sample": Files,
    "Arrow segments": ArrowSegments,
}


def one_pass(way: Any, images: torch.Tensor, batch: int, seed: int) -> float:
    """Return the samples a second of one pass in random order."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    start = time.perf_counter()
    for at in range(0, len(order), batch):
        way(images[order[at : at + batch]], order[at : at + batch])
    return len(order) / (time.perf_counter() - start)


def against_others(count: int, size: int, repeats: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return samples a second of every way: cold (until all is written), warm, and opened anew."""
    images, module = torch.rand(count, 3, size, size), backbone()
    found = {}
    for name, make in WAYS.items():
        way, place = make, folder / name.replace(" ", "-")
        start = time.perf_counter()
        opened = way(module, place)
        one_pass(opened, images, 32, 0)
        if isinstance(opened, Ours):
            opened.cached.flush()
        elif isinstance(opened, ArrowSegments):
            opened.flush()
        cold = count / (time.perf_counter() - start)
        warm = statistics.median(one_pass(opened, images, 32, seed) for seed in range(1, 1 + repeats))
        opened.close()
        again = way(module, place)
        reopened = one_pass(again, images, 32, 99)
        again.close()
        found[name] = {"cold": cold, "warm": warm, "reopened": reopened}
    return found


class Spread(nn.Module):
    """Makes a feature of a number, at next to no cost."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0, 1, WIDTH), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def fill(folder: Path, count: int) -> list[float]:
    """Keep `count` features; return the seconds of each tenth, until it is published."""
    seconds = []
    with dp.CachedModule(Spread(), folder, check_batch=False) as cached:
        for tenth in range(10):
            start = time.perf_counter()
            for at in range(count * tenth // 10, count * (tenth + 1) // 10, 1024):
                ids = range(at, min(at + 1024, count * (tenth + 1) // 10))
                cached(torch.tensor(ids).float()[:, None], cache_ids=ids)
            cached.flush()
            seconds.append(time.perf_counter() - start)
    return seconds


def read(folder: Path, count: int, batches: int) -> dict[str, float]:
    """Open, and gather random batches twice: first checked, then warm. Runs in a process of its own."""
    dp.CachedModule(Spread(), cache_mode="none").close()  # what is imported is not counted
    before, start = _memory(), time.perf_counter()
    with dp.CachedModule(Spread(), folder, check_batch=False) as cached:
        opening, memory = time.perf_counter() - start, _memory() - before
        rates = []
        for _ in range(2):
            start = time.perf_counter()
            for at in range(0, count, BATCH):
                ids = range(at, min(at + BATCH, count))
                cached(torch.tensor(ids).float()[:, None], cache_ids=ids)
            rates.append(count / (time.perf_counter() - start))
        rng, random = np.random.default_rng(0), []
        for _ in range(5):
            chosen = [rng.integers(0, count, BATCH).tolist() for _ in range(batches)]
            inputs = [torch.tensor(ids).float()[:, None] for ids in chosen]
            start = time.perf_counter()
            for x, ids in zip(inputs, chosen):
                cached(x, cache_ids=ids)
            random.append(BATCH * batches / (time.perf_counter() - start))
        if cached.stats()["computed"]:
            raise RuntimeError("something was computed again")
        return {
            "open, s": opening,
            "memory, bytes a sample": memory / count,
            "first pass (checked), samples/s": rates[0],
            "second pass, samples/s": rates[1],
            f"random batches of {BATCH}, samples/s": statistics.median(random),
        }


def _memory() -> int:
    """Bytes of this process that are its own (the pages of mapped files are not)."""
    text = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1])


def large(folder: Path, count: int, batches: int) -> dict[str, Any]:
    """Return the figures of many features."""
    seconds = fill(folder, count)
    command = [sys.executable, __file__, "--read", str(folder), "--large", str(count), "--batches", str(batches)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    return {
        "features": count,
        "written, samples/s": count / sum(seconds),
        "last tenth against the first, times as long": seconds[-1] / seconds[0],
        **figures,
        "on disk, bytes a sample": size / count,
        "of which the feature": WIDTH * 4,
    }


def main() -> None:
    """Measure and print."""
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", type=int, default=1024, help="images of the first part")
    parser.add_argument("--large", type=int, default=1_000_000, help="features of the second part")
    parser.add_argument("--batches", type=int, default=400, help="random batches of one measurement")
    parser.add_argument("--read", type=Path, help="only read features that are there (the benchmark calls itself so)")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read, args.large, args.batches)))
        return
    samples, size, count, batches = args.samples, 96, args.large, args.batches
    if args.tiny:
        samples, size, count, batches = 48, 32, 3000, 4
    with tempfile.TemporaryDirectory() as name:
        ways = against_others(samples, size, 1 if args.tiny else 5, Path(name))
        print(f"{'samples/s':22}{'cold':>10}{'warm':>10}{'reopened':>10}")
        for way, figures in ways.items():
            print(f"{way:22}" + "".join(f"{figures[phase]:10.0f}" for phase in ("cold", "warm", "reopened")))
        many = large(Path(name) / "large", count, batches)
        for what, figure in many.items():
            print(f"{what}: {figure:,.2f}" if isinstance(figure, float) else f"{what}: {figure:,}")
    write(args.json, "features", samples=samples, image=size, ways=ways, large=many)


if __name__ == "__main__":
    main()

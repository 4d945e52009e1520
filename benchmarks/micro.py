"""Single operations, milliseconds each, in one thread: median, 90th percentile and largest of the repeats.

python benchmarks/micro.py [--repeats 15] [--tiny] [--json FILE]
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import argument_parser, write
from data import MAMMOGRAM, PHOTO, write_mammograms, write_photos

from dali_pipes import cache
from dali_pipes.arithmetic import base_image, copy_into, normalisation, normalise_into
from dali_pipes.decode import DecodePolicy, decode, identify

Operation = tuple[str, Callable[[], object]]


def decoding(folder: Path, tiny: bool) -> Iterator[Operation]:
    """Decoding of whole files, with the window, and resizing of what comes out."""
    photo = folder / write_photos(folder, 1, (60, 80) if tiny else PHOTO)[0]
    names = write_mammograms(folder, 4, (64, 48) if tiny else MAMMOGRAM)
    files = {"photo, JPEG": photo}
    kinds = ("uncompressed", "JPEG lossless", "JPEG 2000")
    files |= {f"mammogram, {kind}": folder / names[i] for kind, i in zip(kinds, (0, 1, 3))}
    for name, path in files.items():
        data = path.read_bytes()
        kind = identify(path, data)
        yield f"identify {name}", lambda data=data, path=path: identify(path, data)
        yield f"decode {name}", lambda data=data, kind=kind: decode(data, kind, 0, DecodePolicy())
    size = (32, 32) if tiny else (512, 512)
    for name in ("photo, JPEG", "mammogram, uncompressed"):
        data = files[name].read_bytes()
        pixels = decode(data, identify(files[name], data), 0, DecodePolicy(channels=1 if "mammo" in name else 3)).pixels
        yield f"resize {name.split(',')[0]}", lambda pixels=pixels: base_image(pixels, size, "stretch", "bilinear")


def storing(folder: Path, side: int) -> Iterator[Operation]:
    """put of a new entry, the first get (with its check) and a later get, in every mode that keeps entries."""
    image = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    into = np.empty_like(image)
    counter = iter(range(10**9))
    for mode in cache.MODES[1:]:
        store = cache.open_store(mode, folder / mode if mode != "memory" else None)
        keys: list[cache.Key] = []

        def put(store: cache.Store = store, keys: list[cache.Key] = keys) -> None:
            keys.append(cache.Key.of(b"", number=next(counter)))
            store.put(keys[-1], image)

        def get(store: cache.Store = store, keys: list[cache.Key] = keys) -> None:
            found = store.get(keys[0])
            if found is None:
                raise RuntimeError("the entry is gone")
            np.copyto(into, found)

        yield f"{mode}: put", put
        yield f"{mode}: get and copy", get
        yield f"{mode}: close", store.close


def computing(side: int) -> Iterator[Operation]:
    """What a warm sample costs."""
    image = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    m, inv = normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    plain, real = np.empty_like(image), np.empty(image.shape, np.float32)
    yield "copy", lambda: copy_into(plain, image)
    yield "copy, mirrored", lambda: copy_into(plain, image, hflip=True)
    yield "normalise", lambda: normalise_into(real, image, m, inv)
    yield "normalise, mirrored", lambda: normalise_into(real, image, m, inv, hflip=True)
    yield "content digest of a base image", lambda: cache.content_digest(image.tobytes())


def measure(name: str, work: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Times one operation; what happens once only (closing) is run and not reported."""
    if name.endswith("close"):
        work()
        return {}
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    ordered = sorted(times[1:])
    found = {
        "operation": name,
        "median_ms": round(ordered[len(ordered) // 2], 4),
        "p90_ms": round(ordered[int(len(ordered) * 0.9)], 4),
        "max_ms": round(ordered[-1], 4),
    }
    print(
        f"{name:36s} {found['median_ms']:10.3f}  p90 {found['p90_ms']:10.3f}  max {found['max_ms']:10.3f}", flush=True
    )
    return found


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(arguments)
    repeats, side = (1, 32) if options.tiny else (options.repeats, 512)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        operations = [*computing(side), *storing(folder, side), *decoding(folder, options.tiny)]
        results = [found for name, work in operations if (found := measure(name, work, repeats))]
    write(options.json, "micro", img_size=side, results=results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

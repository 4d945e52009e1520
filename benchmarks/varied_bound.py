"""Warm epochs with augmentation, against the same without it and against peers: 320 x 320 cached, 224 x 224 out.

    python benchmarks/varied_bound.py [--images 512] [--repeats 5] [--only WORD...] [--tiny] [--json FILE]

All loaders stay open and run an epoch each in turns, in batches of 128, each with two threads or workers. So a busy
machine slows all of them: compare the ratios. Peers that are not installed are left out; FFCV needs OpenCV and
libjpeg-turbo with their headers (on Debian `libopencv-dev libturbojpeg0-dev`), then `pip install ffcv`.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common import argument_parser, write
from PIL import Image
from varied_peers import MEAN, PEERS, STD, WORKERS, Work

import dali_pipes as dp

Loading = Callable[[], Iterator[torch.Tensor]]

RECIPES: dict[str, dp.Augment | None] = {
    "nothing": None,
    "resized crop, flip": dp.Augment(0.5, resized_crop=(0.08, 1.0)),
    "photo": dp.Augment.preset("photo"),
    "crop, trivial": dp.Augment(0.5, resized_crop=(0.08, 1.0), policy="trivial"),
    "mammography": dp.Augment.preset("mammography"),
}
BACKENDS = ("torch", "dali-cpu")


def archive(folder: Path, count: int) -> dp.Manifest:
    """Photos of 400 x 500, smooth with some noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 256, (20, 25, 3), dtype=np.uint8)
        Image.fromarray(small).resize((500, 400), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=85)
    (folder / "all.csv").write_text("path,label\n" + "".join(f"{i}.jpg,0\n" for i in range(count)))
    return dp.Manifest.from_csv(folder / "all.csv")


def ours(manifest: dp.Manifest, folder: Path, sides: tuple[int, int], batch: int) -> Iterator[tuple[str, Loading]]:
    """A loader of each backend and augmentation, over one cache."""
    for backend in BACKENDS:
        for name, augment in RECIPES.items():
            loader = dp.Loader(
                manifest,
                dp.Recipe(sides[1], base_size=sides[0], augment=augment, mean=MEAN, std=STD),
                batch_size=batch,
                backend=backend,
                num_workers=WORKERS,
                cache_mode="pinned",
                cache_dir=folder / "cache",
            )
            yield f"{backend}: {name}", lambda loader=loader: (each.image for each in loader)  # type: ignore[misc]


def peers(manifest: dp.Manifest, folder: Path, sides: tuple[int, int], batch: int) -> Iterator[tuple[str, Loading]]:
    """Those that are installed."""
    files = tuple(str(manifest.resolve(i)) for i in range(len(manifest)))
    for name, (module, make) in PEERS.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            print(f"{name}: not installed, left out")
        else:
            yield name, make(Work(files, *sides, batch, folder))


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=512, help="photos in the archive")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of each")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only what has one of these words in its name")
    options = parser.parse_args(arguments)
    count, repeats, sides, batch = (8, 1, (32, 24), 4) if options.tiny else (
        options.images, options.repeats, (320, 224), 128)  # fmt: skip
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = (archive(Path(folder), count), Path(folder), sides, batch)
        everything = dict((*ours(*given), *peers(*given)))
        chosen = {
            name: load
            for name, load in everything.items()
            if name.endswith(": nothing") or not options.only or any(word in name for word in options.only)
        }
        for _ in range(repeats + 1):
            for name, load in chosen.items():
                start, taken = time.perf_counter(), 0
                for images in load():
                    assert images.shape[1:] == (3, sides[1], sides[1]), images.shape
                    taken += len(images)
                assert taken == count, (name, taken)
                times.setdefault(name, []).append((time.perf_counter() - start) / taken)
    figures = {name: 1 / statistics.median(each[1:]) for name, each in times.items()}
    for name, rate in figures.items():
        plain = figures.get(f"{name.split(':')[0]}: nothing")
        print(f"{name:40s} {rate:8.0f} images/s" + (f"  {rate / plain:5.2f} of nothing" if plain else ""))
    write(options.json, "varied_bound", images=count, batch_size=batch, images_per_second=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

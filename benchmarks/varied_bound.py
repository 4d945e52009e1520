"""Warm epochs with augmentation against the same without it: photos cached at 320 x 320, 224 x 224 out, batches of 128.

    python benchmarks/varied_bound.py [--images 512] [--repeats 5] [--tiny] [--json FILE]

All loaders stay open and run an epoch each in turns, so a busy machine slows all of them: compare the ratios.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import argument_parser, write
from PIL import Image

import dali_pipes as dp

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=512, help="photos in the archive")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of each")
    options = parser.parse_args(arguments)
    count, repeats, sides, batch = (8, 1, (32, 24), 4) if options.tiny else (
        options.images, options.repeats, (320, 224), 128)  # fmt: skip
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        manifest = archive(Path(folder), count)
        loaders = {
            (backend, name): dp.Loader(
                manifest,
                dp.Recipe(sides[1], base_size=sides[0], augment=augment, mean=MEAN, std=STD),
                batch_size=batch,
                backend=backend,
                cache_mode="pinned",
                cache_dir=Path(folder) / "cache",
            )
            for backend in BACKENDS
            for name, augment in RECIPES.items()
        }
        for epoch in range(repeats + 1):
            for key, loader in loaders.items():
                loader.set_epoch(epoch)
                start = time.perf_counter()
                taken = sum(len(each) for each in loader)
                times.setdefault(key, []).append((time.perf_counter() - start) / taken)
        for loader in loaders.values():
            loader.close()
    figures = {f"{backend}: {name}": 1 / statistics.median(each[1:]) for (backend, name), each in times.items()}
    for label, rate in figures.items():
        plain = figures[f"{label.split(':')[0]}: nothing"]
        print(f"{label:32s} {rate:8.0f} images/s  {rate / plain:5.2f} of nothing")
    write(options.json, "varied_bound", images=count, batch_size=batch, images_per_second=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""First and later epochs, memory and disk of every cache mode and backend, over photos and mammograms made here.

    python benchmarks/epoch_time.py [--photos 120] [--mammograms 12] [--img-size 512] [--modes ...] [--backends ...]
                                    [--tiny] [--json FILE]

The same as `dali-pipes bench` on one's own data; see `dali_pipes/bench.py` for what is measured and how.
"""

import sys
import tempfile
from pathlib import Path

from common import argument_parser, write
from data import MAMMOGRAM, PHOTO, manifest_of, write_mammograms, write_photos

from dali_pipes import Recipe, cache
from dali_pipes.cli.bench import text
from dali_pipes.cli.common import present_backends
from dali_pipes.tools.bench import measure

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--photos", type=int, default=120, help="JPEGs of 1600x1200")
    parser.add_argument("--mammograms", type=int, default=12, help="DICOM files of 3328x2560")
    parser.add_argument("--img-size", type=int, default=512)
    parser.add_argument("--modes", nargs="+", default=list(cache.MODES), choices=cache.MODES)
    parser.add_argument("--backends", nargs="+", default=present_backends())
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dir", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args(arguments)
    shapes = {"photo": PHOTO, "mammogram": MAMMOGRAM}
    if options.tiny:
        options.photos, options.mammograms, options.img_size, options.epochs = 4, 4, 32, 2
        options.modes, options.backends = ["pinned"], ["torch"]
        shapes = {"photo": (60, 80), "mammogram": (64, 48)}
    recipe = Recipe(size=options.img_size, mean=MEAN, std=STD)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = write_photos(folder, options.photos, shapes["photo"])
        names += write_mammograms(folder, options.mammograms, shapes["mammogram"])
        steps = measure(
            manifest_of(folder, names),
            recipe,
            options.modes,
            options.backends,
            epochs=options.epochs,
            batch_size=options.batch_size,
        )
        found = []
        for each in steps:
            found.append(each)
            print(
                f"{each.cache_mode} on {each.backend}: {each.first_epoch:.2f} s, {each.later_epoch:.3f} s", flush=True
            )
    print("\n" + text(found))
    write(
        options.json,
        "epoch_time",
        photos=options.photos,
        mammograms=options.mammograms,
        recipe=recipe.to_dict(),
        results=[each.as_dict() for each in found],
    )
    return 1 if any(each.failed for each in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

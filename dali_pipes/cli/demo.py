"""`dali-pipes demo`: the whole product on a small set, in a minute or two, without a network."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipes.cache import MODES, PERSISTENT_MODES
from dali_pipes.cli import common

if TYPE_CHECKING:
    from dali_pipes.manifest.manifest import Manifest
    from dali_pipes.parity import Fingerprint
    from dali_pipes.recipe import Recipe

LATER_EPOCHS = 2
SHEET = 64  # pictures on the contact sheet


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--dir", type=Path, default=Path("dali-pipes-demo"), help="where to put it (default: ./dali-pipes-demo)"
    )
    parser.add_argument("--img-size", type=int, default=256, help="side of the images in pixels (default: 256)")
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Make the set, warm a cache, run every backend in every cache mode, and compare all outputs.

    Each run begins with an empty cache of its own. The command fails if any bit differs.
    """
    from dali_pipes.loader.loader import Loader
    from dali_pipes.manifest.manifest import Manifest
    from dali_pipes.recipe import Recipe
    from dali_pipes.tools.contact_sheet import write_contact_sheet
    from dali_pipes.tools.demo_data import make_demo_set

    recipe = Recipe(size=args.img_size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    common.note(args, f"Making images in {args.dir} ...")
    manifest = Manifest.from_csv(make_demo_set(args.dir / "images"))
    names = common.present_backends()
    combinations = [(backend, mode) for mode in MODES for backend in names]
    common.note(args, f"{len(manifest)} images; {len(names)} backends ({', '.join(names)}) x {len(MODES)} cache modes.")
    kept = args.dir / "cache"
    with Loader(manifest, recipe, batch_size=16, cache_mode="pinned", cache_dir=kept, backend="torch") as loader:
        for _ in common.progress(loader.warm(), len(manifest), "warming"):
            pass
        warmed = loader.stats()
    runs, prints = [], []
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="caches-") as scratch:
        for backend, mode in common.progress(combinations, len(combinations), "epochs"):
            speeds, found = _epochs(manifest, recipe, backend, mode, Path(scratch) / f"{backend}-{mode}")
            runs.append({"backend": backend, "cache_mode": mode, **speeds})
            prints.append(found)
    differing = [f"{backend}/{mode}" for (backend, mode), found in zip(combinations, prints) if found != prints[0]]
    sheet = args.dir / "contact-sheet.png"
    shown = manifest.subset(range(0, len(manifest), -(-len(manifest) // SHEET)))
    with Loader(shown, Recipe(size=args.img_size), batch_size=16, backend="torch") as loader:
        write_contact_sheet(loader, sheet)
    document = {
        "images": len(manifest),
        "img_size": args.img_size,
        "warmed": {"directory": str(kept), **{name: warmed[name] for name in ("decoded", "hits", "failed")}},
        "runs": runs,
        "parity": {"identical": not differing, "backends": names, "samples": len(manifest), "differing": differing},
        "contact_sheet": str(sheet),
        "manifest": str(args.dir / "images" / "demo.csv"),
    }
    common.show(args, document, _text(document))
    return common.FAILED if differing else common.GOOD


def _epochs(
    manifest: Manifest, recipe: Recipe, backend: str, mode: str, folder: Path
) -> tuple[dict[str, Any], list[Fingerprint]]:
    """Images per second of the first and the later epochs, and fingerprints of every epoch's samples."""
    from dali_pipes.loader.loader import Loader
    from dali_pipes.parity import fingerprint

    persistent = mode in PERSISTENT_MODES
    prints: list[Fingerprint] = []
    with Loader(
        manifest, recipe, batch_size=16, cache_mode=mode, cache_dir=folder if persistent else None, backend=backend
    ) as loader:
        seconds = []
        for epoch in range(1 + LATER_EPOCHS):
            loader.set_epoch(epoch)
            start = time.perf_counter()
            batches = list(loader)
            seconds.append(time.perf_counter() - start)
            found = fingerprint(batches)
            prints = prints or found
            if found != prints:
                prints = [*prints, *found]  # an epoch that differs from the first makes the whole run differ
        stats = loader.stats()
    rate = {
        "first_epoch": round(len(manifest) / seconds[0], 1),
        "later_epochs": round(len(manifest) * LATER_EPOCHS / sum(seconds[1:]), 1),
    }
    return {"images_per_second": rate, "decoded": stats["decoded"], "failed": stats["failed"]}, prints


def _text(document: dict[str, Any]) -> str:
    rows = [
        [
            run["cache_mode"],
            run["backend"],
            f"{run['images_per_second']['first_epoch']:.0f}",
            f"{run['images_per_second']['later_epochs']:.0f}",
            str(run["decoded"]),
        ]
        for run in document["runs"]
    ]
    parity = document["parity"]
    verdict = (
        f"Parity: {parity['samples']} images, {', '.join(parity['backends'])}, every cache mode, every epoch: "
        + ("identical, every bit." if parity["identical"] else f"DIFFERENT in {', '.join(parity['differing'])}.")
    )
    return "\n".join(
        [
            "",
            common.table(["cache mode", "backend", "first epoch, images/s", "later epochs, images/s", "decoded"], rows),
            "",
            verdict,
            f"A warm cache to look at: dali-pipes cache stats {document['warmed']['directory']}",
            f"What the model sees: {document['contact_sheet']}",
        ]
    )

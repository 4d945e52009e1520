"""`dali-pipes preview`: samples as a model sees them in several epochs, as one picture with captions."""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_pipes.cli import common


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    common.add_manifest(parser)
    common.add_recipe(parser)
    parser.add_argument("--epochs", type=common.at_least(1), default=4, help="pictures of each sample (default: 4)")
    parser.add_argument("--samples", type=common.at_least(1), default=8, help="how many, evenly chosen (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="that of the loader (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("preview.png"),
        help="the PNG; it shows your data and its ids (default: preview.png)",
    )
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Draws the sheet; fails if a sample on it cannot be decoded."""
    from dali_pipes.tools import preview

    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    found = preview.rows(manifest, recipe, epochs=args.epochs, samples=args.samples, seed=args.seed)
    told = list(common.progress(found, min(args.samples, len(manifest)), "drawing"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    preview.sheet(told, args.epochs).save(args.out, "PNG")
    plain = [{name: value for name, value in row.items() if name != "pictures"} for row in told]
    lost = sum("error" in row for row in told)
    counts = {str(name): count for name, count in manifest.class_counts().items()}
    document = {"out": str(args.out), "epochs": args.epochs, "samples": plain, "failed": lost, "classes": counts}
    lines = [
        f"{len(manifest)} samples; of each class: {', '.join(f'{name} {count}' for name, count in counts.items())}.",
        f"Wrote {args.out}: {len(told)} samples, {args.epochs} epochs; {common.failed(lost)}.",
    ]
    common.show(args, document, "\n".join(lines))
    return common.FAILED if lost else common.GOOD

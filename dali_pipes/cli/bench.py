"""`dali-pipes bench`: epoch times, memory and disk of every cache mode on your own data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipes.cache import MODES
from dali_pipes.cli import common
from dali_pipes.names import BACKENDS

if TYPE_CHECKING:
    from dali_pipes.tools.bench import Measurement


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    common.add_manifest(parser)
    common.add_recipe(parser)
    common.add_loading(parser)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, help="(default: all)")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="(default: all that run here)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each, at least 2 (default: 4)")
    parser.add_argument("--dir", type=Path, help="where the caches lie while they are measured (default: temporary)")
    parser.add_argument("--plot", type=Path, help="write the speeds as a chart, a PNG; needs matplotlib")
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measures; fails if a sample could not be loaded."""
    from dali_pipes import backends
    from dali_pipes.tools import charts
    from dali_pipes.tools.bench import measure

    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    names = [backends.resolve(name) for name in args.backends or common.present_backends()]
    steps = measure(
        manifest,
        recipe,
        args.modes,
        names,
        epochs=args.epochs,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        folder=args.dir,
    )
    if args.plot is not None:  # refused before the long work begins
        charts.check_matplotlib()
    found = list(common.progress(steps, len(args.modes) * len(names), "measuring"))
    told = document(found, recipe.to_dict())
    lines = [text(found)]
    if args.plot is not None:
        charts.write_epoch_time(told, args.plot)
        told["plot"] = str(args.plot)
        lines.append(f"\nWrote {args.plot}")
    common.show(args, told, "\n".join(lines))
    return common.FAILED if any(each.failed for each in found) else common.GOOD


def document(found: list[Measurement], recipe: dict[str, Any]) -> dict[str, Any]:
    """All figures, with the machine's facts."""
    from dali_pipes.tools.bench import machine

    return {
        "benchmark": "epoch_time",
        "machine": machine(),
        "recipe": recipe,
        "results": [each.as_dict() for each in found],
    }


def text(found: list[Measurement]) -> str:
    """Return the figures as a table."""
    head = ["cache mode", "backend", "first epoch", "later epochs", "RAM", "mapped", "disk", "processes", "persistent"]
    rows = []
    for each in found:
        plain = each.as_dict()
        rows.append(
            [
                each.cache_mode,
                each.backend,
                f"{each.first_epoch:.2f} s",
                f"{each.later_epoch:.3f} s",
                f"{each.ram_mib:.0f} MiB",
                f"{each.mapped_mib:.0f} MiB",
                f"{each.disk_mib:.0f} MiB",
                plain["multi_process_safe"],
                "yes" if each.persistent else "no",
            ]
        )
    images = max((each.images for each in found), default=0)
    lost = max((each.failed for each in found), default=0)
    note = f"; {lost} could not be decoded (warm and parity name them)" if lost else ""
    return f"{images} images an epoch{note}; later epochs: median.\n\n{common.table(head, rows)}"

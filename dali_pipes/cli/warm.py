"""`dali-pipes warm`: decodes every sample of a manifest, or a shard of them, into a cache."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dali_pipes.cache import PERSISTENT_MODES
from dali_pipes.cli import common
from dali_pipes.files.urls import place

if TYPE_CHECKING:
    from dali_pipes.manifest.manifest import Manifest
    from dali_pipes.recipe import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    common.add_manifest(parser)
    common.add_recipe(parser)
    common.add_cache(parser, "pinned", PERSISTENT_MODES)
    parser.add_argument(
        "--base",
        type=place,
        help="folder or URL of a cache that is only read, asked before anything is decoded; what a URL gives is kept",
    )
    common.add_workers(parser)
    parser.add_argument(
        "--on-error", default="skip", choices=("raise", "skip"), help="what a bad file does (default: skip)"
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="NUMBER/COUNT",
        help="only this share of the files, numbered from 0 (default: SLURM_ARRAY_TASK_ID and _COUNT, or RANK and "
        "WORLD_SIZE, where they are set)",
    )
    parser.add_argument("--missing", action="store_true", help="decode nothing: list what the cache lacks; 1 if any")
    parser.add_argument(
        "--trust-sources", action="store_true", help="do not look whether files that the cache knows were replaced"
    )
    parser.add_argument(
        "--processes",
        type=common.at_least(1),
        metavar="P",
        help="processes of this machine that share the work and the threads (default: one for each 16 threads)",
    )
    parser.add_argument("--engine", default="local", choices=("local", "ray"), help="(default: local)")
    parser.add_argument("--address", help="of a Ray cluster (default: RAY_ADDRESS, else this machine)")
    parser.add_argument("--chunk", type=common.at_least(1), default=2000, help="samples a Ray task (default: 2000)")
    common.add_decoders(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fill the cache; fail if any sample could not be decoded or kept."""
    from dali_pipes.cache import StoreConfigError
    from dali_pipes.decode import require
    from dali_pipes.warming import shard_from_environment

    require(args.require_decoder)
    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    if args.cache_dir is None:
        raise StoreConfigError("warm needs --cache-dir, the folder of the cache")
    options: dict[str, Any] = {
        "shard": args.shard or shard_from_environment(),
        "cache_mode": args.cache_mode,
        "num_workers": args.num_workers,
        "on_error": args.on_error,
        "trust_sources": args.trust_sources,
    }
    if args.base is not None:
        over = {} if args.cache_mode == "tiered" else {"over": args.cache_mode}
        options |= {"cache_mode": "tiered", "cache_options": {"base": str(args.base), **over}}
    return _list_missing(args, manifest, recipe, options) if args.missing else _warm(args, manifest, recipe, options)


def _warm(args: argparse.Namespace, manifest: Manifest, recipe: Recipe, options: dict[str, Any]) -> int:
    from dali_pipes.warming import shard_of, warm

    wanted = len(shard_of(manifest, options["shard"]))
    with common.progress_bar(wanted, "warming") as bar:
        cluster = {"engine": args.engine, "address": args.address, "chunk": args.chunk, "processes": args.processes}
        report = warm(manifest, recipe, args.cache_dir, progress=bar.update, **cluster, **options)
    document = {
        **{name: value for name, value in asdict(report).items() if name != "failures"},
        "shard": options["shard"],
        "images_per_second": round(report.samples / report.seconds, 1) if report.seconds else None,
        "failures": [{"sample": sample, "message": message} for sample, message in report.failures.items()],
    }
    common.show(
        args,
        document,
        f"{report.samples} samples in {report.seconds:.1f} s: {report.decoded} decoded, {report.hits} already cached; "
        f"{common.failed(report.failed)}.",
    )
    if report.killed:
        each = ", ".join(f"{count} {how}" for how, count in Counter(report.killed).items())
        common.note(args, f"Of the processes {each}; what they had in hand was done again.")
    if report.cache_errors:
        common.note(args, f"The cache could not be written or read {report.cache_errors} times: it is not complete.")
    return common.FAILED if report.failures or report.cache_errors else common.GOOD


def _list_missing(args: argparse.Namespace, manifest: Manifest, recipe: Recipe, options: dict[str, Any]) -> int:
    from dali_pipes.warming import missing, shard_of

    wanted = len(shard_of(manifest, options["shard"]))
    looked = common.progress(missing(manifest, recipe, args.cache_dir, **options), wanted, "looking")
    lacking = [sample for sample, lacks in looked if lacks]
    document = {"samples": wanted, "missing": len(lacking), "numbers": lacking, "shard": options["shard"]}
    lines = [manifest.describe(sample) for sample in lacking]
    common.show(args, document, "\n".join([*lines, f"{len(lacking)} of {wanted} samples are not in the cache."]))
    return common.FAILED if lacking else common.GOOD


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]+)/([0-9]+)", text, re.ASCII)
    if not found or not int(found[1]) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: give NUMBER/COUNT, numbered from 0, as in 3/64")
    return int(found[1]), int(found[2])

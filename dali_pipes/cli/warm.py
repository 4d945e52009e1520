"""`dali-pipes warm`: decodes every sample of a manifest into a cache."""

from __future__ import annotations

import argparse
import time

from dali_pipes.cli import common
from dali_pipes.names import PERSISTENT_MODES


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    common.add_manifest(parser)
    common.add_recipe(parser)
    common.add_cache(parser, "pinned", PERSISTENT_MODES)
    common.add_loading(parser)
    parser.add_argument(
        "--on-error", default="skip", choices=("raise", "skip"), help="what a bad file does (default: skip)"
    )
    common.add_decoders(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fills the cache; fails if any sample could not be decoded or kept."""
    from dali_pipes import cache
    from dali_pipes.decode import require
    from dali_pipes.loader import Loader

    require(args.require_decoder)
    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    cache.default_secret()  # a loader goes on without a cache where there is none to be had; here that is an error
    start = time.perf_counter()
    with Loader(
        manifest,
        recipe,
        batch_size=args.batch_size,
        cache_mode=args.cache_mode,
        cache_dir=args.cache_dir,
        backend="torch",
        num_workers=args.num_workers,
        on_error=args.on_error,
    ) as loader:
        if loader.stats()["cache"]["errors"]:
            raise cache.CacheError(f"{args.cache_dir}: no cache can be opened here, so nothing was decoded.")
        for _ in common.progress(loader.warm(), len(manifest), "warming"):
            pass
        stats, failures = loader.stats(), loader.failures()
    seconds = time.perf_counter() - start
    document = {
        "samples": len(manifest),
        **{name: stats[name] for name in ("decoded", "hits", "misses", "failed")},
        "seconds": round(seconds, 3),
        "images_per_second": round(len(manifest) / seconds, 1),
        "cache": stats["cache"],
        "failures": [{"sample": sample, "message": message} for sample, message in failures.items()],
    }
    text = f"{len(manifest)} samples in {seconds:.1f} s: {stats['decoded']} decoded, {stats['hits']} already cached; "
    common.show(args, document, f"{text}{common.failed(stats['failed'])}.")
    lost = stats["cache"]["errors"]
    if lost:
        common.note(args, f"The cache could not be written or read {lost} times: it is not complete.")
    return common.FAILED if failures or lost else common.GOOD

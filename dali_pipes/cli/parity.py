"""`dali-pipes parity`: do all backends of this machine give the same pixels on your data?"""

from __future__ import annotations

import argparse

from dali_pipes.cli import common
from dali_pipes.errors import BackendError
from dali_pipes.parity import Verdict, compare


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    common.add_manifest(parser)
    common.add_recipe(parser)
    common.add_cache(parser, "none")
    common.add_loading(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compares; good if every bit is the same."""
    names = common.present_backends()
    if len(names) < 2:
        raise BackendError(
            "parity needs two backends, and only torch runs here: install DALI (dali-pipes doctor says how)"
        )
    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    verdict = None
    steps = compare(
        manifest,
        recipe,
        names,
        batch_size=args.batch_size,
        cache_mode=args.cache_mode,
        cache_dir=args.cache_dir,
        num_workers=args.num_workers,
    )
    for step in common.progress(steps, -(-len(manifest) // args.batch_size), "comparing"):
        verdict = step if isinstance(step, Verdict) else None
    if verdict is None or not verdict.samples:
        raise BackendError("nothing was compared: no sample could be decoded (dali-pipes inspect FILE says why)")
    common.show(args, verdict.as_dict(), explain(verdict))
    return common.GOOD if verdict.identical else common.FAILED


def explain(verdict: Verdict) -> str:
    """A verdict in words."""
    lines = [f"{verdict.samples} samples on {', '.join(verdict.backends)}; {verdict.failed} could not be decoded."]
    for each in verdict.differences:
        if each.identical:
            lines.append(f"{each.backend} = {each.reference}: identical, every bit.")
        else:
            lines.append(
                f"{each.backend} differs from {each.reference} in {each.values} values of {each.samples} samples, "
                f"by at most {each.largest:g}, on average {each.mean:.3g}; most in sample {each.worst}."
            )
    return "\n".join(lines)

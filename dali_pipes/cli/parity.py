"""`dali-pipes parity`: do all backends of this machine give the same pixels on your data, and if not, where and why?"""

from __future__ import annotations

import argparse
import collections
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipes.cli import common
from dali_pipes.errors import BackendError
from dali_pipes.names import CHOICES

if TYPE_CHECKING:
    from dali_pipes.manifest.manifest import Manifest
    from dali_pipes.parity import Difference, Explanation, Verdict, golden
    from dali_pipes.recipe import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    common.add_manifest(parser)
    common.add_recipe(parser)
    parser.add_argument("--parity", choices=CHOICES["parity"], help="which promise to check (default: the recipe's)")
    parser.add_argument(
        "--emulate",
        choices=CHOICES["emulate"],
        help="under fast parity: whose arithmetic PyTorch reproduces (default: the recipe's)",
    )
    parser.add_argument(
        "--against", choices=("torchvision",), help="also explain why the usual torchvision pipeline gives other pixels"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for a PNG of each worst sample (it shows your data): both, and where they differ",
    )
    parser.add_argument("--html", type=Path, help="write a report with pictures (of your data) and histograms")
    parser.add_argument("--record", type=Path, help="write digests of every stage, to be replayed on another machine")
    parser.add_argument("--replay", type=Path, help="compare with the digests that --record wrote elsewhere")
    common.add_cache(parser, "none")
    common.add_loading(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compare; the result is good if the promise is kept."""
    from dali_pipes.parity import explain, golden
    from dali_pipes.parity.report import as_html

    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    chosen = {name: getattr(args, name) for name in ("parity", "emulate") if getattr(args, name)}
    recipe = replace(recipe, **chosen)
    names = common.present_backends()
    if recipe.emulate == "dali-gpu":  # what DALI's CPU operators give was not promised then
        names = [name for name in names if name != "dali-cpu"]
    if len(names) < 2 and not (args.against or args.record or args.replay):
        raise BackendError(
            "parity needs two backends, and only torch runs here: install DALI, or use a machine with a GPU to compare "
            'with emulate="dali-gpu" (dali-pipes doctor says what is missing)'
        )
    record = golden.load(args.replay, manifest, recipe) if args.replay else None
    explaining = None
    if args.against:  # refuses what it cannot compare before the long work begins
        explaining = explain(manifest, recipe, batch_size=args.batch_size, num_workers=args.num_workers)
    recorder = golden.Recorder()
    verdict = _compare(args, manifest, recipe, names, recorder)
    document = verdict.as_dict()
    lines = [in_words(verdict, manifest)]
    good = verdict.kept
    explanations: tuple[Explanation, ...] = ()
    if explaining is not None:
        explanations = _last(common.progress(explaining, len(manifest), "explaining"))
        document["against"] = [each.as_dict() for each in explanations]
        lines += map(explained, explanations)
    if record is not None:
        outcome = golden.replay(record, recorder, recipe)
        document["replay"] = outcome.as_dict()
        lines.append(replayed(outcome))
        good = good and outcome.identical
    if args.record:
        text = json.dumps(recorder.document(manifest, recipe), indent=1) + "\n"
        document["recorded"] = _write(args.record, text.encode())
    if args.out:
        document["pictures"] = pictures(args.out, verdict, explanations)
        lines += [f"Wrote {path}" for path in document["pictures"]]
        if not document["pictures"]:
            lines.append(f"No sample differs, so there is no picture to write into {args.out}; --html writes a report.")
    if args.html:
        report = as_html(verdict, explanations, golden.facts(), manifest.describe)
        document["html"] = _write(args.html, report.encode())
    lines += [f"Wrote {path}" for path in (args.record, args.html) if path]
    common.show(args, document, "\n".join(lines))
    return common.GOOD if good else common.FAILED


def _compare(
    args: argparse.Namespace, manifest: Manifest, recipe: Recipe, names: list[str], recorder: golden.Recorder
) -> Verdict:
    from dali_pipes.parity import compare

    steps = compare(
        manifest,
        recipe,
        names,
        batch_size=args.batch_size,
        cache_mode=args.cache_mode,
        cache_dir=args.cache_dir,
        num_workers=args.num_workers,
        watch=recorder.watch if args.record or args.replay else None,
    )
    verdict = _last(common.progress(steps, 2 * len(manifest), "comparing"))
    if not verdict.samples:
        raise BackendError("nothing was compared: no sample could be decoded (dali-pipes inspect FILE says why)")
    return verdict  # type: ignore[no-any-return]


def _last(steps: Iterator[Any]) -> Any:
    return collections.deque(steps, maxlen=1).pop()


def _write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def pictures(folder: Path, verdict: Verdict, explanations: tuple[Explanation, ...]) -> list[str]:
    """Write a PNG for every worst sample, and return their paths."""
    from dali_pipes.parity.pictures import side_by_side

    found = [
        (f"{stage.name}-{difference.backend}", worst)
        for stage in verdict.stages
        for difference, worst in zip(stage.differences, stage.worst)
    ]
    found += [(f"{each.pipeline}-{cause.name}", cause.worst) for each in explanations for cause in each.causes]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, worst in found:
        if worst is not None:
            path = folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-sample-{worst.index}.png"
            side_by_side(worst).save(path)
            paths.append(str(path))
    return paths


def in_words(verdict: Verdict, manifest: Manifest) -> str:
    """Return a verdict in words."""
    lines = [f"{verdict.samples} samples on {', '.join(verdict.backends)}; {common.failed(verdict.failed)}."]
    for stage in verdict.stages:
        if not stage.differences:
            lines.append(f"{stage.name:10}  {stage.note or 'one backend alone'}")
        lines += [f"{stage.name:10}  {_apart(each, manifest)}" for each in stage.differences]
    if verdict.first_difference:
        lines.append(f"The first difference arises in {verdict.first_difference}.")
    kept = "kept" if verdict.kept else "BROKEN"
    lines.append(f'The promise of parity="{verdict.parity}" is {kept}.')
    return "\n".join(lines)


def explained(explanation: Explanation) -> str:
    """Return the causes of a difference from torchvision, in words."""
    head = (
        f"\nAgainst torchvision, {explanation.pipeline}: {explanation.samples} samples, {explanation.skipped} left out."
    )
    if explanation.note:
        head += f"\n  {explanation.note}"
    total = explanation.total
    if total.identical:
        return f"{head}\n  identical, every bit."
    lines = [head, f"  {total.values} values differ, by at most {total.largest:.3g}. Causes:"]
    for cause in explanation.causes:
        unit = "of the output" if cause.name == "normalisation order" else "levels of 255"
        each = cause.difference
        lines.append(
            f"  - {cause.name} (alone: {each.values} values of {each.samples} samples, at most {each.largest:.3g} "
            f"{unit}): {cause.words}"
        )
    return "\n".join(lines)


def replayed(outcome: golden.Replay) -> str:
    """Return a comparison with a record, in words."""
    where = f"recorded on {outcome.machine.get('platform')}, GPU: {outcome.machine.get('gpu') or 'none'}"
    lines = [f"\n{outcome.compared} digests compared with those {where}:"]
    for each in outcome.mismatches:
        first = "" if each.first is None else f", first in sample {each.first}"
        lines.append(
            f"  {each.stage}: {each.here} here differs from {each.recorded} there in {each.samples} samples{first}."
        )
    if outcome.lone:
        lines.append(
            f"  {len(outcome.lone)} samples gave an output on one of the two machines only, first sample "
            f"{outcome.lone[0]}: are the files the same?"
        )
    if outcome.identical:
        lines.append("  identical, every bit.")
    if outcome.alone:
        lines.append(f"  not compared, for nothing here promises their bits: {', '.join(outcome.alone)}.")
    return "\n".join(lines)


def _apart(each: Difference, manifest: Manifest) -> str:
    if each.identical:
        return f"{each.backend} = {each.reference}: identical, every bit ({each.compared} samples)."
    words = f"{each.backend} differs from {each.reference}"
    if each.values:
        words += (
            f" in {each.values} values of {each.samples} samples, by at most {each.largest:g}, on average "
            f"{each.mean:.3g}; most in {manifest.describe(each.worst or 0)}"
        )
    return words + (f"; {each.missing} samples are missing, or of another shape." if each.missing else ".")

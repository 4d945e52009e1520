"""`dali-pipes doctor`: what this machine can run, and what is missing for more; with a manifest, which cache to use."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipes.cli import common
from dali_pipes.cores import usable_cores

if TYPE_CHECKING:
    from dali_pipes.tools.advice import Advice

PACKAGES = (
    *(
        "torch",
        "numpy",
        "Pillow",
        "simplejpeg",
        "pydicom",
        "imagecodecs",
        "pylibjpeg-rle",
        "pyjpegls",
    ),
    *("nvidia-dali-cuda120", "nvidia-dali-cuda130", "cupy-cuda12x", "cupy-cuda13x", "pyarrow"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    common.add_manifest(parser, optional=True)
    common.add_recipe(parser)
    parser.add_argument(
        "--cache-dir", type=Path, help="where a cache would lie (default: the folder of temporary files)"
    )
    common.add_workers(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was found, and measure a manifest's samples if there is one."""
    document = examine()
    rows = [[name, "yes" if reason is None else reason] for name, reason in document["backends"].items()]
    versions = [[name, version or "-"] for name, version in document["packages"].items()]
    lines = [
        f"{document['cpus']} CPUs, {document['memory_bytes'] / 2**30:.1f} GiB of memory, Python {document['python']}, "
        f"GPU: {document['gpu'] or 'none'}",
        "",
        common.table(["backend", "runs here"], rows),
        f'backend="auto" takes {document["auto"]}.',
        f"Passes over memory: {document['passes']}.",
        *([document["warning"]] if document["warning"] else []),
        "",
        *_limits(document),
        "",
        common.table(["package", "version"], versions),
    ]
    if args.manifest is not None:
        advice = _advice(args)
        document["advice"] = advice.as_dict()
        lines += ["", explain(advice)]
    common.show(args, document, "\n".join(lines))
    return common.GOOD


def _limits(document: dict[str, Any]) -> list[str]:
    """Which limits were found where, and what follows from them."""
    rows = [
        [
            each["what"],
            common.size(int(each["amount"])) if "memory" in each["what"] else f"{each['amount']:g}",
            each["where"] + (", counts" if each["counts"] and each["what"] in ("cores", "memory") else ""),
        ]
        for each in document["limits"]
    ]
    found = document["by_default"]
    each = common.size(found["memory_bytes"])
    budget = f"a rank keeps at most {each} in memory"
    if found["ranks_share"]:
        budget = f"ranks share {common.size(found['shared_memory_bytes'])} in memory, or keep {each} each"
    return [
        common.table(["limit of", "found", "where"], rows),
        f"By default a rank uses {found['workers']} workers, and {budget}.",
    ]


def explain(advice: Advice) -> str:
    """Advice in words."""
    costs, machine = advice.costs, advice.machine
    rows = [
        [
            each.mode,
            common.size(each.disk_bytes),
            common.size(each.memory_bytes),
            f"{each.first_epoch:.3g} s",
            f"{each.later_epoch:.3g} s",
            each.lacking or "yes",
        ]
        for each in advice.modes
    ]
    head = ["cache mode", "disk", "memory", "first epoch", "later epochs", "fits here"]
    return "\n".join(
        [
            f"{advice.samples} samples; {advice.measured} measured, {advice.failed} of them cannot be decoded. "
            f"Decoding: {1 / costs.decode_seconds:.0f} images/s with {machine.workers} workers. "
            f"A base image takes {common.size(costs.base_bytes)}, its file {common.size(costs.source_bytes)}.",
            f"{common.size(machine.memory)} of memory and {common.size(machine.free_disk)} of disk are free.",
            "",
            common.table(head, rows),
            "",
            f'Use cache_mode="{advice.recommended}": {advice.reason} Times are estimates; bench measures them.',
        ]
    )


def _advice(args: argparse.Namespace) -> Advice:
    from tqdm import tqdm

    from dali_pipes.tools.advice import advise

    manifest, recipe = common.manifest_of(args), common.recipe_of(args)
    with tqdm(desc="measuring", unit="", file=sys.stderr, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return advise(manifest, recipe, args.cache_dir, workers=args.num_workers, progress=progress)


def examine() -> dict[str, Any]:
    """Facts about this machine, as plain values."""
    import torch

    from dali_pipes import backends
    from dali_pipes.tools.limits import consequences, limits

    packages = {name: _version(name) for name in PACKAGES}
    both = packages["nvidia-dali-cuda120"] and packages["nvidia-dali-cuda130"]
    return {
        "python": platform.python_version(),
        "cpus": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "limits": [asdict(each) for each in limits()],
        "by_default": consequences(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "backends": {name: backends.missing(name) for name in backends.BACKENDS},
        "auto": backends.resolve("auto"),
        "passes": _passes(),
        "packages": packages,
        "warning": "both DALI builds are installed, into the same folder: uninstall both, then install one."
        if both
        else None,
    }


def _passes() -> str:
    from dali_pipes import compiled

    library = compiled.library()
    if library is None:
        return "NumPy's (slower; a C compiler builds faster ones at install)"
    if missing := compiled.lacking(library):
        return f"compiled from older sources: {', '.join(missing)} are missing, NumPy's serve there; install again"
    return "compiled"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""`dali-pipes doctor`: what this machine can run, and what is missing for more."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from typing import Any

from dali_pipes import backends
from dali_pipes.cli import common

PACKAGES = (
    *(
        "torch",
        "numpy",
        "Pillow",
        "simplejpeg",
        "pydicom",
        "imagecodecs",
        "pylibjpeg-openjpeg",
        "pylibjpeg-rle",
        "pyjpegls",
    ),
    *("nvidia-dali-cuda120", "nvidia-dali-cuda130", "cupy-cuda12x", "cupy-cuda13x", "pyarrow"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what was found; always good."""
    document = examine()
    rows = [[name, "yes" if reason is None else reason] for name, reason in document["backends"].items()]
    versions = [[name, version or "-"] for name, version in document["packages"].items()]
    lines = [
        f"{document['cpus']} CPUs, {document['memory_bytes'] / 2**30:.1f} GiB of memory, Python {document['python']}, "
        f"GPU: {document['gpu'] or 'none'}",
        "",
        common.table(["backend", "runs here"], rows),
        f'backend="auto" takes {document["auto"]}.',
        *([document["warning"]] if document["warning"] else []),
        "",
        common.table(["package", "version"], versions),
    ]
    common.show(args, document, "\n".join(lines))
    return common.GOOD


def examine() -> dict[str, Any]:
    """Facts about this machine, as plain values."""
    import torch

    packages = {name: _version(name) for name in PACKAGES}
    both = packages["nvidia-dali-cuda120"] and packages["nvidia-dali-cuda130"]
    return {
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "backends": {name: backends.missing(name) for name in backends.BACKENDS},
        "auto": backends.resolve("auto"),
        "packages": packages,
        "warning": "both DALI builds are installed, into the same folder: uninstall both, then install one."
        if both
        else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

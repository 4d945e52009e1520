"""What a process is given to warm a cache with: samples as arrays in a memory file, all else as JSON.

Nothing is pickled, and no path is written to a disk.
"""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.decode import Limits
from dali_pipes.errors import ConfigError
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.rows import MASK, MASK_FRAME

_COLUMNS = (MASK, MASK_FRAME)


def write_samples(manifest: Manifest) -> int:
    """Return the descriptor of a memory file that holds what fetching needs of a manifest; the caller closes it."""
    columns = {name: manifest.columns[name] for name in _COLUMNS if name in manifest.columns}
    texts = {"paths": manifest.paths, "ids": manifest.ids, **{f"column {name}": text for name, text in columns.items()}}
    arrays: dict[str, Any] = {"frames": manifest.frames}
    for name, text in texts.items():
        arrays[f"{name} text"], arrays[f"{name} ends"] = text.bytes(), text.offsets
    fd = os.memfd_create("dali-pipes-samples", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        np.savez(file, **arrays)
    return fd


def read_samples(fd: int, root: str, remote: bool) -> Manifest:
    """Return the manifest that `write_samples` wrote, without labels."""
    with open(f"/proc/self/fd/{fd}", "rb") as file, np.load(file, allow_pickle=False) as arrays:
        texts = {
            name.removesuffix(" text"): TextColumn.of(arrays[name].tobytes(), arrays[name[:-4] + "ends"])
            for name in arrays.files
            if name.endswith(" text")
        }
        frames = arrays["frames"]
    blank = TextColumn.blank(len(frames))
    return Manifest(
        root=root if remote else Path(root),
        paths=texts["paths"],
        ids=texts["ids"],
        frames=frames,
        labels=np.full(len(frames), -1, np.int64),
        splits=blank,
        groups=blank,
        columns={name.removeprefix("column "): text for name, text in texts.items() if name.startswith("column ")},
    )


def plain(value: Any) -> Any:
    """Return an option as JSON values; `from_plain` reads it back.

    Raises:
        ConfigError: there is no way to write it.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, Limits):
        return {"limits": asdict(value)}
    if isinstance(value, dict):
        return {"dict": {str(name): plain(each) for name, each in value.items()}}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    raise ConfigError(f"warm(processes=...): an option of type {type(value).__name__} cannot be given to a process.")


def from_plain(value: Any) -> Any:
    """Return what `plain` wrote; a tuple has become a list."""
    if isinstance(value, list):
        return [from_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "limits":
        known = {each.name for each in fields(Limits)}
        return Limits(**{name: each for name, each in inner.items() if name in known})
    return {name: from_plain(each) for name, each in inner.items()}

"""Folders of images as tables: class folders, and trees of DICOM files."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

from dali_pipes.errors import DaliPipesWarning, ManifestError
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.rows import Table
from dali_pipes.manifest.trees import count_frames, existing_folder, list_files, look_into


def class_folders(root: str | os.PathLike[str]) -> tuple[Path, Table]:
    """Return the root and the images of its class folders; see `Manifest.from_folder`."""
    from dali_pipes.decode import sniff_file

    base = existing_folder(root)
    listing = list_files(base)
    files = [path for path in listing.files if "/" in path]
    rows = [path for path, kind in zip(files, look_into(base, files, sniff_file)) if kind]
    if not rows:
        raise ManifestError(f"{base}: no image found in its class folders; expected <root>/<class>/<image files>.")
    listing.warn(base)
    labels = [path.split("/", 1)[0] for path in rows]
    _warn_of_empty(base, labels, listing.left_out)
    known = {"path": TextColumn(rows), "label": TextColumn(labels)}
    return base, Table(str(base), known, range(len(rows)), listed=True)


def _warn_of_empty(base: Path, labels: list[str], left_out: Counter[str]) -> None:
    with os.scandir(base) as entries:
        folders = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    empty = sorted(folders - set(labels))
    if empty and not left_out:  # a folder that was left out has been told of
        warnings.warn(
            f"{base}: {len(empty)} folders hold no image and are no class: {', '.join(map(ascii, empty[:10]))}"
            f"{', ...' if len(empty) > 10 else ''}. Give classes= where they must have a number.",
            DaliPipesWarning,
            stacklevel=4,
        )


def dicom_tree(root: str | os.PathLike[str], without_preamble: bool) -> tuple[Path, Table]:
    """Return the root and the frames of the DICOM files below it; see `Manifest.from_dicom_tree`."""
    base = existing_folder(root)
    listing = list_files(base)
    counts = count_frames(base, listing.files, without_preamble)
    rows = [(path, frame) for path, frames in zip(listing.files, counts) for frame in range(frames)]
    if not rows:
        raise ManifestError(
            f"{base}: no DICOM file with pixels found; files are recognised by content (DICM at byte 128). "
            "For files that lack it, give without_preamble=True."
        )
    listing.warn(base)
    known = {
        "path": TextColumn(path for path, _ in rows),
        "frame": TextColumn(str(frame) for _, frame in rows),
        "group": TextColumn(os.path.dirname(path) for path, _ in rows),
    }
    return base, Table(str(base), known, range(len(rows)), listed=True)


def holds_dicom(root: str | os.PathLike[str]) -> bool:
    """Return whether the first image under a folder, by path, is DICOM: then it is a tree of such files.

    Raises:
        ManifestError: no such folder, or a file before that image cannot be read.
    """
    from dali_pipes.decode import sniff_file

    base = existing_folder(root)
    kinds = (look_into(base, [relative], sniff_file)[0] for relative in list_files(base).files)
    return next(filter(None, kinds), None) == "dicom"

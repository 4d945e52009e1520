"""Listing folders: which files a tree holds, what is left out of it and why, and what each file is."""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dali_pipes.errors import DaliPipesWarning, DecodeError, ManifestError, NoImageError
from dali_pipes.manifest.rows import MOST_LINES
from dali_pipes.privacy import described, hint, shows_paths

T = TypeVar("T")

CACHE_TAG = "CACHEDIR.TAG"
"""A folder that holds such a file is a cache (https://bford.info/cachedir/); it is not listed."""

_TAG_BEGINS = b"Signature: 8a477f597d28d172789f06886806bc55"
_OURS = b"a cache made by dali-pipes"  # in the second line of a tag of ours

FILES_A_CHILD = 64
"""One more process counts frames for each so many DICOM files, up to the number of processor cores."""


@dataclass
class Listing:
    """The files below a root.

    Attributes:
        files: paths relative to the root, with forward slashes, sorted.
        left_out: reason to number of entries; what is hidden (begins with a dot) is not counted.
    """

    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def warn(self, root: Path) -> None:
        """Warn of what was left out."""
        if self.left_out:
            told = "; ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
            warnings.warn(f"{root}: left out of the list: {told}.", DaliPipesWarning, stacklevel=4)


def existing_folder(root: str | os.PathLike[str]) -> Path:
    """Return `root` as a path.

    Raises:
        ManifestError: it is no folder.
    """
    if not os.path.isdir(root):
        raise ManifestError(f"{os.fspath(root)}: no such folder.")
    return Path(root)


def list_files(root: Path) -> Listing:
    """Return the regular files below `root` that are not hidden; links are followed as long as they stay inside of it.

    Raises:
        ManifestError: a folder that cannot be listed, or a root that is a cache of ours itself: its entries would be
            taken for samples.
    """
    if _OURS in _tag_of(root):
        raise ManifestError(
            f"{root} is a dali-pipes cache itself (it holds a {CACHE_TAG}), so that its entries would be listed as "
            "samples. Give the cache a folder of its own (cache_dir=), clear this one with `dali-pipes cache purge`, "
            f"and remove its {CACHE_TAG}."
        )
    found, real = Listing(), os.path.realpath(root)
    status = os.stat(real)
    waiting = [("", frozenset({(status.st_dev, status.st_ino)}))]
    while waiting:
        below, above = waiting.pop()
        for entry in _entries(os.path.join(root, below)):
            if entry.name.startswith("."):
                continue
            path = os.path.join(below, entry.name)
            reason, inner = _judged(entry, real, above)
            if reason:
                found.left_out[reason] += 1
            elif inner is None:
                found.files.append(path.replace(os.sep, "/"))
            else:
                waiting.append((path, above | {inner}))
    found.files.sort()
    return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        name = described("a folder", folder, folder)
        raise ManifestError(
            f"{name} cannot be listed: {error.strerror}. Make it readable, or move it away{hint()}."
        ) from error


def _judged(
    entry: os.DirEntry[str], real: str, above: frozenset[tuple[int, int]]
) -> tuple[str, tuple[int, int] | None]:
    """Why an entry is left out, or "", and a folder's device and inode, or None for a file."""
    try:
        status = entry.stat()
    except OSError:
        return "links that lead nowhere", None
    kind = "folders" if stat.S_ISDIR(status.st_mode) else "files"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.commonpath([real, target]) != real:
            return f"linked {kind} outside of the root (move them in, or take a root that holds both)", None
    if stat.S_ISREG(status.st_mode):
        return "", None
    if kind == "files":
        return "pipes, sockets or devices", None
    inner = (status.st_dev, status.st_ino)
    if inner in above:
        return "linked folders that lead back to a folder above them", None
    return (f"folders with a {CACHE_TAG}" if _tag_of(entry.path).startswith(_TAG_BEGINS) else ""), inner


def _tag_of(folder: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a folder's tag; none where it has no tag, or one that is no regular file."""
    try:
        with open(os.open(os.path.join(folder, CACHE_TAG), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(256) or b""
    except OSError:
        return b""


def look_into(base: Path, files: Sequence[str], look: Callable[[Path], T], threads: int = 1) -> list[T]:
    """Return what `look` finds in each file.

    Raises:
        ManifestError: files that cannot be read; all of them, by their numbers in sorted order.
    """
    problems: dict[int, str] = {}

    def looked(numbered: tuple[int, str]) -> T | None:
        number, relative = numbered
        try:
            return look(base / relative)
        except OSError as error:
            problems[number] = error.strerror or str(error)
            return None

    if threads == 1:
        found = [looked(each) for each in enumerate(files)]
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-list") as pool:
            found = list(pool.map(looked, enumerate(files)))
    if problems:
        raise _unreadable(base, files, problems)
    return found  # type: ignore[return-value]


def _unreadable(base: Path, files: Sequence[str], problems: dict[int, str]) -> ManifestError:
    numbers = sorted(problems)
    shown = [f"  {described(f'file {number}', files[number])}: {problems[number]}" for number in numbers[:MOST_LINES]]
    if len(numbers) > MOST_LINES:
        shown.append(f"  and {len(numbers) - MOST_LINES} more (all are in the error's `problems`)")
    ask = "" if shows_paths() else f"; files are numbered in sorted order{hint()}"
    head = f"{base}: {len(numbers)} of {len(files)} files cannot be read; make them readable, or move them away{ask}:"
    return ManifestError("\n".join([head, *shown]), {number: problems[number] for number in numbers})


def count_frames(base: Path, files: Sequence[str], without_preamble: bool) -> list[int]:
    """Return how many frames with pixels each file holds: 0 for what is not DICOM or holds no image.

    Headers are parsed in child processes with limits of time and memory. A file whose header is damaged, or asks for
    too much, counts as one frame, so that it is listed and its damage reported when it is loaded.

    Raises:
        ManifestError: files that cannot be read.
    """
    from dali_pipes.decode import DecoderPool, is_dicom

    dicom = look_into(base, files, lambda path: is_dicom(path, without_preamble))
    chosen = [number for number, yes in enumerate(dicom) if yes]
    counts = [0] * len(files)
    if not chosen:
        return counts
    workers = min(len(os.sched_getaffinity(0)), 1 + len(chosen) // FILES_A_CHILD)
    with DecoderPool(workers) as children:

        def count(path: Path) -> int:
            try:
                return children.count_frames(path)
            except NoImageError:
                return 0
            except DecodeError:
                return 1

        found = look_into(base, [files[number] for number in chosen], count, workers)
    for number, frames in zip(chosen, found):
        counts[number] = frames
    return counts

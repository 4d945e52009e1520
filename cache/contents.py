"""Which files of a cache folder are ours, and their removal.

Only files whose names this package gives are ever counted or removed, and only in a folder that carries our
CACHEDIR.TAG. Whatever else lies there is left alone and counted as ``unknown``.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from .budget import QUARANTINE
from .errors import StoreConfigError
from .files import Folder
from .lock import exclusive
from .modes import REGISTRY
from .tagging import TAG_NAME, is_tagged

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}-[0-9]+-[0-9]+\.[0-9a-f]{16}\.tmp")
_SET_ASIDE = re.compile(QUARANTINE + r"/[0-9a-f]{16}(-[0-9]+)?\.[a-z]+")
_BESIDE = {
    "sources": re.compile(r"[0-9a-f]{16}\.(seen|src)"),
    "claims": re.compile(r"[0-9a-f]{32}\.claim|[0-9a-f]{16}\.now"),
    "parts": re.compile(r"[0-9a-f]{16}\.(made|prt)"),
    "bucket": re.compile(r"[0-9a-f]{16}/[0-9a-f]{16}\.(idx|seen|made)"),
}
"""The folders beside those of the modes."""

File = tuple[str, int]
"""Name below the cache's folder, and bytes on disk."""


@dataclass(frozen=True)
class Contents:
    """Files of a cache.

    Attributes:
        ours: files that this package made.
        quarantined: damaged entries that were set aside.
        unknown: all others. The tag is in none of these.
    """

    ours: list[File] = field(default_factory=list)
    quarantined: list[File] = field(default_factory=list)
    unknown: list[File] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes on disk of what we made."""
        return sum(size for _, size in (*self.ours, *self.quarantined))


def patterns() -> dict[str, re.Pattern[str]]:
    """Return, for each folder in a cache, what the names of our files in it look like."""
    modes = {mode.name: mode.store().pattern for mode in REGISTRY if mode.on_disk}
    return {name: pattern for name, pattern in modes.items() if pattern is not None} | _BESIDE


def require_cache(directory: str | os.PathLike[str]) -> str:
    """Return the folder's absolute path. Raises StoreConfigError if it does not carry our tag."""
    path = os.path.abspath(os.fspath(directory))
    folder = Folder(path, read_only=True)
    try:
        if not is_tagged(folder):
            raise StoreConfigError(
                f"{path} is not a cache of dali-pipes (it has no {TAG_NAME} of ours): "
                "give the folder that was given as cache_dir"
            )
    finally:
        folder.close()
    return path


def look(directory: str) -> Contents:
    """Return all files of a cache."""
    found = Contents()
    known = patterns()
    root = Folder(directory, read_only=True)
    for name in root.names():
        if name == TAG_NAME:
            continue
        status = root.status(name) if name in known else None
        if status is None or not stat.S_ISDIR(status.st_mode):  # a link in place of a folder is not followed
            (found.ours if _TEMPORARY.fullmatch(name) else found.unknown).append((name, 0))
    root.close()
    for inner, pattern in known.items():
        folder = Folder(os.path.join(directory, inner), read_only=True, follow=False)
        for name, status in folder.scan():
            kind = found.unknown
            if pattern.fullmatch(name) or _TEMPORARY.fullmatch(name):
                kind = found.ours
            elif _SET_ASIDE.fullmatch(name):
                kind = found.quarantined
            kind.append((f"{inner}/{name}", status.st_blocks * 512))
        folder.close()
    return found


def purge(directory: str) -> Contents:
    """Remove all files that we made; return what was there.

    Each folder is listed and emptied under its lock, in which packed slots are also buried, and the notes on dead slots
    leave last. So no entry that was deleted or replaced is seen again, whoever uses the cache meanwhile.
    """
    with contextlib.ExitStack() as stack:
        for inner in patterns():
            folder = Folder(os.path.join(directory, inner), read_only=True, follow=False)
            stack.callback(folder.close)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                stack.enter_context(exclusive(folder))
        found = look(directory)
        names = [name for name, _ in (*found.ours, *found.quarantined)]
        remove(directory, sorted(names, key=lambda name: name.endswith(".del")))
    return found


def remove(directory: str, names: Iterable[str]) -> None:
    """Remove files of a cache."""
    for name in names:
        inner, slash, rest = name.partition("/")
        folder = Folder(os.path.join(directory, inner) if slash else directory, read_only=True, follow=not slash)
        folder.delete(rest or inner)
        folder.close()


def remove_cache(directory: str) -> None:
    """Remove a cache: the files that we made, then the folders that are empty by then, the tag last."""
    root = Folder(directory, read_only=True)
    if not is_tagged(root):
        return
    found = look(directory)
    remove(directory, [name for name, _ in (*found.ours, *found.quarantined)])
    for inner in patterns():
        folder = Folder(os.path.join(directory, inner), read_only=True, follow=False)
        for shard in folder.shards():
            folder.remove_folder(shard)
        folder.close()
        root.remove_folder(inner)
    if set(root.names()) == {TAG_NAME}:
        root.delete(TAG_NAME)
        root.remove_folder()
    root.close()

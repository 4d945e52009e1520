"""The CACHEDIR.TAG that marks a folder as a cache of ours, and what it tells of who may use the cache."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .access import Access
from .errors import StoreConfigError
from .files import Folder

TAG_NAME = "CACHEDIR.TAG"
TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This folder is a cache made by dali-pipes. Its content can be made again.\n"
    b"# See https://bford.info/cachedir/\n"
)


def tag(folder: Folder) -> None:
    """Mark ``folder`` as a cache of ours. Raises StoreConfigError if another program's cache lives there."""
    if is_tagged(folder):
        return
    with contextlib.suppress(FileExistsError):
        folder.publish(TAG_NAME, [TAG], replace=False, sync=True)
        return
    found = folder.read(TAG_NAME, limit=len(TAG) + 1)
    if len(found) == len(TAG) and sum(a == b for a, b in zip(found, TAG)) > len(TAG) // 2:
        if found != TAG:  # ours, with damaged bytes
            folder.publish(TAG_NAME, [TAG], sync=True)
    else:
        raise StoreConfigError(
            f"{folder.path} holds a {TAG_NAME} of another program: choose an empty folder for the cache"
        )


def is_tagged(folder: Folder) -> bool:
    """Return whether ``folder`` holds our CACHEDIR.TAG."""
    try:
        return folder.read(TAG_NAME, limit=len(TAG) + 1) == TAG
    except OSError:
        return False


def access_to(directory: str, shared_group: str | int | None) -> Access:
    """Return how to write into a cache: for ``shared_group``, else for the group that its tag tells of.

    In or below a folder in which anyone may write (/tmp) another user's tag is not believed, because it may be a trap.
    """
    if shared_group is not None:
        return Access.of(shared_group)
    root = Folder(directory, read_only=True)
    with contextlib.suppress(OSError):
        tagged = root.status(TAG_NAME) if is_tagged(root) else None
        if tagged is not None and stat.S_IMODE(tagged.st_mode) == Access.of(tagged.st_gid).file:
            place = Path(root.path).resolve()
            open_to_all = any(path.stat().st_mode & stat.S_IWOTH for path in (place, *place.parents))
            if tagged.st_uid == os.getuid() or not open_to_all:
                return Access.of(tagged.st_gid)
    return Access()

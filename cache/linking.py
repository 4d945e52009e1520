"""A file of one cache in another: by a hard link where that is as good as a copy, else copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import numpy as np

from .access import Access
from .base import Array
from .files import Folder, chunks


def carry(source: Folder, name: str, target: Folder, new: str, link: bool, size: int | None = None) -> bool:
    """Make a complete file of another folder appear in ``target``; return whether it is a link.

    Args:
        source: the folder.
        name: of the file in it.
        target: where it appears.
        new: under which name.
        link: whether a link will do. Only a file of this user's with the target's own access rights is linked.
        size: copy only so many bytes from the beginning; the rest is a hole.

    Raises:
        FileExistsError: the name is taken. OSError: what else the system refuses. IntegrityError: the file shrinks.
    """
    if link and _is_as_ours(source, name, target.access):
        try:
            target.link(name, new, source)
            return True
        except FileExistsError:
            raise
        except OSError:
            pass  # another file system, or one without links, or no more links to this file
    with source.open(name) as fd:
        whole = os.fstat(fd).st_size
        target.publish(new, _pieces(fd, whole if size is None else min(size, whole)), whole, replace=False, sync=True)
    return False


def _is_as_ours(source: Folder, name: str, access: Access) -> bool:
    status = source.status(name)
    if status is None:
        raise FileNotFoundError(f"{name} is gone")
    as_written = stat.S_IMODE(status.st_mode) == access.file and access.gid in (-1, status.st_gid)
    return as_written and status.st_uid == os.geteuid()


def _pieces(fd: int, size: int) -> Iterator[Any]:
    if size:
        yield from chunks(fd, 0, size)


def is_same(one: Array, other: Array) -> bool:
    """Return whether two entries are equal, bit for bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return bool(np.array_equal(one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)))

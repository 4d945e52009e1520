"""The CACHEDIR.TAG that marks a folder as a cache of ours, and what it tells of who may use the cache."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from hashlib import blake2b
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
_SIGNATURE = re.compile(rb"# Names are made with the secret ([0-9a-f]{16}) \(check ([0-9a-f]{8})\)\.\n")
_LONGEST = len(TAG) + 200


def tag(folder: Folder) -> None:
    """Mark ``folder`` as a cache of ours. Raises StoreConfigError if another program's cache lives there."""
    if is_tagged(folder):
        return
    with contextlib.suppress(FileExistsError):
        folder.publish(TAG_NAME, [TAG], replace=False, sync=True)
        return
    whole = folder.read(TAG_NAME, limit=_LONGEST)
    found, rest = whole[: len(TAG)], whole[len(TAG) :]
    if len(found) == len(TAG) and sum(a == b for a, b in zip(found, TAG)) > len(TAG) // 2:
        if found != TAG:  # ours, with damaged bytes
            folder.publish(TAG_NAME, [TAG, rest], sync=True)
    else:
        raise StoreConfigError(
            f"{folder.path} holds a {TAG_NAME} of another program: choose an empty folder for the cache"
        )


def is_tagged(folder: Folder) -> bool:
    """Return whether ``folder`` holds our CACHEDIR.TAG."""
    try:
        return folder.read(TAG_NAME, limit=len(TAG)) == TAG
    except OSError:
        return False


def with_signature(fingerprint: str) -> bytes:
    """Return the text of a tag that says with which secret names are made."""
    return TAG + f"# Names are made with the secret {fingerprint} (check {_check(fingerprint)}).\n".encode()


def signature(folder: Folder) -> str | None:
    """Return the fingerprint in a cache's tag; None if there is none, or a damaged one."""
    try:
        return signature_of(folder.read(TAG_NAME, limit=_LONGEST))
    except FileNotFoundError:
        return None


def signature_of(text: bytes) -> str | None:
    """Return the fingerprint in the text of a tag; None if there is none, or a damaged one."""
    found = _SIGNATURE.fullmatch(text[len(TAG) :]) if text.startswith(TAG) else None
    if found is None or _check(found[1].decode()) != found[2].decode():
        return None
    return found[1].decode()


def _check(fingerprint: str) -> str:
    """Return digits that a damaged fingerprint does not have."""
    return blake2b(fingerprint.encode(), digest_size=4).hexdigest()


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

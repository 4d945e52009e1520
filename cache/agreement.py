"""Hosts agree on the secret that names a cache's entries: the cache's tag holds a fingerprint of it.

With another secret nothing in a cache would ever be found, without a word. So whoever makes names compares first. The
fingerprint is a keyed digest of a constant, 64 bits: it tells nothing of the secret that the records beside it do not
tell too, whose every ``mac`` is such a digest.

A cache without a fingerprint (an old one, or one whose entries nobody has noted) is judged by its records: if there are
some and none was signed with the secret at hand, it is another's. Otherwise the first who opens it to write puts his
fingerprint into the tag.
"""

from __future__ import annotations

import contextlib
import os
from hashlib import blake2b

import numpy as np

from .errors import IntegrityError, SecretError
from .files import Folder
from .journal import is_journal, is_signed, valid
from .key import SECRET_VARIABLE, fold
from .lock import exclusive
from .notes import RECORD, SUFFIX
from .tagging import TAG_NAME, is_tagged, signature, tag, with_signature

_SIGNED = {
    "parts": (SUFFIX, RECORD.itemsize, b"dali-pipes part"),
    "sources": (".seen", 88, b"dali-pipes path"),
}
"""Journals whose records carry a mac: by folder their suffix, bytes of a record, and what the key is derived for."""

_LOOKED_AT = 16  # records of a journal: most were written by one process, with one secret


def fingerprint(secret: bytes) -> str:
    """Return 16 hexadecimal digits that tell secrets apart.

    >>> fingerprint(b"of the tests") == fingerprint(b"of others")
    False
    """
    return blake2b(b"names", digest_size=8, key=fold(secret), person=b"dali-pipes tag").hexdigest()


def agree(root: Folder, secret: bytes) -> None:
    """Make sure that the names in a cache are made with ``secret``, and note so in its tag where that can be written.

    ``root``: the cache's folder. Raises SecretError if they are made with another, StoreConfigError if the folder holds
    another program's cache. A folder that cannot be read is no disagreement.
    """
    mine, found, foreign = fingerprint(secret), None, False
    with contextlib.suppress(OSError):
        found = signature(root)
        if found is None:
            foreign = signed_with(root, secret) is False
            if not foreign and not root.read_only:
                found = sign(root, mine)
    if foreign or found not in (None, mine):
        raise disagreement(root.path, found, mine)


def sign(root: Folder, mine: str) -> str | None:
    """Put a fingerprint into the tag; return the one that is there then, which another process may have put."""
    tag(root)
    with exclusive(root):
        if signature(root) is None:
            root.publish(TAG_NAME, [with_signature(mine)], sync=True)
    return signature(root)


def signed_with(root: Folder, secret: bytes) -> bool | None:
    """Return whether any record that was looked at was signed with ``secret``; None if there are no records."""
    found: bool | None = None
    for inner, (suffix, _, _) in _SIGNED.items() if is_tagged(root) else ():
        folder = Folder(os.path.join(root.path, inner), read_only=True, follow=False)
        try:
            for name in folder.names():
                said = journal_signed_with(_read(folder, name), inner, secret) if is_journal(name, suffix) else None
                if said:
                    return True
                found = found if said is None else False
        finally:
            folder.close()
    return found


def journal_signed_with(data: bytes, inner: str, secret: bytes) -> bool | None:
    """Return whether a few records of a journal of the folder ``inner`` were signed with ``secret``; None without any.

    They are taken from its beginning to its end.
    """
    _, size, person = _SIGNED[inner]
    key = blake2b(secret, digest_size=32, person=person).digest()
    records = np.frombuffer(data, f"V{size}", len(data) // size)
    records = records[valid(records)]
    some = records[:: max(1, len(records) // _LOOKED_AT)]
    return any(is_signed(record.tobytes(), key) for record in some) if len(some) else None


def _read(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name)
    except (OSError, IntegrityError):  # gone, another user's, or shrinking
        return b""


def disagreement(place: str, found: str | None, mine: str) -> SecretError:
    """Return the error that says what was found and what to do."""
    theirs = f"that of fingerprint {found}" if found else "the one that signed its records"
    return SecretError(
        f"{place}: the names in this cache were made with another secret ({theirs}; yours has {mine}), so nothing in "
        f"it would be found. Use the secret of the host that made it: set {SECRET_VARIABLE} to the same text, or "
        "copy its ~/.config/dali-pipes/cache-secret. Or choose another folder; 'dali-pipes cache export' can re-key a "
        "copy."
    )

"""How messages name samples and files: by number and a short digest, because paths and ids may identify patients."""

from __future__ import annotations

import hashlib
import os

SHOW_PATHS = "DALI_PIPES_SHOW_PATHS"
"""Environment variable: set to 1, messages name samples, files and groups as they are called."""


def shows_paths() -> bool:
    """Return whether the user asked for names in messages."""
    return os.environ.get(SHOW_PATHS) == "1"


def short_digest(name: str) -> str:
    """Return 8 hex digits that tell a name from others without giving it away to readers of a log."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def described(what: str, name: str, shown: str | None = None) -> str:
    """Return how a message names something, such as `sample 3 [5f0a11c2]`.

    Args:
        what: says what it is, such as "sample 3".
        name: its name, of which the digest is made.
        shown: what follows where names are shown; the name by default. What no terminal should get is escaped.
    """
    words = f"{what} [{short_digest(name)}]"
    if not shows_paths():
        return words
    text = name if shown is None else shown
    return f"{words} {text if text.isprintable() else ascii(text)}"


def hint() -> str:
    """Return how to learn the names, or an empty text where they are shown already."""
    return "" if shows_paths() else f" ({SHOW_PATHS}=1 names them)"

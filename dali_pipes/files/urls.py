"""URLs where a folder or a file may be named: `s3://bucket/archive` beside `/data/archive`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

Root = Path | str
"""What paths are relative to: a folder, or a URL without a slash at its end."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as `s3://bucket/folder`."""
    return isinstance(path, str) and _URL.match(path) is not None


def root_of(path: str | os.PathLike[str]) -> Root:
    """Return a folder as a path, a URL as text without a slash at its end."""
    return path.rstrip("/") if isinstance(path, str) and is_url(path) else Path(path)


def place(path: str | os.PathLike[str]) -> Root:
    """Return a file as a path, or as a URL."""
    return path if isinstance(path, str) and is_url(path) else Path(path)


def parent(path: str | os.PathLike[str]) -> Root:
    """Return the folder, or the URL, that a file lies in."""
    return path.rpartition("/")[0] if isinstance(path, str) and is_url(path) else Path(path).parent


def shown(url: str) -> str:
    """Write a URL without user, password and query, which may be secret.

    >>> shown("https://ann:pass@host/folder?X-Amz-Signature=1")
    'https://host/folder'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def title(path: Root) -> str:
    """Write a path, or a URL without what may be secret in it."""
    return shown(path) if isinstance(path, str) else str(path)


def common(urls: Iterable[str]) -> str:
    """Return the longest URL that all files lie below; "" where protocol or bucket differ.

    >>> common(["s3://bucket/a/b/1.jpg", "s3://bucket/a/c/2.jpg"])
    's3://bucket/a'
    """
    found: list[str] | None = None
    for url in urls:
        parts = url.split("/")[:-1]
        if found is None:
            found = parts
        else:
            same = next((i for i, (a, b) in enumerate(zip(found, parts)) if a != b), min(len(found), len(parts)))
            found = found[:same]
    return "/".join(found) if found and len(found) > 2 and found[2] else ""

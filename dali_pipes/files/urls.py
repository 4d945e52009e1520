"""URLs where a folder or a file may be named: `s3://bucket/archive` beside `/data/archive`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dali_pipes.cache.objects import is_url as is_url
from dali_pipes.cache.objects import shown as shown

Root = Path | str
"""What paths are relative to: a folder, or a URL without a slash at its end."""


def root_of(path: str | os.PathLike[str]) -> Root:
    """Return a folder as a path, a URL as text without a slash at its end."""
    return path.rstrip("/") if isinstance(path, str) and is_url(path) else Path(path)


def place(path: str | os.PathLike[str]) -> Root:
    """Return a file as a path, or as a URL."""
    return path if isinstance(path, str) and is_url(path) else Path(path)


def parent(path: str | os.PathLike[str]) -> Root:
    """Return the folder, or the URL, that a file lies in."""
    return path.rpartition("/")[0] if isinstance(path, str) and is_url(path) else Path(path).parent


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

"""How far an epoch is, for people who wait for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any


def shown(batches: Iterator[Any], epoch: int, done: int, total: int, wanted: bool) -> Iterator[Any]:
    """Return the batches, with a line on stderr that says how far the epoch is and how long the rest takes.

    Args:
        batches: a generator.
        epoch: names the line.
        done, total: batches before the first of these, and in the whole epoch.
        wanted: without it the generator itself comes back.
    """
    return _shown(batches, epoch, done, total) if wanted else batches


def _shown(batches: Any, epoch: int, done: int, total: int) -> Iterator[Any]:
    from tqdm import tqdm

    with (
        closing(batches),
        tqdm(desc=f"epoch {epoch}", initial=done, total=total, unit="batch", file=sys.stderr) as line,
    ):
        for batch in batches:
            line.update()
            yield batch

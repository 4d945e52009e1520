"""How far an epoch is, for people who wait for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from dali_pipes.loader.sampling import Shares
from dali_pipes.loader.standing import Turn


def shown(batches: Any, turn: Turn, shares: Shares) -> Iterator[Any]:
    """Yield batches, with a line on stderr that says how far the epoch is and how long the rest takes.

    Args:
        batches: a generator of what remains of the epoch.
        turn: which epoch it is, and where it goes on.
        shares: how many batches this rank takes.
    """
    from tqdm import tqdm

    total = shares.steps()
    done = total - shares.steps(turn.start)
    with (
        closing(batches),
        tqdm(desc=f"epoch {turn.epoch}", initial=done, total=total, unit="batch", file=sys.stderr) as line,
    ):
        for batch in batches:
            line.update()
            yield batch

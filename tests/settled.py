"""Files as they are in life: written some time before anybody reads them."""

import os
from pathlib import Path

import numpy as np

from dali_pipes.cache.journal import is_settled
from tests.make_images import jpeg

LONG_AGO = 1_600_000_000_123_456_789


def settle(folder: Path, mtime_ns: int | None = LONG_AGO) -> None:
    """Give the files in a folder an old mtime, and wait out the 20 ms for which nobody can rely on their ctime.

    What was changed just now is, with reason, not remembered.
    """
    paths = [path for path in (folder, *folder.rglob("*")) if path.is_file()]
    if mtime_ns is not None:
        for path in paths:
            os.utime(path, ns=(mtime_ns, mtime_ns))
    latest = max((path.stat().st_ctime_ns for path in paths), default=0)
    while not is_settled(latest):
        os.sched_yield()


def three_photos(folder: Path) -> Path:
    """Make a folder of three settled JPEGs of two groups; return their CSV."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)))
    (folder / "m.csv").write_text("path,id,group\n0.jpg,a,p0\n1.jpg,b,p1\n2.jpg,c,p1\n")
    settle(folder)
    return folder / "m.csv"

"""Files as they are in life: written some time before anybody reads them."""

import os
from pathlib import Path

from dali_pipes.cache.journal import is_settled

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

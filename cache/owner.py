"""Which process made a temporary file, a claim or a journal, and whether it still lives.

A process is named by its host (machine name, boot and process-id namespace, so that two containers of one machine are
two hosts), its process id and its start time, so that a recycled process id is not taken for the dead owner.
Of a process on another host nothing can be known: :meth:`Owner.alive` says None, and the caller goes by a file's age.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

_TEXT = re.compile(r"([0-9a-f]{16})-([0-9]{1,10})-([0-9]{1,20})")


@dataclass(frozen=True)
class Owner:
    """A process: ``host`` (64 bits), ``pid`` and ``start`` (clock ticks after boot; 0 where unknown)."""

    host: int
    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.host:016x}-{self.pid}-{self.start}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner that ``str(owner)`` wrote, or None if ``text`` is something else."""
        found = _TEXT.fullmatch(text)
        return cls(int(found[1], 16), int(found[2]), int(found[3])) if found else None

    def alive(self) -> bool | None:
        """Return True or False for a process of this host; None (unknown) for one of another host, or a hidden one."""
        if self.host != _host(os.getpid()):
            return None
        state, start = _state_and_start(self.pid)
        if state == "hidden":  # another user's: it may also be a later process of the same number
            return None
        return state not in ("", "Z", "X") and (start == self.start or not start)


def me() -> Owner:
    """Return the calling process."""
    return _me(os.getpid())


@lru_cache(maxsize=4)
def _me(pid: int) -> Owner:
    return Owner(_host(pid), pid, _state_and_start(pid)[1])


@lru_cache(maxsize=4)
def _host(_pid: int) -> int:
    """Digest of machine, boot and namespace; keyed by process id, because a child may enter another namespace."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # systems without /proc
        parts += [_text("/proc/sys/kernel/random/boot_id"), os.readlink("/proc/self/ns/pid")]
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _state_and_start(pid: int) -> tuple[str, int]:
    """Run state letter and start time of a process; ("", 0) when there is none."""
    try:
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except FileNotFoundError:
        pass  # there is none, or no /proc on this system, or it hides the processes of others (hidepid)
    except (OSError, ValueError, IndexError):
        return "?", 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", 0
    except OSError:
        return "hidden", 0
    return "?", 0

"""Stands between ``cache.files`` and the operating system: counts, refuses or records its calls."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = (
    *("open", "close", "read", "write", "pwrite", "preadv", "ftruncate", "fsync", "rename", "link", "unlink", "mkdir"),
    *("rmdir", "stat", "fstat", "listdir", "scandir", "fchmod", "fchown", "chmod", "chown", "utime"),
)


class Os:
    """Looks like the module ``os``; each call named in ``CALLS`` goes through ``around(name, call, arguments)``."""

    def __init__(self, around: Callable[..., Any]) -> None:
        for name in CALLS:
            real = getattr(os, name)
            setattr(self, name, self._wrap(name, real, around))

    @staticmethod
    def _wrap(name: str, real: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **more: around(name, lambda: real(*args, **more), args, more)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Refusing:
    """Raises OSError(``number``) at the ``at``-th call, or at every call from it on. close() always works."""

    def __init__(self, at: int, number: int, forever: bool = False) -> None:
        self.at, self.number, self.forever, self.count = at, number, forever, 0

    def __call__(self, name: str, call: Callable[[], Any], args: Any, more: Any) -> Any:
        if name != "close":
            self.count += 1
            if self.count == self.at or (self.forever and self.count > self.at):
                raise OSError(self.number, os.strerror(self.number))
        return call()


class Recording:
    """Notes every change of the file system below ``root`` as (operation, ...) with paths relative to it."""

    def __init__(self, root: Path) -> None:
        self.root, self.operations = str(root), list[tuple[Any, ...]]()

    def _path(self, name: str, folder: int | None) -> str:
        base = os.readlink(f"/proc/self/fd/{folder}") if folder is not None else ""
        return os.path.relpath(os.path.join(base, name), self.root)

    def __call__(self, name: str, call: Callable[[], Any], args: Any, more: Any) -> Any:
        note: tuple[Any, ...] | None = None
        if name == "pwrite":
            note = ("write", os.fstat(args[0]).st_ino, args[2], bytes(args[1]))
        elif name == "write":
            status = os.fstat(args[0])
            append = bool(_flags(args[0]) & os.O_APPEND)
            offset = status.st_size if append else os.lseek(args[0], 0, os.SEEK_CUR)
            note = ("write", status.st_ino, offset, bytes(args[1]))
        elif name == "fsync":
            note = ("sync", os.fstat(args[0]).st_ino)
        elif name == "ftruncate":
            note = ("size", os.fstat(args[0]).st_ino, args[1])
        elif name in ("rename", "link"):
            note = (name, self._path(args[0], more.get("src_dir_fd")), self._path(args[1], more.get("dst_dir_fd")))
        elif name in ("unlink", "mkdir", "rmdir"):
            note = (name, self._path(os.fspath(args[0]), more.get("dir_fd")))
        result = call()
        if name == "open" and args[1] & os.O_CREAT:
            note = ("create", self._path(args[0], more.get("dir_fd")), os.fstat(result).st_ino)
        if note is not None:
            self.operations.append(note)
        return result


def _flags(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL)


def replay(operations: list[tuple[Any, ...]], target: Path) -> None:
    """Does what was recorded, below ``target``; what cannot be done any more (its file is missing) is left out."""
    names: dict[str, int] = {}
    data: dict[int, bytearray] = {}
    sizes: dict[int, int] = {}
    folders = {"."}
    for what, *rest in operations:
        if what == "mkdir":
            folders.add(rest[0])
        elif what == "create":
            names[rest[0]] = rest[1]
            data[rest[1]], sizes[rest[1]] = bytearray(), 0
        elif what == "write" and rest[0] in data:
            inode, offset, piece = rest
            content = data[inode]
            content.extend(bytes(max(0, offset + len(piece) - len(content))))
            content[offset : offset + len(piece)] = piece
            sizes[inode] = max(sizes[inode], len(content))
        elif what == "size" and rest[0] in data:
            sizes[rest[0]] = rest[1]
        elif what == "rename" and rest[0] in names:
            names[rest[1]] = names.pop(rest[0])
        elif what == "link" and rest[0] in names:
            names[rest[1]] = names[rest[0]]
        elif what == "unlink":
            names.pop(rest[0], None)
    for path, inode in names.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as handle:
            handle.write(data[inode])
            handle.truncate(max(sizes[inode], len(data[inode])))


def power_cut(operations: list[tuple[Any, ...]], rng: random.Random) -> list[tuple[Any, ...]]:
    """What may be on disk after a power cut, and more: any of the operations are lost, writes also in part.

    What was fsynced stays; of all else the file system may keep any and lose any. Most keep the order of names.
    """
    end, kept = rng.randint(0, len(operations)), []
    lose_names = rng.random() < 0.5
    done = operations[:end]
    synced = {operation[1]: at for at, operation in enumerate(done) if operation[0] == "sync"}
    for at, operation in enumerate(done):
        if operation[0] == "write" and at > synced.get(operation[1], -1):
            luck = rng.random()
            if luck < 0.3:
                continue
            if luck < 0.5:
                what, inode, offset, piece = operation
                begin = rng.randint(0, len(piece))
                finish = rng.randint(begin, len(piece))
                operation = (what, inode, offset + begin, piece[begin:finish])
        elif operation[0] not in ("write", "sync") and lose_names and rng.random() < 0.1:
            continue
        kept.append(operation)
    return kept

"""Source files behind a URL (`s3://`, `gs://`, `http(s)://`, `memory://`...), through fsspec. Needs the extra `remote`.

A remote file is known by its URL, its size and what its server calls its version: etag, generation or time of
modification. A file without any of these is read in every run, since nothing else tells that it changed. Files are read
in pieces, each of them tried again with growing pauses (`cache.objects`), so a connection that breaks loses one piece.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dali_pipes.cache import FileState, StoreConfigError
from dali_pipes.cache.objects import IN_FLIGHT as IN_FLIGHT
from dali_pipes.cache.objects import TRIES as TRIES
from dali_pipes.cache.objects import Objects, shown
from dali_pipes.errors import BackendError, ConfigError, ManifestError, UnsteadyError

_VERSIONS = ("VersionId", "version_id", "generation", "ETag", "etag", "content_md5", "md5")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created", "Last-Modified")


@dataclass(frozen=True)
class RemoteStamp:
    """What tells a version of a remote file from another.

    Attributes:
        size: bytes.
        version: 63 bits of a digest of what the server calls its version; None where it tells none.
    """

    size: int
    version: int | None

    @property
    def state(self) -> FileState:
        """The same as an index of sources keeps it. Without a version it is another each time, so nothing is found."""
        return FileState(self.size, 0, 0, secrets.randbits(63) if self.version is None else self.version)


class RemoteSource:
    """One remote file as it is now, read when it is first needed; what `SourceFile` is to local files.

    Args:
        files: where it lies. relative: its path there.
        counted: called with the number of bytes of each reading.

    Attributes:
        path: its URL.
        state: its size and version, which all that is read belongs to.
    """

    def __init__(self, files: RemoteFiles, relative: str, counted: Callable[[int], None]) -> None:
        if ".." in relative.split("/"):
            raise ManifestError("its path may not leave the root ('..')")
        self.path = files.place(relative)
        self._files, self._relative, self._counted = files, relative, counted
        self._stamp = files.stat(relative)
        self.state = self._stamp.state
        self._fd = -1
        self.data: bytes | None = None

    def read(self) -> bytes:
        """Return the whole file. Raises what `RemoteFiles.read` raises."""
        if self.data is None:
            self.data = self._files.read(self._relative, self._stamp.size)
            self._counted(self._stamp.size)
        return self.data

    def fd(self) -> int:
        """Return a descriptor of a copy in memory, open as long as this is, for decoders in child processes."""
        if self._fd < 0:
            self._fd = os.memfd_create("dali-pipes-remote", os.MFD_CLOEXEC)
            with open(self._fd, "wb", closefd=False) as file:
                file.write(self.read())
        return self._fd

    def check(self) -> None:
        """Raise UnsteadyError if what was read may not be the content of `state`."""
        if self.data is not None and self._files.stat(self._relative) != self._stamp:
            raise UnsteadyError("the file changes while it is read; load it when it is complete")

    def __enter__(self) -> RemoteSource:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RemoteFiles(Objects):
    """The source files below one URL; its arguments are those of `Objects`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def place(self, relative: str) -> str:
        """Return the URL of a file."""
        return f"{self.root}/{relative}"

    def stat(self, relative: str) -> RemoteStamp:
        """Ask for the size and version of a file.

        Raises:
            FileNotFoundError, PermissionError: as the server says. ConnectionError: it did not answer.
        """
        found = self.info(relative)
        if found.get("type") == "directory":
            raise IsADirectoryError("it is a folder; only files can be read")
        size = found.get("size")
        if not isinstance(size, int):
            raise ConnectionError("the server tells no size of it")
        return RemoteStamp(size, _version(found))

    def read(self, relative: str, size: int) -> bytes:
        """Read a file of `size` bytes.

        Raises:
            ConnectionError: the server stopped answering, or gave fewer bytes. FileNotFoundError and PermissionError.
        """
        return self.span(relative, 0, size)

    def names(self) -> list[str]:
        """List all files below the root, relative to it, sorted.

        Raises:
            FileNotFoundError: there is no such folder. ConfigError: the protocol lists no files.
        """
        try:
            return sorted(self.sizes())
        except NotImplementedError:
            raise ConfigError(f"{shown(self.root)}: its protocol lists no files; give a CSV of paths.") from None

    def _system(self) -> tuple[Any, str]:
        try:
            return super()._system()
        except StoreConfigError as error:
            lacking = isinstance(error.__cause__, ImportError)
            raise (BackendError if lacking else ConfigError)(str(error)) from None


def _version(found: dict[str, Any]) -> int | None:
    named = [(name, found[name]) for name in _VERSIONS if found.get(name) not in (None, "", "null")]
    if not named:
        named = [(name, found[name]) for name in _TIMES if found.get(name) not in (None, "")]
    if not named:
        return None
    name, value = named[0]
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return int.from_bytes(hashlib.blake2b(f"{name}={text}".encode(), digest_size=8).digest(), "little") >> 1

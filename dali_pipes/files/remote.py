"""Source files behind a URL (`s3://`, `gs://`, `http(s)://`, `memory://`...), through fsspec. Needs the extra `remote`.

A remote file is known by its URL, its size and what its server calls its version: etag, generation or time of
modification. A file without any of these is read in every run, since nothing else tells that it changed. Files are read
in pieces, each of them tried again with growing pauses, so a connection that breaks loses one piece. Nothing is written
to disk. Credentials are fsspec's own affair: they come from its configuration, and no message quotes an error of its
protocols, which may hold a signed URL.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from dali_pipes.cache import FileState
from dali_pipes.errors import BackendError, ConfigError, ManifestError, UnsteadyError
from dali_pipes.files.urls import shown

PIECE = 8 * 2**20
"""Bytes of a request: what a broken connection loses."""

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""How often a request is made, and the pauses in between in seconds, which double; half of each is random."""

IN_FLIGHT = 32
"""Requests at once: waiting for a server costs no processor."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError, TypeError)
_LATER = (408, 425, 429)  # HTTP: time-out, too early, too many requests
_VERSIONS = ("VersionId", "version_id", "generation", "ETag", "etag", "content_md5", "md5")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created", "Last-Modified")

T = TypeVar("T")


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


class RemoteFiles:
    """The files below one URL. Threads may share it; a process that was forked connects anew.

    Args:
        root: the URL that paths are relative to.
        pause: waits for so many seconds and returns whether to give up (for tests, and to end early).
    """

    def __init__(self, root: str, pause: Callable[[float], bool] | None = None) -> None:
        self.root = root.rstrip("/")
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def place(self, relative: str) -> str:
        """Return the URL of a file."""
        return f"{self.root}/{relative}"

    def close(self) -> None:
        """End all waiting: requests under way end, none is tried again."""
        self._closed.set()

    def stat(self, relative: str) -> RemoteStamp:
        """Ask for the size and version of a file.

        Raises:
            FileNotFoundError, PermissionError: as the server says. ConnectionError: it did not answer.
        """
        system, base = self._system()
        found = self._tried(lambda: system.info(f"{base}/{relative}"))
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
        system, base = self._system()
        path = f"{base}/{relative}"
        whole = bytearray()
        while len(whole) < size:
            begin, end = len(whole), min(len(whole) + PIECE, size)

            def piece(begin: int = begin, end: int = end) -> bytes:
                got = bytes(system.cat_file(path, start=begin, end=end))
                if len(got) > end - begin:  # a server without ranges gives all
                    got = got[begin:end]
                if len(got) != end - begin:
                    raise ConnectionError(f"the answer has {len(got)} of {end - begin} bytes")
                return got

            whole += self._tried(piece)
        return bytes(whole)

    def names(self) -> list[str]:
        """List all files below the root, relative to it, sorted.

        Raises:
            FileNotFoundError: there is no such folder. ConfigError: the protocol lists no files.
        """
        system, base = self._system()
        try:
            found = self._tried(lambda: system.find(base))
        except NotImplementedError:
            raise ConfigError(f"{shown(self.root)}: its protocol lists no files; give a CSV of paths.") from None
        return sorted(name[len(base) :].lstrip("/") for name in found if name != base)

    def _system(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), *_connect(self.root))
            return self._opened[1], self._opened[2]

    def _tried(self, request: Callable[[], T]) -> T:
        """Return what a request gives; try again while its error may pass."""
        pause = FIRST_PAUSE
        for attempt in range(TRIES):
            try:
                return request()
            except Exception as error:  # the protocols' libraries raise many kinds
                if _is_final(error):
                    raise _in_words(error) from None
                last = attempt == TRIES - 1 or self._pause(pause * random.uniform(0.5, 1.0))
                if last:
                    raise ConnectionError(f"{attempt + 1} requests failed, at last with {_kind(error)}") from None
            pause = min(LONGEST_PAUSE, 2 * pause)
        raise ConnectionError("no request was made")


def _connect(root: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise BackendError(f"{shown(root)}: URLs need fsspec: pip install 'dali-pipes[remote]'.") from None
    options: dict[str, Any] = {
        "use_listings_cache": False,
        "skip_instance_cache": True,  # an instance that a parent made has threads that a child lacks
    }
    protocol = root.partition("://")[0]
    if protocol in ("s3", "s3a"):  # it has ten connections by default
        configured = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        options["config_kwargs"] = {"max_pool_connections": IN_FLIGHT, **configured}
    try:
        system, base = fsspec.core.url_to_fs(root, **options)
    except ImportError as error:
        raise BackendError(f"{shown(root)}: {error}; the extra 'remote' brings S3.") from None
    except ValueError:
        known = ", ".join(sorted(name for name in fsspec.available_protocols() if name.isalnum()))
        raise ConfigError(f"{shown(root)}: no such protocol; fsspec knows {known}.") from None
    return system, str(base).rstrip("/")


def _version(found: dict[str, Any]) -> int | None:
    named = [(name, found[name]) for name in _VERSIONS if found.get(name) not in (None, "", "null")]
    if not named:
        named = [(name, found[name]) for name in _TIMES if found.get(name) not in (None, "")]
    if not named:
        return None
    name, value = named[0]
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return int.from_bytes(hashlib.blake2b(f"{name}={text}".encode(), digest_size=8).digest(), "little") >> 1


def _is_final(error: Exception) -> bool:
    """Whether the same request would fail again."""
    cause = error.__cause__  # fsspec's HTTP says that a file is not there whatever has failed
    if isinstance(error, FileNotFoundError) and cause is not None:
        return getattr(cause, "status", None) in (404, 410)
    status = getattr(error, "status", None)
    return isinstance(error, _FINAL) or (isinstance(status, int) and 400 <= status < 500 and status not in _LATER)


def _in_words(error: Exception) -> Exception:
    """Return the same kind of error, without its text, which may hold a signed URL."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError("the server has no such file")
    if isinstance(error, PermissionError):
        return PermissionError("the server refuses access; see fsspec's configuration of credentials")
    if isinstance(error, (IsADirectoryError, NotImplementedError)):
        return type(error)("it is a folder, or its protocol cannot do this")
    return OSError(f"its request failed with {_kind(error)}")


def _kind(error: BaseException) -> str:
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return f"{type(error).__name__}{f' {status}' if status else ''}"

"""Objects behind a URL (`s3://`, `gs://`, `http(s)://`, `memory://`...), through fsspec. Needs the extra `remote`.

Requests are tried again with growing pauses, and end. Nothing is written to disk. Credentials are fsspec's own affair:
they come from its configuration, and no message quotes an error of its protocols, which may hold a signed URL.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from .errors import StoreConfigError

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""How often a request is made, and the pauses in between in seconds, which double; half of each is random."""

IN_FLIGHT = 32
"""Requests at once: waiting for a server costs no processor."""

PIECE = 8 << 20
"""Bytes of a request of `Objects.span`: what a broken connection loses."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError, TypeError)
_LATER = (408, 425, 429)  # HTTP: time-out, too early, too many requests

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

T = TypeVar("T")


class Objects:
    """The objects below one URL. Threads may share it; a process that was forked connects anew.

    Args:
        root: the URL that names are relative to.
        pause: waits for so many seconds and returns whether to give up (for tests, and to end early).
        tries: how often a request is made.
        patience: seconds after which a server that says nothing is asked again, and no more when twice as many are
            over; None: as fsspec is configured, and as often as ``tries`` says.
    """

    def __init__(
        self,
        root: str,
        pause: Callable[[float], bool] | None = None,
        tries: int | None = None,
        patience: float | None = None,
    ) -> None:
        self.root = root.rstrip("/")
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._tries, self._patience = tries, patience
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, str] | None = None

    def close(self) -> None:
        """End all waiting: requests under way end, none is tried again."""
        self._closed.set()

    def info(self, relative: str) -> dict[str, Any]:
        """Return what the server tells of an object. Raises as ``part`` does."""
        system, base = self._system()
        found: dict[str, Any] = self._tried(lambda: system.info(f"{base}/{relative}"))
        return found

    def part(self, relative: str, begin: int, end: int) -> bytes:
        """Return the bytes of an object from ``begin`` to before ``end``.

        Raises:
            FileNotFoundError, PermissionError: as the server says. ConnectionError: it stopped answering, or gave
                fewer bytes.
        """
        system, base = self._system()

        def piece() -> bytes:
            got = bytes(system.cat_file(f"{base}/{relative}", start=begin, end=end))
            if len(got) > end - begin:  # a server without ranges gives all
                got = got[begin:end]
            if len(got) != end - begin:
                raise ConnectionError(f"the answer has {len(got)} of {end - begin} bytes")
            return got

        return self._tried(piece) if end > begin else b""

    def span(self, relative: str, begin: int, end: int) -> bytes:
        """Return what ``part`` returns, by several requests if it is large. Raises as ``part`` does."""
        return b"".join(self.part(relative, at, min(at + PIECE, end)) for at in range(begin, end, PIECE))

    def sizes(self) -> dict[str, int]:
        """Return the names of all objects below the root, relative to it, and their bytes.

        Raises:
            FileNotFoundError: there are none. NotImplementedError: the protocol lists no files.
        """
        system, base = self._system()
        found = self._tried(lambda: system.find(base, detail=True))
        return {
            name[len(base) :].lstrip("/"): int(held.get("size") or 0) for name, held in found.items() if name != base
        }

    def write(self, relative: str, data: bytes | bytearray | memoryview) -> None:
        """Make an object of these bytes, or replace it. Raises as ``part`` does."""
        system, base = self._system()
        path = f"{base}/{relative}"

        def put() -> None:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)  # where folders are real
            system.pipe_file(path, bytes(data))

        self._tried(put)

    def _system(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), *_connect(self.root, self._patience))
            return self._opened[1], self._opened[2]

    def _tried(self, request: Callable[[], T]) -> T:
        """Return what a request gives; try again while its error may pass."""
        pause, tries = FIRST_PAUSE, self._tries or TRIES
        until = time.monotonic() + 2 * self._patience if self._patience else None
        for attempt in range(tries):
            try:
                return request()
            except Exception as error:  # the protocols' libraries raise many kinds
                if _is_final(error):
                    raise _in_words(error) from None
                late = until is not None and time.monotonic() > until
                last = late or attempt == tries - 1 or self._pause(pause * random.uniform(0.5, 1.0))
                if last:
                    raise ConnectionError(f"{attempt + 1} requests failed, at last with {_kind(error)}") from None
            pause = min(LONGEST_PAUSE, 2 * pause)
        raise ConnectionError("no request was made")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a URL, such as `s3://bucket/folder`."""
    return isinstance(path, str) and _URL.match(path) is not None


def shown(url: str) -> str:
    """Write a URL without user, password and query, which may be secret.

    >>> shown("https://ann:pass@host/folder?X-Amz-Signature=1")
    'https://host/folder'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _connect(root: str, patience: float | None) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise StoreConfigError(f"{shown(root)}: URLs need fsspec: pip install 'dali-pipes[remote]'.") from error
    options: dict[str, Any] = {
        "use_listings_cache": False,
        "skip_instance_cache": True,  # an instance that a parent made has threads that a child lacks
    }
    protocol = root.partition("://")[0]
    if protocol in ("s3", "s3a"):  # it has ten connections by default
        configured = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        limits = {} if patience is None else {"read_timeout": patience, "connect_timeout": patience}
        options["config_kwargs"] = {"max_pool_connections": IN_FLIGHT, **limits, **configured}
    try:
        system, base = fsspec.core.url_to_fs(root, **options)
    except ImportError as error:
        raise StoreConfigError(f"{shown(root)}: {error}; the extra 'remote' brings S3.") from error
    except ValueError:
        known = ", ".join(sorted(name for name in fsspec.available_protocols() if name.isalnum()))
        raise StoreConfigError(f"{shown(root)}: no such protocol; fsspec knows {known}.") from None
    if patience is not None and protocol in ("s3", "s3a"):
        system.retries = 1  # it would try each of our tries five times
    return system, str(base).rstrip("/")


def _is_final(error: Exception) -> bool:
    """Whether the same request would fail again."""
    cause = error.__cause__  # fsspec's HTTP says that a file is not there whatever has failed
    if isinstance(error, FileNotFoundError) and cause is not None:
        return isinstance(cause, LookupError) or _status(cause) in (404, 410)
    status = _status(error)
    return isinstance(error, _FINAL) or (isinstance(status, int) and 400 <= status < 500 and status not in _LATER)


def _status(error: BaseException) -> Any:
    """Return the status of an answer of HTTP; None where the error knows none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "status", None) or getattr(response, "status_code", None)


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
    status = _status(error)
    return f"{type(error).__name__}{f' {status}' if status else ''}"

"""One source file of a manifest: told by its path, read through one descriptor that cannot lead out of the root.

A path is followed once, to a handle that can read nothing. Only where the file behind that handle lies in the root is
the same file opened to be read. So a link inside the root works, and nothing outside of it is ever read, whatever
becomes of the links meanwhile.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable
from types import TracebackType

from dali_pipes.cache import FileState
from dali_pipes.errors import DecodeError, ManifestError, UnsteadyError

MAPPED_FROM = 64 * 2**20
"""Source files of at least this many bytes are mapped, not read: one frame of a long file is a small part of it."""


class SourceFile:
    """A file as it is now. Its descriptor is opened when it is first needed; use it as a context manager.

    Args:
        root: the folder that the file must lie in, without links.
        path: the file's path, below the root.
        counted: called with the number of bytes of each reading.

    Attributes:
        path: as given.
        state: size, times and inode, which all that is read belongs to.

    Raises:
        OSError: there is no such file. DecodeError: it is no regular file.
    """

    def __init__(self, root: str, path: str, counted: Callable[[int], None]) -> None:
        self.path = path
        self._root, self._counted = root, counted
        self._fd = -1
        self._data: bytes | memoryview | None = None
        self.state = _state(os.stat(path))

    def fd(self) -> int:
        """Return a descriptor of the file, open for reading as long as this is.

        Raises:
            ManifestError: it lies outside of the root. UnsteadyError: it has changed. OSError: it cannot be opened.
        """
        if self._fd < 0:
            self._fd = open_below(self._root, self.path)
            self.check()
        return self._fd

    def read(self) -> bytes | memoryview:
        """Return the whole file; a large one is mapped. Raises as `fd`."""
        if self._data is None:
            fd, size = self.fd(), self.state.size
            self._counted(size)
            if size < MAPPED_FROM:
                with open(fd, "rb", buffering=0, closefd=False) as file:
                    self._data = file.readall()
            else:
                self._data = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        return self._data

    @property
    def data(self) -> bytes | memoryview | None:
        """The file's bytes, if they have been read."""
        return self._data

    def check(self) -> None:
        """Raise UnsteadyError if what was read may not be the content of `state`."""
        if self._fd >= 0 and _state(os.fstat(self._fd)) != self.state:
            raise UnsteadyError("the file changes while it is read; load it when it is complete")

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_below(root: str, path: str) -> int:
    """Return a descriptor, open for reading, of the file that a path leads to; it is closed by the caller.

    Raises:
        ManifestError: it lies outside of `root`. OSError, DecodeError: there is no such file, or it is no regular file.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        place = f"/proc/self/fd/{handle}"
        if not os.readlink(place).startswith(root.rstrip("/") + "/"):
            raise ManifestError("it leads out of the manifest's root through a link; move the file in.")
        _state(os.fstat(handle))
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(handle)


def _state(status: os.stat_result) -> FileState:
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError("it is not a regular file; only files can be read")
    return FileState.of(status)

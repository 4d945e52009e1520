"""The only module that creates, writes, renames or deletes files.

Everything happens relative to a handle of the cache's own folder, and no symbolic link inside it is followed. A file
appears under its name only when it is complete: it is written under a temporary name in the folder, then renamed or
linked. Temporary names carry their owner, so that ``sweep`` can remove what a killed process left. Folders are 0700
and files 0600 whatever the umask; a shared group widens that to 2770 and 0660. Nothing is ever truncated, so that no
mapping can lose its pages. Every function raises OSError; turning that into a miss is the stores' business.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from .access import Access
from .errors import IntegrityError
from .leases import Leases
from .mapping import Buffer, map_file
from .owner import me

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1 << 16  # fits the processor's cache: hashing a chunk costs little more than reading it


class Folder(Leases):
    """A folder of the cache. Names are ``"file"`` or ``"shard/file"``.

    Opens (and, unless ``read_only``, makes) the folder when it is first needed, and keeps one handle of it. With
    ``follow=False``, for a folder within a cache, a symbolic link in its place is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        access: Access | None = None,
        read_only: bool = False,
        follow: bool = True,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.follow = follow
        self.access = access or Access()
        self.read_only = read_only
        self._handles: dict[str, int] = {}
        self._clock = (-60.0, 0.0)  # when it was asked, and by how much it is ahead of ours

    def close(self) -> None:
        """Give the handle back; a later call opens it again."""
        fd = self._handles.pop("fd", None)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_handles", None) and not sys.is_finalizing():
            self.close()

    def handle(self) -> int:
        """Return the folder's descriptor."""
        fd = self._handles.get("fd")
        if fd is None:
            if not self.read_only:
                _make_folders(self.path, self.access)
            try:
                new = os.open(self.path, _FOLDER | (0 if self.follow else os.O_NOFOLLOW))
            except NotADirectoryError as error:
                raise NotADirectoryError(
                    error.errno, f"{self.path} is a file or a link, not a folder of the cache: remove it"
                ) from None
            fd = self._handles.setdefault("fd", new)
            if fd != new:
                os.close(new)
        return fd

    @contextlib.contextmanager
    def opened(self, shard: str = "") -> Iterator[int]:
        """Open a descriptor for the caller alone, to list or to lock.

        Two callers that list through a shared one get a part each.
        """
        fd = _open_folder(shard or ".", self.handle(), None)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _parent(self, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
        shard, slash, base = name.rpartition("/")
        root = self.handle()
        if not slash:
            yield root, base
            return
        fd = _open_folder(shard, root, self.access if make else None)
        try:
            yield fd, base
        finally:
            os.close(fd)

    # -- reading -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open(self, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        """Open a descriptor of an existing plain file."""
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        if "/" not in name:  # for each put several times
            fd = os.open(name, flags, dir_fd=self.handle())
        else:
            with self._parent(name) as (parent, base):
                fd = os.open(base, flags, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{name!r} is not a plain file")
            yield fd
        finally:
            os.close(fd)

    def read(self, name: str, offset: int = 0, limit: int = 1 << 40) -> bytes:
        """Return at most ``limit`` bytes of a file from ``offset`` to its end."""
        with self.open(name) as fd:
            size = os.fstat(fd).st_size
            return b"".join(bytes(piece) for piece in chunks(fd, offset, max(0, min(limit, size - offset))))

    def map(self, name: str) -> tuple[Buffer, tuple[int, int]]:
        """Return a read-only shared mapping of a whole file, and which file it is (inode and size)."""
        with self.open(name) as fd:
            status = os.fstat(fd)
            return map_file(fd, status.st_size), (status.st_ino, status.st_size)

    def status(self, name: str) -> os.stat_result | None:
        """Return the stat of a file, or of the folder itself ("."); None if there is none."""
        try:
            if "/" not in name:  # asked for at every look at a journal
                return os.stat(name, dir_fd=self.handle(), follow_symlinks=False)
            with self._parent(name) as (parent, base):
                return os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self, shard: str = "") -> list[str]:
        """Return the names in the folder, or in one of its shards; empty if there is no such folder."""
        try:
            with self.opened(shard) as fd:
                return os.listdir(fd)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def scan(self) -> Iterator[tuple[str, os.stat_result]]:
        """Give (name, stat) of every plain file in the folder and its shards, except those that vanish meanwhile."""
        for shard in ["", *sorted(self.shards())]:
            try:
                with self.opened(shard) as fd:
                    found = [(base, _plain(base, fd)) for base in os.listdir(fd)]
            except (FileNotFoundError, NotADirectoryError):
                continue
            for base, status in found:
                if status is not None:
                    yield f"{shard}/{base}" if shard else base, status

    def shards(self) -> list[str]:
        """Return the names of the folders in the folder."""
        try:
            with self.opened() as fd, os.scandir(fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    # -- writing -------------------------------------------------------------------------------------------------------

    def publish(
        self, name: str, parts: Iterable[Any], size: int | None = None, replace: bool = True, sync: bool = False
    ) -> None:
        """Make a complete file of ``parts`` (buffers), extended with a hole to ``size`` bytes, appear under ``name``.

        With ``replace=False`` raises FileExistsError if the name is taken. ``sync`` waits until the content is on
        disk; only content without a checksum needs it.
        """
        temporary = f".{me()}.{secrets.token_hex(8)}.tmp"
        fd = self._create(temporary)
        root = self.handle()
        try:
            try:
                os.fchmod(fd, self.access.file)
                if self.access.gid != -1:
                    os.fchown(fd, -1, self.access.gid)
                for part in parts:
                    _write(fd, part)
                if size is not None:
                    os.ftruncate(fd, size)
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            with self._parent(name, make=True) as (parent, base):
                if replace:
                    os.rename(temporary, base, src_dir_fd=root, dst_dir_fd=parent)
                    return
                os.link(temporary, base, src_dir_fd=root, dst_dir_fd=parent, follow_symlinks=False)
            os.unlink(temporary, dir_fd=root)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=root)
            raise

    def make(self, name: str, content: bytes) -> None:
        """Make a small file whose content appears a moment after its name: quicker than ``publish``.

        Raises FileExistsError if the name is taken.
        """
        fd = self._create(name)
        try:
            try:
                if self.access.gid != -1:
                    os.fchmod(fd, self.access.file)
                    os.fchown(fd, -1, self.access.gid)
                _write(fd, content)
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                self.delete(name)
            raise

    def _create(self, name: str) -> int:
        """Return a descriptor of a new file, to write to."""
        try:
            return os.open(name, _NEW, 0o600, dir_fd=self.handle())
        except FileNotFoundError:  # the folder was deleted under us: make it again
            self.close()
            return os.open(name, _NEW, 0o600, dir_fd=self.handle())

    def write_at(self, name: str, offset: int, data: Any) -> None:
        """Write into an existing file, never through a mapping: a full disk must be an OSError, not a SIGBUS."""
        with self.open(name, os.O_WRONLY) as fd:
            view = memoryview(data)
            while len(view):
                done = os.pwrite(fd, view, offset)
                view, offset = view[done:], offset + done

    def append(self, name: str, record: bytes) -> None:
        """Add ``record`` to an existing file in one write.

        Raises OSError if it was written in part, or if the file has been removed.
        """
        with self.open(name, os.O_WRONLY | os.O_APPEND) as fd:
            done = os.write(fd, record)
            if not os.fstat(fd).st_nlink:
                raise FileNotFoundError(f"{name!r} was removed while it was written to")
        if done != len(record):
            raise OSError(f"only {done} of {len(record)} bytes were appended to {name!r}")

    def sync(self, name: str) -> None:
        """Wait until a file, and the names in the folder, are on disk."""
        with self.open(name) as fd:
            os.fsync(fd)
        os.fsync(self.handle())

    def touch(self, name: str, when: int | None = None) -> None:
        """Mark a file as used now, or at ``when`` (ns)."""
        now = when or time.time_ns()  # the kernel's own clock is too coarse to order two uses
        with self._parent(name) as (parent, base):
            try:
                os.utime(base, ns=(now, now), dir_fd=parent, follow_symlinks=False)
            except PermissionError:  # another user's: who may write to it may only say "now"
                os.utime(base, dir_fd=parent, follow_symlinks=False)

    def rename(self, name: str, target: str) -> bool:
        """Rename a file within the folder; return False if it was gone."""
        try:
            with self._parent(name) as (source, base), self._parent(target, make=True) as (parent, new):
                os.rename(base, new, src_dir_fd=source, dst_dir_fd=parent)
        except FileNotFoundError:
            return False
        return True

    def link(self, name: str, new: str, source: Folder | None = None) -> None:
        """Give a file, of ``source`` or of this folder, a second name. Raises FileExistsError if that is taken."""
        with (source or self)._parent(name) as (old, base), self._parent(new, make=True) as (parent, target):
            os.link(base, target, src_dir_fd=old, dst_dir_fd=parent, follow_symlinks=False)

    def delete(self, name: str) -> bool:
        """Remove a name (mapped readers keep their pages); return False if it was gone."""
        try:
            with self._parent(name) as (parent, base):
                os.unlink(base, dir_fd=parent)
        except FileNotFoundError:
            return False
        return True

    def remove_folder(self, shard: str = "") -> bool:
        """Remove an empty shard, or the folder itself; return False if something is still in it."""
        try:
            if shard:
                os.rmdir(shard, dir_fd=self.handle())
            else:
                self.close()
                os.rmdir(self.path)
        except OSError:
            return False
        return True

    def now(self) -> float:
        """Return the time by the clock that stamps the files, asked for once a minute (this machine's if read-only)."""
        asked, offset = self._clock
        if not self.read_only and time.monotonic() > asked + 60:
            with contextlib.suppress(OSError):
                root, name = self.handle(), f".{me()}.{secrets.token_hex(8)}.tmp"
                fd = os.open(name, _NEW, 0o600, dir_fd=root)
                try:
                    offset = os.fstat(fd).st_mtime - time.time()
                finally:
                    os.close(fd)
                    os.unlink(name, dir_fd=root)
            self._clock = time.monotonic(), offset
        return time.time() + offset


def _plain(name: str, folder: int) -> os.stat_result | None:
    """Return the stat of a plain file; None if it is something else, or gone."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def chunks(fd: int, offset: int, length: int) -> Iterator[memoryview]:
    """Yield ``length`` bytes of a file from ``offset``, in pieces that each last until the next.

    Raises IntegrityError if the file ends before.
    """
    buffer = memoryview(bytearray(min(_CHUNK, length)))
    end = offset + length
    while offset < end:
        done = os.preadv(fd, [buffer[: end - offset]], offset)
        if not done:
            raise IntegrityError(f"the file ends at byte {offset}, before {end}")
        offset += done
        yield buffer[:done]


def fill(fd: int, offset: int, view: memoryview) -> None:
    """Fill ``view`` from a file at ``offset``. Raises IntegrityError if the file ends before."""
    while len(view):
        done = os.preadv(fd, [view], offset)
        if not done:
            raise IntegrityError(f"the file ends at byte {offset}, too early")
        view, offset = view[done:], offset + done


def _write(fd: int, data: Any) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


def _make_folders(path: str, access: Access) -> None:
    """Make a folder and its missing parents. What this makes is private from the start."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_folders(parent, access)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    _widen(path, access)


def _open_folder(name: str, parent: int, make: Access | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if make is None:
            raise
    made = True
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        made = False
    fd = os.open(name, flags, dir_fd=parent)
    if made:
        _widen(fd, make)
    return fd


def _widen(folder: str | int, access: Access) -> None:
    if access.gid != -1:
        os.chown(folder, -1, access.gid)
    os.chmod(folder, access.folder)

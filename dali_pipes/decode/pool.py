"""Decoding in child processes: for codecs that hold the GIL, and for files that nobody trusts.

Children are started with subprocess (never forked from this process, and without multiprocessing, so that a user's
script needs no `__main__` guard), import neither torch nor the user's script, and end when their parent does. They get
a short list of environment variables, and can open no file to write, no socket and no other program (`confine`). Files
are opened by the parent: their descriptors and JSON travel over a socket pair, pixels through a memory file, whose
size a child cannot reduce; nothing is pickled. A child that hangs or wants too much memory costs one file: its error
names the limit, and the next file gets a new child. A file whose child died gets one further try, while no other child
works, because another file's hunger for memory may have killed it. Where SIGKILL ended that too, which comes from
outside of the child, it gets a last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from dali_pipes import errors
from dali_pipes.decode.api import DEFAULT, finish
from dali_pipes.decode.confine import environment
from dali_pipes.decode.kinds import Kind
from dali_pipes.decode.limits import Limits
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.decode.wire import Gone, receive, send
from dali_pipes.errors import ConfigError, DecodeError, LimitError, WorkerError

# The parent's sys.path, and a stand-in for the package, whose own __init__ would import torch.
_BOOT = (
    "import json,sys,types;sys.path[:]=json.loads(sys.argv[1]);"
    "p=types.ModuleType('dali_pipes');p.__path__=[sys.argv[2]];sys.modules['dali_pipes']=p;"
    "from dali_pipes.decode.worker import main;main(int(sys.argv[3]),int(sys.argv[4]))"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Freed buffers of a codec serve the next image, on large pages: 3% of a JPEG 2000 decode goes into fresh small ones.
_MEMORY_KEPT = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=134217728:glibc.malloc.hugetlb=1"
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_SEALS = 0x0002 | 0x0001  # F_SEAL_SHRINK, and F_SEAL_SEAL: no further ones
_ADD_SEALS = 1033
_TYPES = ("|u1", "<u2")

Source = str | os.PathLike[str] | int
"""A path, or a descriptor that is open for reading."""

T = TypeVar("T")


class DecoderPool:
    """Up to `workers` child processes, started as they are needed; safe to use from any number of threads.

    limits.seconds and limits.memory_bytes hold per file. After a fork the copy starts children of its own.
    """

    def __init__(self, workers: int, limits: Limits = Limits()) -> None:  # noqa: B008
        if workers < 1:
            raise ConfigError(f"DecoderPool workers={workers}: needs at least 1")
        self.workers = workers
        self.limits = limits
        self._begin()

    def _begin(self) -> None:
        self._own = _Owned(self.workers)
        # A finaliser, for it runs before Python takes the names of this module away; `__del__` may run after that.
        self._finalizer = weakref.finalize(self, self._own.close)

    def decode(
        self, source: Source, kind: Kind, frame: int = 0, policy: DecodePolicy = DEFAULT, *, mask: bool = False
    ) -> Decoded:
        """As `decode.decode`, in a child; waits for a free one.

        Raises the same errors; LimitError too where a limit of time or memory is exceeded, WorkerError where two
        children crashed, were killed or could not be started, OSError where the file can't be read, ConfigError after
        `close`.
        """
        request = {"want": "mask" if mask else "pixels", "tag": kind.tag, "frame": frame, "policy": policy.as_dict()}
        return self._tried(source, lambda child, fd: finish(child.decode(request, fd, self.limits), policy))

    def count_frames(self, source: Source) -> int:
        """As `decode.frames`, in a child, with the errors of `decode`."""
        return self._tried(source, lambda child, fd: int(child.ask({"want": "frames"}, fd, self.limits)["frames"]))

    def _tried(self, source: Source, work: Callable[[_Child, int], T]) -> T:
        with _opened(source) as fd:
            own = self._mine()
            try:
                with own.turns.shared(), self._borrowed() as child:
                    return work(child, fd)
            except WorkerError:
                if own.closed:
                    raise
            with own.turns.alone():
                try:
                    with self._borrowed() as child:
                        return work(child, fd)
                except _Killed:
                    if own.closed:
                        raise
                with self._borrowed() as child:
                    return work(child, fd)

    def _mine(self) -> _Owned:
        if self._own.pid != os.getpid():
            self._begin()
        return self._own

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[_Child]:
        """Lend a child of one's own, started if need be; one that does not outlive its work is replaced."""
        own = self._mine()
        child = own.slots.get()
        alive = False
        try:
            with own.lock:
                if own.closed:
                    raise ConfigError("the DecoderPool is closed")
                if child is None:
                    child = _Child()
                    own.children.add(child)
            yield child
        finally:
            with own.lock:
                if child is not None:
                    alive = child.alive and not own.closed
                    if not alive:
                        own.children.discard(child)
                        child.end()
            own.slots.put(child if alive else None)

    def pids(self) -> list[int]:
        """Return the process ids of the children that are alive, for tests and for people who look at `ps`."""
        return sorted(child.pid for child in self._own.children if child.alive)

    def close(self) -> None:
        """End every child, those at work included; their callers get WorkerError. Closing twice does nothing."""
        self._own.close()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Owned:
    """What a pool holds in one process: its children, and a slot for each that works or may be started."""

    def __init__(self, workers: int) -> None:
        self.pid = os.getpid()
        self.closed = False
        self.lock = threading.Lock()
        self.turns = _Turns()
        self.children: set[_Child] = set()
        self.slots: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(workers):
            self.slots.put(None)

    def close(self) -> None:
        if self.pid != os.getpid():
            return
        with self.lock:
            self.closed = True
            for child in self.children:
                child.kill()
        idle: list[_Child | None] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self.slots.get_nowait())
        for each in idle:
            if each is not None:
                self.children.discard(each)
                each.end()
            self.slots.put(None)


class _Turns:
    """Many may work at once, or one alone: who wants to be alone begins when the others have finished."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._taken = True
            self._changed.wait_for(lambda: not self._sharing)
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


class _Killed(WorkerError):
    """A child was ended by SIGKILL, which no codec sends."""


class _Child:
    """One child process and its end of the socket and the memory file. Used by one thread at a time."""

    def __init__(self) -> None:
        package = Path(errors.__file__).parent
        with contextlib.ExitStack() as undo:
            try:
                self._file = _memory_file()
                undo.callback(os.close, self._file)
                self._socket, theirs = socket.socketpair()
                undo.callback(self._socket.close)
                with theirs:
                    fds = (theirs.fileno(), self._file)
                    self._process = subprocess.Popen(
                        [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(package), *map(str, fds)],
                        pass_fds=fds,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,  # codec libraries print; what they print may quote the file
                        env={**environment(), **_ONE_THREAD, "GLIBC_TUNABLES": _tunables()},
                        start_new_session=True,  # Ctrl-C in a terminal goes to every process of the group
                    )
            except OSError as error:
                raise WorkerError(f"no decoder process could be started: {error.strerror or error}") from None
            undo.pop_all()
        self.pid = self._process.pid
        self._ready = False
        self.alive = True

    def decode(self, request: dict[str, Any], fd: int, limits: Limits) -> Decoded:
        reply = self.ask(request, fd, limits)
        try:
            return self._result(reply, limits)
        except (KeyError, TypeError, ValueError, OSError):
            self.kill()
            raise WorkerError("the decoder process gave an answer that makes no sense") from None

    def ask(self, request: dict[str, Any], fd: int, limits: Limits) -> dict[str, Any]:
        """Return the child's reply to a request about a file; raise the error that it names."""
        try:
            if not self._ready:
                receive(self._socket, time.monotonic() + _START_SECONDS)
                self._ready = True
            send(self._socket, {**request, "memory_bytes": limits.memory_bytes, "seconds": limits.seconds}, fd)
            reply = receive(self._socket, time.monotonic() + limits.seconds)
        except TimeoutError:
            self.kill()
            if not self._ready:
                raise WorkerError(f"a decoder process did not start within {_START_SECONDS:g} s") from None
            raise LimitError(f"decoding took longer than {limits.seconds:g} s (Limits.seconds) and was ended") from None
        except (Gone, OSError):
            raise self._obituary() from None
        except BaseException:
            self.kill()  # an interrupt in mid-reply: the stream can't be used again
            raise
        if "error" in reply:
            raise _named(reply)
        return reply

    def _result(self, reply: dict[str, Any], limits: Limits) -> Decoded:
        """Return the pixels, copied by a read, so that nothing the child does to the file can end this process."""
        height, width, channels = (int(side) for side in reply["shape"])
        if reply["dtype"] not in _TYPES or not 1 <= channels <= 4 or min(height, width) < 1:
            raise ValueError("no image")
        limits.check_frame(height, width, channels * np.dtype(reply["dtype"]).itemsize)
        pixels = np.empty((height, width, channels), reply["dtype"])
        view, at = pixels.reshape(-1).view(np.uint8).data, 0
        while at < len(view):
            done = os.preadv(self._file, [view[at:]], at)
            if not done:
                raise ValueError("the pixels are not there")
            at += done
        return Decoded(pixels, reply["attributes"], reply["facts"])

    def _obituary(self) -> DecodeError:
        self.alive = False
        try:
            code = self._process.wait(_END_SECONDS)  # its socket closes a moment before it is gone
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        if code == -signal.SIGXCPU:
            return LimitError("decoding took more processor time than Limits.seconds allows and was ended")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        kind = _Killed if code == -signal.SIGKILL else WorkerError
        if not self._ready:
            return kind(f"the decoder process {how} before it could read the file")
        return kind(f"the decoder process {how} while it read the file: the file is damaged, or memory ran out")

    def kill(self) -> None:
        self.alive = False
        self._process.kill()

    def end(self) -> None:
        """Close the socket, which ends an idle child; then wait for it."""
        self.alive = False
        self._socket.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _named(reply: dict[str, Any]) -> Exception:
    name, text = reply["error"], reply["message"]
    if name == "OSError":
        return OSError(reply["errno"], os.strerror(reply["errno"]))
    kind = getattr(errors, name, None)
    return (
        kind(text)
        if isinstance(kind, type) and issubclass(kind, errors.DaliPipesError)
        else DecodeError(f"{name}: {text}")
    )


def _tunables() -> str:
    theirs = os.environ.get("GLIBC_TUNABLES")
    return f"{_MEMORY_KEPT}:{theirs}" if theirs else _MEMORY_KEPT  # the last one counts


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[int]:
    if isinstance(source, int):
        yield source
        return
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("dali-pipes-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
        return fd
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())

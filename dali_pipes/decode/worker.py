"""The child of a DecoderPool: reads requests from a socket, decodes under limits of the operating system, answers.

It ends when its socket closes, which the death of its parent does too. A codec that hangs is stopped by the limit on
processor time, for then nobody may be left to kill it.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import resource
import signal
import socket
import sys
import warnings
from typing import Any

import numpy as np

from dali_pipes.decode.api import decode_distinct, frames
from dali_pipes.decode.confine import confine
from dali_pipes.decode.kinds import Kind
from dali_pipes.decode.mask import decode_mask
from dali_pipes.decode.policy import Decoded, policy_from_dict
from dali_pipes.decode.wire import Gone, receive_with_fd, send
from dali_pipes.errors import DaliPipesError, LimitError, TruncatedError, WorkerError


def main(socket_fd: int, memory_fd: int) -> None:
    """Serve until the other end closes."""
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold pixels
    memory = Memory(memory_fd)
    with socket.socket(fileno=socket_fd) as sock:
        try:
            send(sock, {"ready": True, "confined": confine()})
            while True:
                request, fd = receive_with_fd(sock)
                send(sock, answer(request, fd, memory))
        except (Gone, OSError):
            return


def answer(request: dict[str, Any], fd: int | None, memory: Memory) -> dict[str, Any]:
    """Return the reply to a request about the file behind `fd`, which it closes; pixels are in the memory file."""
    granted = True
    try:
        granted = limit(request["seconds"], request["memory_bytes"])
        view = mapped(fd)
        if request["want"] == "frames":
            return {"frames": frames(view)}
        policy = policy_from_dict(request["policy"])
        kind, frame = Kind.from_tag(request["tag"]), request["frame"]
        if request["want"] == "mask":
            done = Decoded(decode_mask(view, kind, frame, policy.limits)[..., None])
        else:
            done = decode_distinct(view, kind, frame, policy)
        memory.publish(done.pixels)
        return {
            "dtype": done.pixels.dtype.str,
            "shape": done.pixels.shape,
            "attributes": done.attributes,
            "facts": done.facts,
        }
    except DaliPipesError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        if granted:
            why = "decoding needs more memory than Limits.memory_bytes allows"
            return {"error": LimitError.__name__, "message": why}
        why = "memory ran out below Limits.memory_bytes: a limit of this process (ulimit -v) is lower"
        return {"error": WorkerError.__name__, "message": why}
    except OSError as error:
        return {"error": "OSError", "errno": error.errno or 5, "message": ""}
    except Exception as error:  # an error of ours: named, but not quoted, for it may hold what the file says
        return {"error": "DecodeError", "message": f"an unexpected {type(error).__name__} in the decoder"}


def mapped(fd: int | None) -> memoryview:
    """Return a file's bytes, not read yet; closes `fd`. Raises OSError, TruncatedError for an empty file."""
    if fd is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        size = os.fstat(fd).st_size
        if not size:
            raise TruncatedError("the file is empty")
        _add_memory(size)
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(fd)


class Memory:
    """The memory file. It stays mapped: its pages are given once, not for every image anew."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def publish(self, pixels: np.ndarray[Any, Any]) -> None:
        """Copy the pixels to the start of the file, which grows as needed."""
        if self._map is None or len(self._map) < pixels.nbytes:
            os.ftruncate(self._fd, pixels.nbytes)
            _add_memory(pixels.nbytes)
            self._map = mmap.mmap(self._fd, pixels.nbytes)
        np.copyto(np.frombuffer(self._map, pixels.dtype, pixels.size), pixels.reshape(-1))


def limit(seconds: float, memory_bytes: int) -> bool:
    """Limit this process's processor time and address space from here on.

    The limit of time is a backstop, a little more than the parent's clock. Returns whether the process may really have
    so much address space.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2)
    wanted = _address_space() + memory_bytes
    _set(resource.RLIMIT_AS, wanted)
    return resource.getrlimit(resource.RLIMIT_AS)[0] >= wanted


def _add_memory(size: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        _set(resource.RLIMIT_AS, soft + size)


def _set(which: int, soft: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

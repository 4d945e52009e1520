"""Messages between a DecoderPool and its children: a length in 8 bytes, with at most one descriptor, then JSON."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_MAX = 64 << 20


class Gone(Exception):
    """The other end has closed."""


def send(sock: socket.socket, message: dict[str, Any], fd: int | None = None) -> None:
    """Send one message, with a descriptor; raises OSError."""
    body = json.dumps(message).encode()
    head = struct.pack("<Q", len(body))
    sock.settimeout(None)
    done = 0 if fd is None else socket.send_fds(sock, [head], [fd])
    sock.sendall(head[done:] + body)


def receive(sock: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Return the next message.

    Raises TimeoutError at `deadline` (time.monotonic), Gone when the other end has closed, or sends no message.
    """
    return _message(_exactly(sock, 8, deadline), sock, deadline)


def receive_with_fd(sock: socket.socket) -> tuple[dict[str, Any], int | None]:
    """Return the next message and the descriptor that came with it; raises Gone when the other end has closed."""
    sock.settimeout(None)
    head, fds, _, _ = socket.recv_fds(sock, 8, 1)
    if not head:
        raise Gone
    return _message(head + _exactly(sock, 8 - len(head), None), sock, None), fds[0] if fds else None


def _message(head: bytes, sock: socket.socket, deadline: float | None) -> dict[str, Any]:
    (size,) = struct.unpack("<Q", head)
    if size > _MAX:
        raise Gone
    try:
        found = json.loads(_exactly(sock, size, deadline))
    except (ValueError, RecursionError):
        raise Gone from None
    if not isinstance(found, dict):
        raise Gone
    return found


def _exactly(sock: socket.socket, size: int, deadline: float | None) -> bytes:
    parts = []
    while size:
        if deadline is None:
            sock.settimeout(None)
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise Gone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

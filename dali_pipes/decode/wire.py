"""Messages between a DecoderPool and its children: a length in 8 bytes, then JSON."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_MAX = 64 << 20


class Gone(Exception):
    """The other end has closed."""


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; raises OSError."""
    body = json.dumps(message).encode()
    sock.settimeout(None)
    sock.sendall(struct.pack("<Q", len(body)) + body)


def receive(sock: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """The next message; raises TimeoutError at `deadline` (time.monotonic), Gone when the other end has closed."""
    (size,) = struct.unpack("<Q", _exactly(sock, 8, deadline))
    if size > _MAX:
        raise Gone
    found = json.loads(_exactly(sock, size, deadline))
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

"""Servers on this machine: S3 (moto's, in a process of its own), and a door before it that injects faults."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 server; credentials do not matter."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                server.poll()
                threading.Event().wait(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(30)


class Faults:
    """What a door does to requests: ``share`` of them get one of ``kinds``: "500", "503", "cut", "slow", "drop"."""

    def __init__(self, seed: int = 0) -> None:
        self.kinds: tuple[str, ...] = ()
        self.share = 0.0
        self.requests: list[tuple[str, str]] = []
        self.injected = 0
        self.most_at_once = self._now = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def next(self, method: str, path: str) -> str | None:
        with self._lock:
            self.requests.append((method, path))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if method in ("GET", "HEAD") and self._random.random() < self.share:
                self.injected += 1
                return self._random.choice(self.kinds)
        return None

    def ended(self) -> None:
        with self._lock:
            self._now -= 1


@contextlib.contextmanager
def door(port: int, faults: Faults, delay: float = 0.0) -> Iterator[int]:
    """The port of a proxy before the server at ``port``; each request waits for ``delay`` seconds."""

    class Door(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing: the test looks at ``faults.requests``."""

        def forward(self) -> None:
            fault = faults.next(self.command, self.path)
            try:
                self.answer(fault)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                faults.ended()

        def answer(self, fault: str | None) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if delay:
                threading.Event().wait(delay)
            if fault in ("500", "503"):
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "slow":
                threading.Event().wait(0.2)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                self.close_connection = fault == "cut"

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # of five, the system drops connections that are made at once

    server = Server(("127.0.0.1", 0), Door)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Bucket:
    """A bucket: `url`, `put` files into it, and the `faults` that readers meet."""

    url: str
    client: Any
    faults: Faults

    def put(self, name: str, data: bytes) -> None:
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)

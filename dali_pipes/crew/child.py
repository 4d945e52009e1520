"""A process that warms a cache: asks its parent for samples, tells what became of them, ends when its parent does."""

from __future__ import annotations

import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from dali_pipes import cache
from dali_pipes.crew.handed import from_plain, read_samples
from dali_pipes.decode.wire import Gone, receive, send
from dali_pipes.errors import DaliPipesError
from dali_pipes.loader.loader import Loader
from dali_pipes.recipe import Recipe
from dali_pipes.warming import Job, counts_of, opened

TELL_EACH = 0.1
"""Seconds between two messages, at least."""


def main(socket_fd: int, samples_fd: int) -> None:
    """Work until the parent has no more samples, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this
    with socket.socket(fileno=socket_fd) as sock:
        try:
            _work(sock, samples_fd)
        except (DaliPipesError, cache.CacheError) as error:
            send(sock, {"error": type(error).__name__, "message": str(error)})
        except (Gone, BrokenPipeError, ConnectionError):
            sys.exit(1)


def _work(sock: socket.socket, samples_fd: int) -> None:
    given = receive(sock)
    manifest = read_samples(samples_fd, given["root"], given["remote"])
    job = Job(**{name: from_plain(value) for name, value in given["job"].items()})
    with (
        opened(job, manifest, Recipe.from_json(given["recipe"])) as loader,
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        done: list[int] = []
        told = time.monotonic()
        for sample in loader.warm(_wanted(sock, loader)):
            done.append(sample)
            if time.monotonic() - told >= TELL_EACH:
                send(sock, _news(loader, done, said))
                done, told = [], time.monotonic()
        send(sock, {**_news(loader, done, said), "counts": counts_of(loader), "ended": True})


def _wanted(sock: socket.socket, loader: Loader) -> Iterator[int]:
    """Give the parent's samples, chunk by chunk; it is asked for the next one while the last are still at work."""
    while True:
        send(sock, {"want": True, "counts": counts_of(loader)})
        samples = receive(sock)["samples"]
        if not samples:
            return
        yield from samples


def _news(loader: Loader, done: list[int], said: list[warnings.WarningMessage]) -> dict[str, Any]:
    texts = [str(each.message) for each in said]
    said.clear()
    failures = loader.failures()
    lost = {sample: failures[sample] for sample in done if sample in failures}
    return {"done": len(done), "failures": lost, "warnings": texts}

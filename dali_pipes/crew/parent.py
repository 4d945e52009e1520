"""Starts processes that warm one cache, hands samples out to them, and gathers what they did.

    chunks ──> a thread for each process ──> socket ──> `child` ──> done, failures, counts ──> Report

A process takes the next chunk when it has begun the last samples of the one before, so that none of them waits for
another. What a killed one had in hand goes to the one that is started in its place: entries are published whole.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import errors
from dali_pipes.cache import errors as cache_errors
from dali_pipes.crew.handed import plain, write_samples
from dali_pipes.decode.wire import Gone, receive, send
from dali_pipes.errors import DaliPipesWarning, WorkerError
from dali_pipes.fetch.study_fetch import images_of
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe
from dali_pipes.warming import Job, Progress, Report

TRIES = 3
"""How often a chunk is begun: a file that kills every process that decodes it must not do so for ever."""

END_SECONDS = 5.0
"""How long processes may take to end by themselves before they are killed."""

_BOOT = (
    "import json,sys;sys.path[:]=json.loads(sys.argv[1]);"
    "from dali_pipes.crew.child import main;main(int(sys.argv[2]),int(sys.argv[3]))"
)


@dataclass
class Chunk:
    """Samples that a process is given at once.

    Attributes:
        samples: their numbers.
        begun: how often a process has begun them.
        counted: how many of them were counted as done.
    """

    samples: list[int]
    begun: int = 0
    counted: int = 0


def warm_by_processes(
    manifest: Manifest,
    recipe: Recipe,
    job: Job,
    chunks: Sequence[npt.NDArray[np.int64]],
    processes: int,
    progress: Progress,
) -> Report:
    """Decode chunks of samples in processes of their own, and add up what they did.

    Args:
        manifest, recipe, job: as for `dali_pipes.warming.warm`; `job.num_workers` threads in each process.
        chunks: sample numbers, int64[n] each.
        processes: how many.
        progress: called in this thread, with the number of samples done since the last call.

    Raises:
        WorkerError: processes could not be started, or were killed again and again. What a process raises is raised
            here too, and ends the others.
    """
    work = [Chunk(_images(manifest, chunk)) for chunk in chunks]
    if not work:
        return Report()
    crew = _Crew(images_of(manifest), recipe, job, deque(each for each in work if each.samples))
    images, samples = sum(len(each.samples) for each in work), sum(map(len, chunks))
    try:
        done = told = 0
        for count in crew.run(min(processes, len(work))):
            done += count
            if done * samples // images > told:
                progress(done * samples // images - told)
                told = done * samples // images
        for text in crew.warnings:
            warnings.warn(text, DaliPipesWarning, stacklevel=3)
        crew.report.samples = samples
        return crew.report
    finally:
        crew.close()


def _images(manifest: Manifest, samples: npt.NDArray[np.int64]) -> list[int]:
    """Return the numbers of the samples' images, which are others where samples are studies."""
    if not isinstance(manifest, Studies):
        return [int(sample) for sample in samples]
    members = manifest.members[samples].reshape(-1)
    return [int(image) for image in np.unique(members[members >= 0])]


class _Crew:
    """The processes, and a thread for each that talks with it."""

    def __init__(self, manifest: Manifest, recipe: Recipe, job: Job, work: deque[Chunk]) -> None:
        self.report = Report()
        self.warnings: dict[str, None] = {}
        self._samples = write_samples(manifest)
        try:
            self._given = {
                "root": str(manifest.root),
                "remote": manifest.remote,
                "recipe": recipe.to_json(),
                "job": {name: plain(value) for name, value in vars(job).items()},
            }
        except BaseException:
            self._close_samples()
            raise
        self._work, self._lock = work, threading.Lock()
        self._members: set[_Member] = set()
        self._threads: list[threading.Thread] = []
        self._news: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._ending = False

    def run(self, processes: int) -> Any:
        """Yield how many images were done since the last time, until all are."""
        self._threads = [threading.Thread(target=self._serve, name="dali-pipes-crew") for _ in range(processes)]
        for thread in self._threads:
            thread.start()
        ended = 0
        while ended < processes:
            news = self._news.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                ended += 1
            else:
                yield news

    def close(self) -> None:
        """End the processes: they notice that nobody listens, or are killed."""
        self._ending = True
        with self._lock:
            members = list(self._members)
        for member in members:
            member.hang_up()
        for thread in self._threads:
            thread.join()
        self._close_samples()

    def _close_samples(self) -> None:
        os.close(self._samples)

    def _serve(self) -> None:
        """In a thread: keep one process at work until there is none left to do."""
        try:
            while not self._ending and self._one_life():
                pass
            self._news.put(None)
        except BaseException as error:
            self._news.put(error)

    def _one_life(self) -> bool:
        """Start a process and talk with it until it ends; return whether it died before its work was done."""
        hand: deque[Chunk] = deque()
        member = _Member(self._samples)
        with self._lock:
            self._members.add(member)
        try:
            if self._ending:  # `close` has not seen this one
                return False
            send(member.socket, self._given)
            while self._answer(member, hand, receive(member.socket)):
                pass
            return False
        except (Gone, OSError):
            if not self._ending:
                self._died(member, hand)
            return True
        finally:
            with self._lock:
                self._members.discard(member)
                self.report.add(Report(**member.counts))  # type: ignore[arg-type]
            member.end()

    def _answer(self, member: _Member, hand: deque[Chunk], message: dict[str, Any]) -> bool:
        """Do as a message asks; return whether another will follow."""
        if "error" in message:
            raise _named(message)
        member.counts = message.get("counts", member.counts)
        if "want" in message:
            chunk = self._next()
            if chunk is not None:
                hand.append(chunk)
            send(member.socket, {"samples": [] if chunk is None else chunk.samples[chunk.counted :]})
            return True
        self._done(hand, message["done"])
        with self._lock:
            self.report.failures.update({int(sample): text for sample, text in message["failures"].items()})
            self.warnings.update(dict.fromkeys(message["warnings"]))
        return "ended" not in message

    def _next(self) -> Chunk | None:
        with self._lock:
            chunk = self._work.popleft() if self._work else None
        if chunk is not None:
            chunk.begun += 1
        return chunk

    def _done(self, hand: deque[Chunk], count: int) -> None:
        """Count samples as done, the first ones of those that a process has in hand."""
        self._news.put(count)
        while count:
            part = min(count, len(hand[0].samples) - hand[0].counted)
            hand[0].counted += part
            count -= part
            if hand[0].counted == len(hand[0].samples):
                hand.popleft()

    def _died(self, member: _Member, hand: deque[Chunk]) -> None:
        """Put back what a process had in hand. Raises WorkerError if that has killed several."""
        how = member.obituary()
        with self._lock:
            self.report.killed.append(how)
            self._work.extendleft(reversed(hand))
            lives = len(self.report.killed)
        if any(chunk.begun >= TRIES for chunk in hand) or (not hand and lives >= TRIES):
            raise WorkerError(
                f"{lives} processes that warm the cache ended before their work was done, the last one {how}: memory "
                "may have run out (use fewer processes), or a file crashes its decoder (sandbox=True finds which)."
            )


class _Member:
    """One process, this end of the socket to it, and what it has done as far as it has told."""

    def __init__(self, samples_fd: int) -> None:
        self.counts: dict[str, int] = {}
        self.socket, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), samples_fd)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, json.dumps(sys.path), *map(str, fds)],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in a terminal goes to every process of the group
                )
            except OSError as error:
                self.socket.close()
                raise WorkerError(f"no process could be started: {error.strerror or error}") from None

    def hang_up(self) -> None:
        """Wake the thread that listens, and let the process notice that nobody does any more."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def obituary(self) -> str:
        """Return how the process ended."""
        code = self._wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def end(self) -> None:
        """Close the socket, which ends the process, and wait for it."""
        self.socket.close()
        self._wait()

    def _wait(self) -> int:
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _named(message: dict[str, Any]) -> Exception:
    kinds = {**vars(errors), **vars(cache_errors)}
    kind = kinds.get(message["error"])
    known = isinstance(kind, type) and issubclass(kind, (errors.DaliPipesError, cache_errors.CacheError))
    return kind(message["message"]) if known and kind is not None else WorkerError(message["message"])

"""What a user must act on: gathered in whatever thread finds it, and warned of in the user's own."""

from __future__ import annotations

import threading
import warnings
from collections import deque

from dali_pipes.errors import DaliPipesError, DaliPipesWarning

NAMED = 3
"""How many samples that cannot be decoded are named one by one."""


class Notices:
    """Warnings that wait to be given, each once.

    A warning that is raised in a thread of a pool, where a user's filter makes errors of warnings, would end work that
    nobody waits for. So threads add, and the loop that takes the batches says.
    """

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._told: set[str] = set()
        self._lost: set[str] = set()
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Note a text; one that was noted before is not noted again."""
        with self._lock:
            if text not in self._told:
                self._told.add(text)
                self._waiting.append(text)

    def lost(self, error: DaliPipesError, what_then: str) -> None:
        """Note a sample that could not be had; after the first few only that there are more.

        Args:
            error: says which sample, and why.
            what_then: what becomes of it, for example "it is left out".
        """
        text = str(error)
        with self._lock:
            if text in self._lost or len(self._lost) > NAMED:
                return
            self._lost.add(text)
            more = len(self._lost) > NAMED
        self.add("more samples cannot be decoded; failures() names all of them." if more else f"{text}; {what_then}.")

    def say(self, stacklevel: int = 1) -> None:
        """Give the warnings that wait.

        Args:
            stacklevel: 1 says it of the caller's line, 2 of its caller's, and so on.
        """
        while self._waiting:
            warnings.warn(self._waiting.popleft(), DaliPipesWarning, stacklevel=stacklevel + 1)

"""The backends of one loader: each iteration has one to itself, and leaves it to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dali_pipes.backends.base import Backend
from dali_pipes.backends.select import create
from dali_pipes.recipe import Recipe


class Pool:
    """Makes a backend where none is free.

    Args:
        name: one of `BACKENDS`.
        recipe, batch_size, threads, decode, device_id: as for `create`.
        gpu_bytes: as for `create`; for the first backend alone, so that two iterations at once do not take it twice.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        *,
        batch_size: int,
        threads: int,
        decode: bool,
        device_id: int | None = None,
        gpu_bytes: int = 0,
    ) -> None:
        self._name, self._recipe = name, recipe
        self._batch_size, self._threads, self._decode = batch_size, threads, decode
        self._device_id, self._gpu_bytes = device_id, gpu_bytes
        self._free: list[Backend] = []

    def take(self) -> Backend:
        """Return a backend that nobody else uses until it is given back."""
        try:
            return self._free.pop()
        except IndexError:
            gpu_bytes, self._gpu_bytes = self._gpu_bytes, 0
            return create(
                self._name,
                self._recipe,
                batch_size=self._batch_size,
                threads=self._threads,
                decode=self._decode,
                device_id=self._device_id,
                gpu_bytes=gpu_bytes,
            )

    def give_back(self, backend: Backend) -> None:
        """Leave a backend to the next iteration."""
        self._free.append(backend)

    @contextmanager
    def lent(self) -> Iterator[Backend]:
        """`take` a backend, and give it back at the end of the `with` block."""
        backend = self.take()
        try:
            yield backend
        finally:
            self.give_back(backend)

    def close(self) -> None:
        """Close the backends that are free."""
        for backend in self._free:
            backend.close()

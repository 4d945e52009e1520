"""What a fetcher gives for a sample, and how it is waited for."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.decode import Window, apply_window
from dali_pipes.fetch.bookkeeping import Failure

Pixels = npt.NDArray[Any]
"""A base image: uint8 or uint16 [C, H, W], C-contiguous, read-only."""


@dataclass(frozen=True)
class Encoded:
    """A JPEG left for the backend to decode: uint8[bytes]."""

    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Deep:
    """A base image whose window its sample's draws move: uint16 [C, H, W], and what `apply_window` needs, as JSON."""

    image: Pixels
    attributes: str
    window: Window

    def windowed(self, center: float, width: float) -> Pixels:
        """Return uint8 [C, H, W], with `Draws.window_center` and `Draws.window_width` of one output."""
        return apply_window(self.image, json.loads(self.attributes), self.window, (center, width))


Item = Pixels | Encoded | Failure | Deep


class Later:
    """An item that comes of others which are waited for: as much of a `Future` as `ready` and `here` need."""

    __slots__ = ()

    def result(self) -> Any:
        """Return the item; wait for it."""
        raise NotImplementedError

    def done(self) -> bool:
        """Return whether nobody would have to wait."""
        raise NotImplementedError


class OneOf(Later):
    """One of several items that a thread finds together: the `place`-th of what a future of them gives."""

    __slots__ = ("every", "place")

    def __init__(self, every: Future[list[Item | Future[Item]]], place: int) -> None:
        self.every, self.place = every, place

    def result(self) -> Item:
        """Return the item; wait for it."""
        return ready(self.every.result()[self.place])

    def done(self) -> bool:
        """Return whether nobody would have to wait."""
        if not self.every.done():
            return False
        return self.every.cancelled() or bool(self.every.exception()) or here(self.every.result()[self.place])


Requested = Item | Future[Item] | Later
"""An item that is here, or one that is waited for."""


def ready(request: Requested) -> Item:
    """Return what was requested; waits for it."""
    item: Item = request.result() if isinstance(request, (Future, Later)) else request
    return item


def here(request: Requested) -> bool:
    """Return whether an item is here: `ready` would not wait."""
    return request.done() if isinstance(request, (Future, Later)) else True

"""The ``none`` mode: keeps nothing."""

from __future__ import annotations

from .base import Store


class NullStore(Store):
    """Keeps nothing, and answers every ``get`` with a miss."""

    mode = "none"

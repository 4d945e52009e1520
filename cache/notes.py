"""How the notes on what entries were made of are laid out: :mod:`.parts` writes them, :mod:`.pruning` drops them."""

from __future__ import annotations

import numpy as np

SUFFIX = ".made"
SLOTS = 24
RECORD = np.dtype(
    [
        ("key", "V16"),
        ("source", "V8"),
        ("names", "V8"),
        ("parts", "V3", SLOTS),
        ("mac", "V8"),
        ("check", "<u8"),
    ]
)

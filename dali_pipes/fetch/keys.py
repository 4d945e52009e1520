"""What decides a base image: the parts of which its key in the cache is made."""

from __future__ import annotations

import functools
from typing import Any

from dali_pipes.arithmetic import ARITHMETIC_VERSION
from dali_pipes.decode import DecodePolicy, Kind
from dali_pipes.recipe import Recipe


def key_parts(
    recipe: Recipe, policy: DecodePolicy, content: bytes, kind: Kind, frame: int
) -> dict[str, str | int | bytes]:
    """Everything that decides a base image, by name: what its key in the cache is made of.

    Args:
        recipe, policy: what is wanted, and how files are read.
        content: digest of the source file.
        kind: what the file is.
        frame: its frame.
    """
    # Entries made under a refusing policy are kept apart, so that a hit never serves what the policy would refuse.
    strict = "+".join(name for name in ("burned_in", "processing") if getattr(policy, name) == "error")
    decoder = kind.under(policy).decoder + (f"; refuses {strict}" if strict else "")
    return {
        "source": content,
        "frame": frame,
        "decoder": decoder,
        "arithmetic": ARITHMETIC_VERSION,
        **_base_parts(recipe),
    }


@functools.lru_cache(maxsize=16)
def _base_parts(recipe: Recipe) -> dict[str, Any]:
    return recipe.base_parts

"""What decides a base image: the parts of which its key in the cache is made."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from dali_pipes import cache
from dali_pipes.arithmetic import ARITHMETIC_VERSION
from dali_pipes.decode import DecodePolicy, Kind
from dali_pipes.errors import DaliPipesWarning
from dali_pipes.recipe import Recipe

Parts = dict[str, str | int | bytes]

_KNOWN = 4096  # families that are remembered


def key_parts(recipe: Recipe, policy: DecodePolicy, content: bytes, kind: Kind, frame: int) -> Parts:
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


class Family:
    """The digests of keys whose parts differ in the content of the source file only.

    Args:
        secret: of the cache.
        others: the parts except `source`.
    """

    def __init__(self, secret: bytes, others: Parts) -> None:
        self._secret, self._others = secret, others
        self.image = cache.Key.over("source", secret, **others)
        self._made: dict[int, Callable[[bytes], bytes]] = {}

    @functools.cached_property
    def note(self) -> Callable[[bytes], bytes]:
        """Of the attributes beside an image of depth 16."""
        return cache.Key.over("source", self._secret, **self._others, attributes=1)

    @functools.cached_property
    def extent(self) -> Callable[[bytes], bytes]:
        """Of the source's size beside an image."""
        return cache.Key.over("source", self._secret, **self._others, extent=1)

    def made(self, content: bytes, made_by: int) -> bytes:
        """Return 16 bytes that name everything that decides the base image, without a secret."""
        digest = self._made.get(made_by)
        if digest is None:
            digest = self._made[made_by] = cache.Key.over("source", b"", **self._others, made_by=made_by)
        return digest(content)

    def parts(self, content: bytes) -> Parts:
        """Return all parts."""
        return {"source": content, **self._others}


class Families:
    """The families of one recipe, by kind and frame.

    Args:
        secret: of the cache.
        parts: gives the parts of a content, kind and frame.
    """

    def __init__(self, secret: bytes, parts: Callable[[bytes, Kind, int], Parts]) -> None:
        self._secret, self._parts = secret, parts
        self._known: dict[tuple[str, str, int], Family] = {}

    def of(self, kind: Kind, frame: int) -> Family:
        """Return the family of a kind's frames."""
        name = (kind.tag, kind.decoder, frame)
        found = self._known.get(name)
        if found is None:
            if len(self._known) >= _KNOWN:  # as many frames: few of them recur
                self._known.clear()
            others = self._parts(b"", kind, frame)
            del others["source"]
            found = self._known[name] = Family(self._secret, others)
        return found


def with_secret(store: cache.Store) -> tuple[cache.Store, bytes]:
    """Return the store, and the secret that hides the names in its folder (empty if it has none).

    If the secret can be neither read nor made, a store that keeps nothing takes its place, with a warning, because a
    name without a secret would tell of a file. Raises SecretError instead if the store is strict, and always where the
    names in its folder were made with another secret.
    """
    if not store.directory:
        return store, b""
    try:
        secret = cache.default_secret()
    except cache.SecretError as error:
        if store.options.strict:
            raise
        warnings.warn(f"going on without the cache in {store.directory}: {error}", DaliPipesWarning, stacklevel=3)
        return cache.open_store("none"), b""
    store.agree(secret)
    return store, secret

"""Checks of arguments that loaders and data sets share; each error says what is allowed."""

from __future__ import annotations

import operator
import os
from typing import Any

from dali_pipes import cache
from dali_pipes.errors import ConfigError
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Return `value` as an integer.

    Raises:
        ConfigError: it is none, or less than `least`.
    """
    try:
        number: int | None = operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        allowed = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ConfigError(f"Loader: {name}={value!r}; give {allowed}.")
    return number


def check_sources(manifest: Any, recipe: Any, what: str) -> None:
    """Refuse what is no manifest or no recipe, with the way to get one.

    Raises:
        ConfigError: one of them is something else.
    """
    if not isinstance(manifest, Manifest):
        raise ConfigError(f"{what}: {type(manifest).__name__} where a Manifest belongs; Manifest.from_csv reads one.")
    check_recipe(recipe, what)


def check_recipe(recipe: Any, what: str) -> None:
    """Refuse what is no recipe, with the way to get one.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(recipe, Recipe):
        size = recipe if isinstance(recipe, (int, tuple)) else 224
        raise ConfigError(
            f"{what}: {type(recipe).__name__} where a Recipe belongs; give one, such as Recipe(size={size})."
        )


def check_cache(mode: str, directory: str | os.PathLike[str] | None, what: str) -> None:
    """Refuse a cache folder that no cache would use.

    Raises:
        ConfigError: the mode keeps nothing in a folder.
    """
    if mode in cache.MODES and mode not in cache.PERSISTENT_MODES and directory is not None:
        modes = ", ".join(map(repr, cache.PERSISTENT_MODES))
        raise ConfigError(
            f'{what}(cache_dir={os.fspath(directory)!r}): nothing is cached there, because cache_mode is "{mode}". '
            f"Give cache_mode one of {modes}, or leave cache_dir out."
        )


def check_callable(function: Any, what: str) -> None:
    """Refuse a function that cannot be called.

    Raises:
        ConfigError: it is neither None nor callable.
    """
    if function is not None and not callable(function):
        raise ConfigError(f"{what}={function!r}: give a function, or None.")


def failures_allowed(value: float | None, on_error: str) -> float | None:
    """Return how many failed samples of an epoch are allowed: a number, a share (a float), or None for any.

    Raises:
        ConfigError: it is neither, or `on_error` lets no sample fail.
    """
    if value is None:
        return None
    if on_error == "raise":
        raise ConfigError('Loader(max_failures=): with on_error="raise" the first one ends the epoch; give "skip".')
    share = isinstance(value, float) and 0 <= value <= 1
    if share or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ConfigError(
        f"Loader(max_failures={value!r}): give a number of samples (3), or a share between 0.0 and 1.0 (0.01)."
    )

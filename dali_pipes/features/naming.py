"""Which samples a call is about: their names for keys, and their ids for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dali_pipes.errors import ConfigError
from dali_pipes.features import inputs
from dali_pipes.features.compute import Call
from dali_pipes.features.identity import Names, names_of
from dali_pipes.loader.batch import Batch


def named_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], cache_ids: Any, key_from_batch: Callable[[Any], Any] | None
) -> tuple[Call, Names, list[str]]:
    """Return a call of the module, and the names and ids of its samples.

    Args:
        args: as they were given; a `dp.Batch` in the first place stands for its image.
        kwargs: as they were given.
        cache_ids: ids, or None to take those of `key_from_batch` or of the batch itself.
        key_from_batch: gives the ids of the first argument, or None.

    Raises:
        ConfigError: no samples, no ids, or another number of them.
    """
    if not args:
        raise ConfigError("CachedModule needs the samples as its first argument, or a dp.Batch.")
    given = args[0]
    if isinstance(given, Batch):
        args = (given.image, *args[1:])
    if cache_ids is None and key_from_batch is not None:
        cache_ids = key_from_batch(given)
    if cache_ids is None and isinstance(given, Batch) and given.digest is not None:
        return Call(args, kwargs, len(given.digest)), [b"d" + each for each in given.digest], given.id
    if cache_ids is None:
        raise ConfigError(
            "CachedModule cannot tell which samples these are: give cache_ids=, a dp.Batch as a Loader makes it, "
            "or key_from_batch= when it is made."
        )
    names, length = names_of(cache_ids), inputs.length(args[0])
    if length is not None and length != len(names):
        raise ConfigError(f"{len(names)} cache_ids for {length} samples: give one id for each.")
    return Call(args, kwargs, len(names)), names, [name[1:].decode("utf-8", "replace") for name in names]

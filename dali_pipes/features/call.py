"""A call of a module: its inputs, the names and ids of its samples, and the settings of PyTorch at that time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dali_pipes.errors import ConfigError
from dali_pipes.features import inputs
from dali_pipes.features.identity import Names, names_of
from dali_pipes.loader.batch import Batch


@dataclass(frozen=True)
class Call:
    """What a module is called with for `count` samples."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    count: int

    @property
    def device(self) -> torch.device:
        """Where the inputs are, and where results go."""
        first = next(inputs.tensors((self.args, self.kwargs)), None)
        return torch.device("cpu") if first is None else first.device

    def some(self, rows: torch.Tensor) -> Call:
        """Return the call for some samples, int64[n]."""
        args = tuple(inputs.take(each, rows, self.count) for each in self.args)
        kwargs = {name: inputs.take(each, rows, self.count) for name, each in self.kwargs.items()}
        return Call(args, kwargs, len(rows))

    @property
    def parts_are_clear(self) -> bool:
        """Whether it can be told what belongs to which sample."""
        return not inputs.is_unclear((self.args, self.kwargs), self.count)


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


def digest_of_state(device: torch.device) -> str:
    """Return a text of PyTorch's settings that change what a module computes from the same weights and inputs.

    They are autocast, the default type and, on CUDA, the precision of float32 sums.
    """
    kind = device.type
    says = [f"default {torch.get_default_dtype()}"]
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        says.append(f"autocast {torch.get_autocast_dtype(kind)}")
    if kind == "cuda":
        says.append(f"matmul {torch.get_float32_matmul_precision()}, cudnn TF32 {torch.backends.cudnn.allow_tf32}")
    return "; ".join(says)

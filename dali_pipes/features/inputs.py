"""What a module is called with: which parts of it belong to single samples, and what the rest says about the result.

Tensors whose first dimension is the number of samples hold one row a sample, and so do lists of that length; inside of
tuples, dicts and named tuples too. Everything else is the same for all samples and belongs into their keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from dali_pipes.errors import ConfigError
from dali_pipes.features.digest import content

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)


def take(value: Any, rows: torch.Tensor, count: int) -> Any:
    """Return what belongs to some of the samples.

    Args:
        value: arguments of a module.
        rows: int64[n], which samples, on the CPU.
        count: N, how many there are.
    """
    if isinstance(value, torch.Tensor):
        if not value.ndim or len(value) != count:
            return value
        return value.index_select(0, rows.to(value.device, non_blocking=True))
    if type(value) is list and len(value) == count:
        return [value[row] for row in rows.tolist()]
    if isinstance(value, np.ndarray) and value.ndim and len(value) == count:
        return value[rows.numpy()]
    if isinstance(value, Mapping):
        inner = {key: take(each, rows, count) for key, each in value.items()}
        return inner if type(value) is dict else type(value)(inner)  # type: ignore[call-arg]
    if isinstance(value, tuple):
        parts = [take(each, rows, count) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return [take(each, rows, count) for each in value] if type(value) is list else value


def is_unclear(value: Any, count: int) -> bool:
    """Return whether a list may hold either one element a sample, or `count` batches: then samples stay together."""
    if isinstance(value, Mapping):
        return any(is_unclear(each, count) for each in value.values())
    if type(value) is list and len(value) == count and count > 0:
        return all(isinstance(each, torch.Tensor) and each.ndim and len(each) == count for each in value)
    return isinstance(value, (list, tuple)) and any(is_unclear(each, count) for each in value)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in some arguments."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors(each)


def call_digest(value: Any, count: int) -> bytes:
    """Return 16 bytes of all that the arguments say beside the samples: structure, types, options, shared tensors.

    Raises:
        ConfigError: an argument that has no content to tell it from others; the message says which.
    """
    hasher = blake2b(digest_size=16, person=b"dali-pipes call1")
    for piece in _say(value, count, "argument"):
        hasher.update(piece)
    return hasher.digest()


def _say(value: Any, count: int, path: str) -> Iterator[bytes]:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        if value.ndim and len(value) == count:
            yield f"rows {value.dtype};".encode()
        else:
            yield b"all " + content(torch.as_tensor(value), path)
    elif type(value) is list and len(value) == count:
        kinds = {str(each.dtype) if isinstance(each, torch.Tensor) else type(each).__name__ for each in value}
        yield f"each {sorted(kinds)};".encode()
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield f"[{key!r}]".encode()
            yield from _say(each, count, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__}({len(value)}".encode()
        for at, each in enumerate(value):
            yield from _say(each, count, f"{path}[{at}]")
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__name__}:{value!r};".encode("utf-8", "surrogatepass")
    else:
        raise ConfigError(
            f"{path} is a {type(value).__name__}, of which CachedModule cannot tell whether it changes what comes out: "
            "give tensors, lists, dicts, numbers and texts, or build it into the module."
        )


def check_gradients(value: Any) -> None:
    """Raise ConfigError where an input wants a gradient, which kept features cannot give."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors(value)):
        raise ConfigError(
            "an input of CachedModule requires a gradient, and kept features have none: detach it, call the module "
            "under torch.no_grad(), or pass enabled=False to compute every time."
        )


def length(value: Any) -> int | None:
    """Return how many samples an input holds; None where its type does not say."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return len(value) if value.ndim else None
    return len(value) if type(value) is list else None

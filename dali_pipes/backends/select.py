"""Which backends can run on this machine, and making one."""

from __future__ import annotations

import importlib.util

from dali_pipes.backends.base import Backend
from dali_pipes.errors import BackendError, ConfigError
from dali_pipes.names import BACKENDS
from dali_pipes.recipe import Recipe


def missing(name: str) -> str | None:
    """What this machine lacks to run a backend, or None if it runs.

    Raises:
        ConfigError: no backend has that name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend={name!r}: allowed are 'auto', {', '.join(map(repr, BACKENDS))}.")
    if name == "torch":
        return None
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        return "DALI is not installed (pip install nvidia-dali-cuda120, on Linux)"
    if name == "dali-cpu":
        return None
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install 'dali-pipes[cuda12]')"
    import torch

    if not torch.backends.cuda.is_built():
        return "this PyTorch is a CPU build; install a CUDA build of torch"
    return None if torch.cuda.is_available() else "no CUDA device was found"


def resolve(name: str) -> str:
    """`name`, or for "auto" the first backend that can run here.

    Raises:
        ConfigError: no such name. BackendError: that backend cannot run here; the message says what is missing.
    """
    if name == "auto":
        return next(candidate for candidate in BACKENDS if missing(candidate) is None)
    if reason := missing(name):
        raise BackendError(f"backend {name!r} cannot run here: {reason}.")
    return name


def create(
    name: str, recipe: Recipe, *, batch_size: int, threads: int, decode: bool, device_id: int | None = None
) -> Backend:
    """A backend of a resolved name.

    Args:
        name: one of `BACKENDS`.
        recipe: what it computes.
        batch_size: the largest batch it will be given.
        threads: CPU threads it may use.
        decode: whether it is to decode plain JPEGs itself, if it can.
        device_id: the CUDA device of "dali-gpu".
    """
    if name == "torch":
        from dali_pipes.backends.torch import TorchBackend

        return TorchBackend(recipe, threads=threads)
    from dali_pipes.backends.dali import DaliBackend

    device = name.removeprefix("dali-")
    return DaliBackend(
        recipe, device=device, batch_size=batch_size, threads=threads, decode=decode, device_id=device_id
    )

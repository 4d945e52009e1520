"""Which backends can run on this machine, and making one."""

from __future__ import annotations

import glob
import importlib.util
import os
import warnings

from dali_pipes.arithmetic.kernels import problem
from dali_pipes.backends.base import Backend
from dali_pipes.backends.graphs import needs_kernels
from dali_pipes.errors import BackendError, ConfigError, DaliPipesWarning
from dali_pipes.names import BACKENDS
from dali_pipes.recipe import Recipe

_told: set[str] = set()


def missing(name: str, recipe: Recipe | None = None, *, decode: bool = True) -> str | None:
    """Return what this machine lacks to run a backend, in words, or None if it runs.

    Args:
        name: one of `BACKENDS`.
        recipe: what is to be run; None for any recipe.
        decode: whether the backend is to decode plain JPEGs.

    Raises:
        ConfigError: no backend has that name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend={name!r}: allowed are 'auto', {', '.join(map(repr, BACKENDS))}.")
    if name == "torch":
        return None
    if not _installed("nvidia") or not _installed("nvidia.dali"):
        return "DALI is not installed (on Linux: pip install 'dali-pipes[dali]', or 'dali-pipes[cuda]' for a GPU)"
    if name == "dali-cpu":
        return None
    import torch

    if not torch.backends.cuda.is_built():
        return "this PyTorch is a CPU build; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    if recipe is not None and not needs_kernels(recipe, decode):
        return None
    if not _installed("cupy"):
        return "CuPy is not installed (pip install 'dali-pipes[cuda]')"
    return problem()


def resolve(name: str, recipe: Recipe | None = None, *, decode: bool = True) -> str:
    """Return `name`, or for "auto" the first backend that can run here.

    Where "auto" passes a CUDA device over, one warning says why. Arguments as for `missing`.

    Raises:
        ConfigError: no such name. BackendError: that backend cannot run here; the message says what is missing.
    """
    if name == "auto":
        lacks = {candidate: missing(candidate, recipe, decode=decode) for candidate in BACKENDS}
        chosen = next(candidate for candidate, lack in lacks.items() if lack is None)
        if lack := lacks["dali-gpu"]:
            _tell_of_an_idle_gpu(chosen, lack)
        return chosen
    if reason := missing(name, recipe, decode=decode):
        raise BackendError(f"backend {name!r} cannot run here: {reason}.")
    return name


def _tell_of_an_idle_gpu(chosen: str, reason: str) -> None:
    if reason not in _told and gpu_is_there():
        _told.add(reason)
        text = f'a CUDA device is there, but backend="auto" takes {chosen!r}: {reason}.'
        warnings.warn(text, DaliPipesWarning, stacklevel=4)


def gpu_is_there() -> bool:
    """Return whether this machine has an NVIDIA GPU and its driver, whatever the installed PyTorch can do with it."""
    return any(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def create(
    name: str,
    recipe: Recipe,
    *,
    batch_size: int,
    threads: int,
    decode: bool,
    device_id: int | None = None,
    gpu_bytes: int = 0,
) -> Backend:
    """Return a backend of a resolved name.

    Args:
        name: one of `BACKENDS`.
        recipe: what it computes.
        batch_size: the largest batch it will be given.
        threads: CPU threads it may use.
        decode: whether it is to decode plain JPEGs itself, if it can.
        device_id: the CUDA device of "dali-gpu".
        gpu_bytes: memory of that device in which base images may stay.
    """
    if name == "torch":
        from dali_pipes.backends.torch import TorchBackend

        return TorchBackend(recipe, threads=threads)
    from dali_pipes.backends.dali import DaliBackend

    device = name.removeprefix("dali-")
    return DaliBackend(
        recipe,
        device=device,
        batch_size=batch_size,
        threads=threads,
        decode=decode,
        device_id=device_id,
        gpu_bytes=gpu_bytes,
    )

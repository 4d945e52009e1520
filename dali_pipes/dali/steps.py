"""The steps of a recipe as functions on DataNodes: each does in a pipeline what `Loader` does, with the same bits.

They follow the device of what they are given. On the CPU all of them run anywhere; on a GPU they need CuPy where the
recipe needs CUDA kernels (see docs/gpu.md), and were not run there yet. Pipelines need `exec_dynamic=True`, DALI's
default, and must be built in the process that runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dali_pipes.backends.graphs import CHANGES, Graph, decodes
from dali_pipes.errors import ConfigError
from dali_pipes.recipe import Recipe


def decode_resize(jpeg: Any, recipe: Recipe, *, device: str = "cpu", threads: int = 2) -> Any:
    """Decode plain JPEGs and bring them to the recipe's size.

    Args:
        jpeg: a DataNode on the CPU, uint8[bytes] a sample, as `fn.readers.file` gives them: JPEGs of one or three
            components, gray or RGB. Others (CMYK, 12 bits, damaged ones) must not get here: DALI fails at them, or
            makes gray areas of what is missing.
        recipe: of depth 8.
        device: "cpu" or "gpu", where the base images are to lie.
        threads: how many share the integer arithmetic on the CPU.

    Returns:
        A DataNode, uint8 [C, H, W] a sample: the base images.

    Raises:
        ConfigError: a recipe whose JPEGs a graph cannot take, or another device.
    """
    if device not in ("cpu", "gpu"):
        raise ConfigError(f"decode_resize(device={device!r}): allowed are 'cpu' and 'gpu'.")
    if not decodes(recipe):
        raise ConfigError(
            f"decode_resize: DALI does not decode for a recipe of depth={recipe.depth}, channels={recipe.channels} and "
            f"parity={recipe.parity!r} with the bits that it promises; take the base images from a Source."
        )
    return Graph(recipe, device, True, 1, threads).developed(jpeg)


def vary(batch: Any, recipe: Recipe, changes: Mapping[str, Any], *, threads: int = 2) -> Any:
    """Flip, warp and recolour base images as a sample's draws say; without `recipe.augment` they stay as they are.

    Args:
        batch: a DataNode, uint8 or uint16 [C, H, W] a sample.
        recipe: as for the `Source`.
        changes: the `Source`'s DataNodes by name, as `Source.nodes` returns them, on the CPU; others are left alone.
        threads: how many share the integer arithmetic on the CPU.

    Returns:
        A DataNode of the same type on the same device.

    Raises:
        ConfigError: `changes` lacks what the recipe needs.
    """
    graph = Graph(recipe, batch.device, False, 1, threads)
    wanted = [name for name in graph.inputs if name in CHANGES]
    if lacking := [name for name in wanted if name not in changes]:
        raise ConfigError(f"vary: the recipe's augment needs {', '.join(lacking)}; pass what Source.nodes() returned.")
    return graph.varied(batch, {name: changes[name] for name in wanted})


def normalise(batch: Any, recipe: Recipe) -> Any:
    """Subtract the recipe's mean and divide by its deviation; without them the integers stay as they are.

    Args:
        batch: a DataNode, uint8 or uint16 [C, H, W] a sample.
        recipe: has `mean` and `std`, in units of full scale.

    Returns:
        A DataNode on the same device, float32 [C, H, W] a sample.

    Raises:
        ConfigError: a recipe of another `dtype` or `memory_format`, to which DALI rounds or transposes otherwise.
    """
    if recipe.dtype != "float32" or recipe.memory_format != "contiguous":
        raise ConfigError(
            f"normalise: the recipe has dtype={recipe.dtype!r} and memory_format={recipe.memory_format!r}; in a graph "
            "it gives float32 [C, H, W]. Leave both out, and cast or transpose what comes out of the pipeline."
        )
    return Graph(recipe, batch.device, False, 1, 1).normalised(batch)


def finish(batch: Any, recipe: Recipe, changes: Mapping[str, Any], *, threads: int = 2) -> Any:
    """Do all that a recipe asks for after the cache: `vary`, then `normalise`; arguments as for `vary`."""
    return normalise(vary(batch, recipe, changes, threads=threads), recipe)

"""Image loading through NVIDIA DALI with a disk cache that can be trusted, and the same bits from plain PyTorch.

manifest ──> sampling ──> fetch (cache, decode) ──> backend (flip, normalise) ──> Batch ──> training loop

>>> import dali_pipes as dp
>>> dp.Recipe(size=(512, 384), mean=0.5, std=0.25).digest == dp.Recipe(size=(512, 384), mean=0.5, std=0.25).digest
True

Names are imported when they are first used (PEP 562), so that the cache and the command line's help need no PyTorch.
"""

import importlib as _importlib
from typing import TYPE_CHECKING
from typing import Any as _Any

if TYPE_CHECKING:
    from dali_pipes.cache.errors import CacheError as CacheError
    from dali_pipes.decode import FixedWindow as FixedWindow
    from dali_pipes.decode import PercentileWindow as PercentileWindow
    from dali_pipes.decode import VOIWindow as VOIWindow
    from dali_pipes.draws import Augment as Augment
    from dali_pipes.errors import BackendError as BackendError
    from dali_pipes.errors import ConfigError as ConfigError
    from dali_pipes.errors import DaliPipesError as DaliPipesError
    from dali_pipes.errors import DaliPipesWarning as DaliPipesWarning
    from dali_pipes.errors import DecodeError as DecodeError
    from dali_pipes.errors import LimitError as LimitError
    from dali_pipes.errors import ManifestError as ManifestError
    from dali_pipes.errors import ParityError as ParityError
    from dali_pipes.errors import StateError as StateError
    from dali_pipes.errors import TruncatedError as TruncatedError
    from dali_pipes.errors import UnsteadyError as UnsteadyError
    from dali_pipes.errors import UnsupportedError as UnsupportedError
    from dali_pipes.errors import WorkerError as WorkerError
    from dali_pipes.features.module import CachedModule as CachedModule
    from dali_pipes.finish.points import transform_boxes as transform_boxes
    from dali_pipes.finish.points import transform_points as transform_points
    from dali_pipes.items.cached_dataset import CachedDataset as CachedDataset
    from dali_pipes.loader.batch import Batch as Batch
    from dali_pipes.loader.dataset import ImageDataset as ImageDataset
    from dali_pipes.loader.loader import Loader as Loader
    from dali_pipes.loader.order import Balanced as Balanced
    from dali_pipes.loader.order import ClassesAndSamples as ClassesAndSamples
    from dali_pipes.loader.order import Grouped as Grouped
    from dali_pipes.loader.order import Weighted as Weighted
    from dali_pipes.manifest.manifest import Manifest as Manifest
    from dali_pipes.manifest.manifest import Sample as Sample
    from dali_pipes.recipe import Recipe as Recipe
    from dali_pipes.serving import Serving as Serving
    from dali_pipes.warming import warm as warm

__version__ = "0.1.0"

_HOMES = {
    "loader.batch": ("Batch",),
    "cache.errors": ("CacheError",),
    "loader.dataset": ("ImageDataset",),
    "decode": ("FixedWindow", "PercentileWindow", "VOIWindow"),
    "draws": ("Augment",),
    "errors": (
        *("BackendError", "ConfigError", "DaliPipesError", "DaliPipesWarning", "DecodeError", "LimitError"),
        "ManifestError",
        *("ParityError", "StateError", "TruncatedError", "UnsteadyError", "UnsupportedError", "WorkerError"),
    ),
    "features.module": ("CachedModule",),
    "items.cached_dataset": ("CachedDataset",),
    "loader.loader": ("Loader",),
    "manifest": ("Manifest", "Sample"),
    "loader.order": ("Balanced", "ClassesAndSamples", "Grouped", "Weighted"),
    "finish.points": ("transform_boxes", "transform_points"),
    "recipe": ("Recipe",),
    "serving": ("Serving",),
    "warming": ("warm",),
}
"""The modules of the public names."""

_ROOMS = ("arithmetic", "backends", "cache", "decode", "features", "items", "parity", "tools")
"""Packages that are there as attributes without an import of their own, as `dp.cache.open_store`."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> _Any:
    if name in _ROOMS:
        return _importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})

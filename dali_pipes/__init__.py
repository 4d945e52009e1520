"""Image loading through NVIDIA DALI with a disk cache that can be trusted, and the same bits from plain PyTorch.

manifest ──> sampling ──> fetch (cache, decode) ──> backend (flip, normalise) ──> Batch ──> training loop

>>> import dali_pipes as dp
>>> dp.Recipe(size=(512, 384), mean=0.5, std=0.25).digest == dp.Recipe(size=(512, 384), mean=0.5, std=0.25).digest
True
"""

import logging as _logging

from dali_pipes.batch import Batch
from dali_pipes.cached_dataset import CachedDataset
from dali_pipes.dataset import ImageDataset
from dali_pipes.decode import FixedWindow, PercentileWindow, VOIWindow
from dali_pipes.draws import Augment
from dali_pipes.errors import (
    BackendError,
    ConfigError,
    DaliPipesError,
    DecodeError,
    LimitError,
    ManifestError,
    ParityError,
    StateError,
    TruncatedError,
    UnsteadyError,
    UnsupportedError,
    WorkerError,
)
from dali_pipes.loader import Loader
from dali_pipes.manifest import Manifest, Sample
from dali_pipes.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "Augment",
    "BackendError",
    "Batch",
    "CachedDataset",
    "ConfigError",
    "DaliPipesError",
    "DecodeError",
    "FixedWindow",
    "ImageDataset",
    "LimitError",
    "Loader",
    "Manifest",
    "ManifestError",
    "ParityError",
    "PercentileWindow",
    "Recipe",
    "Sample",
    "StateError",
    "TruncatedError",
    "UnsteadyError",
    "UnsupportedError",
    "VOIWindow",
    "WorkerError",
]

_logging.getLogger(__name__).addHandler(_logging.NullHandler())

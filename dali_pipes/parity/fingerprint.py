"""Digests of pixels: equal ones mean equal bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.loader.batch import Batch

Fingerprint = tuple[int, int, str]
"""A sample's number, its label, and a digest of its pixels' dtype, shape and bits."""


def fingerprint(batches: Iterable[Batch]) -> list[Fingerprint]:
    """One fingerprint for each sample, in order; equal lists mean equal bits."""
    prints = []
    for batch in batches:
        images = as_array(batch.image)
        for image, index, label in zip(images, batch.index.tolist(), batch.label.tolist()):
            prints.append((index, label, digest(image)))
    return prints


def as_array(image: torch.Tensor) -> npt.NDArray[Any]:
    """Return the values as NumPy has them; bfloat16, which it lacks, becomes float32, exactly."""
    return np.asarray((image.float() if image.dtype is torch.bfloat16 else image).cpu().numpy())


def digest(array: npt.NDArray[Any]) -> str:
    """32 hex digits of an array's dtype, shape and bits."""
    state = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()

"""Random numbers as pure functions of (seed, epoch, operation, sample).

A number is the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014) applied to a counter whose origin is the BLAKE2b hash of (seed, epoch, operation). No generator object
exists, so nothing has to be saved to resume, a sample's draw does not depend on its batch, and the numbers do not
change with the NumPy version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def random_bits(seed: int, epoch: int, operation: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return 64 random bits per sample.

    Args:
        seed, epoch: any integers.
        operation: the name of what the numbers are for; different names give independent numbers.
        samples: int64[N], indices of samples in the manifest.

    Returns:
        uint64[N], uniform.
    """
    name = f"{seed}\0{epoch}\0{operation}".encode()
    origin = np.uint64(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        z = origin + (samples.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        bits: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return bits


def uniform(seed: int, epoch: int, operation: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return float64[N] in [0, 1), multiples of 2^-53; arguments as for `random_bits`."""
    bits = random_bits(seed, epoch, operation, samples) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


@contextmanager
def seeded(seed: int, epoch: int, number: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators from (seed, epoch, number) for a while; afterwards they are as before.

    Args:
        seed, epoch, number: any integers.
        device: its generator is seeded beside the CPU's.
    """
    bits = random_bits(seed, epoch, "transform", np.array([number], np.int64))
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(int(bits[0] >> np.uint64(1)))
        yield

"""Every random number of the product, as plain data drawn on the host.

A number is a pure function of (seed, epoch, operation, sample): the 64-bit finaliser of SplitMix64 (Steele, Lea and
Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014) applied to a counter whose origin is the BLAKE2b hash of
(seed, epoch, operation). No generator object exists, so nothing has to be saved to resume, a sample's draw does not
depend on its batch, and the numbers do not change with the NumPy version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def random_bits(seed: int, epoch: int, operation: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """64 random bits per sample.

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
    """float64[N] in [0, 1), multiples of 2^-53; arguments as for `random_bits`."""
    numbers: npt.NDArray[np.float64] = (random_bits(seed, epoch, operation, samples) >> np.uint64(11)) * 2.0**-53
    return numbers


@dataclass(frozen=True)
class Augment:
    """What varies at random from epoch to epoch, applied after the cache.

    Attributes:
        horizontal_flip: probability in [0, 1] that a sample is mirrored left to right.
        vertical_flip: probability in [0, 1] that a sample is mirrored top to bottom.

    Raises:
        ConfigError: a probability outside [0, 1].
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                raise ConfigError(f"Augment({name}={value!r}): it is a probability; give a number from 0 to 1.")
            object.__setattr__(self, name, float(value) + 0.0)  # no -0.0


@dataclass(frozen=True)
class Draws:
    """The random decisions of one batch of N samples.

    Attributes:
        hflip: bool[N], mirror left to right.
        vflip: bool[N], mirror top to bottom.
    """

    hflip: npt.NDArray[np.bool_]
    vflip: npt.NDArray[np.bool_]


def draw(augment: Augment | None, seed: int, epoch: int, samples: npt.NDArray[np.int64]) -> Draws:
    """The draws of `samples` (int64[N]) in this epoch; all False without `augment`."""
    if augment is None:
        nothing = np.zeros(len(samples), np.bool_)
        return Draws(nothing, nothing)
    return Draws(
        hflip=uniform(seed, epoch, "hflip", samples) < augment.horizontal_flip,
        vflip=uniform(seed, epoch, "vflip", samples) < augment.vertical_flip,
    )

"""The values that settings of few values may take, by name; light, so that the command line's help is quick."""

from typing import Any

CHOICES: dict[str, tuple[Any, ...]] = {
    "channels": (1, 3),
    "fit": ("stretch", "crop", "pad"),
    "interpolation": ("bilinear", "bicubic"),
    "depth": (8, 16),
    "parity": ("exact", "fast"),
    "emulate": ("dali-cpu", "dali-gpu"),
    "reduce": (False, True),
    "dtype": ("float32", "float16", "bfloat16"),
    "memory_format": ("contiguous", "channels_last"),
}
"""What a recipe's fields with few values allow."""

BACKENDS = ("dali-gpu", "dali-cpu", "torch")
"""All backends, in the order in which "auto" tries them."""

"""Guard against drift: does the installed DALI still compute what the CPU twins do?

The tests prove it for `VERIFIED_VERSIONS`. With any other version, `selfcheck` runs a handful of small images, chosen
so that every rule of the specification decides some value (ties, scalar rests, pass order, fused or not), through the
installed DALI and compares.

This module does not import DALI: the caller, who does, hands over a function that runs one operator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipes.arithmetic.dali.colour import brightness_contrast, color_twist
from dali_pipes.arithmetic.dali.normalise import crop_mirror_normalize
from dali_pipes.arithmetic.dali.placement import cast, crop, flip
from dali_pipes.arithmetic.dali.resize import resize
from dali_pipes.arithmetic.dali.warp import rotate, warp_affine
from dali_pipes.errors import ParityError

VERIFIED_VERSIONS = ("2.4.0",)
"""Versions of DALI that the whole suite of comparisons was run against."""

Image = NDArray[Any]
RunOperator = Callable[[str, Image, Mapping[str, Any]], Image]
"""`(operator, image, arguments) -> output`: run `nvidia.dali.fn.<operator>` on the CPU over one image [H, W, C].

The arguments are DALI's own, but `dtype` is a NumPy name ("float32") and `interp_type` one of the names of
`filters.INTERPOLATIONS`."""


@dataclass(frozen=True)
class Probe:
    """One comparison: an image's shape (also its seed) and type, DALI's arguments, and the twin with these bound."""

    operator: str
    shape: tuple[int, int, int]
    dtype: str
    arguments: Mapping[str, Any]
    twin: Callable[[Tensor], Tensor]

    def image(self) -> Image:
        """Return noise over the whole range, the same at every call.

        The left third holds halves (float) or values near the middle of the range, whose means tie.
        """
        random = np.random.default_rng(list(self.shape))
        if self.dtype == "float32":
            noise: Image = random.standard_normal(self.shape) * 100
            calm: Image = np.rint(noise) + 0.5
        else:
            full = np.iinfo(self.dtype).max
            noise = random.integers(0, full + 1, self.shape)
            calm = full // 2 + noise % 2
        left = np.arange(self.shape[1])[:, None] < self.shape[1] / 3
        image: Image = np.where(left, calm, noise).astype(self.dtype)
        return image


def selfcheck(version: str, run_operator: RunOperator) -> None:
    """Compare every CPU twin with the installed DALI, unless the tests have seen its version.

    version: the installed DALI's. Takes about 0.1 s; does nothing for a verified version.

    Raises ParityError, naming the operator and both versions, at the first output that differs.
    """
    if version not in VERIFIED_VERSIONS:
        compare(version, run_operator)


def compare(version: str, run_operator: RunOperator) -> None:
    """Do the comparison of `selfcheck`, for any version."""
    for probe in probes():
        image = probe.image()
        expected = probe.twin(torch.from_numpy(image)).numpy()
        found = np.ascontiguousarray(run_operator(probe.operator, image, probe.arguments))
        same = found.dtype == expected.dtype and found.shape == expected.shape
        if same and found.tobytes() == expected.tobytes():
            continue
        raise ParityError(
            f"DALI {version} computes {probe.operator} otherwise than its PyTorch twin, which was verified with DALI "
            f"{', '.join(VERIFIED_VERSIONS)}: {_difference(found, expected)} ({probe.dtype} {probe.shape}, "
            f"{dict(probe.arguments)}). Install a verified version, or use parity='exact', which does not depend on it."
        )


def _difference(found: Image, expected: Image) -> str:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype} {found.shape} instead of {expected.dtype} {expected.shape}"
    gap = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return f"{np.count_nonzero(gap)} of {gap.size} values differ, by at most {gap.max():g}"


def probes() -> tuple[Probe, ...]:
    """Return the comparisons that `selfcheck` makes."""
    imagenet: dict[str, Any] = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    affine = ((0.9, 0.3, -2.0), (-0.25, 1.1, 3.0))
    flat = [value for row in affine for value in row]
    light = {"brightness": 1.2, "brightness_shift": 0.05, "contrast": 0.7}
    twist = {"hue": 33.0, "saturation": 1.3, "brightness": 0.9, "contrast": 1.2}
    return (
        _resize((61, 83, 3), "uint8", (40.0, 31.0), "linear"),
        _resize((35, 50, 1), "uint8", (77.0, 90.0), "linear"),
        _resize((61, 83, 3), "uint8", (30.0, 45.0), "cubic"),
        _resize((90, 47, 1), "uint16", (33.0, 20.0), "lanczos3"),
        _resize((40, 70, 3), "float32", (21.0, 33.0), "gaussian"),
        _resize((40, 70, 3), "uint8", (53.0, 29.0), "nn"),
        _resize((64, 64, 1), "uint8", (32.0, 32.0), "linear", roi_start=(60.0, 3.5), roi_end=(2.0, 50.25)),
        Probe("crop_mirror_normalize", (17, 23, 3), "uint8", imagenet, lambda x: crop_mirror_normalize(x, **imagenet)),
        Probe("crop", (30, 31, 3), "uint8", {"crop": (8, 9), "crop_pos_y": 0.3, "crop_pos_x": 0.5},
              lambda x: crop(x, (8, 9), (0.3, 0.5))),
        Probe("flip", (9, 7, 3), "uint8", {"horizontal": 1}, flip),
        Probe("cast", (20, 20, 1), "float32", {"dtype": "uint8"}, lambda x: cast(x, torch.uint8)),
        *(
            probe
            for dtype in ("uint8", "float32")  # float32 shows the last bit of every operation
            for probe in (
                Probe("brightness_contrast", (16, 16, 3), dtype, light, lambda x: brightness_contrast(x, **light)),
                Probe("color_twist", (30, 30, 3), dtype, twist, lambda x: color_twist(x, **twist)),
                Probe("warp_affine", (40, 300, 3), dtype, {"matrix": flat, "fill_value": 7.0},
                      lambda x: warp_affine(x, affine, fill_value=7.0)),
            )
        ),
        Probe("rotate", (33, 40, 1), "uint8", {"angle": 25.0}, lambda x: rotate(x, 25.0)),
    )  # fmt: skip


def _resize(
    shape: tuple[int, int, int], dtype: str, size: tuple[float, float], interp_type: Any, **region: tuple[float, float]
) -> Probe:
    arguments = {"size": size, "interp_type": interp_type, **region}
    start, end = region.get("roi_start"), region.get("roi_end")
    return Probe(
        "resize",
        shape,
        dtype,
        arguments,
        lambda x: resize(x, size, interp_type=interp_type, roi_start=start, roi_end=end),
    )

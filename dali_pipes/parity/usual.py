"""The usual torchvision pipeline, written with Pillow and PyTorch, so that each of its parts can be swapped for ours.

    Image.open(file).convert("RGB")         or Grayscale: convert("L")
    Resize(size)                            crop: Resize, then CenterCrop; pad: Resize, then Pad with black
    ToTensor()                              float32(x) / 255
    Normalize(mean, std)                    (t - mean) / std, in float32

What torchvision calls by those names is what is computed here: `Resize` of a PIL image is Pillow's `resize`; of a
tensor it is `torch.nn.functional.interpolate`, on float32 values that are rounded to the nearest level afterwards
(transforms v1), or on the bytes themselves (v2). Sizes and offsets are those of `arithmetic.geometry`, which are
torchvision's.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from dali_pipes.arithmetic import base_image, geometry, normalisation, normalise_into
from dali_pipes.arithmetic.dali_base import dali_base_image
from dali_pipes.decode import Kind, decode
from dali_pipes.errors import DecodeError
from dali_pipes.recipe import Recipe

Array = npt.NDArray[Any]
Decoder = Callable[[bytes, int], Array]
"""(file, channels) to uint8 [H, W, channels]."""
Resize = Literal["pillow", "float32", "uint8"]

_MOST_PIXELS = 1 << 27


def pillow(data: bytes, channels: int) -> Array:
    """`Image.open(file).convert("RGB")`, or "L" for one channel.

    Raises DecodeError where Pillow cannot read the file.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DecodeError(f"Pillow cannot read it: {error}") from None
    return pixels.reshape(*pixels.shape[:2], channels)


@dataclass(frozen=True)
class Usual:
    """Which parts are torchvision's; the rest is ours.

    Attributes:
        decoder: decodes; None is our decoder.
        resize: "pillow": of a PIL image; "float32": of a tensor by transforms v1; "uint8": by v2; None is ours.
        antialias: whether a tensor is resized with `antialias=True`, the default since torchvision 0.17.
        divide_first: whether values are divided by 255, then normalised; otherwise by our normalisation.
    """

    decoder: Decoder | None = pillow
    resize: Resize | None = "pillow"
    antialias: bool = True
    divide_first: bool = True


OURS = Usual(decoder=None, resize=None, antialias=True, divide_first=False)
"""No part is torchvision's."""

USUAL = {
    "PIL image": Usual(),
    "tensor (v1)": Usual(resize="float32"),
    "tensor (v2)": Usual(resize="uint8"),
    "tensor, antialias=False": Usual(resize="float32", antialias=False),
}
"""The ways in which torchvision's pipeline is usually written."""


def pixels_of(usual: Usual, data: bytes, kind: Kind, recipe: Recipe) -> Array:
    """uint8 [H, W, C] of a file. Raises DecodeError."""
    if usual.decoder is not None:
        return usual.decoder(data, recipe.channels)
    return decode(data, kind, 0, recipe.decode_policy).pixels


def base_of(usual: Usual, pixels: Array, kind: Kind, recipe: Recipe) -> Array:
    """uint8 [C, h, w]: resized, and cut or padded. Raises DecodeError where the whole resized picture is too large."""
    if usual.resize is None and usual.antialias:
        size = (recipe.height, recipe.width)
        if recipe.dali_base_image and kind.dali:
            return dali_base_image(pixels, size, recipe.fit, recipe.interpolation, recipe.emulate)
        return base_image(pixels, size, recipe.fit, recipe.interpolation)
    place = geometry(pixels.shape[0], pixels.shape[1], (recipe.height, recipe.width), recipe.fit)
    if place.resized[0] * place.resized[1] > _MOST_PIXELS:
        raise DecodeError(f"Resize would make {place.resized[0]} x {place.resized[1]} pixels of it before the crop")
    resized = _resized(usual, np.ascontiguousarray(pixels), place.resized, recipe.interpolation)
    (top, left), (h, w), (above, before) = place.crop, place.window, place.pad
    out = np.zeros((pixels.shape[2], *place.size), np.uint8)
    out[:, above : above + h, before : before + w] = resized[:, top : top + h, left : left + w]
    return out


def output_of(usual: Usual, base: Array, recipe: Recipe) -> Array:
    """Return the network's input, float32 [C, h, w]; the base image itself if the recipe does not normalise."""
    if recipe.normalisation is None:
        return base
    mean, std = recipe.normalisation
    if usual.divide_first:
        values = torch.from_numpy(base).to(torch.float32).div(255)
        columns = (torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1) for numbers in (mean, std))
        return values.sub_(next(columns)).div_(next(columns)).numpy()
    out = np.empty(base.shape, np.float32)
    normalise_into(out, base, *normalisation(mean, std, recipe.full_scale))
    return out


def _resized(usual: Usual, pixels: Array, size: tuple[int, int], interpolation: str) -> Array:
    """uint8 [C, nh, nw] by Pillow or PyTorch."""
    if usual.resize == "pillow":
        method = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
        image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
        resized: Array = np.asarray(image.resize((size[1], size[0]), method))
        planes: Array = resized.reshape(*size, pixels.shape[2]).transpose(2, 0, 1)
        return planes
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    if usual.resize == "uint8" and usual.antialias:
        found = functional.interpolate(batch, size, mode=interpolation, antialias=True, align_corners=False)
    else:
        found = functional.interpolate(
            batch.to(torch.float32), size, mode=interpolation, antialias=usual.antialias, align_corners=False
        )
        found = found.clamp(0, 255).round().to(torch.uint8)
    planar: Array = found[0].contiguous().numpy()
    return planar

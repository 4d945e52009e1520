"""Masks: files whose values are class numbers, 0 to 255, and are kept as they are.

PNG and the other rasters: gray values, and the numbers (not the colours) of a palette; of one bit 0 and 1; RGB only
where its channels are equal. DICOM (a segmentation's frame, or any monochrome image): modality values, which must be
whole numbers from 0 to 255; one-bit segmentations give 0 and 1.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipes.decode.api import decode
from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.kinds import Kind
from dali_pipes.decode.limits import Limits
from dali_pipes.decode.policy import DecodePolicy
from dali_pipes.decode.raster import ANIMATED, PILLOW, seek
from dali_pipes.errors import DaliPipesError, DecodeError, UnsupportedError


def decode_mask(data: bytes | memoryview, kind: Kind, frame: int, limits: Limits) -> NDArray[np.uint8]:
    """Return one frame's class numbers, uint8[H, W].

    Raises:
        UnsupportedError: a JPEG, whose values are not kept exactly, or values that are no class numbers.
        DecodeError: this and its other subclasses, as `decode` raises them.
    """
    limits.check_file(len(data))
    if kind.tag.startswith("dcm."):
        decoded = decode(data, kind, frame, DecodePolicy(channels=1, depth=16, window=None, limits=limits))
        told = decoded.attributes
        if read_header(data, limits).allocated == 1:  # decoded as black and white
            return (decoded.pixels[..., 0] > 0).astype(np.uint8)
        values = decoded.pixels[..., 0].astype(np.float64) + told.get("offset", 0)
        return _class_numbers(values * told.get("slope", 1.0) + told.get("intercept", 0.0))
    if kind.tag not in PILLOW:
        raise UnsupportedError("a mask is a JPEG, which changes values; store it as PNG")
    try:
        with Image.open(io.BytesIO(data), formats=[PILLOW[kind.tag]]) as image:
            limits.check_frame(image.height, image.width, 4)
            limits.check_page(frame, image.height * image.width, animated=kind.tag in ANIMATED)
            seek(image, kind.tag, frame, data)
            limits.check_frame(image.height, image.width, 4)  # pages may differ in size
            values = np.array(image)
            if image.mode == "1":
                values = values.astype(np.uint8)
    except DaliPipesError:
        raise
    except Exception as error:  # whatever a library throws at odd bytes; unquoted, because it may hold the file's text
        raise DecodeError(f"the mask is damaged: {type(error).__name__} in the decoder") from None
    if values.ndim == 3:
        colours = values[..., : 1 if values.shape[2] == 2 else 3]
        if (colours != colours[..., :1]).any():
            raise UnsupportedError("a mask holds colours; store class numbers, as gray values or with a palette")
        return _class_numbers(colours[..., 0])
    return _class_numbers(values)


def _class_numbers(values: NDArray[Any]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    if not np.array_equal(found, values):
        raise UnsupportedError("a mask holds values that are no whole numbers from 0 to 255")
    return found

"""How large a picture is, from its file's headers: nothing is decoded."""

from __future__ import annotations

import io

from PIL import Image

from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.formats import FORMATS
from dali_pipes.decode.jpegheader import read_jpeg_header
from dali_pipes.decode.kinds import Kind
from dali_pipes.decode.named import damage_named
from dali_pipes.decode.policy import DecodePolicy
from dali_pipes.decode.raster import PILLOW


def extent(data: bytes | memoryview, kind: Kind, frame: int, policy: DecodePolicy) -> tuple[int, int]:
    """Return (height, width) in pixels of what `decode` gives at full resolution.

    Raises:
        DecodeError: headers that cannot be read, or its subclasses as `decode` raises them.
    """
    with damage_named("in the headers"):
        family = FORMATS[kind.tag].family
        if family == "dicom":
            header = read_header(data, policy.limits)
            return header.rows, header.columns
        if family == "jpeg":
            told = read_jpeg_header(data)
            return told.height, told.width
        with Image.open(io.BytesIO(data), formats=[PILLOW[kind.tag]]) as image:
            image.seek(frame)
            return image.height, image.width  # of a TIFF as it lies upright, which is how it is decoded

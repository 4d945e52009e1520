"""The table of formats: for each tag, who decodes it and which versions of which libraries that are.

A new format is a row here, and a signature in `sniff`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import imagecodecs
import PIL
import simplejpeg
from PIL import features

from dali_pipes.decode.dicom.codecs import codec_for, describe_codec
from dali_pipes.decode.dicom.image import decode_dicom
from dali_pipes.decode.dicom.j2k import REDUCIBLE, reduced_version
from dali_pipes.decode.dicom.syntaxes import BY_TAG, Syntax
from dali_pipes.decode.jpeg import by_pillow, by_pillow_watched, by_turbojpeg, decode_photo
from dali_pipes.decode.policy import Decoded, DecodePolicy
from dali_pipes.decode.raster import PILLOW, decode_raster

Decode = Callable[[bytes | memoryview, int, DecodePolicy], Decoded]


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Format:
    """One row.

    decode: one frame of a whole file, with one channel for monochrome sources. libraries: names and versions of what
    decodes it under a policy; raises UnsupportedError where it is not here. in_threads: whether it lets other threads
    run. dali: DALI's CPU decoder gives the same bits.
    """

    family: Literal["jpeg", "raster", "dicom"]
    decode: Decode
    libraries: Callable[[DecodePolicy], str]
    in_threads: Callable[[], bool] = _always
    dali: bool = False


def _turbo() -> str:
    return f"libjpeg-turbo {features.version('libjpeg_turbo') or features.version('jpg')}"


def _simplejpeg(policy: DecodePolicy) -> str:
    return f"simplejpeg {simplejpeg.__version__}"


def _pillow_jpeg(policy: DecodePolicy) -> str:
    return f"Pillow {PIL.__version__} {_turbo()}"


def _pillow(tag: str, policy: DecodePolicy) -> str:
    inside = {
        "webp": f" libwebp {features.version('webp')}",
        "tiff": f" libtiff {features.version('libtiff')} {_turbo()}, imagecodecs {imagecodecs.tiff_version()}",
    }
    return f"Pillow {PIL.__version__}{inside.get(tag, '')}"


def _codec(syntax: Syntax, policy: DecodePolicy) -> str:
    name = describe_codec(codec_for(syntax.uid))
    return f"{name}, {reduced_version()}" if policy.reduce is not None and syntax.family in REDUCIBLE else name


def _codec_in_threads(syntax: Syntax) -> bool:
    return codec_for(syntax.uid).in_threads


FORMATS: dict[str, Format] = {
    "jpeg": Format("jpeg", partial(decode_photo, by_turbojpeg), _simplejpeg, dali=True),
    "jpegturb": Format("jpeg", partial(decode_photo, by_turbojpeg), _simplejpeg),
    "jpegcmyk": Format("jpeg", partial(decode_photo, by_pillow_watched), _pillow_jpeg),
    "jpegpil": Format("jpeg", partial(decode_photo, by_pillow), _pillow_jpeg),
    **{tag: Format("raster", partial(decode_raster, tag), partial(_pillow, tag)) for tag in PILLOW},
    **{
        tag: Format("dicom", decode_dicom, partial(_codec, syntax), partial(_codec_in_threads, syntax))
        for tag, syntax in BY_TAG.items()
    },
}

"""The table of tags: which decoder takes what, with its name and version."""

from __future__ import annotations

from dataclasses import replace

import imagecodecs
import PIL
import simplejpeg
from PIL import features

from dali_pipes.decode.dicom.codecs import codec_for, describe_codec
from dali_pipes.decode.dicom.j2k import REDUCIBLE, reduced_version
from dali_pipes.decode.dicom.syntaxes import BY_TAG, TAG_OF
from dali_pipes.decode.policy import DecodePolicy, Kind
from dali_pipes.decode.raster import FORMATS
from dali_pipes.errors import UnsupportedError

# Counts the changes of our own rules that change pixels: part of every decoder's name, so that caches notice.
RULES = 4


def kind_of_tag(tag: str) -> Kind:
    """The kind of a tag; raises UnsupportedError for an unknown tag or a missing decoder. See Kind.from_tag, which
    remembers.
    """
    pillow = f"Pillow {PIL.__version__}"
    turbo = f"libjpeg-turbo {features.version('libjpeg_turbo') or features.version('jpg')}"
    if tag in ("jpeg", "jpegturb"):
        return Kind(tag, f"jpeg {RULES}, simplejpeg {simplejpeg.__version__}", in_threads=True, dali=tag == "jpeg")
    if tag in ("jpegcmyk", "jpegpil"):
        return Kind(tag, f"jpeg {RULES}, {pillow} {turbo}", in_threads=True)
    if tag in FORMATS:
        library = {
            "webp": f" libwebp {features.version('webp')}",
            "tiff": f" libtiff {features.version('libtiff')} {turbo}, imagecodecs {imagecodecs.tiff_version()}",
        }
        return Kind(tag, f"raster {RULES}, {pillow}{library.get(tag, '')}", in_threads=True)
    if tag in BY_TAG:
        codec = codec_for(BY_TAG[tag].uid)
        return Kind(tag, f"dicom {RULES}, {describe_codec(codec)}", in_threads=codec.in_threads)
    raise UnsupportedError(
        f"no decoder has the tag {tag!r}; known are {', '.join(sorted([*FORMATS, *BY_TAG]))} and the JPEG ones"
    )


def under(kind: Kind, policy: DecodePolicy) -> Kind:
    """See Kind.under."""
    if policy.reduce is None or kind.tag not in BY_TAG or BY_TAG[kind.tag].family not in REDUCIBLE:
        return kind
    return replace(kind, decoder=f"{kind.decoder}, {reduced_version()}")


def tag_of_syntax(uid: str) -> str:
    """The tag of a DICOM transfer syntax; raises UnsupportedError for one that the standard does not name or no decoder
    knows.
    """
    if uid not in TAG_OF:
        raise UnsupportedError(f"DICOM transfer syntax {uid!r} is not one that the standard gives to images")
    return TAG_OF[uid]

"""One file's bytes to pixels, by CPU decoders whose bits never change.

See `api` for the door and `voi` for the windows.
"""

from dali_pipes.decode.api import decode, decode_pixels, dicom_frames, frames
from dali_pipes.decode.deep import apply_window
from dali_pipes.decode.describe import describe
from dali_pipes.decode.dicom.codecs import decoders, require
from dali_pipes.decode.dicom.meta import is_dicom
from dali_pipes.decode.extent import extent
from dali_pipes.decode.jpeg import check_jpeg
from dali_pipes.decode.kinds import Kind
from dali_pipes.decode.limits import Limits
from dali_pipes.decode.mask import decode_mask
from dali_pipes.decode.policy import Decoded, DecodePolicy, policy_from_dict
from dali_pipes.decode.pool import DecoderPool
from dali_pipes.decode.sniff import identify, sniff_file
from dali_pipes.decode.voi import FixedWindow, PercentileWindow, VOIWindow, Window, window_from_dict

__all__ = [
    "DecodePolicy",
    "Decoded",
    "DecoderPool",
    "FixedWindow",
    "Kind",
    "Limits",
    "PercentileWindow",
    "VOIWindow",
    "Window",
    "apply_window",
    "check_jpeg",
    "decode",
    "decode_mask",
    "decode_pixels",
    "decoders",
    "describe",
    "dicom_frames",
    "extent",
    "frames",
    "identify",
    "is_dicom",
    "policy_from_dict",
    "require",
    "sniff_file",
    "window_from_dict",
]

"""`emulate="dali-cpu"`: PyTorch twins of DALI's CPU operators, bit for bit.

Verified against the versions in `selfcheck.VERIFIED_VERSIONS`; run `selfcheck.selfcheck` at first use with any other.
"""

from dali_pipes.arithmetic.dali.colour import brightness_contrast, color_twist
from dali_pipes.arithmetic.dali.normalise import crop_mirror_normalize
from dali_pipes.arithmetic.dali.placement import cast, crop, crop_offset, flip
from dali_pipes.arithmetic.dali.resize import resize
from dali_pipes.arithmetic.dali.warp import rotate, rotated_size, warp_affine

__all__ = [
    "brightness_contrast",
    "cast",
    "color_twist",
    "crop",
    "crop_mirror_normalize",
    "crop_offset",
    "flip",
    "resize",
    "rotate",
    "rotated_size",
    "warp_affine",
]

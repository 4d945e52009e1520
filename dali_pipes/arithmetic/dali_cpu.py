"""`emulate="dali-cpu"`: PyTorch twins of DALI's CPU operators, bit for bit.

Verified against the versions in `VERIFIED_VERSIONS`; run `selfcheck` at first use with any other.
"""

from dali_pipes.arithmetic.dali.normalise import crop_mirror_normalize
from dali_pipes.arithmetic.dali.placement import cast, crop, crop_offset, flip
from dali_pipes.arithmetic.dali.resize import resize

__all__ = ["cast", "crop", "crop_mirror_normalize", "crop_offset", "flip", "resize"]

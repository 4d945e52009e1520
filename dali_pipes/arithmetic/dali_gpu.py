"""`emulate="dali-gpu"`: what DALI's GPU operators compute, as read from their machine code.

**Unverified on hardware.**
"""

from dali_pipes.arithmetic.dali.normalise_gpu import crop_mirror_normalize
from dali_pipes.arithmetic.dali.resize_gpu import resize

__all__ = ["crop_mirror_normalize", "resize"]

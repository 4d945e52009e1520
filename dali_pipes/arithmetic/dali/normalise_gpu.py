"""DALI GPU `crop_mirror_normalize`, as read from its source and machine code.

**Unverified on hardware.**

The constants are the CPU's (`normalise.py`), but the two steps are fused: `y = fma(x, inv, f32(-m inv))`, one
rounding. About half of an ImageNet table's entries differ from the CPU's, by at most 2.4e-7. float16 is rounded from
`y`, ties to even.

With float16 output in HWC from RGB uint8 the kernel computes in half precision, depending on what else is in the
batch. This is not reproduced.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dali_pipes.arithmetic.dali.float32 import fma
from dali_pipes.arithmetic.dali.normalise import Layout, check_normalise, normalisation
from dali_pipes.arithmetic.dali.placement import crop as crop_image
from dali_pipes.arithmetic.dali.placement import flip
from dali_pipes.arithmetic.dali.sampling import Pair
from dali_pipes.errors import ConfigError


def crop_mirror_normalize(
    image: Tensor,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    scale: float = 1.0,
    shift: float = 0.0,
    mirror: bool = False,
    crop: tuple[int, int] | None = None,
    crop_pos: Pair = (0.5, 0.5),
    dtype: torch.dtype = torch.float32,
    output_layout: Layout = "CHW",
) -> Tensor:
    """Crop, mirror and normalise as DALI's GPU operator does (unverified on hardware).

    The arguments are those of the CPU twin.

    image: uint8 or uint16 [H, W, C]. The crop must lie inside of the image. Returns [C, h, w] or [h, w, C],
    contiguous.

    Raises ConfigError for arguments that DALI would not take, and for float16 in HWC from RGB.
    """
    check_normalise(image, mean, std, dtype)
    if image.dtype == torch.float32:
        raise ConfigError("DALI's GPU crop_mirror_normalize of float32 has no twin; give uint8 or uint16")
    if dtype == torch.float16 and output_layout == "HWC" and image.dtype == torch.uint8 and image.shape[2] == 3:
        raise ConfigError(
            "DALI's GPU crop_mirror_normalize computes float16 HWC from RGB in half precision, depending on the batch; "
            "use output_layout='CHW' or float32"
        )
    if crop is not None:
        image = crop_image(image, crop, crop_pos)
    if mirror:
        image = flip(image)
    subtract, multiply = normalisation(mean, std, scale, shift)
    add = torch.from_numpy((-subtract * multiply).astype(np.float32)).to(image.device)
    values = fma(image.to(torch.float32), torch.from_numpy(multiply).to(image.device), add).to(dtype)
    return values.permute(2, 0, 1).contiguous() if output_layout == "CHW" else values.contiguous()

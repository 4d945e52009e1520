"""The DALI graphs: one per parity, each serving CPU and GPU, for operators follow their input's device.

Inputs, one value a sample (N of them):

    image   uint8 | uint16 [C, H, W]   a base image; a placeholder for samples that are decoded here
    jpeg    uint8 [bytes]              only in graphs that decode; a placeholder where there is a base image
    encoded bool []                    only in graphs that decode: which of the two it is
    hflip, vflip int32 []              1 mirrors
    sample  int64 []                   passed through, to prove that nothing moved

Outputs: the batch, [C, H, W] a sample, and `sample`.

Exact parity uses operators whose bits are known: `flip` moves pixels; on the CPU `normalize` rounds twice, as the
contract asks; on a GPU, where DALI's normalisation fuses into one rounding, a subtraction and a multiplication stand in
for it. Fast parity uses DALI's operators as they are: on the CPU they have PyTorch twins (`arithmetic.native` for the
base image; `crop_mirror_normalize` rounds as the contract does); on a GPU the pixels of nvJPEG, `resize` and
`crop_mirror_normalize` are their own. GPU graphs are checked against DALI's schemas; they were not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic import base_image, normalisation
from dali_pipes.arithmetic.native import INTERPOLATIONS, MODES, max_size
from dali_pipes.decode.gray import luma
from dali_pipes.recipe import Recipe


def decodes(recipe: Recipe) -> bool:
    """Whether a graph can take the JPEGs of a recipe undecoded, with the bits that the recipe promises.

    Not at depth 16, where a JPEG's values are spread over 16 bits; and not to gray by DALI's own operators, which take
    the Y plane where the contract computes it from RGB.
    """
    return recipe.depth == 8 and (recipe.parity == "exact" or recipe.channels == 3)


@dataclass(frozen=True)
class Graph:
    """What a pipeline is built from.

    Attributes:
        recipe: what is computed.
        device: "cpu" or "gpu".
        decode: whether plain JPEGs are decoded in the graph.
        batch_size: largest batch.
        threads: DALI's CPU threads.
        device_id: CUDA device; None builds for the CPU alone (a GPU graph can then be checked, but not run).
    """

    recipe: Recipe
    device: str
    decode: bool
    batch_size: int
    threads: int
    device_id: int | None = None

    def pipeline(self) -> Any:
        """The DALI pipeline, not yet built."""
        from nvidia.dali import pipeline_def

        define = pipeline_def(
            self._outputs,
            batch_size=self.batch_size,
            num_threads=self.threads,
            device_id=self.device_id,
            prefetch_queue_depth=1,
            exec_dynamic=True,
            enable_conditionals=True,
        )
        return define()

    def _outputs(self) -> Any:
        from nvidia.dali import fn, types

        image = fn.external_source(name="image", layout="CHW", batch=True, no_copy=True)
        sample = fn.external_source(name="sample", dtype=types.INT64, ndim=0, batch=True)
        batch = image.gpu() if self.device == "gpu" else image
        if self.decode:
            jpeg = fn.external_source(name="jpeg", dtype=types.UINT8, ndim=1, batch=True, no_copy=True)
            encoded = fn.external_source(name="encoded", dtype=types.BOOL, ndim=0, batch=True)
            develop = self._native if self.recipe.parity == "fast" else self._portable
            batch = _either(encoded, lambda: develop(jpeg), lambda: batch)
        if self.recipe.augment is not None or self.recipe.mean is None:
            # Without normalisation this is also the copy from the cache's memory into DALI's.
            hflip = fn.external_source(name="hflip", dtype=types.INT32, ndim=0, batch=True)
            vflip = fn.external_source(name="vflip", dtype=types.INT32, ndim=0, batch=True)
            batch = fn.flip(batch, horizontal=hflip, vertical=vflip)
        return self._normalised(batch), sample

    def _portable(self, jpeg: Any) -> Any:
        """JPEG to base image by the portable contract: DALI's CPU decoder, then integers, on the batch's device."""
        from nvidia.dali import fn, types

        pixels = fn.decoders.image(jpeg, device="cpu", output_type=types.RGB)
        if self.device == "gpu":
            pixels, resample = pixels.gpu(), self._base_images_on_gpu
        else:
            resample = self._base_images
        return fn.python_function(
            pixels, device=self.device, function=resample, batch_processing=True, output_layouts="CHW"
        )

    def _base_images(self, pictures: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[Any]]:
        recipe = self.recipe
        shaped = map(luma, pictures) if recipe.channels == 1 else pictures
        return [base_image(pixels, recipe.size, recipe.fit, recipe.interpolation) for pixels in shaped]

    def _base_images_on_gpu(self, pictures: list[Any]) -> list[Any]:
        from dali_pipes.arithmetic.kernels import base_images

        recipe = self.recipe
        size = (recipe.height, recipe.width)
        return base_images(pictures, size, recipe.fit, recipe.interpolation, gray=recipe.channels == 1)

    def _native(self, jpeg: Any) -> Any:
        """JPEG to base image by DALI's own operators (nvJPEG on a GPU); on the CPU with the bits of `native_base`."""
        from nvidia.dali import fn, types

        recipe = self.recipe
        if self.device == "gpu":
            # Nearest to libjpeg-turbo, whose chroma upsampling is the "fancy" one.
            pixels = fn.decoders.image(jpeg, device="mixed", output_type=types.RGB, jpeg_fancy_upsampling=True)
        else:
            pixels = fn.decoders.image(jpeg, device="cpu", output_type=types.RGB)
        size = (recipe.height, recipe.width)
        base = fn.resize(
            pixels,
            size=list(size),
            mode=MODES[recipe.fit],
            interp_type=getattr(types, f"INTERP_{INTERPOLATIONS[recipe.interpolation].upper()}"),
            antialias=True,
            max_size=list(max_size(size)),
        )
        if recipe.fit != "stretch":
            base = fn.crop(base, crop=list(size), out_of_bounds_policy="pad", fill_values=0)
        return fn.transpose(base, perm=[2, 0, 1], transpose_layout=False, output_layout="CHW")

    def _normalised(self, batch: Any) -> Any:
        from nvidia.dali import fn, types

        recipe = self.recipe
        if recipe.normalisation is None:
            return batch
        mean, std = recipe.normalisation
        m, inv = normalisation(mean, std, recipe.full_scale)
        d = (np.asarray(std) * recipe.full_scale).astype(np.float32)
        if recipe.parity == "fast":
            return fn.crop_mirror_normalize(batch, mean=m.tolist(), std=d.tolist(), output_layout="CHW")
        if self.device == "gpu":
            return (batch - types.Constant(m[:, None, None])) * types.Constant(inv[:, None, None])
        return fn.normalize(batch, mean=m[:, None, None], stddev=d[:, None, None])


def _either(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    if condition:  # a DALI conditional: AutoGraph turns it into split and merge
        chosen = yes()
    else:
        chosen = no()
    return chosen

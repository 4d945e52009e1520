"""From base images to a batch on the CPU, in PyTorch: what varies at random, then normalisation.

    flip ──> affine warp ──> colour ──> normalise

Under exact parity by the portable integer arithmetic; under fast parity by the twins of DALI's operators. Where the
recipe is `planned`, all of it by the portable arithmetic, from a record per output (`plans`, `arithmetic.plan`).

`Finish` turns a batch's draws into what the arithmetic reads (`Changes`), the same for all backends, and applies it
sample by sample.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.arithmetic import copy_into, dali_cpu, dali_gpu, normalisation, normalise_into
from dali_pipes.arithmetic.affine import matrices, quantise, warp
from dali_pipes.arithmetic.colour import colour_maps, recolour
from dali_pipes.arithmetic.plan import Plan, as_plan, varied
from dali_pipes.compiled import copy_pictures, library, normalise_pictures, takes
from dali_pipes.compiled.writing import begin
from dali_pipes.draws import NOTHING, Draws
from dali_pipes.finish.plans import Plans
from dali_pipes.recipe import Recipe

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Changes:
    """What is done to each of N base images, as the arithmetic reads it.

    Attributes:
        hflip, vflip: bool[N].
        warp: fixed point, int64[N, 6] (`affine.quantise`); under fast parity float32[N, 2, 3], DALI's `matrix`;
            None where nothing is turned, scaled or shifted.
        colour: fixed point [N, C, C + 1] (`colour.colour_maps`); under fast parity float32[N, 4], brightness,
            contrast, saturation and hue; None where no value changes.
        plan: N records of `arithmetic.plan.PLAN`, which hold all of the above; None where the recipe is not planned.
    """

    hflip: npt.NDArray[np.bool_]
    vflip: npt.NDArray[np.bool_]
    warp: Pixels | None = None
    colour: Pixels | None = None
    plan: Plan | None = None

    @property
    def varies(self) -> bool:
        """Whether more than flips is to be done."""
        return not (self.warp is None and self.colour is None and self.plan is None)


class Finish:
    """What a recipe asks for after the cache, one sample at a time, in the calling thread.

    Args:
        recipe: decides everything.

    Attributes:
        base_shape: (C, H, W) of base images.
        shape: (C, H, W) of outputs.
        dtype: of outputs.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.shape = (recipe.channels, recipe.height, recipe.width)
        self.base_shape = (recipe.channels, *recipe.base)
        self.dtype = recipe.integer_dtype if recipe.normalisation is None else torch.float32
        self._recipe = recipe
        self._augment = recipe.augment or NOTHING
        self._constants = None
        if recipe.normalisation is not None:
            self._constants = normalisation(*recipe.normalisation, recipe.full_scale)

    def changes(self, draws: Draws) -> Changes:
        """Return the draws of a batch, as the arithmetic reads them."""
        if self._recipe.planned:
            return Changes(draws.hflip, draws.vflip, plan=Plans(self._recipe, draws).records)
        warps = colours = None
        exact = self._recipe.parity == "exact"
        if self._augment.warps:
            maps = matrices(self.shape[1:], draws.angle, draws.scale, draws.shift_y, draws.shift_x)
            warps = quantise(maps) if exact else maps.astype(np.float32)
        if self._augment.recolours:
            factors = (draws.brightness, draws.contrast, draws.saturation, draws.hue)
            colours = (
                colour_maps(self.shape[0], self._recipe.full_scale, *factors)
                if exact
                else np.stack(factors, axis=1).astype(np.float32)
            )
        return Changes(draws.hflip, draws.vflip, warps, colours)

    def write_all(self, out: Pixels, images: Sequence[Pixels], changes: Changes, part: Sequence[int]) -> None:
        """Write some samples of a batch: by the compiled passes, where they were built and there is one for the recipe.

        Args:
            out: `dtype`[N, C, H, W]. images: all base images of the batch. changes: the batch's.
            part: numbers of the samples.
        """
        compiled = library()
        if compiled is None or (self._constants is not None and self._recipe.emulate != "dali-cpu"):
            for i in part:
                self.write(out[i], images[i], changes, i)
        elif changes.varies:  # one after another, while each is near
            for i in part:
                image, *flips = self._varied(images[i], changes, i)
                self._copy(compiled, out, [i], [image], np.array([flips[0] + 2 * flips[1]], np.uint8))
        else:
            flags = (changes.hflip[part] + 2 * changes.vflip[part]).astype(np.uint8)
            self._copy(compiled, out, part, [images[i] for i in part], flags)

    def begin_all(
        self, out: Pixels, images: Sequence[Any], changes: Changes, threads: int
    ) -> Callable[[], None] | None:
        """Begin what `write_all` does to all samples of a batch, on up to `threads` threads in C.

        Returns:
            What waits for it; None where `write_all` is to do it. Nothing was written then.
        """
        compiled = library()
        if compiled is None or changes.varies or (self._constants is not None and self._recipe.emulate != "dali-cpu"):
            return None
        if not takes(out, images):
            return None
        flips = (changes.hflip + 2 * changes.vflip).astype(np.uint8)
        begun = begin(compiled, out, images, flips, self._constants, threads)
        return None if begun is None else begun.wait

    def _copy(
        self,
        compiled: ctypes.CDLL,
        out: Pixels,
        part: Sequence[int],
        chosen: Sequence[Pixels],
        flips: npt.NDArray[np.uint8],
    ) -> None:
        """Write pictures to some places of a batch, flipped and normalised."""
        if not takes(out, chosen):
            for i, image, flip in zip(part, chosen, flips.tolist()):
                self._place(out[i], image, bool(flip & 1), bool(flip & 2))
        elif self._constants is None:
            copy_pictures(compiled, out, part, chosen, flips)
        else:
            normalise_pictures(compiled, out, part, chosen, flips, *self._constants)

    def write(self, out: Pixels, image: Pixels, changes: Changes, i: int) -> None:
        """Write sample `i` of a batch.

        Args:
            out: `dtype` of `shape`.
            image: its base image, uint8 or uint16 of `base_shape`; may be read-only.
            changes: the batch's.
        """
        self._place(out, *self._varied(image, changes, i))

    def _varied(self, image: Pixels, changes: Changes, i: int) -> tuple[Pixels, bool, bool]:
        """Return what varies done to base image `i`, and the flips that are left to do."""
        hflip, vflip = bool(changes.hflip[i]), bool(changes.vflip[i])
        if changes.plan is not None:
            image, hflip, vflip = varied(image, changes.plan[i], self.shape[1:], self._recipe.interpolation)
        if changes.warp is not None:  # looks the pixels up where the flips would have put them
            image = image[:, :: -1 if vflip else 1, :: -1 if hflip else 1]
            hflip = vflip = False
        if changes.warp is not None or changes.colour is not None:
            image = self.vary(image, *(None if each is None else each[i] for each in (changes.warp, changes.colour)))
        return image, hflip, vflip

    def _place(self, out: Pixels, image: Pixels, hflip: bool, vflip: bool) -> None:
        """Write a picture to its place in a batch, flipped and normalised."""
        if self._constants is None:
            copy_into(out, image, hflip, vflip)
        elif self._recipe.emulate == "dali-cpu":
            normalise_into(out, image, *self._constants, hflip, vflip)
        else:
            out[...] = self._normalised_as_on_gpu(image[:, :: -1 if vflip else 1, :: -1 if hflip else 1])

    def planned(self, image: Pixels, words: npt.NDArray[np.int64]) -> Pixels:
        """Return what a record, int64[WORDS], makes of a base image: a new array of its type and the output's shape."""
        out = np.empty(self.shape, image.dtype)
        image, hflip, vflip = varied(image, as_plan(words), self.shape[1:], self._recipe.interpolation)
        copy_into(out, image, hflip, vflip)
        return out

    def vary(self, image: Pixels, matrix: Pixels | None, colour: Pixels | None) -> Pixels:
        """Warp and recolour one flipped base image.

        Args:
            image: uint8 or uint16 [C, H, W], any strides.
            matrix, colour: one sample's part of `Changes.warp` and `Changes.colour`.

        Returns:
            The same type and shape; `image` itself where both are None.
        """
        if self._recipe.parity == "exact":
            image = image if matrix is None else warp(image, matrix)
            return image if colour is None else recolour(image, colour)
        if matrix is None and colour is None:
            return image
        pixels = torch.from_numpy(image.copy()).permute(1, 2, 0)
        if matrix is not None:
            pixels = dali_cpu.warp_affine(pixels, matrix.tolist(), fill_value=0)
        if colour is not None:
            brightness, contrast, saturation, hue = colour.tolist()
            if self._augment.mixes:
                pixels = dali_cpu.color_twist(
                    pixels, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
                )
            else:
                pixels = dali_cpu.brightness_contrast(pixels, brightness=brightness, contrast=contrast)
        return pixels.permute(2, 0, 1).numpy()

    def _normalised_as_on_gpu(self, image: Pixels) -> Pixels:
        mean, std = self._recipe.normalisation or ((0.0,), (1.0,))
        m, d = ((np.asarray(v) * self._recipe.full_scale).astype(np.float32).tolist() for v in (mean, std))
        pixels = torch.from_numpy(image.transpose(1, 2, 0).copy())
        return dali_gpu.crop_mirror_normalize(pixels, mean=m, std=d).numpy()

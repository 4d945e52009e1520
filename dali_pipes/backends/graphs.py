"""The DALI graphs: one per parity, each serving CPU and GPU, for operators follow their input's device.

Inputs, one value a sample (N of them):

    image   uint8 | uint16 [C, H, W]   a base image; a placeholder for samples that are decoded here
    jpeg    uint8 [bytes]              only in graphs that decode; a placeholder where there is a base image
    encoded bool []                    only in graphs that decode: which of the two it is
    hflip, vflip int32 []              1 mirrors
    plan    int64 [words]              only where the recipe is planned: one record of `arithmetic.plan`
    sample  int64 []                   passed through, to prove that nothing moved

Outputs: the batch, [C, H, W] a sample, and `sample`.

Exact parity uses operators whose bits are known: `flip` moves pixels; on the CPU `normalize` rounds twice, as the
contract asks; on a GPU, where DALI's normalisation fuses into one rounding, a subtraction and a multiplication stand in
for it. Fast parity uses DALI's operators as they are: on the CPU they have PyTorch twins (`arithmetic.dali_base` for
the base image; `crop_mirror_normalize` rounds as the contract does); on a GPU the pixels of nvJPEG, `resize` and
`crop_mirror_normalize` are their own. GPU graphs are checked against DALI's schemas; they were not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic import normalisation
from dali_pipes.arithmetic.dali_base import INTERPOLATIONS, MODES, max_size
from dali_pipes.arithmetic.plan import as_words
from dali_pipes.backends.dali_operators import decoded
from dali_pipes.backends.portable import PortableOnCpu, PortableOnGpu, varying
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.finish.finish import Changes
from dali_pipes.recipe import Recipe

Pixels = npt.NDArray[Any]

CHANGES = ("hflip", "vflip", "warp", "colour", "plan")
"""Those inputs of a graph that say what is done to a base image."""


def decodes(recipe: Recipe) -> bool:
    """Whether a graph can take the JPEGs of a recipe undecoded, with the bits that the recipe promises."""
    return recipe.dali_base_image or (recipe.parity == "exact" and recipe.depth == 8)


def needs_kernels(recipe: Recipe, decode: bool) -> bool:
    """Whether a GPU graph needs the CUDA kernels, and with them CuPy; decode: whether it is to take JPEGs undecoded."""
    return not recipe.native and (bool(varying(recipe)) or (decode and decodes(recipe) and not recipe.dali_base_image))


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
        at_once: how many batches may be in work.
    """

    recipe: Recipe
    device: str
    decode: bool
    batch_size: int
    threads: int
    device_id: int | None = None
    at_once: int = 1

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of what has to be fed."""
        found = ["image", "sample"]
        if self.decode:
            found += ["jpeg", "encoded"]
        if self.recipe.augment is not None and not self.recipe.planned:
            found += ["hflip", "vflip"]
        return (*found, *varying(self.recipe))

    def values(self, items: Sequence[Pixels | Encoded], changes: Changes) -> dict[str, Any]:
        """Return what is fed for N samples, by input.

        Args:
            items: base images, or JPEGs in graphs that decode.
            changes: what is done to each.
        """
        found: dict[str, Any] = {
            "image": items,
            # One array of N scalars is fed several times faster than a list of them.
            "sample": np.arange(len(items), dtype=np.int64),
            "hflip": changes.hflip.astype(np.int32),
            "vflip": changes.vflip.astype(np.int32),
            "warp": changes.warp,
            "colour": changes.colour,
            "plan": None if changes.plan is None else as_words(changes.plan),
        }
        if self.decode:
            nothing = np.zeros((1, 1, 1), np.uint8)  # small: a conditional passes it by, of whatever shape it is
            found["image"] = [nothing if isinstance(item, Encoded) else item for item in items]
            found["jpeg"] = [item.data if isinstance(item, Encoded) else nothing.reshape(-1) for item in items]
            found["encoded"] = np.array([isinstance(item, Encoded) for item in items])
        return {name: found[name] for name in self.inputs}

    def pipeline(self) -> Any:
        """Return the DALI pipeline, not yet built."""
        from nvidia.dali import pipeline_def

        define = pipeline_def(
            self._outputs,
            batch_size=self.batch_size,
            num_threads=self.threads,
            device_id=self.device_id,
            prefetch_queue_depth=self.at_once,
            exec_dynamic=True,
            enable_conditionals=self.decode,  # AutoGraph takes a third of a second to read the graph's code
        )
        return define()

    def close(self) -> None:
        """End the threads of the graph's Python functions."""
        self._functions.close()

    def _outputs(self) -> Any:
        from nvidia.dali import fn, types

        image = fn.external_source(name="image", layout="CHW", batch=True, no_copy=True)
        sample = fn.external_source(name="sample", dtype=types.INT64, ndim=0, batch=True)
        if self.decode:
            jpeg = fn.external_source(name="jpeg", dtype=types.UINT8, ndim=1, batch=True, no_copy=True)
            encoded = fn.external_source(name="encoded", dtype=types.BOOL, ndim=0, batch=True)
            batch = _either(encoded, lambda: self.developed(jpeg), lambda: self._there(image))
        else:
            batch = self._there(image)
        changes = {name: fn.external_source(name=name, batch=True) for name in self.inputs if name in CHANGES}
        return self.finished(batch, changes), sample

    def developed(self, jpeg: Any) -> Any:
        """In a pipeline: plain JPEGs to base images, on the graph's device."""
        return self._native(jpeg) if self.recipe.dali_base_image else self._portable(jpeg)

    def finished(self, batch: Any, changes: Mapping[str, Any]) -> Any:
        """In a pipeline: base images on the graph's device to what the recipe asks for.

        Args:
            batch: a DataNode.
            changes: DataNodes of those of `inputs` that `CHANGES` names.
        """
        return self.normalised(self.varied(batch, changes))

    def varied(self, batch: Any, changes: Mapping[str, Any]) -> Any:
        """In a pipeline: what is drawn at random, done to base images; arguments as for `finished`."""
        from nvidia.dali import fn

        if "hflip" in changes:
            batch = fn.flip(batch, horizontal=changes["hflip"], vertical=changes["vflip"])
        return self._varied(batch, {name: changes[name] for name in varying(self.recipe)})

    def _there(self, values: Any) -> Any:
        """Return the same values on the graph's device."""
        return values.gpu() if self.device == "gpu" else values

    def _portable(self, jpeg: Any) -> Any:
        """JPEG to base image by the portable contract: DALI's CPU decoder, then integers, on the batch's device."""
        return self._integers(self._functions.base_images, decoded(jpeg, nvjpeg=False))

    def _integers(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return the batch that one of `portable`'s functions makes, on the batch's device."""
        from nvidia.dali import fn

        return fn.python_function(
            *(self._there(each) for each in inputs),
            device=self.device,
            function=function,
            batch_processing=True,
            output_layouts="CHW",
        )

    def _varied(self, batch: Any, inputs: dict[str, Any]) -> Any:
        """Warp and colour: integers under exact parity, else DALI's operators, with the bits of `Finish.vary`."""
        from nvidia.dali import fn, types

        recipe, augment = self.recipe, self.recipe.augment
        if not inputs:
            return batch
        if not recipe.native or augment is None:
            return self._integers(self._functions.vary, batch, *inputs.values())
        pixels = fn.transpose(batch, perm=[1, 2, 0], transpose_layout=False, output_layout="HWC")
        if augment.warps:
            matrix = inputs["warp"]
            pixels = fn.warp_affine(pixels, matrix=matrix, fill_value=0, interp_type=types.INTERP_LINEAR)
        if augment.recolours:
            brightness, contrast, saturation, hue = (inputs["colour"][i] for i in range(4))
            if augment.mixes:
                pixels = fn.color_twist(
                    pixels, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
                )
            else:
                pixels = fn.brightness_contrast(pixels, brightness=brightness, contrast=contrast)
        if recipe.normalisation is not None:  # DALI's operator for that takes either layout
            return pixels
        return fn.transpose(pixels, perm=[2, 0, 1], transpose_layout=False, output_layout="CHW")

    @cached_property
    def _functions(self) -> PortableOnCpu | PortableOnGpu:
        return PortableOnGpu(self.recipe) if self.device == "gpu" else PortableOnCpu(self.recipe, self.threads)

    def _native(self, jpeg: Any) -> Any:
        """JPEG to base image by DALI's operators (nvJPEG on a GPU); on the CPU with the bits of `dali_base_image`."""
        from nvidia.dali import fn, types

        recipe = self.recipe
        size = recipe.base
        base = fn.resize(
            decoded(jpeg, nvjpeg=self.device == "gpu"),
            size=list(size),
            mode=MODES[recipe.fit],
            interp_type=getattr(types, f"INTERP_{INTERPOLATIONS[recipe.interpolation].upper()}"),
            antialias=True,
            max_size=list(max_size(size)),
        )
        if recipe.fit != "stretch":
            base = fn.crop(base, crop=list(size), out_of_bounds_policy="pad", fill_values=0)
        return fn.transpose(base, perm=[2, 0, 1], transpose_layout=False, output_layout="CHW")

    def normalised(self, batch: Any) -> Any:
        """In a pipeline: integers, [C, H, W] a sample, to float32 by the recipe's mean and deviation."""
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
            constants = (types.Constant(each[:, None, None], device="gpu") for each in (m, inv))
            return (batch - next(constants)) * next(constants)
        return fn.normalize(batch, mean=m[:, None, None], stddev=d[:, None, None])


def _either(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    if condition:  # a DALI conditional: AutoGraph turns it into split and merge
        chosen = yes()
    else:
        chosen = no()
    return chosen

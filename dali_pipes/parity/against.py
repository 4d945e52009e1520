"""Why do DALI, or dali-pipes, and torchvision disagree? Each cause, found by swapping one part at a time.

Starting from our pipeline, one part after the other is replaced by torchvision's, alone; antialiasing, which is a
part of a resize, is left out of torchvision's. A part whose replacement changes no bit is no cause; of the others it
is said by how much they change the base image (in levels of 255) or, for the normalisation, the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dali_pipes.arithmetic import geometry
from dali_pipes.decode import Kind, identify
from dali_pipes.errors import ConfigError, DaliPipesError, ParityError
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.parity.stages import outputs
from dali_pipes.parity.tally import Array, Difference, Tally, Worst
from dali_pipes.parity.usual import OURS, USUAL, Usual, base_of, output_of, pixels_of
from dali_pipes.recipe import Recipe

CAUSES = ("decoder", "antialias", "rounding", "normalisation order")
"""Everything in which the pipelines can differ."""


@dataclass(frozen=True)
class Cause:
    """One part that is torchvision's, and what it alone changes.

    Attributes:
        name: one of `CAUSES`.
        words: what differs, and what to do about it.
        difference: between our pipeline and ours with this part swapped.
        worst: the sample in which it changes most.
    """

    name: str
    words: str
    difference: Difference
    worst: Worst | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Explanation:
    """Our pipeline and one way of writing torchvision's.

    Attributes:
        pipeline: its name.
        samples: how many were compared.
        skipped: samples that torchvision cannot load (DICOM, say) or that do not decode.
        total: the difference of the outputs.
        causes: the parts that make it, in the order of the flow; empty if the pipelines agree.
        note: what was left out of the comparison, or "".
    """

    pipeline: str
    samples: int
    skipped: int
    total: Difference
    causes: tuple[Cause, ...]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        causes = [{"cause": each.name, "words": each.words, **each.difference.as_dict()} for each in self.causes]
        return {
            "pipeline": self.pipeline,
            "samples": self.samples,
            "skipped": self.skipped,
            "total": self.total.as_dict(),
            "causes": causes,
            "note": self.note,
        }


def explain(
    manifest: Manifest, recipe: Recipe, pipelines: Mapping[str, Usual] = USUAL, **loading: Any
) -> Iterator[int | tuple[Explanation, ...]]:
    """Compare our pipeline with each of `pipelines`; what varies at random is left out.

    Returns an iterator of the number of samples done, after each, and of the explanations at the end.

    Args:
        manifest, recipe: what to load, at depth 8.
        pipelines: by name.
        loading: `batch_size` and `num_workers`, as for `Loader`.

    Raises:
        ConfigError: a recipe of depth 16, because torchvision has no form of it.
        ParityError: our parts, put together here, do not give what the loader gives.
    """
    if recipe.depth != 8:
        raise ConfigError("torchvision's usual pipeline holds bytes; compare with a recipe of depth 8.")
    return _steps(manifest, recipe, pipelines, loading)


def _steps(
    manifest: Manifest, recipe: Recipe, pipelines: Mapping[str, Usual], loading: dict[str, Any]
) -> Iterator[int | tuple[Explanation, ...]]:
    note = "" if recipe.augment is None else "What varies at random is left out of this comparison."
    recipe = replace(recipe, augment=None, emulate="dali-cpu")
    runs = {name: _Run(usual, recipe) for name, usual in pipelines.items()}
    for index, found in outputs(manifest, {"normalise": recipe}, ["torch"], **{"batch_size": 16, **loading}):
        loaded = found.get(("normalise", "torch"))
        data = _file(manifest, index) if loaded is not None else None
        for run in runs.values():
            if loaded is None or data is None:
                run.skipped += 1
            else:
                run.add(index, *data, loaded, manifest.describe(index))
        yield index + 1
    yield tuple(run.explanation(name, note) for name, run in runs.items())


def _file(manifest: Manifest, index: int) -> tuple[bytes, Kind] | None:
    """Return a file that both could read; not DICOM, because torchvision knows nothing of it."""
    path = manifest.resolve(index)
    data = path.read_bytes()
    kind = identify(path, data)
    return None if kind.tag.startswith("dcm") or manifest.frames[index] else (data, kind)


class _Run:
    """One pipeline, compared over the samples."""

    def __init__(self, usual: Usual, recipe: Recipe) -> None:
        self._usual, self._recipe = usual, recipe
        self._swaps = {
            "decoder": replace(OURS, decoder=usual.decoder),
            "antialias": replace(OURS, resize=usual.resize, antialias=usual.antialias),
            "rounding": replace(OURS, resize=usual.resize),
            "normalisation order": replace(OURS, divide_first=usual.divide_first),
        }
        self._tallies = {name: Tally() for name in CAUSES}
        self._total = Tally()
        self._samples = 0
        self.skipped = 0

    def add(self, index: int, data: bytes, kind: Kind, loaded: Array, described: str) -> None:
        try:
            pixels = pixels_of(OURS, data, kind, self._recipe)
            theirs = pixels_of(self._usual, data, kind, self._recipe)
            base = base_of(OURS, pixels, kind, self._recipe)
            resized = base_of(self._swaps["rounding"], pixels, kind, self._recipe)
            pairs = {
                "decoder": (base, base_of(OURS, theirs, kind, self._recipe)),
                "antialias": (resized, base_of(self._aliased(pixels), pixels, kind, self._recipe)),
                "rounding": (base, resized),
            }
            whole = output_of(self._usual, base_of(self._usual, theirs, kind, self._recipe), self._recipe)
        except DaliPipesError:
            self.skipped += 1
            return
        output = output_of(OURS, base, self._recipe)
        if not np.array_equal(output, loaded):
            raise ParityError(
                f"{described}: the loader gives other bits than its parts do; this is a bug of dali-pipes."
            )
        self._samples += 1
        for name, (reference, image) in pairs.items():
            self._tallies[name].add(index, reference, image)
        normalised = output_of(self._swaps["normalisation order"], base, self._recipe)
        self._tallies["normalisation order"].add(index, output, normalised)
        self._total.add(index, output, whole)

    def _aliased(self, pixels: Array) -> Usual:
        """Return torchvision's resize with its own antialiasing, which does nothing to a bilinear enlargement."""
        height, width = pixels.shape[:2]
        place = geometry(height, width, (self._recipe.height, self._recipe.width), self._recipe.fit)
        shrinks = place.resized[0] < height or place.resized[1] < width
        return self._swaps["antialias" if shrinks or self._recipe.interpolation == "bicubic" else "rounding"]

    def explanation(self, name: str, note: str) -> Explanation:
        causes = []
        for cause in CAUSES:
            reference = "with antialias=True" if cause == "antialias" else "dali-pipes"
            difference = self._tallies[cause].difference(f"with torchvision's {cause}", reference)
            if not difference.identical:
                words = in_words(cause, self._usual, self._recipe)
                causes.append(Cause(cause, words, difference, self._tallies[cause].worst))
        total = self._total.difference(f"torchvision, {name}", "dali-pipes")
        return Explanation(name, self._samples, self.skipped, total, tuple(causes), note)


def in_words(cause: str, usual: Usual, recipe: Recipe) -> str:
    """Return what differs in a part, and what to do about it."""
    if cause == "decoder":
        return (
            "the file decodes to other pixels: another JPEG library or setting (inverse DCT, chroma upsampling, CMYK), "
            "or another way from 16 bits, a palette or transparency to RGB. Decode with the same decoder on both sides."
        )
    if cause == "antialias":
        cubic = recipe.interpolation == "bicubic"
        reach = "4 x 4" if cubic else "2 x 2"
        shape = " Its cubic has another shape, too (a = -0.75, not -0.5), which enlarging shows." if cubic else ""
        return (
            f"without antialias=True a tensor's resize looks at {reach} source pixels for each output pixel, however "
            f"much it shrinks the picture, and leaves out the rest.{shape} Pass antialias=True (the default only since "
            "torchvision 0.17), or resize PIL images."
        )
    if cause == "rounding":
        return _rounding(usual, recipe)
    return (
        "ToTensor and Normalize round three times in float32, ((x / 255) - mean) / std; here 255 * mean and 1 / (255 * "
        "std) are made beforehand and two roundings remain. It moves the last bits only, and never a level of gray."
    )


def _rounding(usual: Usual, recipe: Recipe) -> str:
    ours = "PyTorch's integer form for bytes (weights of 16 bits, rounded to a byte after each pass)"
    apart = "Both are right to about a level of 255."
    if recipe.dali_base_image:
        ours = "DALI's (float32 throughout, rounded once; sizes that the fit leaves open are rounded, not cut off)"
        apart = (
            "Both are right to about a level of 255 but at the border: where a filter reaches beyond the picture, DALI "
            "repeats the last pixel, and the others weigh only what is there. That can be many levels."
        )
    theirs = {
        "pillow": "Pillow resizes with weights of 22 bits, rounded to a byte after each pass",
        "float32": "tensors are resized in float32 and rounded to a byte once, at the end",
        "uint8": "tensors are resized by PyTorch's integer form for bytes",
    }.get(usual.resize or "", "")
    return f"{theirs}; ours is {ours}. {apart} For the same bits, resize by the same code."

"""The arithmetic that makes pixels the same on every backend, and DALI's own arithmetic to compare with.

    geometry     where a picture lands in the output: stretch, crop, pad
    tables       resampling weights, built on the host, quantised to integers
    integer      the portable resize: int32 reference in PyTorch, and `base_image`
    passes       its fast CPU forms
    gray         colour to gray, in integers
    affine       turning, scaling and moving, in integers
    colour       brightness, contrast, saturation and hue, in integers
    elementary   exponential and logarithm, the same on every platform
    maps         affine maps: composed, inverted
    crops        which part of a base image a resized crop shows
    planes       resizing a part of a base image
    masks        class numbers, moved by nearest neighbours
    plan         all that becomes of one base image, as numbers
    normalise    flips and normalisation, two float32 roundings
    packing      what a launch of the kernels reads
    kernels      the same as CUDA kernels for CuPy (never imported from here: it needs a GPU to be of use)
    dali/        DALI's own operators, with the entries `dali_cpu` and `dali_gpu`
    dali_base    the base image by DALI's operators

Each module's docstring is the specification of its part.
"""

from dali_pipes.arithmetic.affine import matrices, quantise, warp
from dali_pipes.arithmetic.colour import colour_maps, recolour
from dali_pipes.arithmetic.geometry import Fit, Geometry, geometry
from dali_pipes.arithmetic.integer import base_image, resize
from dali_pipes.arithmetic.normalise import copy_into, normalisation, normalise_into
from dali_pipes.arithmetic.tables import Interpolation, Table, table

__all__ = [
    "ARITHMETIC_VERSION",
    "Fit",
    "Geometry",
    "Interpolation",
    "Table",
    "base_image",
    "colour_maps",
    "copy_into",
    "geometry",
    "gray",
    "matrices",
    "normalisation",
    "normalise_into",
    "quantise",
    "recolour",
    "resize",
    "table",
    "warp",
]

ARITHMETIC_VERSION = "1"
"""Goes into cache keys. It changes when, and only when, `base_image` gives other bits for some input: never for a
faster form, nor for `warp`, `recolour` and `normalise`, whose results are not cached. The digests in
`tests/arithmetic/test_golden.py` fail when bits change; those of base images are written anew together with a new
version."""

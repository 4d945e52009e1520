"""Time of the portable warp, crop and colour maps against DALI's own CPU operators: per image of 512x512x3, one thread,
medians of one run. The crop is half as high and wide, resized to 7/16 of the image's sides; once more from planes, as a
cache holds them, mirrored and normalised to float32 planes.

    python benchmarks/micro_augment.py [--repeats 21] [--tiny] [--json FILE]

Processor time, and all in turns, for machines that others use too: compare the ratios, not the milliseconds. What a
pipeline takes that does nothing is taken off DALI's times.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from common import argument_parser, dali, in_turns, write
from nvidia.dali import fn

from dali_pipes.arithmetic import colour_maps, matrices, quantise, recolour, warp
from dali_pipes.arithmetic.plan import PLAN
from dali_pipes.arithmetic.planes import resize_part
from dali_pipes.draws import Augment
from dali_pipes.finish.finish import Changes, Finish
from dali_pipes.recipe import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ANGLE, SCALE, SHIFT = 20.0, 1.1, 0.05
BRIGHTNESS, CONTRAST, SATURATION, HUE = 1.1, 0.9, 1.2, 20.0


def operations(side: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name: DALI's operators, then ours."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    deep = planes.astype(np.uint16) * 257
    maps = matrices((side, side), *(np.array([value]) for value in (ANGLE, SCALE, SHIFT, SHIFT)))
    matrix, by = maps[0].astype(np.float32).ravel().tolist(), quantise(maps)[0]
    light, mixed = (
        {top: colour_maps(3, top, *(np.array([v]) for v in (BRIGHTNESS, CONTRAST, *chroma)))[0] for top in (255, 65535)}
        for chroma in ((1.0, 0.0), (SATURATION, HUE))
    )
    top, part, out = side // 5, side // 2, side * 7 // 16
    mean, std = [255 * each for each in MEAN], [255 * each for each in STD]
    finish = Finish(Recipe(out, base_size=side, mean=MEAN, std=STD, augment=Augment(1.0, crop=True)))
    plan = np.zeros(1, PLAN)
    plan["box"], plan["flips"] = (top, top, part, part), 1
    batch = np.empty((1, 3, out, out), np.float32)
    mirrored = Changes(np.ones(1, np.bool_), np.zeros(1, np.bool_), plan=plan)

    def cropped(planes: Any) -> Any:
        pixels = fn.slice(fn.reinterpret(planes, layout="CHW"), (top, top), (part, part), axes=(1, 2))
        pixels = fn.transpose(pixels, perm=[1, 2, 0], transpose_layout=False, output_layout="HWC")
        pixels = fn.resize(pixels, size=(out, out))
        return fn.crop_mirror_normalize(pixels, mean=mean, std=std, mirror=1, output_layout="CHW")

    both = {"brightness": BRIGHTNESS, "contrast": CONTRAST}
    return {
        "DALI nothing": dali(pixels, lambda x: fn.reshape(x, layout="HWC")),
        "DALI warp_affine": dali(pixels, lambda x: fn.warp_affine(x, matrix=matrix, fill_value=0)),
        "DALI brightness_contrast": dali(pixels, lambda x: fn.brightness_contrast(x, **both)),
        "DALI color_twist": dali(pixels, lambda x: fn.color_twist(x, **both, saturation=SATURATION, hue=HUE)),
        "DALI crop and resize": dali(
            pixels, lambda x: fn.resize(fn.slice(x, (top, top), (part, part), axes=(0, 1)), size=(out, out))
        ),
        "DALI crop to float": dali(planes, cropped),
        "warp": lambda: warp(planes, by),
        "warp, 16 bits": lambda: warp(deep, by),
        "crop and resize": lambda: resize_part(planes, (top, top, part, part), (out, out)),
        "crop to float": lambda: finish.write_all(batch, [planes], mirrored, [0]),
        "recolour, brightness and contrast": lambda: recolour(planes, light[255]),
        "recolour, brightness and contrast, 16 bits": lambda: recolour(deep, light[65535]),
        "recolour, all": lambda: recolour(planes, mixed[255]),
        "recolour, all, 16 bits": lambda: recolour(deep, mixed[65535]),
    }


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=21, help="timed runs of each")
    options = parser.parse_args(arguments)
    repeats, side = (1, 32) if options.tiny else (options.repeats, 512)
    medians = in_turns(operations(side), repeats)
    nothing = medians.pop("DALI nothing")
    found = {name: round(ms - nothing * name.startswith("DALI"), 3) for name, ms in medians.items()}
    rivals = {
        "warp": "warp_affine",
        "crop a": "crop and resize",
        "crop t": "crop to float",
        "recolour, b": "brightness_contrast",
        "recolour, a": "color_twist",
    }
    for name, ms in found.items():
        rival = next((found[f"DALI {operator}"] for ours, operator in rivals.items() if name.startswith(ours)), None)
        print(f"{name:44s} {ms:8.2f} ms" + (f"  {ms / rival:5.2f} of DALI's" if rival and rival > 0 else ""))
    write(options.json, "micro_augment", img_size=side, median_ms=found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

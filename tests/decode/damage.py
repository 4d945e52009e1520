"""How much damage each decoder notices: pictures with bytes lost, zeroed or cut off, as a table.

    python tests/decode/damage.py [--pictures 500] [--only dcm.4]

Each picture is encoded, then its coded data (never the headers before it, nor the end marker) loses 64 to 4,096 bytes:
they become zeros, they are left out, or all from a place on is gone with the end marker kept. Counted are pictures
whose pixels the damage changes, or that are refused. `libjpeg` is the share that libjpeg itself warns of.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from simplejpeg import _jpeg

sys.path.insert(0, str(Path(__file__).parents[1]))  # when it is run as a script

import make_images as make

from dali_pipes.decode import DecodePolicy, decode, identify
from dali_pipes.decode.jpegheader import segments
from dali_pipes.decode.jpegstrict import cleaned
from dali_pipes.errors import DecodeError

POLICY = DecodePolicy(window=None)
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3)
WAYS = ("zeroed", "left out", "cut off")


@dataclass(frozen=True)
class Format:
    """encode: pixels to coded bytes. wrap: coded bytes to a file. bits: of the pixels. begin: where the coded data
    begins; tail: bytes at its end that stay.
    """

    encode: Callable[[np.ndarray], bytes]
    wrap: Callable[[np.ndarray, bytes], bytes] = lambda pixels, coded: coded
    bits: int = 8
    colour: bool = False
    begin: Callable[[bytes], int] = lambda coded: 64
    tail: int = 2


def picture(rng: np.random.Generator, bits: int, colour: bool) -> np.ndarray:
    """uint8|uint16[H, W] or [H, W, 3]: smooth hills with noise on them, as a body part on a dark background."""
    height, width = (int(side) for side in rng.integers(100, 200, 2))
    y, x = np.mgrid[:height, :width] / 40.0
    shape = (height, width, 3) if colour else (height, width)
    hills = np.sin(x + rng.uniform(0, 6)) + np.cos(y * rng.uniform(0.5, 2)) + 2.0
    top = (1 << bits) - 1
    grey = hills[..., None] if colour else hills
    plain = grey * (top / 5) + rng.normal(0, top / 40, shape)
    return np.clip(plain, 0, top).astype(np.uint8 if bits <= 8 else np.uint16)


def damaged(coded: bytes, rng: np.random.Generator, begin: int, tail: int, way: str) -> bytes:
    """The coded bytes with a part lost."""
    stop = len(coded) - tail
    lost = int(min(2 ** rng.uniform(6, 12), (stop - begin) // 2))
    at = int(rng.integers(begin, stop - lost + 1))
    if way == "zeroed":
        return coded[:at] + bytes(lost) + coded[at + lost :]
    if way == "left out":
        return coded[:at] + coded[at + lost :]
    return coded[:at] + coded[stop:]


def _scan(coded: bytes) -> int:
    part = list(segments(coded))[-1]
    return part.at + 4 + len(part.body)


def _pil(kind: str, mode: str = "RGB", **options: object) -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, kind, **options)
        return out.getvalue()

    return encode


def _dicom(syntax: str, bits: int = 12, **options: object) -> Format:
    """A monochrome DICOM file of one frame; what is damaged is its frame."""
    jpegs = syntax in ("baseline", "extended", "lossless", "lossless57", "jls", "jls-near")
    return Format(
        lambda pixels: make.encode(pixels, syntax, bits),
        lambda pixels, coded: make.dicom(pixels, syntax, frames=[coded], BitsStored=bits),
        bits,
        begin=_scan if jpegs else options.get("begin", lambda coded: 128),  # type: ignore[arg-type]
        tail=0 if syntax in ("rle", "deflated-frame", "uncompressed", "jxl") else 2,
    )


def _native(pixels: np.ndarray, coded: bytes) -> bytes:
    return make.write(make.describe([pixels], {"BitsStored": 12}), "explicit", coded, encapsulated=False)


def _progressive(number: int) -> Format:
    """DICOM with progressive JPEG of 8 bits; number: of its transfer syntax."""

    def wrap(pixels: np.ndarray, coded: bytes) -> bytes:
        file = make.dicom(pixels, "extended", frames=[coded])
        return file.replace(b"1.2.840.10008.1.2.4.51", f"1.2.840.10008.1.2.4.{number}".encode(), 1)

    return Format(_pil("JPEG", "L", progressive=True), wrap, begin=_scan)


FORMATS: dict[str, Format] = {
    "JPEG baseline": Format(_pil("JPEG", quality=90), colour=True, begin=_scan),
    "JPEG baseline with restarts": Format(_pil("JPEG", restart_marker_blocks=4), colour=True, begin=_scan),
    "JPEG progressive": Format(_pil("JPEG", progressive=True), colour=True, begin=_scan),
    "JPEG CMYK": Format(_pil("JPEG", "CMYK"), colour=True, begin=_scan),
    "PNG": Format(_pil("PNG"), colour=True, tail=16),
    "WebP": Format(_pil("WEBP"), colour=True, tail=0),
    "WebP lossless": Format(_pil("WEBP", lossless=True), colour=True, tail=0),
    "TIFF, deflate": Format(_pil("TIFF", compression="tiff_adobe_deflate"), colour=True, tail=400),
    "TIFF, LZW": Format(_pil("TIFF", compression="tiff_lzw"), colour=True, tail=400),
    "GIF": Format(_pil("GIF", "P"), colour=True, begin=lambda coded: 1000),
    "dcm.1 native": Format(make.native, _native, 12, begin=lambda coded: 0, tail=0),
    "dcm.4.50": _dicom("baseline", 8),
    "dcm.4.51, 8 bits": _dicom("extended", 8),
    "dcm.4.51, 12 bits": _dicom("extended"),
    "dcm.4.53, progressive": _progressive(53),
    "dcm.4.55, progressive": _progressive(55),
    "dcm.4.57": _dicom("lossless57", 16),
    "dcm.4.70": _dicom("lossless"),
    "dcm.4.80": _dicom("jls"),
    "dcm.4.81": _dicom("jls-near", 8),
    "dcm.4.90": _dicom("j2k"),
    "dcm.4.91": _dicom("j2k-lossy"),
    "dcm.201": _dicom("htj2k"),
    "dcm.110": _dicom("jxl", 8),
    "dcm.5": _dicom("rle"),
    "dcm.8.1": _dicom("deflated-frame"),
    "dcm.1.98": _dicom("uncompressed"),
}


@dataclass
class Count:
    """Pictures changed by damage: those refused, those shown with wrong pixels; and how many libjpeg warns of."""

    noticed: int = 0
    wrong: int = 0
    warned: int = 0
    missed: int = 0

    @property
    def share(self) -> float:
        return self.noticed / max(1, self.noticed + self.wrong)


def measure(form: Format, pictures: int, seed: int = 0) -> dict[str, Count]:
    """The counts of one format by the way of damage. missed: libjpeg warns, and we say nothing."""
    counts = {way: Count() for way in WAYS}
    for i in range(pictures):
        rng = np.random.default_rng((seed, i))
        pixels = picture(rng, form.bits, form.colour)
        coded = form.encode(pixels)
        whole = form.wrap(pixels, coded)
        right = decode(whole, identify(None, whole), 0, POLICY).pixels
        way = WAYS[i % 3]
        bad = damaged(coded, rng, form.begin(coded), form.tail, way)
        file, count = form.wrap(pixels, bad), counts[way]
        warned = coded[:2] == b"\xff\xd8" and b"\xff\xf7" not in coded[:64] and warns(bad)
        count.warned += warned
        try:
            same = np.array_equal(decode(file, identify(None, file), 0, POLICY).pixels, right)
            count.wrong += not same
            count.missed += warned
        except DecodeError:
            count.noticed += 1
    return counts


def warns(stream: bytes) -> bool:
    """Whether libjpeg warns of the stream."""
    frame = next(s.body for s in segments(stream) if s.code in FRAMES)
    space = {1: "GRAY", 4: "CMYK"}.get(frame[5], "RGB")
    if frame[0] > 8:
        stream = cleaned(stream, 8)
    try:
        _jpeg.decode_jpeg(stream, space)
    except ValueError as error:
        return "Corrupt" in str(error) or "remature" in str(error)
    return False


def rows(pictures: int, only: str = "") -> Iterator[str]:
    """The table, line by line; only: of formats whose name begins so."""
    yield "| Format | Decoder | Noticed | zeroed | left out | cut off | libjpeg warns |"
    yield "|---|---|---|---|---|---|---|"
    for name, form in ((name, form) for name, form in FORMATS.items() if name.startswith(only)):
        counts = measure(form, pictures)
        sample = picture(np.random.default_rng(0), form.bits, form.colour)
        file = form.wrap(sample, form.encode(sample))
        decoder = identify(None, file).decoder.partition(", ")[2]
        every = Count(*(sum(getattr(c, f) for c in counts.values()) for f in ("noticed", "wrong", "warned", "missed")))
        parts = " | ".join(f"{count.share:.0%}" for count in counts.values())
        libjpeg = f"{every.warned / pictures:.0%}, {every.missed} missed" if every.warned else ""
        yield f"| {name} | {decoder} | {every.share:.1%} | {parts} | {libjpeg} |"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--only", default="", help="formats whose name begins so")
    options = parser.parse_args()
    for line in rows(options.pictures, options.only):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""500 mutated DICOM and JPEG files through a child with limits: at most 5 s and 1 GiB each, only named errors, and the
parent lives.
"""

import contextlib
import io
import random
from pathlib import Path

import make_images as make
import numpy as np
import pytest
from PIL import Image

from dali_pipes.decode import DecodePolicy, DecoderPool, Kind, Limits, VOIWindow, decode, describe, identify
from dali_pipes.errors import DecodeError

SYNTAXES = (
    "explicit",
    "implicit",
    "big",
    "deflated",
    "rle",
    "lossless",
    "jls",
    "j2k",
    "htj2k",
    "baseline",
    "extended",
    "jxl",
)
LIMITS = Limits(seconds=5, memory_bytes=1 << 30, pixels=1 << 22, frame_bytes=1 << 26, inflate_bytes=1 << 24)


def originals():
    """Small files of every kind."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :40]
    gray = (y * 100 + x * 7 + rng.integers(0, 9, (32, 40))).astype(np.uint16) & 4095
    photo = np.stack([y * 7, x * 6, y + x], -1).astype(np.uint8)
    made = []
    for syntax in SYNTAXES:
        pixels = (gray >> 4).astype(np.uint8) if syntax == "baseline" else gray
        bits = 8 if syntax == "baseline" else 12
        extra = {
            "WindowCenter": 40,
            "WindowWidth": 400,
            "PixelPaddingValue": 0,
            "RescaleSlope": 2,
            "RescaleIntercept": -5,
        }
        made.append(make.dicom([pixels, pixels], syntax, BitsStored=bits, **extra))
    made += [make.dicom(photo, "baseline"), make.dicom(photo, "rle"), make.dicom(photo, "j2k")]
    for options in ({}, {"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 3}):
        made.append(make.jpeg(photo, **options))
    made += [make.raster(photo, "JPEG", "CMYK"), make.jpeg(photo[..., 0])]
    return made


def mutate(data, rng):
    """A few of: flipped bits, bytes at their extremes, a cut, a piece doubled, a piece taken from elsewhere."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at, how = rng.randrange(len(out)), rng.randrange(6)
        if how == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif how == 2:
            out[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
        elif how == 3 and len(out) > 200:
            del out[at : at + rng.randrange(1, 60)]
        elif how == 4:
            out[at:at] = out[at : at + rng.randrange(1, 60)]
        else:
            source = rng.randrange(len(out))
            out[at : at + 8] = out[source : source + 8]
        if not out:
            return bytes(data[:50])
    return bytes(out)


def run(pool, path, data, policy):
    """Decode as a user of a pool would; a DecodeError is the only way to fail."""
    path.write_bytes(data)
    try:
        kind = identify(path, data)
        done = pool.decode(path, kind, 1 if kind.tag.startswith("dcm") else 0, policy)
    except DecodeError:
        return 0
    assert done.pixels.ndim == 3
    return 1


def most_memory(pid):
    """Bytes that a living child has held at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.parametrize(
    "rounds", [pytest.param(500, id="500"), pytest.param(100_000, id="slow", marks=pytest.mark.slow)]
)
def test_mutated_files(tmp_path, rounds):
    rng, files = random.Random(20), originals()
    policies = [
        DecodePolicy(channels=1),
        DecodePolicy(depth=16),
        DecodePolicy(window=VOIWindow()),
        DecodePolicy(reduce=(8, 8)),
    ]
    path, decoded, peak = tmp_path / "mutated", 0, 0
    with DecoderPool(1, LIMITS) as pool:
        for n in range(rounds):
            decoded += run(pool, path, mutate(files[n % len(files)], rng), policies[n % 4])
            peak = max([peak, *map(most_memory, pool.pids())])
    assert 0 < decoded < rounds
    assert 0 < peak < 1 << 30, "a child grew beyond 1 GiB"


def test_every_original_is_good():
    for data in originals():
        kind = identify("", data)
        decode(data, kind, 0)
        describe(data)


def test_identify_and_describe_never_fail_unnamed():
    rng, files = random.Random(3), [f for f in originals() if f[128:132] == b"DICM"]
    for n in range(300):
        data = mutate(files[n % 5], rng)  # native and deflated: nothing here calls a codec library in this process
        with contextlib.suppress(DecodeError):
            kind: Kind = identify("", data)
            if kind.tag in ("dcm.0", "dcm.1", "dcm.1.99", "dcm.2"):
                describe(data, 0, DecodePolicy(limits=LIMITS))


def test_other_formats_cut_and_mutated():
    rng = random.Random(4)
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    for kind in ("PNG", "BMP", "PPM", "GIF"):
        out = io.BytesIO()
        Image.fromarray(photo).save(out, kind)
        for _ in range(40):
            data = mutate(out.getvalue(), rng)
            with contextlib.suppress(DecodeError):
                decode(data, identify("", data), 0, DecodePolicy(limits=LIMITS))

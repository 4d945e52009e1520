"""Names, identifiers and file names planted in inputs must not come out again in errors, logs, attributes or
descriptions.
"""

import json
import logging
import random
import warnings

import make_images as make
import numpy as np
import pytest

from dali_pipes.decode import DecodePolicy, DecoderPool, Limits, VOIWindow, decode, describe, identify
from dali_pipes.errors import DaliPipesError

CANARY = "CANARYBIRD"
UID = "1.2.826.0.1.424242.77777"
PLANTED = {
    "PatientName": f"{CANARY}^Ann",
    "PatientID": f"{CANARY}1",
    "PatientBirthDate": "19770707",
    "AccessionNumber": f"{CANARY}2",
    "InstitutionName": f"{CANARY}3",
    "StudyDescription": f"{CANARY}4",
    "StudyInstanceUID": f"{UID}.1",
    "SeriesInstanceUID": f"{UID}.2",
    "SOPInstanceUID": f"{UID}.3",
    "ImageComments": CANARY,
    "WindowCenterWidthExplanation": CANARY,
}
WORDS = (CANARY, UID, "19770707")


def clean(text):
    return not any(word in text for word in WORDS)


def files():
    """Good ones, and ones that fail in every way we know; the canary is in the attributes too that we do read."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for syntax in (*make.NATIVE, "rle", "j2k", "jls", "lossless", "baseline"):
        yield make.dicom(pixels, syntax, **PLANTED)
    for name, value in (
        ("PhotometricInterpretation", CANARY),
        ("VOILUTFunction", CANARY),
        ("PresentationIntentType", CANARY),
        ("PresentationLUTShape", CANARY),
        ("BurnedInAnnotation", "YES"),
        ("LossyImageCompression", CANARY),
        ("PixelPresentation", CANARY),
        ("NumberOfFrames", "99"),
        ("WindowCenter", [1, 2]),
    ):
        yield make.dicom(pixels, **{**PLANTED, name: value, "WindowWidth": 5})
    bad = make.dicom(pixels, NumberOfFrames=1, **PLANTED)
    yield bad.replace(b"IS\x02\x001 ", b"IS\x02\x00XY")
    yield make.preamble(CANARY) + bad[200:]
    yield CANARY.encode() * 40


@pytest.fixture
def heard(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


def test_nothing_comes_out(heard, tmp_path):
    rng, said = random.Random(1), []
    path = tmp_path / f"{CANARY}.dcm"
    with DecoderPool(1, Limits(seconds=5)) as pool, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data in files():
            for cut in (len(data), len(data) - 3, rng.randrange(len(data)), 140):
                path.write_bytes(data[:cut])
                said += everything_said(pool, path, data[:cut])
    assert len(said) > 100
    said += [str(w.message) for w in warned]
    assert [text for text in said if not clean(text)] == []
    assert clean(heard.text)


def everything_said(pool, path, data):
    """Results and errors of each way in, as text."""
    said = []
    for policy in (DecodePolicy(), DecodePolicy(depth=16), DecodePolicy(window=VOIWindow())):
        for way in (
            lambda p: decode(data, identify(path, data), 0, p),
            lambda p: pool.decode(path, identify(path, data), 0, p),
            lambda p: describe(data, 0, p),
        ):
            said += [one_said(way, policy)]
    return said


def one_said(way, policy):
    try:
        done = way(policy)
    except DaliPipesError as error:
        return f"{error!r} {error.__cause__!r}"
    return json.dumps(done) if isinstance(done, dict) else f"{done!r} {json.dumps(done.attributes)}"


def exif():
    """One tag: Image Description."""
    text = CANARY.encode() + b"\0"
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0" + bytes([len(text), 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0]) + text


def test_nothing_of_what_photos_say_comes_out(heard):
    photo = np.zeros((8, 8, 3), np.uint8)
    files = [
        make.raster(photo, "TIFF", description=CANARY),
        make.raster(photo, "JPEG", "CMYK", exif=exif()),
        make.raster(photo, "WEBP", exif=exif()),
        make.raster(photo, "PNG", exif=exif()),
        b"P5 " + CANARY.encode() + b" 8 255\n" + bytes(64),
        b"P2 2 2 255 1 2 3 " + CANARY.encode(),
        b"P5 8 " + CANARY.encode() * 3,
    ]
    heard.clear()  # what the encoders log
    assert all(CANARY.encode() in data for data in files)
    parts = [part for data in files for part in (data, data[: len(data) // 2])]
    said = [one_said(lambda p, part=part: decode(part, identify("", part), 0, p), DecodePolicy()) for part in parts]
    assert [text for text in said if not clean(text)] == []
    assert clean(heard.text)


def test_the_canaries_are_really_in_the_files():
    import pydicom

    data = next(files())
    assert CANARY.encode() in data
    assert UID.encode() in data
    assert pydicom.dcmread(__import__("io").BytesIO(data)).PatientName == PLANTED["PatientName"]

"""JPEG 2000 by imagecodecs gives the samples that pylibjpeg-openjpeg gives, which reads it alone in its process."""

import imagecodecs
import make_images as make
import numpy as np
import pytest
import shipped
from hypothesis import given, reject
from hypothesis import strategies as st
from openjpeg.utils import decode as by_pylibjpeg

from dali_pipes.decode import Kind
from dali_pipes.decode.dicom.fragments import frame_bytes
from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.dicom.plugins import openjpeg
from dali_pipes.decode.limits import Limits
from dali_pipes.errors import DaliPipesError, DecodeError


def frames_of(path):
    """The header and each frame of a file in JPEG 2000; nothing of others."""
    try:
        header = read_header(path.read_bytes(), Limits())
    except DaliPipesError:
        return []
    if header.syntax.family not in ("jpeg-2000", "htj2k"):
        return []
    return [(header, frame_bytes(header, n)[0]) for n in range(header.frames)]


REAL = {path.name: frames_of(path) for path in shipped.files()}


@pytest.mark.parametrize("name", [name for name, frames in REAL.items() if frames])
def test_real_files(name):
    for header, frame in REAL[name]:
        try:
            expected = np.asarray(by_pylibjpeg(frame))
        except RuntimeError:
            with pytest.raises(DecodeError):
                openjpeg(frame, header)
            continue
        samples = openjpeg(frame, header).array
        assert np.array_equal(samples.reshape(expected.shape), expected)


@given(
    st.integers(0, 2**32),
    st.integers(1, 16),
    st.booleans(),
    st.sampled_from(["gray", "colour", "colour, transformed"]),
    st.sampled_from([0, 35, 60]),
)
def test_frames_of_every_depth(seed, bits, signed, look, level):
    rng = np.random.default_rng(seed)
    size = tuple(int(side) for side in rng.integers(1, 70, 2)) + ((3,) if look != "gray" else ())
    top = (1 << bits) - 1
    pixels = rng.integers(0, top + 1, size)
    if signed and bits > 1:
        pixels -= 1 << (bits - 1)
    kind = f"{'i' if signed and bits > 1 else 'u'}{1 if bits <= 8 else 2}"
    how = {"codecformat": "J2K", "bitspersample": bits, "reversible": level == 0, "mct": "transf" in look}
    try:
        frame = imagecodecs.jpeg2k_encode(pixels.astype(kind), level, **how)
    except imagecodecs.Jpeg2kError:  # some noise of one bit in colour, which OpenJPEG cannot write
        reject()
    header = read_header(make.dicom(pixels.astype(kind), "j2k", frames=[bytes(frame)], BitsStored=bits), Limits())
    expected = np.asarray(by_pylibjpeg(bytes(frame)))
    found = openjpeg(bytes(frame), header).array.reshape(expected.shape)
    most = 1 if level and "transf" in look else 0  # the irreversible colour transform is in floats, which builds round
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= most


def test_they_are_read_in_threads():
    for tag in ("dcm.4.90", "dcm.4.91", "dcm.201", "dcm.4.57", "dcm.4.70"):
        assert Kind.from_tag(tag).in_threads

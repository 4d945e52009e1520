"""The registry of decoders: what is missing is named, nothing under a copyleft licence is ever called."""

import contextlib
import sys

import make_images as make
import numpy as np
import pytest

from dali_pipes.decode import decode, decoders, describe, identify, require
from dali_pipes.decode.dicom import codecs, plugins
from dali_pipes.errors import DecodeError, UnsupportedError

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


def test_every_permissive_codec_is_here():
    rows = {row["tag"]: row for row in decoders()}
    missing = {tag for tag, row in rows.items() if not row["decoder"]}
    assert missing == {"dcm.4.92", "dcm.4.93", *(f"dcm.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108))}
    assert all(len(tag) <= 8 for tag in rows)


def test_no_copyleft_decoder_is_called():
    for codec in {c for listed in codecs.CODECS.values() for c in listed}:
        assert codec.use is None or "GPL" not in codec.licence


@pytest.mark.parametrize(
    ("syntax", "says"), [("mpeg", "no permissively licensed Python decoder"), ("j2k-part2", "Part 2")]
)
def test_syntaxes_without_decoder(syntax, says):
    data = make.dicom(PIXELS, syntax, frames=[b"xx"])
    with pytest.raises(UnsupportedError, match=says):
        identify("", data)


def test_a_missing_package_is_named_with_what_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    codecs.codec_for.cache_clear()
    with pytest.raises(UnsupportedError) as caught:
        codecs.codec_for(make.SYNTAX["extended"])
    codecs.codec_for.cache_clear()
    message = str(caught.value)
    assert "JPEG Extended" in message
    assert "imagecodecs (BSD-3-Clause): not installed: pip install imagecodecs" in message
    assert "pylibjpeg-libjpeg (GPL-3.0): never used" in message


def test_a_panic_of_a_codec_written_in_rust_is_a_decode_error(capfd):
    good = make.encode(PIXELS, "rle", 8)
    for cut in range(64, len(good)):
        data = make.dicom(PIXELS, "rle", frames=[good[:cut]])
        with contextlib.suppress(DecodeError):  # a PanicException is no Exception: it would end the process
            decode(data, identify("", data))
    with pytest.raises(DecodeError, match="it is damaged"):
        plugins.named("a codec")(panics)(b"", None)


def panics(frame, header):
    raise type("PanicException", (BaseException,), {})("index out of range")


def test_require():
    require(["dcm.4.70", make.SYNTAX["j2k"], "dcm.0"])
    with pytest.raises(UnsupportedError, match=r"H.264.*Part 2|Part 2.*H.264"):
        require(["dcm.102", "dcm.4.92"])
    with pytest.raises(UnsupportedError, match="not transfer syntaxes: jpeg9"):
        require(["jpeg9"])


def test_twelve_bit_extended_jpeg_by_libjpeg_turbo():
    smooth = (np.mgrid[:32, :32][0] * 100).astype(np.uint16)
    data = make.dicom(smooth, "extended", BitsStored=12)
    told = describe(data)
    assert "imagecodecs" in told["decoder"]
    assert "libjpeg_turbo" in told["decoder"]
    from rules import values

    assert np.abs(values(data) - smooth).max() <= 8


def test_decoder_strings_hold_versions():
    import imagecodecs
    import simplejpeg

    assert simplejpeg.__version__ in identify("", make.jpeg(PIXELS)).decoder
    assert imagecodecs.__version__ in identify("", make.dicom(PIXELS, "lossless")).decoder
    assert identify("", make.dicom(PIXELS)).decoder != identify("", make.dicom(PIXELS, "rle")).decoder
    assert decode(make.dicom(PIXELS), identify("", make.dicom(PIXELS))).pixels.shape == (8, 8, 3)


def test_describe_tells_all_of_it():
    data = make.dicom(
        PIXELS, "lossless", WindowCenter=[40, 30], WindowWidth=[400, 300], PixelPaddingValue=3,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=2, RescaleIntercept=-1, BurnedInAnnotation="NO",
    )  # fmt: skip
    from dali_pipes.decode import DecodePolicy, VOIWindow

    told = describe(data, 0, DecodePolicy(window=VOIWindow(1)))
    assert told["syntax"] == make.SYNTAX["lossless"]
    assert told["window"] == {
        "window": "fixed", "why": "window 1 of the file", "center": 30.0, "width": 300.0, "function": "linear",
    }  # fmt: skip
    assert told["polarity"].startswith("inverted")
    assert told["padding"] == [3, 3]
    assert told["modality"] == {"slope": 2.0, "intercept": -1.0}
    assert told["burned_in"] is False
    assert describe(make.jpeg(PIXELS))["kind"] == "jpeg"

"""Damage is noticed: a named error, never a picture in which a decoder invented pixels."""

import damage
import make_images as make
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules import values

from dali_pipes.decode import DecodePolicy, check_jpeg, decode, identify
from dali_pipes.decode.dicom.lossless import bits_needed, plain_scan
from dali_pipes.decode.jpegheader import segments
from dali_pipes.decode.jpegstrict import cleaned, decode_strictly
from dali_pipes.errors import DecodeError, TruncatedError

LEAST = {  # of damaged pictures, the share that each decoder must notice
    **dict.fromkeys(damage.FORMATS, 1.0),
    **dict.fromkeys(("JPEG baseline", "JPEG progressive", "dcm.4.50", "dcm.4.51, 8 bits", "dcm.4.51, 12 bits"), 0.85),
    **dict.fromkeys(("dcm.4.53, progressive", "dcm.4.55, progressive"), 0.85),
    **dict.fromkeys(("dcm.4.57", "dcm.4.70", "dcm.5"), 0.95),
    **dict.fromkeys(("WebP", "WebP lossless", "TIFF, deflate"), 0.6),  # zeros in them decode to something
    **dict.fromkeys(("dcm.4.90", "dcm.4.91", "dcm.201", "dcm.8.1"), 0.6),
    **dict.fromkeys(("dcm.1 native", "dcm.1.98"), 0.6),  # nothing but missing bytes can be noticed
    **dict.fromkeys(("JPEG CMYK", "JPEG baseline with restarts", "GIF", "TIFF, LZW"), 0.9),
}
ENDED = b"\xff\xd9"
PIXELS = np.clip(np.random.default_rng(1).normal(1000, 300, (90, 80)), 0, 4095).astype(np.uint16)
SHALLOW = (PIXELS >> 4).astype(np.uint8)
FRAMES = {
    "baseline": make.encode(SHALLOW, "baseline", 8),
    "extended": make.encode(PIXELS, "extended", 12),
    "lossless57": make.encode(PIXELS, "lossless57", 12),
    "lossless": make.encode(PIXELS, "lossless", 12),
}


def file_of(syntax, frame):
    pixels = SHALLOW if syntax == "baseline" else PIXELS
    return make.dicom(pixels, syntax, frames=[frame], BitsStored=8 if syntax == "baseline" else 12)


def read(data, **policy):
    return decode(data, identify(None, data), 0, DecodePolicy(**policy)).pixels


def scan_of(stream):
    part = list(segments(stream))[-1]
    return part.at + 4 + len(part.body)


@pytest.mark.parametrize("syntax", FRAMES)
def test_a_scan_cut_short_inside_dicom_is_noticed_though_its_end_marker_is_kept(syntax):
    frame = FRAMES[syntax]
    begin = scan_of(frame)
    cut = frame[: begin + (len(frame) - begin) * 6 // 10] + ENDED
    with pytest.raises(TruncatedError, match="cut short"):
        read(file_of(syntax, cut))


@pytest.mark.parametrize("syntax", FRAMES)
def test_zeroed_bytes_inside_dicom_are_noticed(syntax):
    frame = FRAMES[syntax]
    middle = (scan_of(frame) + len(frame)) // 2
    with pytest.raises(DecodeError, match="JPEG data is"):
        read(file_of(syntax, frame[:middle] + bytes(400) + frame[middle + 400 :]))


def test_an_extended_jpeg_of_8_bits_is_watched_too():
    frame = make.encode(SHALLOW, "extended", 8)
    begin = scan_of(frame)
    with pytest.raises(TruncatedError, match="cut short"):
        read(make.dicom(SHALLOW, "extended", frames=[frame[: (begin + len(frame)) // 2] + ENDED]))


@pytest.mark.parametrize("marker", [ENDED, b"\xff\xd0"], ids=["before the end marker", "before a restart marker"])
def test_extraneous_bytes_behind_a_scan_are_lost_data(marker):
    data = make.jpeg(SHALLOW, restart_marker_blocks=20) if marker != ENDED else make.jpeg(SHALLOW)
    at = data.index(marker, scan_of(data))
    damaged = data[: at - 300] + bytes(200) + data[at - 100 :]
    assert damage.warns(damaged)
    with pytest.raises(DecodeError, match=r"damaged: .*(before marker|instead of RST)"):
        read(damaged)
    with pytest.raises(DecodeError, match="JPEG data is"):
        check_jpeg(damaged, DecodePolicy())


def test_a_warning_about_the_headers_does_not_hide_one_about_the_data():
    data = make.jpeg(SHALLOW)
    stray = data[:20] + b"\1\2\3" + data[20:]  # after the JFIF marker
    assert np.array_equal(read(stray), read(data))
    with pytest.raises(TruncatedError):
        read(stray[: len(stray) * 2 // 3] + ENDED)


@pytest.mark.parametrize("name", damage.FORMATS)
def test_the_share_noticed(name, capfd):
    counts = damage.measure(damage.FORMATS[name], 18)
    assert sum(count.missed for count in counts.values()) == 0, "libjpeg warns of more"
    noticed, wrong = (sum(getattr(count, what) for count in counts.values()) for what in ("noticed", "wrong"))
    assert noticed >= LEAST[name] * (noticed + wrong) - 1
    assert counts["left out"].wrong + counts["cut off"].wrong <= (3 if "progressive" in name else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", damage.FORMATS)
def test_the_share_noticed_of_500_pictures(name, capfd):
    counts = damage.measure(damage.FORMATS[name], 500)
    assert sum(count.missed for count in counts.values()) == 0, "libjpeg warns of more"
    noticed, wrong = (sum(getattr(count, what) for count in counts.values()) for what in ("noticed", "wrong"))
    assert noticed >= LEAST[name] * (noticed + wrong)


@given(
    st.integers(0, 2**32),
    st.integers(2, 16),
    st.sampled_from(["noise", "smooth", "flat", "two values"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_the_bits_of_a_lossless_scan_are_those_of_its_image(seed, bits, look, size):
    rng = np.random.default_rng(seed)
    top = (1 << bits) - 1
    pixels = {
        "noise": lambda: rng.integers(0, top + 1, size),
        "smooth": lambda: np.linspace(0, top, size[0] * size[1]).reshape(size),
        "flat": lambda: np.full(size, rng.integers(0, top + 1)),
        "two values": lambda: rng.choice([0, top], size),
    }[look]().astype(np.uint8 if bits <= 8 else np.uint16)
    frame = make.encode(pixels, "lossless", bits)
    scan = plain_scan(frame)
    assert scan is not None
    assert 0 <= scan.bits - bits_needed(pixels, scan.costs, bits) < 8


@given(st.integers(0, 2**32), st.integers(0, 3))
def test_what_libjpeg_warns_of_in_a_lossless_frame_the_amount_tells_too(seed, changes):
    """The fast look at a lossless frame against its slow twin: libjpeg, on the frame said to have 8 bits."""
    rng = np.random.default_rng(seed)
    frame = bytearray(FRAMES["lossless"])
    for _ in range(changes):
        frame[int(rng.integers(scan_of(FRAMES["lossless"]), len(frame) - 2))] = int(rng.integers(0, 256))
    if not changes:
        decode_strictly(cleaned(bytes(frame), 8), "GRAY")
        assert np.array_equal(values(file_of("lossless", bytes(frame))), PIXELS)
        return
    try:
        decode_strictly(cleaned(bytes(frame), 8), "GRAY")
    except DecodeError as error:
        if "bad Huffman code" in str(error):  # its 17 bits may be made up for by others
            return
        with pytest.raises(DecodeError):
            read(file_of("lossless", bytes(frame)))


def test_a_png_whose_data_fails_its_checksum_is_damaged():
    data = bytearray(make.raster(np.tile(SHALLOW, (2, 2)), "PNG", compress_level=0))  # stored: zlib sees nothing
    at = data.index(b"IDAT") + 1000
    data[at : at + 64] = bytes(64)
    with pytest.raises(DecodeError, match="the checksum of its data at byte"):
        read(bytes(data))


def oddly_sampled(seed):
    """A JPEG whose frame header says that each component has two blocks, one above the other, in an MCU.

    Its components share their tables (keep_rgb), so that blocks may change places.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    stream = make.jpeg(pixels, subsampling=0, keep_rgb=True)
    at = next(part.at for part in segments(stream) if part.code == 0xC0)
    odd = bytearray(stream)
    odd[at + 5 : at + 9] = (64).to_bytes(2, "big") + (64).to_bytes(2, "big")
    odd[at + 11], odd[at + 14], odd[at + 17] = 0x12, 0x12, 0x12
    return bytes(odd)


def test_oddly_sampled_jpegs_are_not_cut_short_in_silence():
    data = oddly_sampled(1)
    kind = identify(None, data)
    assert kind.tag == "jpegpil"
    read(data)
    cut = data[: len(data) // 2] + ENDED
    with pytest.raises(TruncatedError, match="cut short"):
        read(cut)

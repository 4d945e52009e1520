"""JPEG, PNG, TIFF and the rest against Pillow; what is refused, and by which name."""

import io
import struct
import zlib

import make_images as make
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from dali_pipes.decode import DecodePolicy, FixedWindow, Limits, VOIWindow, decode, identify, sniff_file
from dali_pipes.decode.jpegheader import read_jpeg_header
from dali_pipes.decode.luma import luma, luma16
from dali_pipes.errors import ConfigError, DecodeError, LimitError, TruncatedError, UnsupportedError, WindowError

PHOTO = np.random.default_rng(7).integers(0, 256, (37, 53, 3)).astype(np.uint8)
GRAY = PHOTO[..., 0].copy()
WIDE = np.random.default_rng(8).integers(0, 65536, (19, 23)).astype(np.uint16)


def through(data, **policy):
    return decode(data, identify("", data), 0, DecodePolicy(**policy)).pixels


def pillow(data, mode="RGB"):
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB").convert(mode))


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "4:1:1"]),
    st.booleans(),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_jpeg_equals_pillow(height, width, quality, subsampling, progressive, restart):
    pixels = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    data = make.jpeg(pixels, quality, subsampling=subsampling, progressive=progressive, restart_marker_blocks=restart)
    assert np.array_equal(through(data), pillow(data))
    assert np.array_equal(through(data, channels=1)[..., 0], pillow(data, "L"))


@pytest.mark.parametrize(
    ("data", "tag", "dali"),
    [
        (make.jpeg(PHOTO), "jpeg", True),
        (make.jpeg(GRAY), "jpeg", True),
        (make.jpeg(PHOTO, progressive=True), "jpeg", True),
        (make.jpeg(PHOTO, keep_rgb=True), "jpegturb", False),
        (make.raster(PHOTO, "JPEG", "CMYK"), "jpegcmyk", False),
        (make.raster(PHOTO, "JPEG", "CMYK", subsampling=1), "jpegpil", False),
        (make.raster(PHOTO, "JPEG", "CMYK", subsampling=2), "jpegpil", False),
        (make.jpeg(PHOTO)[:-2], "jpegturb", False),
    ],
)
def test_kinds_of_jpeg(data, tag, dali):
    kind = identify("", data)
    assert (kind.tag, kind.dali, kind.in_threads) == (tag, dali, True)


@pytest.mark.parametrize("subsampling", [1, 2])
def test_cmyk_whose_black_is_sampled_like_its_chroma_equals_pillow(subsampling):
    """As Pillow writes it; TurboJPEG takes a black of full size only."""
    data = make.raster(PHOTO, "JPEG", "CMYK", subsampling=subsampling)
    assert np.array_equal(through(data), pillow(data))


def test_cmyk_and_rgb_jpegs_equal_pillow():
    for data in (make.raster(PHOTO, "JPEG", "CMYK"), make.jpeg(PHOTO, keep_rgb=True)):
        assert np.array_equal(through(data), pillow(data))


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = make.jpeg(PHOTO, exif=exif)
    assert read_jpeg_header(data).orientation == 6
    kind = identify("", data)
    assert not kind.dali
    assert through(data).shape == (37, 53, 3)


@pytest.mark.parametrize("cut", [1, 2, 3, 20, 100, 300])
def test_a_jpeg_cut_short_is_never_half_gray(cut):
    data = make.jpeg(PHOTO)
    with pytest.raises(TruncatedError):
        through(data[:-cut])
    with pytest.raises(TruncatedError):
        through(data[: -cut - 2] + b"\xff\xd9") if cut > 3 else through(data[:-cut])


def test_a_thumbnails_end_marker_does_not_end_the_image():
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0" + make.jpeg(GRAY)
    data = make.jpeg(PHOTO, exif=exif)
    with pytest.raises(TruncatedError, match="no end marker"):
        through(data[:-2])


def test_bytes_after_the_end_do_no_harm():
    data = make.jpeg(PHOTO)
    assert np.array_equal(through(data + b"\0" * 100), pillow(data))


def test_other_jpegs_are_refused_by_name():
    import imagecodecs

    lossless = bytes(imagecodecs.jpeg8_encode(GRAY, lossless=True))
    with pytest.raises(UnsupportedError, match="0xFFC3"):
        identify("", lossless)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_lossless_rasters_equal_pillow(kind, mode):
    data = make.raster(PHOTO, kind, mode)
    assert np.array_equal(through(data), pillow(data))
    assert np.array_equal(through(data, channels=1)[..., 0], pillow(data, "L"))
    assert np.array_equal(through(data, depth=16), pillow(data).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "P"), ("PNG", "RGBA"), ("PNG", "LA"), ("GIF", "P"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("TIFF", "CMYK")],
)
def test_palettes_alpha_and_the_rest_equal_pillow(kind, mode):
    data = make.raster(PHOTO, kind, mode)
    assert np.array_equal(through(data), pillow(data))


def test_alpha_is_dropped_not_composited():
    red = np.zeros((2, 2, 4), np.uint8)
    red[..., 0] = 200
    assert through(make.raster(red, "PNG")).tolist() == [[[200, 0, 0]] * 2] * 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_gray(kind):
    data = make.raster(WIDE, kind)
    assert np.array_equal(through(data, depth=16, channels=1)[..., 0], WIDE)
    assert np.array_equal(through(data, window=None, channels=1)[..., 0], np.floor(WIDE / 257 + 0.5))
    window = FixedWindow(1000, 500, "linear_exact")
    assert np.array_equal(
        through(data, window=window, channels=1)[..., 0], np.clip(np.floor(255 * (WIDE - 750.0) / 500 + 0.5), 0, 255)
    )
    with pytest.raises(WindowError):
        through(data, window=VOIWindow(source="window"))


def test_sixteen_bit_colour_png_keeps_its_bits():
    import imagecodecs

    deep = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1]], -1)
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(deep)))
    assert np.array_equal(through(data, depth=16), deep)
    assert np.array_equal(through(data), np.floor(deep / 257 + 0.5))


def test_sixteen_bit_gray_with_alpha_png_keeps_its_bits():
    import imagecodecs

    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(np.stack([WIDE, WIDE[::-1]], -1))))
    assert np.array_equal(through(data, depth=16, channels=1)[..., 0], WIDE)
    window = FixedWindow(1000, 500, "linear_exact")
    assert np.array_equal(
        through(data, window=window)[..., 0], np.clip(np.floor(255 * (WIDE - 750.0) / 500 + 0.5), 0, 255)
    )


def test_sixteen_bit_tiffs_whose_zero_is_white():
    import imagecodecs

    data = bytes(imagecodecs.tiff_encode(WIDE, photometric="miniswhite"))
    assert np.array_equal(through(data, depth=16, channels=1)[..., 0], 65535 - WIDE)
    shallow = bytes(imagecodecs.tiff_encode((WIDE >> 8).astype(np.uint8), photometric="miniswhite"))
    assert np.array_equal(through(shallow, channels=1)[..., 0], 255 - (WIDE >> 8))


def test_sixteen_bit_tiff_in_planes():
    import imagecodecs

    planes = np.ascontiguousarray(DEEP[..., :3].transpose(2, 0, 1))
    data = bytes(imagecodecs.tiff_encode(planes, photometric="rgb", planarconfig="separate"))
    assert np.array_equal(through(data, depth=16), DEEP[..., :3])


def deep_tiff(pages, order="<", orientation=1, deflated=False):
    """A TIFF of uint16 [H, W, 3 or 4] pages, written by hand."""
    out = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 0))
    link = 4
    for page in pages:
        height, width, samples = page.shape
        bits, strip = len(out), len(out) + 2 * samples
        stored = page.astype(f"{order}u2").tobytes()
        stored = zlib.compress(stored) if deflated else stored
        out += struct.pack(f"{order}{samples}H", *[16] * samples) + stored + bytes(len(stored) % 2)
        method = 8 if deflated else 1
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, bits), (259, 4, 1, method), (262, 4, 1, 2)]
        tags += [(273, 4, 1, strip), (274, 4, 1, orientation), (277, 4, 1, samples), (278, 4, 1, height)]
        tags += [(279, 4, 1, len(stored)), *([(338, 4, 1, 2)] if samples == 4 else [])]
        struct.pack_into(order + "I", out, link, len(out))
        out += struct.pack(order + "H", len(tags)) + b"".join(struct.pack(order + "HHII", *tag) for tag in tags)
        link = len(out)
        out += bytes(4)
    return bytes(out)


DEEP = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1], WIDE // 2], -1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("samples", [3, 4])
def test_sixteen_bit_colour_tiff_keeps_its_bits(order, samples):
    data = deep_tiff([DEEP[..., :samples]], order)
    assert np.array_equal(through(data, depth=16), DEEP[..., :3])
    assert np.array_equal(through(data), np.floor(DEEP[..., :3] / 257 + 0.5))
    assert np.array_equal(through(data, channels=1, depth=16), luma16(DEEP[..., :3]))


def test_compressed_sixteen_bit_colour_tiff():
    data = deep_tiff([DEEP[..., :3]], deflated=True)
    assert np.array_equal(through(data, depth=16), DEEP[..., :3])
    with pytest.raises(DecodeError):
        through(data.replace(zlib.compress(DEEP[..., :3].tobytes())[:40], bytes(40)), depth=16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_are_turned_as_pillow_turns_them(orientation):
    upright = through(deep_tiff([DEEP[..., :3]], orientation=orientation), depth=16)
    plain = Image.fromarray((DEEP[..., :3] >> 8).astype(np.uint8))
    plain.getexif()[ExifTags.Base.Orientation] = orientation
    assert np.array_equal(upright >> 8, np.asarray(ImageOps.exif_transpose(plain)))


def test_pages_of_a_deep_tiff():
    data = deep_tiff([DEEP[..., :3], DEEP[:5, :4, :3]])
    decoded = decode(data, identify("", data), 1, DecodePolicy(depth=16))
    assert np.array_equal(decoded.pixels, DEEP[:5, :4, :3])
    small = DecodePolicy(limits=Limits(pixels=DEEP.shape[0] * DEEP.shape[1]))
    larger = deep_tiff([DEEP[:5, :4, :3], np.tile(DEEP[..., :3], (2, 1, 1))])
    with pytest.raises(LimitError, match=r"Limits.pixels"):
        decode(larger, identify("", larger), 1, small)
    cut = data[:-200]
    assert np.array_equal(through(cut, depth=16), DEEP[..., :3])  # a page is read without those behind it
    with pytest.raises(DecodeError):
        decode(cut, identify("", cut), 1, DecodePolicy(depth=16))


def test_pages_and_frames():
    out = io.BytesIO()
    pages = [Image.fromarray(np.full((4, 4), n, np.uint8)) for n in (1, 2, 3)]
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    data = out.getvalue()
    kind = identify("", data)
    assert [int(decode(data, kind, n).pixels[0, 0, 0]) for n in range(3)] == [1, 2, 3]
    with pytest.raises(DecodeError, match="frame 3 was asked for; the tiff image has 3, counted from 0"):
        decode(data, kind, 3)
    with pytest.raises(DecodeError, match="a JPEG file has one"):
        decode(make.jpeg(GRAY), identify("", make.jpeg(GRAY)), 1)


def test_floating_point_tiffs_are_refused():
    with pytest.raises(UnsupportedError, match="floating-point"):
        through(make.raster(WIDE.astype(np.float32), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "JPEG", "GIF", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_have_a_named_error(kind, part):
    data = make.raster(PHOTO, kind, "P" if kind == "GIF" else "RGB")
    cut = data[: int(len(data) * part)]
    with pytest.raises(DecodeError):
        through(cut)


def test_what_is_no_image(tmp_path):
    for text in (b"hello, this is text", b"BM is a country code", b"P6 of the agenda", b"\0" * 300):
        with pytest.raises(DecodeError):
            through(text)
    with pytest.raises(TruncatedError, match="empty"):
        identify("", b"")
    path = tmp_path / "x.txt"
    path.write_bytes(make.raster(PHOTO, "PNG"))
    assert sniff_file(path) == "png"
    path.write_bytes(b"BM is a country code")
    assert sniff_file(path) is None


def test_limits_are_checked_before_decoding():
    small = Limits(pixels=100)
    for data in (make.jpeg(PHOTO), make.raster(PHOTO, "PNG"), make.dicom(GRAY), make.dicom(GRAY, "j2k")):
        with pytest.raises(LimitError, match=r"37 x 53 is 1961 pixels; at most 100 are allowed \(Limits.pixels\)"):
            through(data, limits=small)
    with pytest.raises(LimitError, match=r"Limits.file_bytes"):
        through(make.jpeg(PHOTO), limits=Limits(file_bytes=10))
    with pytest.raises(LimitError, match=r"Limits.frames"):
        through(make.dicom(GRAY, NumberOfFrames=1000), limits=Limits(frames=999))


def test_gray_arithmetic():
    rgb = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    want = (rgb.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    assert np.array_equal(luma(rgb)[..., 0], want)
    deep = rgb.astype(np.uint16) * 257
    want16 = (deep.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    assert np.array_equal(luma16(deep)[..., 0], want16)


def test_policies_that_cannot_be():
    for wrong in ({"channels": 2}, {"depth": 12}, {"reduce": (0, 5)}, {"processing": "x"}):
        with pytest.raises(ConfigError, match=r"allowed|at least"):
            DecodePolicy(**wrong)


def test_a_header_that_is_remembered_is_that_of_the_bytes_asked_about():
    """Two files in turn, in two threads; and equal bytes that are another object."""
    from concurrent.futures import ThreadPoolExecutor

    from dali_pipes.decode import jpegheader

    files = [make.jpeg(np.zeros((8 + i, 20, 3), np.uint8)) for i in range(2)]

    def heights(_):
        asked = [*files, files[1], files[1], bytes(bytearray(files[0])), memoryview(files[1]), files[0]]
        return [jpegheader.read_jpeg_header(data).height for data in asked]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(heights, range(20))) == [[8, 9, 9, 9, 8, 9, 8]] * 20
    for data in files:
        assert jpegheader.read_jpeg_header(data) == jpegheader._read(data)

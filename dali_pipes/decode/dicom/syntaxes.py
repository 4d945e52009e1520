"""The transfer syntaxes of PS3.5 Annex A that carry images, and which family of decoders each needs."""

from __future__ import annotations

from dataclasses import dataclass

_ROOT = "1.2.840.10008.1.2"


@dataclass(frozen=True)
class Syntax:
    """One transfer syntax. family: "native", or the name under which `codecs` lists its decoders."""

    uid: str
    name: str
    family: str
    implicit: bool = False
    little: bool = True
    deflated: bool = False

    @property
    def encapsulated(self) -> bool:
        """Whether frames are encoded, in fragments."""
        return self.family != "native"

    @property
    def tag(self) -> str:
        """A short word: "dcm.0" for implicit VR, "dcm.4.70", "dcm.201" for 1.2.840.10008.1.2.4.201."""
        rest = self.uid[len(_ROOT) + 1 :]
        if rest.startswith("4.") and len(rest) > 4:
            rest = rest[2:]
        return f"dcm.{rest or '0'}"


_TABLE = (
    Syntax(_ROOT, "Implicit VR Little Endian", "native", implicit=True),
    Syntax(f"{_ROOT}.1", "Explicit VR Little Endian", "native"),
    Syntax(f"{_ROOT}.1.98", "Encapsulated Uncompressed Explicit VR Little Endian", "uncompressed"),
    Syntax(f"{_ROOT}.1.99", "Deflated Explicit VR Little Endian", "native", deflated=True),
    Syntax(f"{_ROOT}.2", "Explicit VR Big Endian", "native", little=False),
    Syntax(f"{_ROOT}.4.50", "JPEG Baseline (Process 1)", "jpeg-baseline"),
    Syntax(f"{_ROOT}.4.51", "JPEG Extended (Process 2 and 4)", "jpeg-extended"),
    Syntax(f"{_ROOT}.4.53", "JPEG Spectral Selection (Process 6 and 8)", "jpeg-extended"),
    Syntax(f"{_ROOT}.4.55", "JPEG Full Progression (Process 10 and 12)", "jpeg-extended"),
    Syntax(f"{_ROOT}.4.57", "JPEG Lossless (Process 14)", "jpeg-lossless"),
    Syntax(f"{_ROOT}.4.70", "JPEG Lossless, Selection Value 1", "jpeg-lossless"),
    Syntax(f"{_ROOT}.4.80", "JPEG-LS Lossless", "jpeg-ls"),
    Syntax(f"{_ROOT}.4.81", "JPEG-LS Near-Lossless", "jpeg-ls"),
    Syntax(f"{_ROOT}.4.90", "JPEG 2000 Lossless", "jpeg-2000"),
    Syntax(f"{_ROOT}.4.91", "JPEG 2000", "jpeg-2000"),
    Syntax(f"{_ROOT}.4.92", "JPEG 2000 Part 2 Multi-component Lossless", "jpeg-2000-part-2"),
    Syntax(f"{_ROOT}.4.93", "JPEG 2000 Part 2 Multi-component", "jpeg-2000-part-2"),
    Syntax(f"{_ROOT}.4.100", "MPEG2 Main Profile / Main Level", "video"),
    Syntax(f"{_ROOT}.4.101", "MPEG2 Main Profile / High Level", "video"),
    Syntax(f"{_ROOT}.4.102", "MPEG-4 AVC/H.264 High Profile", "video"),
    Syntax(f"{_ROOT}.4.103", "MPEG-4 AVC/H.264 BD-compatible High Profile", "video"),
    Syntax(f"{_ROOT}.4.104", "MPEG-4 AVC/H.264 High Profile For 2D Video", "video"),
    Syntax(f"{_ROOT}.4.105", "MPEG-4 AVC/H.264 High Profile For 3D Video", "video"),
    Syntax(f"{_ROOT}.4.106", "MPEG-4 AVC/H.264 Stereo High Profile", "video"),
    Syntax(f"{_ROOT}.4.107", "HEVC/H.265 Main Profile", "video"),
    Syntax(f"{_ROOT}.4.108", "HEVC/H.265 Main 10 Profile", "video"),
    Syntax(f"{_ROOT}.4.110", "JPEG XL Lossless", "jpeg-xl"),
    Syntax(f"{_ROOT}.4.111", "JPEG XL JPEG Recompression", "jpeg-xl"),
    Syntax(f"{_ROOT}.4.112", "JPEG XL", "jpeg-xl"),
    Syntax(f"{_ROOT}.4.201", "High-Throughput JPEG 2000 Lossless", "htj2k"),
    Syntax(f"{_ROOT}.4.202", "High-Throughput JPEG 2000 with RPCL Lossless", "htj2k"),
    Syntax(f"{_ROOT}.4.203", "High-Throughput JPEG 2000", "htj2k"),
    Syntax(f"{_ROOT}.5", "RLE Lossless", "rle"),
    Syntax(f"{_ROOT}.8.1", "Deflated Image Frame Compression", "deflated-frame"),
)

BY_UID = {syntax.uid: syntax for syntax in _TABLE}
BY_TAG = {syntax.tag: syntax for syntax in _TABLE}
TAG_OF = {syntax.uid: syntax.tag for syntax in _TABLE}

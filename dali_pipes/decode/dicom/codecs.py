"""The registry: for each family of transfer syntaxes, the decoders that would do, in order of preference.

A decoder turns one encoded frame into samples [rows, columns, samples] and says whether colours came out as RGB. Every
one listed as usable is under a permissive licence; those that are not are named so that an error can say what is
missing and why it is not a dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from dali_pipes.decode.dicom import plugins
from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.plugins import Samples
from dali_pipes.decode.dicom.syntaxes import BY_TAG, BY_UID, Syntax
from dali_pipes.errors import UnsupportedError


@dataclass(frozen=True)
class Codec:
    """One decoder.

    package: what `pip install` takes; module: what must import; use: None where we never call it, `why` says why.
    """

    package: str
    module: str
    licence: str
    use: Callable[[bytes, Header], Samples] | None = None
    why: str = ""
    library: Callable[[], str] | None = None
    in_threads: bool = False

    def lacks(self) -> str:
        """Return what is missing for this decoder to work here; "" if nothing is."""
        if self.use is None:
            return self.why
        try:
            import_module(self.module)
        except ImportError as error:
            return f"not installed: pip install {self.package} ({type(error).__name__})"
        return ""

    def version(self) -> str:
        """Name and version, with those of the library inside where they are known."""
        try:
            own = f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            own = self.package
        return f"{own} {self.library()}".strip() if self.library else own


_OWN = "part of dali-pipes"
_NEVER = "never used: {} is under the {}, which the users of a permissive library could not accept"
_GPL_JPEG = Codec("pylibjpeg-libjpeg", "libjpeg", "GPL-3.0", why=_NEVER.format("it", "GPL"))
_TURBO = Codec(
    "imagecodecs", "imagecodecs", "BSD-3-Clause", plugins.turbo, library=plugins.turbo_version, in_threads=True
)
_OPENJPEG = Codec(
    "imagecodecs", "imagecodecs", "BSD-3-Clause", plugins.openjpeg, library=plugins.openjpeg_version, in_threads=True
)

CODECS: dict[str, tuple[Codec, ...]] = {
    "native": (Codec("dali-pipes", "numpy", _OWN, plugins.never, in_threads=True),),
    "uncompressed": (Codec("dali-pipes", "numpy", _OWN, plugins.uncompressed, in_threads=True),),
    "deflated-frame": (Codec("dali-pipes", "zlib", _OWN, plugins.deflated_frame, in_threads=True),),
    "jpeg-baseline": (Codec("simplejpeg", "simplejpeg", "MIT", plugins.baseline, in_threads=True),),
    "jpeg-extended": (_TURBO, _GPL_JPEG),
    "jpeg-lossless": (_TURBO, _GPL_JPEG),
    "jpeg-ls": (Codec("pyjpegls", "jpeg_ls", "MIT", plugins.charls, library=plugins.fallback_version),),
    "jpeg-2000": (_OPENJPEG,),
    "htj2k": (_OPENJPEG,),
    "rle": (Codec("pylibjpeg-rle", "rle", "MIT", plugins.rle),),
    "jpeg-xl": (Codec("imagecodecs", "imagecodecs", "BSD-3-Clause", plugins.jpegxl, library=plugins.jpegxl_version),),
    "jpeg-2000-part-2": (),
    "video": (),
}


@lru_cache(maxsize=64)
def codec_for(uid: str) -> Codec:
    """Return the first usable decoder of a transfer syntax.

    Raises UnsupportedError that lists every decoder and what it lacks.
    """
    syntax = BY_UID[uid]
    for codec in CODECS[syntax.family]:
        if not codec.lacks():
            return codec
    raise UnsupportedError(missing(syntax))


def decoders() -> list[dict[str, str]]:
    """One row per transfer syntax.

    Uid, name, tag, decoder (with version; "" where there is none here), and what is missing.
    """
    rows = []
    for syntax in BY_UID.values():
        codec = next((c for c in CODECS[syntax.family] if not c.lacks()), None)
        rows.append(
            {
                "uid": syntax.uid,
                "name": syntax.name,
                "tag": syntax.tag,
                "decoder": describe_codec(codec) if codec else "",
                "missing": "" if codec else missing(syntax),
            }
        )
    return rows


def require(names: Sequence[str]) -> None:
    """Raise UnsupportedError, listing all that is missing, unless every transfer syntax named has a decoder.

    names: UIDs or tags.
    """
    unknown = [name for name in names if name not in BY_UID and name not in BY_TAG]
    if unknown:
        raise UnsupportedError(
            f"not transfer syntaxes: {', '.join(unknown)}; give a UID, or a tag such as {', '.join(BY_TAG)}"
        )
    lacking = [row["missing"] for row in decoders() if row["missing"] and {row["uid"], row["tag"]} & set(names)]
    if lacking:
        raise UnsupportedError("; ".join(lacking))


def describe_codec(codec: Codec) -> str:
    """Return the part of `Kind.decoder` that names a DICOM codec."""
    return codec.version() if codec.package != "dali-pipes" else "native"


def missing(syntax: Syntax) -> str:
    """Return the message for a syntax without a usable decoder: every decoder that would do, and what it lacks."""
    listed = CODECS[syntax.family]
    if not listed:
        return (
            f"no decoder for {syntax.name} ({syntax.uid}): no permissively licensed Python decoder of it is known. "
            "Convert the file to another transfer syntax, for example JPEG 2000 Lossless"
        )
    lines = "; ".join(f"{c.package} ({c.licence}): {c.lacks() or 'usable'}" for c in listed)
    return f"no decoder for {syntax.name} ({syntax.uid}). Decoders that would do: {lines}"

"""What the caller decides about decoding, and what comes back: plain frozen data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dali_pipes.decode.limits import Limits
from dali_pipes.decode.voi import PercentileWindow, Window, window_from_dict
from dali_pipes.errors import ConfigError

Action = Literal["ignore", "warn", "error"]
ACTIONS = ("ignore", "warn", "error")


@dataclass(frozen=True)
class DecodePolicy:
    """Everything that decides which pixels come out of a file.

    channels    3 or 1. Of monochrome sources the one channel is repeated.
    depth       8: display values. 16: the values themselves, to be windowed by `apply_window` when read.
    window      how wide values become 8 bits; None maps the whole range that the bits allow. Not used on 8-bit photos.
    burned_in   what to do with a DICOM file that says it has patient data burned into its pixels: "ignore", "warn" (see
                `Decoded.warnings`) or "error" (RefusedError; a loader with on_error="skip" leaves such files out).
    processing  the same for a DICOM file meant FOR PROCESSING (raw detector values, not for looking at).
    reduce      (height, width): decode JPEG 2000 at the smallest resolution level still at least that large. Other
                pixels than a full decode.
    """

    channels: int = 3
    depth: int = 8
    window: Window | None = field(default=PercentileWindow())
    burned_in: Action = "warn"
    processing: Action = "ignore"
    reduce: tuple[int, int] | None = None
    limits: Limits = field(default=Limits(), compare=False)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ConfigError(f"channels={self.channels!r}: allowed are 1 and 3")
        if self.depth not in (8, 16):
            raise ConfigError(f"depth={self.depth!r}: allowed are 8 and 16")
        for name in ("burned_in", "processing"):
            if getattr(self, name) not in ACTIONS:
                raise ConfigError(f"{name}={getattr(self, name)!r}: allowed are {', '.join(ACTIONS)}")
        if self.reduce is not None and (len(self.reduce) != 2 or min(self.reduce) < 1):
            raise ConfigError(f"reduce={self.reduce!r}: needs a height and a width of at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `policy_from_dict` reads them back."""
        plain = asdict(self)
        plain["window"] = None if self.window is None else self.window.as_dict()
        return plain


def policy_from_dict(plain: dict[str, Any]) -> DecodePolicy:
    """Return the policy that `DecodePolicy.as_dict` wrote (JSON's lists for tuples are taken)."""
    rest = dict(plain)
    rest["window"] = window_from_dict(rest.get("window"))
    rest["limits"] = Limits(**rest.get("limits", {}))
    if rest.get("reduce") is not None:
        rest["reduce"] = tuple(rest["reduce"])
    return DecodePolicy(**rest)


@dataclass(frozen=True)
class Decoded:
    """One decoded frame.

    pixels      uint8 (depth 8) or uint16 (depth 16) [H, W, C], C = policy.channels. C-contiguous; but where the source
                is monochrome and C is 3,
                the three are one plane repeated (its last stride is 0): resize that one, then repeat it.
    attributes  {} at depth 8; at depth 16 what `apply_window` needs, as plain JSON values. Holds nothing about the
                patient.
    facts       what the file says about itself that a data set may want to count: intent, lossy, burned_in. Plain JSON
                values.
    warnings    what the policy's "warn" gives reason to say. Nothing is logged: the caller knows the sample's name.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    attributes: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        pixels = f"{self.pixels.dtype}{list(self.pixels.shape)}"
        return f"Decoded(pixels={pixels}, attributes={sorted(self.attributes)}, facts={self.facts})"

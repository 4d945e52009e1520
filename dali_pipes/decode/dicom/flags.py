"""What a file says about itself that a data set must know.

Presentation Intent (PS3.3 C.8.11.7.1.5), Burned In Annotation (C.7.6.1.1), Lossy Image Compression (C.7.6.1.1.5).
"""

from __future__ import annotations

from typing import Any, Literal

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.values import text
from dali_pipes.decode.policy import DecodePolicy
from dali_pipes.errors import RefusedError

_FOUND = {
    "burned_in": "the file says that annotation is burned into its pixels (0028,0301): it may name the patient",
    "processing": "the image is FOR PROCESSING (0008,0068): raw values, not made for looking at",
}


def read_flags(header: Header) -> dict[str, Any]:
    """intent: "FOR PRESENTATION", "FOR PROCESSING" or None.

    Burned_in and lossy: True, False, or None where the file does not say.
    """
    ds = header.dataset
    intent = text(ds, "PresentationIntentType")
    yes_no = {"YES": True, "NO": False}
    lossy = {"01": True, "00": False}.get(text(ds, "LossyImageCompression"))
    return {
        "intent": intent if intent in ("FOR PRESENTATION", "FOR PROCESSING") else None,
        "burned_in": yes_no.get(text(ds, "BurnedInAnnotation")),
        "lossy": lossy,
    }


def warnings_of(flags: dict[str, Any], policy: DecodePolicy, action: Literal["warn", "error"] = "warn") -> list[str]:
    """Return what the flags give reason to say under the policy's actions; action "error": what it refuses."""
    said = {"burned_in": flags.get("burned_in"), "processing": flags.get("intent") == "FOR PROCESSING"}
    what_to_do = {
        "warn": '{}="error" refuses such files, "ignore" is silent',
        "error": '{}="error" refuses it; on_error="skip" leaves such files out, "warn" or "ignore" takes them',
    }[action]
    names = [name for name, hit in said.items() if hit and getattr(policy, name) == action]
    return [f"{_FOUND[name]}. {what_to_do.format(name)}" for name in names]


def check_flags(header: Header, policy: DecodePolicy) -> tuple[dict[str, Any], list[str]]:
    """Return the flags, and warnings, by the policy's actions; raise RefusedError if one of them is "error"."""
    flags = read_flags(header)
    for refusal in warnings_of(flags, policy, "error"):
        raise RefusedError(refusal)
    return flags, warnings_of(flags, policy)

"""Functional groups of enhanced multi-frame files (PS3.3 C.7.6.16): a frame's own group, else the shared one, else the
top level.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from dali_pipes.decode.dicom.values import attribute
from dali_pipes.errors import DecodeError


def macro(dataset: Dataset, frame: int, name: str) -> Dataset:
    """The data set in which to look for a macro's attributes: item 0 of the sequence `name` for this frame, or
    `dataset` itself.

    Raises DecodeError where the per-frame groups are fewer than the frame asked for.
    """
    per_frame = attribute(dataset, "PerFrameFunctionalGroupsSequence")
    if per_frame:
        if frame >= len(per_frame):
            raise DecodeError(f"frame {frame} has no functional group: the file has {len(per_frame)} (5200,9230)")
        found: list[Dataset] | None = attribute(per_frame[frame], name)
        if found:
            return found[0]
    shared = attribute(dataset, "SharedFunctionalGroupsSequence")
    if shared:
        found = attribute(shared[0], name)
        if found:
            return found[0]
    return dataset

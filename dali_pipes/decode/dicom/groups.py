"""Functional groups of enhanced multi-frame files (PS3.3 C.7.6.16).

A frame's own group, else the shared one, else the top level.
"""

from __future__ import annotations

from dali_pipes.decode.dicom.elements import Elements
from dali_pipes.errors import DecodeError


def macro(dataset: Elements, frame: int, name: str) -> Elements:
    """Return the data set in which to look for a macro's attributes.

    It is item 0 of the sequence `name` for this frame, or `dataset` itself.

    Raises DecodeError if the per-frame groups are fewer than the frame asked for.
    """
    per_frame = dataset.items("PerFrameFunctionalGroupsSequence")
    if per_frame and frame >= len(per_frame):
        raise DecodeError(f"frame {frame} has no functional group: the file has {len(per_frame)} (5200,9230)")
    for group in (*per_frame[frame : frame + 1], *dataset.items("SharedFunctionalGroupsSequence")[:1]):
        found = group.items(name)
        if found:
            return found[0]
    return dataset

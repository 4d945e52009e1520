"""What a file is and who decodes it: a row of the table of formats, as plain data with a name for cache keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from dali_pipes.decode.dicom.syntaxes import TAG_OF
from dali_pipes.decode.formats import FORMATS
from dali_pipes.decode.policy import DecodePolicy
from dali_pipes.errors import UnsupportedError

# Counts the changes of our own rules that change pixels: part of every decoder's name, so that caches notice.
RULES = 4


@dataclass(frozen=True)
class Kind:
    """What a file is and who decodes it.

    tag         a short ASCII word, such as "jpeg", "png", "dcm.4.70".
    decoder     the decoder's name and version: belongs in a cache key, because other versions may give other bits.
    in_threads  the decoder lets other threads run: decode in threads. Otherwise in a DecoderPool.
    dali        a plain JPEG that DALI's CPU decoder reads to the same bits.
    """

    tag: str
    decoder: str
    in_threads: bool
    dali: bool = False

    def under(self, policy: DecodePolicy) -> Kind:
        """Return this kind with the decoder that works under the policy: `reduce` takes another one for JPEG 2000."""
        return self if policy.reduce is None else replace(self, decoder=_name(self.tag, policy))

    @staticmethod
    @lru_cache(maxsize=256)
    def from_tag(tag: str) -> Kind:
        """Return the kind of a known tag on this machine; raises UnsupportedError for an unknown tag or no decoder."""
        if tag not in FORMATS:
            raise UnsupportedError(f"no decoder has the tag {tag!r}; known are {', '.join(sorted(FORMATS))}")
        return Kind(tag, _name(tag, DecodePolicy()), FORMATS[tag].in_threads(), FORMATS[tag].dali)


def _name(tag: str, policy: DecodePolicy) -> str:
    return f"{FORMATS[tag].family} {RULES}, {FORMATS[tag].libraries(policy)}"


def tag_of_syntax(uid: str) -> str:
    """Return the tag of a DICOM transfer syntax; raises UnsupportedError for one that the standard does not name."""
    if uid not in TAG_OF:
        raise UnsupportedError(f"DICOM transfer syntax {uid!r} is not one that the standard gives to images")
    return TAG_OF[uid]

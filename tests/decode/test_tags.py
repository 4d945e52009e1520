"""The words by which the index of source files remembers what a file is."""

from dali_pipes.cache.sources import TAG_BYTES
from dali_pipes.decode.formats import FORMATS


def test_every_tag_can_be_remembered() -> None:
    """A longer one is allowed, but its files are read again in every run."""
    assert len(FORMATS) > 20
    assert [tag for tag in FORMATS if len(tag) > TAG_BYTES or not tag.isascii()] == []

"""What a file says about itself (PS3.3 C.8.11.7.1.5, C.7.6.1.1), and what each policy makes of it."""

import make_images as make
import pytest
from rules import row

from dali_pipes.decode import DecodePolicy, decode, describe, identify
from dali_pipes.errors import ConfigError, RefusedError

SAID = {"BurnedInAnnotation": "YES", "PresentationIntentType": "FOR PROCESSING", "LossyImageCompression": "01"}


def decoded(policy: DecodePolicy, **attributes: str):
    data = make.dicom(row(1), **attributes)
    return decode(data, identify("", data), 0, policy)


def test_flags_are_told():
    assert decoded(DecodePolicy(), **SAID).facts == {"intent": "FOR PROCESSING", "burned_in": True, "lossy": True}
    silent = decoded(DecodePolicy(processing="warn"))
    assert silent.facts == {"intent": None, "burned_in": None, "lossy": None}
    assert silent.warnings == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [("burned_in", "burned into its pixels (0028,0301)"), ("processing", "FOR PROCESSING (0008,0068)")],
)
def test_each_policy(name, text, caplog):
    other = {"burned_in": "processing", "processing": "burned_in"}[name]
    quiet = DecodePolicy(**{name: "ignore", other: "ignore"})
    assert decoded(quiet, **SAID).warnings == ()
    (warning,) = decoded(DecodePolicy(**{name: "warn", other: "ignore"}), **SAID).warnings
    assert text in warning
    assert f'{name}="error" refuses such files' in warning
    with pytest.raises(RefusedError) as refused:
        decoded(DecodePolicy(**{name: "error", other: "ignore"}), **SAID)
    assert text in str(refused.value)
    assert 'on_error="skip" leaves such files out' in str(refused.value)
    assert not caplog.text  # who knows the sample's name logs
    with pytest.raises(ConfigError, match="ignore, warn, error"):
        DecodePolicy(**{name: "skip"})


def test_describing_a_file_shows_its_warnings():
    shown = describe(make.dicom(row(1), **SAID), 0, DecodePolicy(processing="warn"))["warnings"]
    assert [("burned" in text, "PROCESSING" in text) for text in shown] == [(True, False), (False, True)]

"""--set key=value."""

import pytest

from worldline.cli.options import parse_settings
from worldline.errors import ConfigError


def test_values_are_read_as_yaml():
    assert parse_settings(["a=1", "b=0.5", "c=[1, 2]", "d=text", "e=true", "f=null", "g=1e-8", "h=a=b"]) == {
        "a": 1, "b": 0.5, "c": [1, 2], "d": "text", "e": True, "f": None, "g": 1e-8, "h": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["units"], "KEY=VALUE"), (["=3"], "KEY=VALUE"), (["a=1", "a=2"], "twice"), (["a=[1"], "cannot be read")],
)
def test_wrong_pairs_are_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(pairs)

"""Positions and times as people write them."""

from __future__ import annotations

import pytest

from replkit.errors import InvalidArgumentError
from replkit.site.moments import parse_moment


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("17", {"number": 17, "epoch": None}),
        ("2:17", {"number": 17, "epoch": 2}),
        ("2h ago", {"time_s": 10_000.0 - 7200}),
        ("90 min ago", {"time_s": 10_000.0 - 5400}),
        ("1.5 minutes ago", {"time_s": 10_000.0 - 90}),
        ("1970-01-01T00:01:00Z", {"time_s": 60.0}),
        ("1970-01-01 02:00:00+02:00", {"time_s": 0.0}),
    ],
)
def test_a_moment_is_a_position_or_a_time(text, found):
    assert parse_moment(text, 10_000.0) == found


@pytest.mark.parametrize("text", ["", "monday", "1:2:3", "-1", "5 ago", "h ago"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="neither a position nor a time"):
        parse_moment(text, 0.0)

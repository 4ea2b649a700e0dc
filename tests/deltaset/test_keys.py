import re

import pytest

from replkit.deltaset.keys import chunk_key, header_key, list_key, parse_set_tag, set_tag
from replkit.errors import InvalidArgumentError


@pytest.mark.requirement("D3")
def test_keys_sort_by_number_and_index_and_are_keys_of_a_save_volume():
    tags = [set_tag(1, number, "w1") for number in (1, 9, 10, 255, 1 << 40)]
    assert tags == sorted(tags)
    assert set_tag(1, 26, "w1") == "000000000000001a.w1"
    chunks = [chunk_key(tags[0], index) for index in (0, 9, 16, 70_000)]
    assert chunks == sorted(chunks)
    for key in [*chunks, header_key(tags[-1]), list_key(tags[-1], 3)]:
        assert re.fullmatch(r"(sets|lists)/[a-z0-9._-]+/[a-z0-9._-]+", key)
    assert header_key(tags[0]) == "lists/0000000000000001.w1/header"


def test_a_tag_says_number_and_writer():
    assert parse_set_tag(set_tag(3, 77, "a-b")) == (77, "a-b")
    for wrong in ("", "1.w", "000000000000001a.", "000000000000001A.w", "000000000000001a.w/x", "000000000000001a.w\n"):
        with pytest.raises(InvalidArgumentError):
            parse_set_tag(wrong)


@pytest.mark.parametrize(
    "arguments", [(-1, 1, "w"), (1, -1, "w"), (1, 1 << 64, "w"), (1, 1, ""), (1, 1, "W"), (1, 1, "a/b")]
)
def test_a_tag_that_cannot_be_is_refused(arguments):
    with pytest.raises(InvalidArgumentError):
        set_tag(*arguments)

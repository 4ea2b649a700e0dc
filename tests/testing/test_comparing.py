"""What the suites say of two byte strings that differ."""

from __future__ import annotations

import pytest

from replkit.testing.comparing import assert_bytes


def test_equal_bytes_pass_whatever_holds_them() -> None:
    words = memoryview(bytearray(b"abcdefgh")).cast("I")
    assert_bytes(words, b"abcdefgh")
    assert_bytes(b"", bytearray())


@pytest.mark.parametrize("at", [0, 4095, 4096, (8 << 20) - 1])
def test_the_first_byte_that_differs_is_named_and_little_is_said(at: int) -> None:
    wanted = bytes(8 << 20)
    found = wanted[:at] + b"\1" + b"\2" * (len(wanted) - at - 1)
    with pytest.raises(AssertionError) as raised:
        assert_bytes(found, wanted, "block 7")
    message = str(raised.value)
    assert message.startswith(f"block 7: from byte {at} of {8 << 20} on 01")
    assert len(message) < 200


def test_another_length_is_named() -> None:
    with pytest.raises(AssertionError, match="the bytes read: 3 bytes, not 2"):
        assert_bytes(b"abc", b"ab")

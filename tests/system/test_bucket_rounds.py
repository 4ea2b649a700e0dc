"""The short form of ``bucket_rounds``; its command line runs it as large as one likes."""

from __future__ import annotations

import random

import pytest

from .bucket_rounds import Sizes, run
from .shadow import BLOCK, PIECE, Change, Shadow, random_changes


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.requirement("U3", "X2", "R1", "R4", "R5", "R9", "S5")
def test_a_site_that_lives_with_a_bucket_only_is_killed_lost_restored_and_comes_back():
    figures = run(Sizes(image_mib=64, in_use_mib=8, round_mib=1.0), rounds=2, seed=1)
    assert figures["kills"] == 2
    assert len(figures["restored"]) == 3
    assert figures["boundaries"] == 5  # the copy, two rounds, after the resync, after failback
    assert figures["moved_ratio"] < 1.1


def test_the_shadow_sees_a_byte_that_differs(tmp_path):
    chance = random.Random(1)
    shadow = Shadow(tmp_path / "shadow.img", 4 * PIECE)
    shadow.fill(chance, 2 * PIECE)
    shadow.apply([*random_changes(chance, 4 * PIECE, PIECE // 4), Change(start=PIECE, count=BLOCK, data=None)])
    image = bytearray((tmp_path / "shadow.img").read_bytes())
    assert image[PIECE : PIECE + BLOCK] == bytes(BLOCK)

    def read(start, count):
        return bytes(image[start : start + count])

    assert shadow.differing(read, shadow.digests) == []
    image[3 * PIECE + 5] ^= 1
    assert shadow.differing(read, shadow.digests) == [3]

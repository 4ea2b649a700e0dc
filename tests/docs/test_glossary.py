"""The glossary defines the words that code and pages use, once each, and the pages use no others for the same thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
WORDS = """
    acknowledgement, before-image, block, boundary, cell, change log, chunk, clone volume, congestion policy,
    copy-ahead, cut, delta set, discard, epoch, extent, failback, failover, fencing, fork point, forwarder,
    history, hold, identity, in-use map, lag, lineage, link, member, new copy, playback, position, primary,
    production volume, replica, restart point, resync, rewind, root cell, salvage, save area, save volume,
    secondary, snapped volume, snapshot, switchover, transport, trimming, view, volume, volume multicast,
    write-intent
"""
# What other systems say for words that we have; a page that used both would name one thing twice.
FORBIDDEN = re.compile(
    r"\b(master|slave|standby|replica set|change set|changeset|journal entry|generation count number)\b", re.I
)


def entries() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", GLOSSARY.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_word_of_the_design_is_defined():
    assert {word.strip() for word in WORDS.split(",")} - set(entries()) == set()


def test_entries_are_in_order_and_say_something():
    found = entries()
    assert list(found) == sorted(found, key=str.lower)
    assert [name for name, text in found.items() if len(text.split()) < 8] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_the_words_of_the_glossary(page):
    assert FORBIDDEN.findall(page.read_text()) == []

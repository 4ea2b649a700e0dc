"""The keys of a delta set's records in a save volume."""

from __future__ import annotations

import re
from typing import Final

from replkit.errors import InvalidArgumentError

_WRITER: Final = re.compile(r"[a-z0-9_-]{1,64}")
SET_TAG: Final = re.compile(r"([0-9a-f]{16})\.([a-z0-9_-]{1,64})")
MAX_NUMBER: Final = (1 << 64) - 1


def set_tag(epoch_count: int, number: int, writer: str) -> str:
    """Name of a set as one writer wrote it; sorts by number.

    The epoch is not part of it: a writer's tag is used in one epoch only, so number and writer are unique together.
    """
    if epoch_count < 0 or not 0 <= number <= MAX_NUMBER or not _WRITER.fullmatch(writer):
        raise InvalidArgumentError(f"set {epoch_count}:{number} of writer {writer!r} can have no tag")
    return f"{number:016x}.{writer}"


def parse_set_tag(tag: str) -> tuple[int, str]:
    """Number and writer of a tag made by ``set_tag``."""
    match = SET_TAG.fullmatch(tag)
    if match is None:
        raise InvalidArgumentError(f"{tag!r} is no tag of a delta set")
    return int(match[1], 16), match[2]


def chunk_key(tag: str, index: int) -> str:
    """Key of chunk ``index`` of a set."""
    return f"sets/{tag}/{index:08x}"


def header_key(tag: str) -> str:
    """Key of the header of a set; the set exists when it does."""
    return f"lists/{tag}/header"


def list_key(tag: str, index: int) -> str:
    """Key of block list ``index`` of a set; block lists are kept far longer than data."""
    return f"lists/{tag}/blocks-{index:04x}"

"""The pages of bit maps: 32,768 bits each, and the one full page that all maps share."""

from __future__ import annotations

from typing import Final

from bitarray import bitarray, frozenbitarray

PAGE_BLOCKS: Final = 1 << 15
PAGE_SHIFT: Final = 15
PAGE_MASK: Final = PAGE_BLOCKS - 1
PAGE_BYTES: Final = PAGE_BLOCKS // 8


def empty_page() -> bitarray:
    """A new page without a block."""
    return bitarray(PAGE_BLOCKS, endian="little")


FULL: Final[bitarray] = frozenbitarray(~empty_page())
"""The one page with all bits set; it cannot be changed."""

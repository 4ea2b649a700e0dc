"""Cells that one service writes, each at the version that it knows.

Whoever finds such a cell changed has lost the save volume (invariant 8). A store may not say whether a swap was made;
then it is looked up before the next one.
"""

from __future__ import annotations

from replkit.contracts.savevolume import SaveVolume
from replkit.errors import FencedError, StoreUnavailableError, SwapConflictError


class OwnedCell:
    """A cell of one writer: ``value`` is what it held at the opening, ``swap`` gives it another as a whole."""

    def __init__(self, save: SaveVolume, name: str) -> None:
        self._save, self.name = save, name
        self.value, self._version = save.load(name)
        self._in_doubt: bytes | None = None

    def settle(self) -> bool:
        """Find out whether a swap was made of which the store did not say so: true if it was; else nothing is done."""
        if self._in_doubt is None:
            return False
        value, version = self._save.load(self.name)
        was_made = version == self._version + 1 and value == self._in_doubt
        if was_made:
            self._version = version
        self._in_doubt = None
        return was_made

    def swap(self, value: bytes) -> None:
        """Durable on return; ``SwapConflictError`` where somebody else has swapped it."""
        self.settle()
        try:
            self._version = self._save.swap(self.name, value, self._version)
        except StoreUnavailableError:
            self._in_doubt = value
            raise

    def swap_or_fence(self, value: bytes) -> None:
        """The same, with ``FencedError``: for cells of the producer."""
        try:
            self.swap(value)
        except SwapConflictError as error:
            raise FencedError(
                f"cell {self.name} of this save volume was swapped by another owner", hint="open it again"
            ) from error

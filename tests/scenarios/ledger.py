"""The independent model of a story: naive images of what users wrote, and of the volume at every boundary.

It hears what was written, when a cut was made and who was promoted where. It knows nothing of maps, sets or lists.
"""

from __future__ import annotations

from itertools import groupby

from replkit.contracts.position import Position
from replkit.errors import InconsistentError
from replkit.testing.sim.model import read_all
from replkit.testing.sim.sites import BLOCK, Site, Sites


class Ledger:
    """Images by site, of what its users wrote, and by the identity of a position."""

    def __init__(self, world: Sites) -> None:
        self._world = world
        self.images = {name: bytearray(site.disk.block_count * BLOCK) for name, site in world.sites.items()}
        self.boundaries: dict[str, bytes] = {}
        for name, site in world.sites.items():
            self._listen(name, site)

    def _listen(self, name: str, site: Site) -> None:
        frozen = b""

        def freeze(**_: object) -> None:
            nonlocal frozen
            frozen = bytes(self.images[name])

        def was_cut(position: Position, **_: object) -> None:
            self.boundaries[position.identity] = frozen

        site.hooks.replkit_freeze = freeze  # type: ignore[attr-defined]
        site.hooks.replkit_delta_set_cut = was_cut  # type: ignore[attr-defined]

    def write(self, name: str, start: int, data: bytes) -> None:
        """A user wrote at a site."""
        self.images[name][start * BLOCK : start * BLOCK + len(data)] = data

    def promoted(self, name: str, position: Position) -> None:
        """The site goes on as a primary from a boundary: its users see that, whoever cut it."""
        self.images[name] = bytearray(self.boundaries[position.identity])

    def image(self, position: Position) -> bytes:
        """What the volume held at a boundary."""
        return self.boundaries[position.identity]

    def check(self, name: str) -> None:
        """A primary holds what its users wrote (invariants 1, 9), and a secondary shows one boundary (5) or nothing."""
        site = self._world.sites[name]
        if site.replica is None:
            return
        if site.is_primary:
            assert site.content == self.images[name], f"{name} does not hold what its users wrote"
            return
        view = site.secondary.view()
        try:
            shown = read_all(view)
        except InconsistentError:
            assert not site.secondary.root.is_at_boundary, f"{name} stands at a boundary and cannot be read"
            return
        assert shown == self.boundaries[view.boundary.identity], f"{name} is not {view.boundary}"


def different(left: bytes, right: bytes) -> list[int]:
    """The blocks in which two images differ."""
    starts = range(0, len(left), BLOCK)
    return [at // BLOCK for at in starts if left[at : at + BLOCK] != right[at : at + BLOCK]]


def picture(image: bytes) -> str:
    """A letter a block, a dot for zeros."""
    return shortened("".join(_letter(image[at : at + BLOCK]) for at in range(0, len(image), BLOCK)))


def shortened(letters: str) -> str:
    """Many letters as letters with counts."""
    if len(letters) <= 64:
        return letters
    return " ".join(f"{letter}*{len(list(each))}" for letter, each in groupby(letters))


def _letter(block: bytes) -> str:
    first = block[:1]
    assert block == first * len(block), "a block of a story is one letter"
    return "." if first == b"\0" else first.decode()

"""What travels between sites, read off the links and calls themselves: it asks no service what it believes it sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from replkit.contracts.message import Message
from replkit.deltaset.chunk import decode_chunk
from replkit.deltaset.pieces import Kind
from replkit.rcp import messages as m
from replkit.testing.sim.network import SimLink
from replkit.testing.sim.sites import BLOCK, Site, Sites

ANY_SIZE = 1 << 48
WORDS = {Kind.DATA: "with data", Kind.ZERO: "as zeros", Kind.DISCARD: "as unused"}


class Transfer:
    """One set, copy or difference on one link: its blocks with their kinds, in the order in which they came."""

    def __init__(self, way: str, what: str) -> None:
        self.way, self.what = way, what
        self.pieces: list[tuple[int, Kind]] = []
        self.wire_bytes = 0
        self._told: int | None = None

    def take(self, message: Message) -> None:
        """A chunk of it."""
        self.wire_bytes += len(message.body) + len(memoryview(message.payload))
        for piece in decode_chunk(message.payload, block_count=ANY_SIZE).pieces:
            self.pieces += [(block, piece.kind) for block in range(piece.start, piece.stop)]

    @property
    def order(self) -> list[int]:
        """The numbers of its blocks as they came."""
        return [block for block, _kind in self.pieces]

    @property
    def data_blocks(self) -> int:
        """How many came with data."""
        return sum(kind is Kind.DATA for _block, kind in self.pieces)

    @property
    def has_news(self) -> bool:
        """Whether more came than was told."""
        return self._told is None or self._told < len(self.pieces)

    def told(self) -> str:
        """A line for people of what came since the last such line."""
        fresh, goes_on = self.pieces[self._told or 0 :], ", the rest" if self._told else ""
        self._told = len(self.pieces)
        blocks = {kind: [block for block, its in fresh if its is kind] for kind in Kind}
        parts = [f"{runs(found)} {WORDS[kind]}" for kind, found in blocks.items() if found]
        carried = len(blocks[Kind.DATA])
        size = f" ({count(carried, 'block')}, {carried * BLOCK} bytes)" if carried else ""
        return f"{self.way}: {self.what}{goes_on}: {', '.join(parts) or 'no block'}{size}"


class Tap:
    """Listens on all links and calls of a world of sites."""

    def __init__(self, world: Sites) -> None:
        self.transfers: list[Transfer] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self.call_bytes = 0
        """Payload of calls, both ways: lists of blocks and hashes."""
        self._ways: dict[SimLink, str] = {}
        self._sets: dict[SimLink, Transfer] = {}
        self._copies: dict[SimLink, Transfer] = {}
        world.network.watch = self._message
        for site in world.sites.values():
            site.answer = self._tapped(site, site.answer)  # type: ignore[method-assign]

    def _message(self, link: SimLink, message: Message) -> None:
        """A set may travel between two chunks of a copy, on the same link."""
        body = m.decode(message)
        if isinstance(body, m.Hello):
            self._ways[link] = f"{body.site} -> {link.peer.removeprefix('sim:')}"
        elif isinstance(body, m.SetBegin):
            spans = f" (spans {body.first_number} to {body.number})" if body.first_number < body.number else ""
            self._sets[link] = self._begin(link, f"set {body.epoch.count}:{body.number}{spans}")
        elif isinstance(body, m.CopyBegin):
            stamp = f"{body.stamp.epoch.count}:{body.stamp.number}"
            what = f"new copy of {stamp}" if body.base is None else f"from {body.base} to {stamp}"
            self._copies[link] = self._begin(link, what)
        elif isinstance(body, m.Chunk):
            self._sets[link].take(message)
        elif isinstance(body, m.CopyChunk):
            self._copies[link].take(message)

    def _begin(self, link: SimLink, what: str) -> Transfer:
        self.transfers.append(Transfer(self._ways[link], what))
        return self.transfers[-1]

    def _tapped(self, site: Site, answer: Callable[..., Any]) -> Callable[..., Any]:
        def tapped(name: str, arguments: dict[str, Any], payload: Any = b"") -> Any:
            self.calls[site.name, name] += 1
            result, back = answer(name, arguments, payload)
            self.call_bytes += len(memoryview(payload)) + len(memoryview(back))
            return result, back

        return tapped

    def news(self) -> list[Transfer]:
        """What began or went on since it was told."""
        return [each for each in self.transfers if each.has_news]

    def between(self, source: str, target: str) -> list[Transfer]:
        """Everything that went one way."""
        return [each for each in self.transfers if each.way == f"{source} -> {target}"]


def runs(blocks: list[int]) -> str:
    """Block numbers as people write them: ``2-4, 10``."""
    found: list[list[int]] = []
    for block in sorted(set(blocks)):
        if found and block == found[-1][1] + 1:
            found[-1][1] = block
        else:
            found.append([block, block])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def count(number: int, thing: str) -> str:
    """So many of something."""
    return f"{number} {thing}{'' if number == 1 else 's'}"

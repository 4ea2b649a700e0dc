"""A simulated disk whose blocks lie in a plugin's volume.

The simulator's disk is the model: it plans the faults and knows, of each sector, what was flushed last and every
version written since. Each call goes to the volume too, what it reads must be what the model holds, and after a power
failure each sector must hold one of the versions that the model allows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from replkit.blocks.extent import Extent
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume, Capability, Write
from replkit.errors import ReplkitError
from replkit.testing.crashing import PowerFailure
from replkit.testing.plugged.blame import Blame, ask
from replkit.testing.sim.devices import SECTOR, FaultDisk
from replkit.testing.sim.plug import Plug


class VolumePlug:
    """How the simulator opens a plugin's volume, and how its machine loses power.

    ``open_volume(size_bytes, block_size, create)`` opens it. Without ``keeps_bytes`` it is opened once and never closed
    before the end. ``lose_power`` is called while the volume is closed and drops what was not flushed; without it the
    model draws what is lost, and it is taken back by writes.
    """

    def __init__(
        self,
        open_volume: Callable[[int, int, bool], BlockVolume],
        *,
        block_size: int = SECTOR,
        keeps_bytes: bool = True,
        lose_power: Callable[[], None] | None = None,
    ) -> None:
        self.open_volume, self.block_size = open_volume, block_size
        self.keeps_bytes, self.lose_power = keeps_bytes, lose_power


class PluggedDisk(FaultDisk):
    """The disk of a site that has a plugin's volume under it."""

    def __init__(self, plug: Plug, block_count: int, block_size: int, pattern: VolumePlug, blame: Blame) -> None:
        super().__init__(plug, block_count, block_size=block_size)
        self._pattern, self._blame = pattern, blame
        self._opened: BlockVolume | None = None
        inner = self._open(create=True)
        self.discards, self.tells_in_use, self.resizes = inner.discards, inner.tells_in_use, inner.resizes
        self._audit("a new volume")

    def _open(self, *, create: bool = False, is_crash: bool = False) -> BlockVolume:
        if self._opened is None:
            pattern = self._pattern
            self._opened = ask(
                self._blame,
                "opening the volume" + ("" if create else " again"),
                lambda: pattern.open_volume(self.size_bytes, self.block_size, create),
            )
            if self._opened.size_bytes != self.size_bytes:
                self._blame(f"the volume was opened with {self._opened.size_bytes} bytes, not {self.size_bytes}")
            if self.pending and not create and not is_crash:
                self._learn()
        return self._opened

    def _learn(self) -> None:
        """A close does not flush: what was not flushed before it may be there, or not."""
        found = self._read_all("the first read after a close")
        self._judge("after a close", found)
        self.sequence += 1
        for sector, versions in self.pending.items():
            versions.append((self.sequence, found[sector * SECTOR : (sector + 1) * SECTOR]))
        self.content[:] = found

    # -- reads --

    def read_into(self, start: int, buffer: Buffer) -> None:
        """What the volume gives, which must be what was written."""
        view = memoryview(buffer).cast("B")
        super().read_into(start, view)
        wanted = bytes(view)
        ask(self._blame, f"read_into({start})", lambda: self._open().read_into(start, view))
        self._compare(f"read_into({start})", wanted, bytes(view), start)

    def read_extents(self, extents: Iterable[Extent], buffer: Buffer) -> None:
        """The same for several runs in one call."""
        runs, view = list(extents), memoryview(buffer).cast("B")
        at = 0
        for run in runs:
            super().read_into(run.start, view[at : at + run.count * self.block_size])
            at += run.count * self.block_size
        wanted = bytes(view)
        ask(self._blame, "read_extents", lambda: self._open().read_extents(runs, view))
        at = 0
        for run in runs:
            part = slice(at, at + run.count * self.block_size)
            self._compare(f"read_extents of {run}", wanted[part], bytes(view[part]), run.start)
            at = part.stop

    def in_use(self) -> Iterator[Extent]:
        """What the volume says, which must cover all that is not zeros."""
        found = ask(self._blame, "in_use", lambda: list(self._open().in_use()))
        told = {number for extent in found for number in range(extent.start, extent.stop)}
        missing = [extent.start for extent in super().in_use() if extent.start not in told]
        if missing:
            self._blame(f"in_use leaves out blocks {missing[:10]}, which hold data: every copy would lose them")
        yield from found

    # -- changes --

    def write(self, start: int, buffer: Buffer) -> None:
        """Into the model and the volume."""
        self._carry_out([(start, buffer)], lambda: self._open().write(start, buffer), f"write({start})")

    def write_extents(self, writes: Sequence[Write]) -> None:
        """Several, in one call of the volume."""
        self._carry_out(writes, lambda: self._open().write_extents(writes), "write_extents")

    def discard(self, start: int, count: int) -> None:
        """Zeros, by the volume's own discard."""
        zeros = bytes(count * self.block_size)
        self._carry_out([(start, zeros)], lambda: self._open().discard(start, count), f"discard({start}, {count})")

    def _carry_out(self, writes: Sequence[Write], call: Callable[[], None], what: str) -> None:
        """Into the model first, which says whether a fault comes; what the model then holds goes to the volume."""
        self._open()  # before the model changes: what a close left is compared with it
        begun: list[Write] = []
        try:
            for start, buffer in writes:
                begun.append((start, buffer))
                super().write(start, buffer)
        except PowerFailure:  # the call was under way: any part of it may be in the store
            ask(self._blame, what, lambda: self._open().write_extents(begun))
            raise
        except ReplkitError:
            for start, buffer in begun:
                at, size = start * self.block_size, memoryview(buffer).nbytes
                part = bytes(self.content[at : at + size])
                ask(self._blame, what, lambda start=start, part=part: self._open().write(start, part))  # type: ignore[misc]
            raise
        ask(self._blame, what, call)

    def flush(self) -> None:
        """After it, everything that was written must be there, and stay."""
        pending, durable = dict(self.pending), bytes(self.durable)
        try:
            super().flush()
        except ReplkitError:  # what it kept is in doubt until the power has failed
            self.pending, self.durable = pending, bytearray(durable)
            raise
        ask(self._blame, "flush", lambda: self._open().flush())
        self._audit("a flush")

    def resize(self, size_bytes: int) -> None:
        """Durable at once."""
        super().resize(size_bytes)
        ask(self._blame, f"resize({size_bytes})", lambda: self._open().resize(size_bytes))
        self._audit(f"resize({size_bytes})")

    # -- the machine --

    def close(self) -> None:
        """Close the volume; the next call opens it again."""
        if self._opened is not None and self._pattern.keeps_bytes:
            self._audit("the last call before a close")
            opened, self._opened = self._opened, None
            ask(self._blame, "close", opened.close)

    def lose_power(self, chance: random.Random) -> None:
        """The process is gone, what was not flushed may be; what is there then must be allowed, sector by sector."""
        if self._pattern.keeps_bytes:
            opened, self._opened = self._opened, None
            if opened is not None:
                with suppress(Exception):  # a dying process asks nobody
                    opened.close()
            if self._pattern.lose_power is not None:
                self._pattern.lose_power()
            self._open(is_crash=True)  # what is there is judged here
            found = self._read_all("a read after a power failure")
            self._judge("after a power failure", found)
            if self._pattern.lose_power is not None:
                self.durable[:] = found
                self.pending.clear()
        super().lose_power(chance)
        self._restore()

    def _judge(self, when: str, found: bytes) -> None:
        for sector in range(self.size_bytes // SECTOR):
            part = slice(sector * SECTOR, (sector + 1) * SECTOR)
            if found[part] == self.durable[part] or any(
                found[part] == data for _number, data in self.pending.get(sector, ())
            ):
                continue
            self._blame(
                f"{when} sector {sector} (block {sector * SECTOR // self.block_size}) holds neither "
                "what the last flush made durable nor anything written since: flush returned too early"
            )

    def _restore(self) -> None:
        """Let the volume hold what the model drew."""
        found = self._read_all("a read after a power failure")
        size, volume = self.block_size, self._open()
        for block in range(self.block_count):
            part = slice(block * size, (block + 1) * size)
            if found[part] != self.content[part]:
                data = bytes(self.content[part])
                ask(self._blame, f"write({block})", lambda block=block, data=data: volume.write(block, data))  # type: ignore[misc]
        ask(self._blame, "flush", volume.flush)

    def _read_all(self, what: str) -> bytes:
        buffer = bytearray(self.size_bytes)
        ask(self._blame, what, lambda: self._open().read_into(0, buffer))
        return bytes(buffer)

    def _audit(self, what: str) -> None:
        """All content, and that ``in_use`` covers it: a run itself asks for that at few moments."""
        self._compare(f"after {what}", bytes(self.content), self._read_all(f"a read after {what}"), 0)
        if self.tells_in_use is not Capability.NONE:
            list(self.in_use())

    def _compare(self, what: str, wanted: bytes, found: bytes, start: int) -> None:
        if found == wanted:
            return
        size = self.block_size
        wrong = [
            start + number
            for number in range(len(wanted) // size)
            if found[number * size : (number + 1) * size] != wanted[number * size : (number + 1) * size]
        ]
        self._blame(f"{what}: blocks {wrong[:10]} do not hold what was written last")


__all__ = ["PluggedDisk", "VolumePlug"]

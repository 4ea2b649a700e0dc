"""The ledger of one primary's users: what they wrote, what they were told is durable."""

from __future__ import annotations

from replkit.testing.sim.devices import SECTOR, FaultDisk


class Users:
    """Full image of what the users of a primary see, and all values that a crash may leave in a sector."""

    def __init__(self, content: bytes, last: str) -> None:
        self.image = bytearray(content)
        self.flushed = bytes(content)
        self.frozen = bytes(content)
        self.frozen_sequence = 0
        self.last = last
        """Identity of the newest position here."""
        self._issued: list[tuple[int, int, bytes]] = []
        self._count = 0
        self._frozen_count = self._flushed_count = 0

    def issue(self, offset: int, data: bytes) -> None:
        """A write is about to be made: from now on a crash may leave any sector of it."""
        self._count += 1
        for at in range(0, len(data), SECTOR):
            self._issued.append((self._count, (offset + at) // SECTOR, data[at : at + SECTOR]))

    def wrote(self, offset: int, data: bytes) -> None:
        """It returned."""
        self.image[offset : offset + len(data)] = data

    def flush(self) -> None:
        """A flush returned: what was written before is durable."""
        self._durable(self._count, bytes(self.image))

    def freeze(self, disk: FaultDisk) -> None:
        """A cut takes the image as it is, in the size that the volume has now."""
        if len(self.image) != disk.size_bytes:
            self.image = self.image[: disk.size_bytes].ljust(disk.size_bytes, b"\0")
        self.frozen, self._frozen_count, self.frozen_sequence = bytes(self.image), self._count, disk.sequence

    def committed(self) -> None:
        """The set of the last cut is committed, so its blocks were flushed (invariant 3)."""
        if self._frozen_count >= self._flushed_count and len(self.frozen) == len(self.flushed):
            self._durable(self._frozen_count, self.frozen)

    def _durable(self, count: int, image: bytes) -> None:
        self.flushed, self._flushed_count = image, count
        self._issued = [each for each in self._issued if each[0] > count]

    def crashed(self, disk: FaultDisk) -> list[int]:
        """Sectors that hold neither their last durable value nor a later one; users see what is there from now on."""
        content, flushed = disk.durable, self.flushed
        wrong: list[int] = []
        if content != flushed and len(content) == len(flushed):
            later: dict[int, list[bytes]] = {}
            for _count, sector, data in self._issued:
                later.setdefault(sector, []).append(data)
            for sector in range(len(content) // SECTOR):
                part = slice(sector * SECTOR, (sector + 1) * SECTOR)
                if content[part] != flushed[part] and bytes(content[part]) not in later.get(sector, ()):
                    wrong.append(sector)
        self.take(content)
        return wrong

    def take(self, content: bytes | bytearray) -> None:
        """Users find this on the volume, durable."""
        self.image = bytearray(content)
        self._durable(self._count, bytes(content))

"""The load of our own in ``crash_rounds.py``: one write at a time, so that its states are the prefixes of a list."""

from __future__ import annotations

import random
import struct
import threading

from crash_sites import BLOCK, VOLUME, BrokenPromiseError

from replkit.errors import ReplkitError
from replkit.site.nbd.client import NbdClient

WORD = struct.Struct("<QQ")


def pattern(number: int, sequence: int) -> bytes:
    """A block that tells which write it is of."""
    return WORD.pack(number, sequence) * (BLOCK // WORD.size) if sequence else bytes(BLOCK)


def sequences(data: bytes | bytearray, where: str) -> list[int]:
    """The write of which each block is; a block that is of no write, or torn, breaks the promise."""
    found = []
    for number in range(len(data) // BLOCK):
        block = bytes(data[number * BLOCK : (number + 1) * BLOCK])
        _, sequence = WORD.unpack_from(block)
        if block != pattern(number, sequence):
            raise BrokenPromiseError(f"{where}: block {number} holds what nobody wrote (seems write {sequence})")
        found.append(sequence)
    return found


class Writer(threading.Thread):
    """Writes one block after another, flushes now and then, and keeps what it was told."""

    def __init__(self, address: str, image: bytes | bytearray, before: Writer | None, seed: int) -> None:
        """``image`` is what the volume holds; ``before`` is the load that was ended."""
        super().__init__(daemon=True)
        self.base = sequences(image, VOLUME)
        self.writes: list[tuple[int, int]] = []
        """(block, sequence) in order; the last one may not have been acknowledged."""
        self.flushed = 0
        """How many of ``writes`` a flush has made durable."""
        self._first = 1 if before is None else before.next_sequence
        self._stopping = threading.Event()
        self._random = random.Random(seed)
        self._client = NbdClient(address, VOLUME)

    @property
    def next_sequence(self) -> int:
        """The number of the write that comes after all of these."""
        return self._first + len(self.writes)

    @property
    def count(self) -> int:
        """Blocks written so far."""
        return len(self.writes)

    @property
    def blocks(self) -> set[int]:
        """Which blocks were written."""
        return {block for block, _sequence in self.writes}

    def run(self) -> None:
        """Until told to stop, or until the server is gone."""
        try:
            while not self._stopping.is_set():
                block = self._random.randrange(len(self.base))
                sequence = self.next_sequence
                self.writes.append((block, sequence))
                self._client.write(block * BLOCK, pattern(block, sequence))
                if self._random.random() < 0.05:
                    written = len(self.writes)
                    self._client.flush()
                    self.flushed = written
            self._client.flush()
            self.flushed = len(self.writes)
        except (ReplkitError, OSError):
            return
        finally:
            self._client.close()

    def stop(self) -> None:
        """Write no more."""
        self._stopping.set()

    def end(self, *, stop: bool) -> None:
        """Wait until it has met the end of its server; with ``stop``, end it while the server runs."""
        if stop:
            self.stop()
        self.join(40)
        if self.is_alive():
            raise BrokenPromiseError("the writer hangs")

    def check_primary(self, image: bytes | bytearray) -> None:
        """Every flushed write is there, and nothing is from nowhere."""
        allowed: list[set[int]] = [{sequence} for sequence in self.base]
        for index, (block, sequence) in enumerate(self.writes):
            if index < self.flushed:
                allowed[block] = {sequence}
            else:
                allowed[block].add(sequence)
        for block, sequence in enumerate(sequences(image, VOLUME)):
            if sequence not in allowed[block]:
                raise BrokenPromiseError(
                    f"primary: block {block} is of write {sequence}, not of {sorted(allowed[block])}: a flush was lost"
                )

    def was_in(self, image: bytes | bytearray) -> bool:
        """Whether the primary was in the state of ``image`` in this life."""
        found = sequences(image, "secondary")
        newest = max(found, default=0)
        return found in (self.base, self._state_after(newest))

    def _state_after(self, sequence: int) -> list[int]:
        """What the volume held when the writes up to ``sequence`` were done."""
        state = list(self.base)
        for block, number in list(self.writes):
            if number > sequence:
                break
            state[block] = number
        return state

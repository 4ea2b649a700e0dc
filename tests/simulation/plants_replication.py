"""Planted bugs of replication: sets, copies, playback, trimming, congestion, status (invariants 5 to 7, 11 to 13)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.simulation.planting import Plant, nothing, put, without, wrap

from replkit.deltaset import chunk
from replkit.errors import CorruptRecordError
from replkit.replication import (
    new_copy,
    primary,
    receive_copy,
    receive_difference,
    receive_set,
    set_reader,
)
from replkit.replication.accumulated import Accumulated
from replkit.replication.cells import Base
from replkit.replication.congestion import Congestion
from replkit.replication.members import MemberKeeper
from replkit.replication.playback import PlaybackPass
from replkit.replication.player import Player
from replkit.replication.root import RootCell
from replkit.replication.secondary import SecondaryReplica
from replkit.snapshot.snapped import SnappedVolume
from replkit.testing.sim.devices import FaultSave


def _oldest_last(init: Any) -> Any:
    def broken(self: Any, *args: Any) -> None:
        init(self, *args)
        self._written = None

    return broken


def _unannounced(announce: Any) -> Any:
    return lambda self, target, *rest: announce(self, None, *rest)


def _unmarked(begin: Any) -> Any:
    def broken(root: Any, body: Any) -> Any:
        base = Base(copy_id="planted", position=body.stamp)
        return msgspec.structs.replace(begin(root, body), inconsistent=None, base=base)

    return broken


def _half_of_it(read_chunks: Any) -> Any:
    def broken(source: Any, extents: Any, next_block: int) -> Any:
        for number, each in enumerate(read_chunks(source, extents, next_block)):
            if number % 2 == 0:
                yield each

    return broken


def _goes_on(advance: Any) -> Any:
    def broken(self: Any, going: Any) -> Any:
        try:
            return advance(self, going)
        except BaseException:
            self._pass = going
            raise

    return broken


def _in_memory(mutate: Any) -> Any:
    calls = [0]

    def broken(self: Any, change: Any) -> Any:
        calls[0] += 1
        if calls[0] % 3 or self.get().role == "primary":
            return mutate(self, change)
        self._root = change(self.get())
        return self._root

    return broken


def _drops_sets(self: Any, root: Any) -> None:
    self._replica.root.mutate(lambda now: msgspec.structs.replace(now, first_kept=root.last.number + 1))


def _copies_by_itself(step: Any) -> Any:
    def broken(self: Any) -> Any:
        for member in self._replica.root.get().members:
            if member.state == "stale":
                self.copy_again(member.name)
        return step(self)

    return broken


class _Equal:
    def digest(self) -> Any:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def _decoding(make: Any) -> Any:
    def plant(patch: pytest.MonkeyPatch) -> None:
        broken = make(chunk.decode_chunk)
        for module in (receive_set, receive_copy, receive_difference, set_reader):
            patch.setattr(module, "decode_chunk", broken)

    return plant


def _unchecked(decode: Any) -> Any:
    def broken(record: Any, **options: Any) -> Any:
        try:
            return decode(record, **options)
        except CorruptRecordError as error:
            if "checksum of its data" not in str(error):
                raise
            kept, chunk.xxh3_128 = chunk.xxh3_128, lambda _stored: _Equal()  # type: ignore[assignment, misc]
            try:
                return decode(record, **options)
            finally:
                chunk.xxh3_128 = kept  # type: ignore[misc]

    return broken


def _untyped(decode: Any) -> Any:
    def broken(record: Any, **options: Any) -> Any:
        try:
            return decode(record, **options)
        except CorruptRecordError as error:
            raise ValueError(str(error)) from None

    return broken


def _played_is_received(status: Any) -> Any:
    def broken(self: Any) -> Any:
        found = status(self)
        return {**found, "played": found["received"]}

    return broken


def _one_ahead(status: Any) -> Any:
    def broken(self: Any) -> Any:
        found = status(self)
        return {**found, "received": found["received"] + (1 if self._receiver is not None else 0)}

    return broken


PLANTS = (
    Plant(
        "play-under-readers",
        5,
        "playback writes under views that do not see the set",
        put(Accumulated, "may_write", lambda *_: True),
    ),
    Plant(
        "oldest-set-wins",
        5,
        "of several sets in a pass the oldest is written last",
        wrap(PlaybackPass, "__init__", _oldest_last),
    ),
    Plant("sync-nothing", 5, "a set is named whose records are not durable", put(FaultSave, "make_durable", nothing)),
    Plant("pass-not-announced", 6, "a crash in a pass leaves no trace", wrap(Player, "_announce", _unannounced)),
    Plant("copy-not-marked", 6, "a half-made copy counts as whole", wrap(receive_copy, "_begin", _unmarked)),
    Plant("copy-ends-unflushed", 6, "a copy ends without a flush", put(receive_copy.CopyInbox, "_flush", nothing)),
    Plant(
        "copy-incomplete",
        6,
        "a copy ends though parts of it were not sent",
        wrap(new_copy, "read_chunks", _half_of_it),
        "an orphan marked complete (Ceph)",
    ),
    Plant(
        "pass-goes-on",
        6,
        "a pass goes on behind the chunk that failed",
        wrap(Player, "_advance", _goes_on),
        "found here",
    ),
    Plant(
        "acknowledged-in-memory", 7, "a set is acknowledged that is not durable", wrap(RootCell, "mutate", _in_memory)
    ),
    Plant("played-before-flush", 7, "a pass ends without a flush", without(Player, "_end", SnappedVolume, "flush")),
    Plant(
        "trimmed-too-early",
        7,
        "sets go before all members have played them",
        put(primary, "members_floor", lambda _save, root: root.last.number),
    ),
    Plant(
        "copy-by-itself",
        10,
        "a stale member is copied again without a command",
        wrap(MemberKeeper, "step", _copies_by_itself),
    ),
    Plant("stale-in-silence", 11, "members go stale, and nobody is told", put(Congestion, "_say", nothing)),
    Plant(
        "given-up-for-good",
        11,
        "sets are given up, and their blocks forgotten",
        put(Congestion, "_mark_given_up", nothing),
    ),
    Plant(
        "dropped-when-full", 11, "sets are dropped for good", put(Congestion, "_give_up", _drops_sets)
    ),
    Plant("data-not-verified", 12, "the data of a chunk is believed unchecked", _decoding(_unchecked)),
    Plant("untyped-error", 12, "a damaged chunk ends the service", _decoding(_untyped)),
    Plant(
        "played-is-received",
        13,
        "status calls played what is only received",
        wrap(SecondaryReplica, "status", _played_is_received),
    ),
    Plant("status-ahead", 13, "status counts the set that is arriving", wrap(SecondaryReplica, "status", _one_ahead)),
)  # fmt: skip

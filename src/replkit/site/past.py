"""The past of a secondary in its worker: boundaries that can still be opened, and the service that keeps them (X2)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import InvalidArgumentError, WrongRoleError
from replkit.recovery.boundary import Boundaries, Boundary, Moment
from replkit.recovery.holds import Holds
from replkit.recovery.retention import Retention
from replkit.replication.difference import MAX_BLOCKS
from replkit.replication.secondary import SecondaryReplica

WAIT_FOR_REST_S = 30.0
LOOK_S = 0.005
Fields = dict[str, Any]
Answer = TypeVar("Answer")


class Past:
    """Opens boundaries of one secondary, and keeps as many as its policy says."""

    def __init__(self, replica: SecondaryReplica, save: SaveVolume, runtime: Runtime, ending: threading.Event) -> None:
        volume, player = replica.volume, replica.player
        self._replica, self._runtime, self._ending = replica, runtime, ending
        self._boundaries = Boundaries(
            save, lambda: replica.root, volume.open_snapshot, volume.delete_snapshot, player.make_snapshot, runtime,
            MAX_BLOCKS,
        )  # fmt: skip
        self._retention = Retention(
            save, lambda: replica.root, lambda name: player.make_snapshot(name, held=False), volume.delete_snapshot,
            self._boundaries, runtime,
        )  # fmt: skip
        self._holds = Holds(
            save, lambda: replica.root, self._boundaries, lambda name, held: volume.hold_snapshot(name, held=held),
            lambda name: player.make_snapshot(name, held=False), runtime,
        )  # fmt: skip
        replica.floors += [self._boundaries.floor, self._holds.floor]
        replica.kept_floors.append(self._retention.floor)

    def step(self) -> float:
        """The service of retention."""
        return self._retention.step()

    def moments(self) -> list[Fields]:
        """What can be opened, oldest first."""
        held = {hold.number for hold in self._holds.all()}
        return [{**_fields(each), "held": each.position.number in held} for each in self._boundaries.moments()]

    def is_base(self, snapshot: str) -> bool:
        """Whether a boundary that is open stands on this snapshot."""
        return self._boundaries.is_base(snapshot) or self._holds.is_base(snapshot)

    def hold(self, at: object) -> int:
        """Keep a boundary until it is released; its number."""
        number, epoch = self._find(at)
        self._ask(lambda: self._holds.hold(number, epoch) or None)
        return number

    def release(self, at: object) -> int:
        """Keep it no longer than retention does."""
        number = self._find(at)[0]
        self._holds.release(number)
        return number

    def open(self, at: object) -> Boundary:
        """The boundary at ``{"time_s"}`` or ``{"number", "epoch"}``; waits for the end of a pass where it must."""
        number, epoch = self._find(at)
        return self._ask(lambda: self._boundaries.open(number, epoch))

    def _ask(self, question: Callable[[], Answer | None]) -> Answer:
        """The answer of what must wait for the end of a pass."""
        deadline_s = self._runtime.monotonic() + WAIT_FOR_REST_S
        while self._runtime.monotonic() < deadline_s and not self._ending.is_set():
            answer = question()
            if answer is not None:
                return answer
            self._ending.wait(LOOK_S)
        raise WrongRoleError(f"playback did not come to rest in {WAIT_FOR_REST_S:g} s", hint="try again")

    def number_of(self, at: object) -> int:
        """The number of the boundary that is meant."""
        return self._find(at)[0]

    def _find(self, at: object) -> tuple[int, int | None]:
        if isinstance(at, dict) and isinstance(at.get("time_s"), (int, float)):
            return self._boundaries.at_time(float(at["time_s"])).number, None
        if isinstance(at, dict) and isinstance(at.get("number"), int):
            epoch = at.get("epoch")
            return at["number"], epoch if isinstance(epoch, int) else None
        raise InvalidArgumentError(f"{at!r} is neither a position nor a time", hint='write it as 1:17 or "2h ago"')


def _fields(moment: Moment) -> Fields:
    position = moment.position
    return {
        "position": {"epoch": position.epoch.count, "number": position.number, "identity": position.identity},
        "created_s": moment.created_s,
        "snapshot": moment.is_snapshot,
    }

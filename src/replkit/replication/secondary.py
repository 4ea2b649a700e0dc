"""A secondary replica put together: receivers, player, trimmer and views over two stores (FIG. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import Partition, SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import ReplkitError, WrongRoleError
from replkit.replication.admission import check_hello, highest_epoch
from replkit.replication.cells import DIFFERENCE, RECEIVING, DifferenceProgress, Receiving, Root
from replkit.replication.difference_set import staged_tag
from replkit.replication.leftovers import drop_lists
from replkit.replication.members import COPY_SNAPSHOT
from replkit.replication.player import VERIFY_SNAPSHOT, VIEW_SNAPSHOT, Player
from replkit.replication.primary import Service
from replkit.replication.promotion import RESTART, Mode, Promotion
from replkit.replication.received import ReceivedHistory, received_sets, recover_received
from replkit.replication.receiver import Greeting, Receiver
from replkit.replication.replica import Replica
from replkit.replication.root import RootCell, RootSnapshotTable, load_struct
from replkit.replication.snapshot_names import COMPARED
from replkit.replication.trimmer import Trimmer, sweep
from replkit.replication.view import PinnedView, View, consistency_check
from replkit.snapshot.intents import IntentLog
from replkit.snapshot.snapped import SnappedVolume


class SecondaryReplica:
    """A volume that follows a primary. Nobody writes it but the player and a new copy.

    The site waits for hellos with ``greet``, finds the replica by ``hello.volume``, and hands the greeting to
    ``accept``; it then calls the receiver's ``step`` until that returns ``None``.
    """

    def __init__(self, replica: Replica, volume: SnappedVolume, site: str) -> None:
        self._replica = replica
        self._site = site
        self._receiver: Receiver | None = None
        self._is_promoting = False
        self._lock = replica.runtime.lock()
        self.volume = volume
        self.player = Player(
            name=replica.name,
            volume=volume,
            save=replica.save,
            root=replica.root.get,
            runtime=replica.runtime,
            hooks=replica.hooks,
            base=lambda: replica.root.get().base if replica.root.get().is_at_boundary else None,
        )
        self.floors: list[Callable[[], int | None]] = []
        """What else needs sets: each gives the number after which sets must stay, or ``None``."""
        self.kept_floors: list[Callable[[], int | None]] = []
        """The same of policies, which give way where the save volume is full."""
        self.trimmer = Trimmer(replica, self._floor, lambda: lowest(self.kept_floors), waits=True)
        self._check = consistency_check(replica.name, lambda: not replica.root.get().is_at_boundary)

    @classmethod
    def open(
        cls, volume: BlockVolume, save: SaveVolume, runtime: Runtime, hooks: Any, name: str, *, site: str = "site"
    ) -> Self:
        """Take the save volume (opened as producer); a pass or a copy that a crash cut short goes on by itself."""
        root = RootCell.claim(save, runtime, "secondary")
        if root.get().role != "secondary":
            raise WrongRoleError(f"{name} is a {root.get().role} here, not a secondary")
        intents = IntentLog(save, runtime, block_count=volume.block_count, block_size=volume.block_size)
        snapped = SnappedVolume(volume, save, RootSnapshotTable(root), intents, runtime)
        replica = Replica(name=name, volume=snapped, save=save, root=root, runtime=runtime, hooks=hooks)
        receiving, _version = load_struct(save, RECEIVING, Receiving)
        difference, _version = load_struct(save, DIFFERENCE, DifferenceProgress)
        sweep(replica, receiving.tag if receiving is not None else "", staged_tag(root.get(), difference))
        for record in snapped.snapshots():  # of readers that a crash took away, and of a past as primary
            if record.name.startswith((VIEW_SNAPSHOT, VERIFY_SNAPSHOT, COPY_SNAPSHOT, COMPARED, RESTART)):
                snapped.delete_snapshot(record.name)
        drop_lists(save, root.get())
        recover_received(replica)
        return cls(replica, snapped, site)

    @property
    def root(self) -> Root:
        """What this replica has published."""
        return self._replica.root.get()

    @property
    def parts(self) -> Replica:
        """What its services share: its stores, its root and the outside world, for changes of role."""
        return self._replica

    def accept(self, greeting: Greeting) -> Receiver:
        """The receiver of a new link; the one before it, if any, is closed: a sender that is back replaces itself.

        One that is to be refused, as an old primary that tries again and again, ends nobody's session (T1).
        """
        with self._lock:
            fault = check_hello(greeting.hello, self._replica)
            if fault is not None:
                return Receiver(greeting, self._replica, self.player, self._site, fault=fault)
            if self._receiver is not None:
                self._receiver.end()  # first: two at a time would write the same set, or volume, from two copies
            self._receiver = receiver = Receiver(
                greeting, self._replica, self.player, self._site, condemning=self.trimmer.condemning
            )
            if self._is_promoting:
                receiver.close()
        return receiver

    @contextmanager
    def changing_role(self) -> Iterator[None]:
        """Context in which no link is taken; afterwards this object is over, after an error it goes on as before."""
        with self._lock:
            self._is_promoting = True
            receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.end()
        try:
            yield
        except BaseException:
            self._is_promoting = False
            self.player.stop_after_pass(stopping=False)
            raise

    def promote(
        self, mode: Mode = "received", epoch: Epoch | None = None, request_id: str = "", *, force: bool = False
    ) -> Position:
        """Make this volume a primary's (R1, R3): the position at which its new epoch begins; durable on return.

        ``received`` plays everything that was received; ``now`` only finishes the pass under way, and what lies beyond
        stays readable as a branch. ``epoch`` is one that was granted by a switchover (R2); where this side granted its
        role itself, and the member may be a primary by now, only ``force`` takes it back. Afterwards this object is
        over: close it and open a ``PrimaryReplica``. After a crash or an error ask again, with the same request id.
        """
        with self.changing_role():
            return Promotion(self._replica, self.volume, self.player).run(mode, epoch, request_id, force=force)

    def fence(self, epoch: Epoch) -> bool:
        """A higher epoch has begun: take in nothing of a lower one, and begin none that is not above it (invariant 8).

        False when it is no reason: an epoch that was seen already.
        """

        def change(root: Root) -> Root:
            return msgspec.structs.replace(root, fenced=epoch) if epoch.count > highest_epoch(root).count else root

        self._replica.root.mutate(change)
        return epoch.count >= self.root.epoch.count

    def services(self) -> list[Service]:
        """The services to drive besides the receivers; all may run at the same time."""
        return [("player", self.player.step), ("trimmer", self.trimmer.step)]

    def view(self) -> View:
        """A read-only volume that always stands at the newest received boundary (C3)."""
        return View(self.volume, self.player.sets, self._check)

    def pin(self) -> PinnedView:
        """A view that stays at the newest received boundary until it is closed; playback goes on beside it."""
        self._check()
        view = PinnedView(self.volume, self.player.sets, self._check, self.player.unpin)
        self.player.pin(view)
        return view

    def status(self) -> dict[str, object]:
        """What is durable here, what waits to be played (R8, invariant 13)."""
        root, save, receiver = self._replica.root.get(), self._replica.save, self._receiver
        sets = received_sets(self._replica)
        stands = root.is_at_boundary
        played = self.player.position.number if stands else 0
        newest_s = sets[-1].created_s if sets else None
        return {
            "volume": self._replica.name,
            "role": root.role,
            "lineage": root.lineage,
            "epoch": root.epoch.count,
            "state": _state(root),
            "position": str(root.last),
            "received": root.last.number,
            "identity": root.last.identity,
            "played": played,
            "outstanding_sets": max(0, root.last.number - played) if stands else 0,
            "outstanding": [
                {"number": entry.number, "age_s": max(0.0, self._replica.runtime.now() - entry.created_s),
                 "bytes": entry.stored_bytes}
                for entry in sets if stands and entry.number > played
            ],
            "newest_set_age_s": None if newest_s is None else max(0.0, self._replica.runtime.now() - newest_s),
            "save_bytes": save.used_bytes(Partition.SETS),
            "save_capacity_bytes": save.capacity_bytes(Partition.SETS),
            "player": self.player.status(),
            "receiver": receiver.status() if receiver is not None and receiver.is_open else None,
            "history": [msgspec.structs.asdict(entry) for entry in sets],
            "snapshots": [msgspec.to_builtins(record) for record in root.snapshots],
        }  # fmt: skip

    def close(self) -> None:
        """Close the link and the volume; a pass under way is played again at the next opening."""
        if self._receiver is not None:
            self._receiver.close()
        with suppress(ReplkitError):  # history is for status only
            ReceivedHistory(self._replica).save()
        if self._replica.root.get().inconsistent is None and self.player.is_at_rest:
            self.volume.close_clean()
        else:
            self.volume.close()

    def _floor(self) -> int:
        root = self._replica.root.get()
        if not root.is_at_boundary:
            return root.first_kept - 1
        needed, named = lowest(self.floors), self.player.sets.lowest_named()
        return named if needed is None else min(named, needed)


def lowest(floors: Iterable[Callable[[], int | None]]) -> int | None:
    """The lowest number that is given; ``None`` where none is."""
    return min((floor for floor in (each() for each in floors) if floor is not None), default=None)


def _state(root: Root) -> str:
    if root.resync is not None:
        return "resyncing"
    return "copying" if root.inconsistent else "following" if root.base else "empty"

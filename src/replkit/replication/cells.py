"""The one table of cells: name, the single service that writes it, meaning, invariant.

=================== ===================== ==================================================================
cell                written by            meaning
=================== ===================== ==================================================================
``root``            the producer          everything that publishes: role, epoch, committed sets, holds (inv. 5, 8)
``policy``          the control service   what an operator may change at run time (D2)
``seeded``          the site's worker     set once the members of the configuration were added: they seed a volume once
``changes``         change log            the saved dirty map, or that it was closed cleanly (inv. 2)
``intents``         intent log            region map of writes that may have reached the disk (inv. 2)
``in_use``          in-use map            the newest durable map of used blocks, and whether it is exact (inv. 4)
``snapshots``       snapshot layer        the queue of snapshots of a volume that is no replica, and so has no root
``playing``         player                position of the volume and the pass in progress (inv. 5, 6)
``copy``            receiver              how far the running new copy has come (inv. 6)
``difference``      receiver              how far the running difference has come, and where its blocks are (inv. 6)
``receiving``       receiver              the set whose chunks are arriving, so that it resumes where it broke off (D4)
``received``        receiver              recent sets received: times, bytes, for status (R8)
``cuts``            cutter                recent sets cut: times, blocks, for status (R8)
``sent.<member>``   the member's sender   what that member has received and played (inv. 7)
``played.<member>`` the member's player   the same as ``playing``, of a member that shares the save volume (S2)
``copied.<member>`` the member's copier   its new copy: how far, and when done to which position (S2, inv. 6)
``restoring``       the site's worker     the snapshot that a primary is being written back to (P6)
``size``            the site's worker     the sizes that a primary may have: two while it is being resized (X5)
``holds``           the control service   boundaries of the past that an operator holds (X2)
``requests``        the site's worker     what a volume in a bucket cost, by day, for those who pay (U2)
``reads.<member>``  the member's player   no read of it names a set up to this number (S2, inv. 7)
=================== ===================== ==================================================================
"""

from __future__ import annotations

from typing import Literal

import msgspec

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.snapshot.records import SnapshotRecord

ROOT = "root"
POLICY = "policy"
PLAYING = "playing"
COPY = "copy"
DIFFERENCE = "difference"
RECEIVING = "receiving"
RECEIVED = "received"
CUTS = "cuts"
ROOT_FORMAT = 1
PRODUCER_CELLS = ("changes", "intents", "in_use", PLAYING, COPY, DIFFERENCE, RECEIVING, RECEIVED, CUTS)  # not the root

Role = Literal["primary", "secondary"]
MemberState = Literal["copying", "following", "stale", "paused"]


def sent_cell(member: str) -> str:
    """Cell in which the sender of a member records what the member acknowledged."""
    return f"sent.{member}"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What the copy of a member is limited to: the blocks that differ from what it has (R4; ``recovery``).

    The member stands at ``fork``, but for the blocks of its own list: records ``<list_key>/…`` of this save volume,
    none where the key is empty. With ``exact`` that list is all that differs (hashes were compared), else the blocks
    changed here since ``fork`` are added. ``snapshot`` names one to copy in place of a new one; ``exact_at`` is the
    number of its position: where a newer one is copied, the list says nothing of what changed since. ``id`` is the copy
    id that was asked for: a copy that has to begin again has the id and a suffix.
    """

    fork: Position
    list_key: str = ""
    exact: bool = False
    exact_at: int | None = None
    snapshot: str = ""
    id: str = ""


FOLLOWS = "follows."
"""Copy ids that begin so are of members that were added without a copy."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that this volume is replicated to; changed only by a swap of ``root``.

    ``hold`` is the number of a position whose following sets are kept for the member until it acknowledges more
    (durable before its snapshot is cut, C1). ``shared`` marks a member whose player reads this save volume (S2). One
    ``on_demand`` gets sets only up to position ``until``, for which it asked, and holds nothing once it has them (C5).
    """

    name: str
    url: str
    destination_volume: str
    state: MemberState
    hold: int
    copy_id: str = ""
    copy_snapshot: str | None = None
    copy_stamp: Position | None = None
    shared: bool = False
    difference: Difference | None = None
    on_demand: bool = False
    until: int | None = None

    @property
    def limit(self) -> int | None:
        """No set beyond this number is sent; ``None`` for a member that follows."""
        if not self.on_demand:
            return None
        return max(self.until or 0, self.copy_stamp.number if self.copy_stamp is not None else 0)

    @property
    def needs_next_set(self) -> bool:
        """Whether the set that is cut next must be kept for it, and those before.

        Not where it is stale, or its copy or difference will be from a snapshot that is not made yet.
        """
        if self.state == "copying":
            return self.copy_stamp is not None or (self.difference is not None and bool(self.difference.snapshot))
        return self.state != "stale" and (not self.on_demand or self.until is not None)

    @property
    def needs_copy(self) -> bool:
        """Whether the member was added with a copy, done or not; else it only follows."""
        return bool(self.copy_id) and not self.copy_id.startswith(FOLLOWS)


class WriterRun(msgspec.Struct, frozen=True, array_like=True):
    """Sets numbered from ``first_number`` on, up to the next run, have this writer tag in their keys."""

    first_number: int
    writer: str


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Positions ``first`` to ``last`` are reached by one set, the one numbered ``last``."""

    first: int
    last: int


class CopyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A new copy in progress: the volume stands at no boundary until it is done (invariant 6).

    Where ``base`` is set it is a difference, written in place over a volume that stood at ``base``.
    """

    copy_id: str
    stamp: Position
    base: Position | None = None


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The copy that the volume of a secondary came from, and the position to which it brought the volume.

    ``difference`` is the copy id of the newest difference that was taken in since, as one set or in place. Before the
    set ``until`` was played the volume is at no boundary: it holds what it wrote after the fork of a resync, or the
    pass over that set, which was announced by the swap that published it, may have begun.
    """

    copy_id: str
    position: Position
    difference: str = ""
    until: int = 0


class Resync(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that returns to a history which it left: what it asked for, and how far that is (R4, invariant 6).

    It stands at ``fork`` but for the blocks in the records ``<list_key>/…``, of which ``salvage`` is the snapshot with
    what they held. ``asking``: the peer is to make it a member; ``receiving``: the difference to ``stamp`` arrives,
    into the save volume, or with ``in_place`` into the volume. To ``rewind`` is to end at the fork. A side whose list
    is gone ``compares`` hashes with the peer's ``snapshot`` first; the list is ``exact`` then. ``mine_key`` is the list
    of all blocks that were changed here, ``coarse_key`` of those of them that are only in doubt since a crash: they are
    compared first, and ``list_key`` is then what remains.
    """

    id: str
    peer: str
    peer_volume: str
    member: str
    own_url: str
    fork: Position
    list_key: str
    salvage: str = ""
    rewind: bool = False
    phase: Literal["asking", "receiving"] = "asking"
    stamp: Position | None = None
    in_place: bool = False
    error: str = ""
    compares: bool = False
    exact: bool = False
    snapshot: str = ""
    mine_key: str = ""
    coarse_key: str = ""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """Sets of an older epoch that a promotion left behind, still stored: ``first`` to ``last`` (R3)."""

    first: int
    last: Position
    writers: tuple[WriterRun, ...]
    spans: tuple[Span, ...] = ()


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """A role on its way to a member (R2, R7): ``draining`` here, then ``granted`` with the epoch that is its."""

    id: str
    member: str
    phase: Literal["draining", "granted"]
    epoch: Epoch | None = None
    peer: str = ""
    peer_volume: str = ""
    own_url: str = ""
    own_name: str = ""
    members: tuple[Member, ...] = ()
    """The other members, which the new primary takes over; kept until it has."""


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a replica publishes, in one value that is swapped as a whole.

    ``last`` is the newest committed position: cut at a primary, received at a secondary. The data of sets numbered
    ``first_kept`` to ``last`` is there, and the headers and block lists of those from ``first_listed`` on.
    ``given_up`` names sets whose data was given up (pull-ahead); the next cut spans them. ``fenced`` is the higher
    epoch that a primary has met: it takes no more writes (R9). ``restart`` is where the newest promotion here began its
    epoch, and ``request`` the id with which it was asked for, so that a repeat finds it done.
    """

    format: int = ROOT_FORMAT
    lineage: str
    role: Role
    epoch: Epoch
    history: tuple[HistoryEntry, ...]
    owner: str = ""
    writers: tuple[WriterRun, ...] = ()
    spans: tuple[Span, ...] = ()
    last: Position
    first_kept: int = 1
    first_listed: int = 1
    given_up: Span | None = None
    snapshots: tuple[SnapshotRecord, ...] = ()
    members: tuple[Member, ...] = ()
    condemned: tuple[str, ...] = ()
    inconsistent: CopyInfo | None = None
    base: Base | None = None
    paused: bool = False
    fenced: Epoch | None = None
    resync: Resync | None = None
    branches: tuple[Branch, ...] = ()
    handover: Handover | None = None
    request: str = ""
    restart: Position | None = None

    @property
    def is_at_boundary(self) -> bool:
        """Whether the volume of a secondary stands at a position: it was copied, and no copy or resync is under way."""
        return self.base is not None and self.inconsistent is None and self.resync is None


class Playing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the volume of a secondary stands: ``position`` is flushed; ``target`` is the end of a pass in progress.

    ``copy_id`` tells which new copy the position continues: a newer copy replaces it (``Root.base``).
    """

    copy_id: str
    position: Position
    target: int | None = None
    passes: tuple[PlayedPass, ...] = ()


class PlayedPass(msgspec.Struct, frozen=True, array_like=True):
    """One playback pass, for the history of R8."""

    first: int
    last: int
    started_s: float
    duration_s: float
    blocks: int
    sets: int


class CopyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Every block before ``next_block`` of the copy is flushed in the volume; ``cleared`` once it was made unused."""

    copy_id: str
    next_block: int
    cleared: bool = False


class DifferenceProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A difference from ``base`` to ``stamp``, as one set with the tag ``tag``: its first ``chunks`` are durable.

    They are in the save volume, or with ``in_place`` in the volume and only their block lists here. Every block of it
    before ``next_block`` is in them.
    """

    copy_id: str
    base: Position
    stamp: Position
    tag: str
    in_place: bool
    next_block: int = 0
    chunks: int = 0


class Receiving(msgspec.Struct, frozen=True, kw_only=True):
    """The set whose chunks are arriving; a resumed transfer must be of this very set."""

    tag: str
    epoch: Epoch
    digest: str


class ReceivedSet(msgspec.Struct, frozen=True, array_like=True):
    """One received or cut set, for the history of R8."""

    number: int
    created_s: float
    started_s: float
    duration_s: float
    blocks: int
    stored_bytes: int


class SetHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The newest sets, newest last; a ring."""

    sets: tuple[ReceivedSet, ...] = ()


class MemberProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What a member acknowledged, and how its sender fares (D4, R8). Never claims more than was acknowledged (13)."""

    received: Position | None = None
    played: Position | None = None
    copied: str = ""
    """Id of the copy on which ``received`` and ``played`` stand; a member that was made anew has another."""
    copying: str = ""
    """Id of the copy of which ``copy_next_block`` tells how far it was made."""
    copy_next_block: int = 0
    state: str = "connecting"
    last_error: str = ""
    sent_bytes: int = 0
    rate_bytes_per_s: float = 0.0
    updated_s: float = 0.0
    fenced_by: Epoch | None = None
    """An epoch that the member has met and that ends this one, or has its count (R9)."""
    epoch: Epoch | None = None
    """In which ``received`` and ``played`` were said; a version before this one did not note it."""
    ahead: Position | None = None
    """Where the member stands in this very epoch, though it was never cut here: a save volume was rolled back."""

    def copied_blocks(self, member: Member) -> int:
        """How far the copy that ``member`` is to get was made; that of an earlier member of its name is another."""
        return self.copy_next_block if self.copying == member.copy_id else 0

    def received_by(self, member: Member, root: Root) -> Position | None:
        """What ``member`` acknowledged of the copy that it has now, in this epoch; ``None`` before it said so."""
        return self.received if self._counts(member, root) else None

    def played_by(self, member: Member, root: Root) -> Position | None:
        """The same of what it played."""
        return self.played if self._counts(member, root) else None

    def _counts(self, member: Member, root: Root) -> bool:
        """A member may have followed another primary, to an earlier position, before an epoch began here (inv. 7)."""
        return self.copied == member.copy_id and self.epoch in {None, root.epoch}


HISTORY_LENGTH = 64

_BUILT = [
    msgspec.json.Decoder(kind)
    for kind in (
        Root, Playing, CopyProgress, DifferenceProgress, Receiving, SetHistory, MemberProgress
    )
]  # fmt: skip
"""Here, once: msgspec 0.22 crashes where two threads are the first to decode the same struct at the same time."""

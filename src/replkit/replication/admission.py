"""Whether a replica lets a sender in: volume, lineage, block size, epoch and history (R9, invariants 8 and 12)."""

from __future__ import annotations

import msgspec

from replkit.contracts.position import Epoch, HistoryEntry, Position
from replkit.contracts.volume import Capability
from replkit.rcp import messages as m
from replkit.replication.cells import Root
from replkit.replication.replica import Replica


def check_hello(hello: m.Hello, replica: Replica) -> tuple[str, str] | None:
    """``None``, or the code and text of the refusal."""
    root, volume, name = replica.root.get(), replica.volume, replica.name
    if m.VERSION not in hello.versions:
        return "version", f"{name}: speaks version {m.VERSION} of RCP, not {hello.versions}"
    if root.role != "secondary":
        return refusal_at_primary(hello, root, name)
    if hello.block_size != volume.block_size:
        return "block-size", f"{name} has blocks of {volume.block_size} bytes here, not {hello.block_size}"
    if hello.volume_size_bytes > volume.size_bytes and volume.resizes is Capability.NONE:
        text = f"{name} has {volume.size_bytes} bytes here and cannot be resized, the sender {hello.volume_size_bytes}"
        return "size", text
    if root.lineage and root.base is not None and hello.lineage != root.lineage:
        return "lineage", f"{name} is a replica of another volume (lineage {root.lineage}, not {hello.lineage})"
    return _check_epoch(hello, root, name)


def _check_epoch(hello: m.Hello, root: Root, name: str) -> tuple[str, str] | None:
    if not root.lineage or hello.lineage != root.lineage:
        return None
    highest = highest_epoch(root)
    if hello.epoch.count < highest.count:
        return "fenced", f"{name}: epoch {hello.epoch.count} is over, {highest.count} has begun"
    if hello.epoch.count == root.epoch.count and hello.epoch != root.epoch:
        return "diverged", f"{name}: two promotions have epoch {root.epoch.count}; a command must decide"
    if root.resync is not None and hello.epoch != root.epoch:
        asked = f"resync {root.resync.id} of {name} asked epoch {root.epoch.count}"
        return "resync", f"{asked}, not {hello.epoch.count}: it must be asked for again"
    # in the middle of a copy it stands nowhere: what arrives is checked against what the copy leads from
    if root.base is not None and root.inconsistent is None and not is_in_history(root.last, hello.history):
        return "diverged", f"{name} stands at {root.last}, which is not in the sender's history"
    return None


def refusal_at_primary(hello: m.Hello, root: Root, name: str) -> tuple[str, str]:
    """A primary that takes no sets; an old one of the same volume learns that its epoch is over (invariant 8)."""
    if hello.lineage == root.lineage and hello.epoch.count < root.epoch.count:
        return "fenced", f"{name}: epoch {hello.epoch.count} is over, {root.epoch.count} has begun here"
    if hello.lineage == root.lineage and hello.epoch.count == root.epoch.count and hello.epoch != root.epoch:
        return "diverged", f"{name}: two promotions have epoch {root.epoch.count}; a command must decide"
    return "role", f"{name} is a {root.role} here, not a secondary"


def is_over(hello: m.Hello, root: Root) -> bool:
    """Whether a hello tells a primary that its own epoch is over, or that another one has its count (R9)."""
    return hello.lineage == root.lineage and hello.epoch.count >= root.epoch.count and hello.epoch != root.epoch


def epoch_for(hello: m.Hello, root: Root) -> Epoch | None:
    """The epoch to say in a refusal; none to the sender of another volume, as it would stop its writes."""
    return highest_epoch(root) if hello.lineage == root.lineage else None


def highest_epoch(root: Root) -> Epoch:
    """The highest epoch that a replica has seen: its own, or one that it was told of."""
    return root.fenced if root.fenced is not None and root.fenced.count > root.epoch.count else root.epoch


def is_in_history(position: Position, history: tuple[HistoryEntry, ...]) -> bool:
    """Whether a history may have passed through a position: its epoch is there, and did not end before it."""
    for place, entry in enumerate(history):
        if entry.epoch == position.epoch:
            following = history[place + 1] if place + 1 < len(history) else None
            return following is None or position.number < following.first_number
    return False


def follow_epoch(hello: m.Hello, replica: Replica) -> None:
    """Adopt the sender's epoch durably before anything of it is taken in."""

    def change(root: Root) -> Root:
        return msgspec.structs.replace(
            root, lineage=hello.lineage, epoch=hello.epoch, history=hello.history, fenced=None
        )

    replica.root.mutate(change)

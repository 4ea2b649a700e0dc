"""Differentials: blocks that differ between two snapshots, or a snapshot and the live volume (P5, FIG. 34, 35, 39, 40).

Complete, and larger than need be only by blocks that were written or discarded with what they held before, by the
blocks that share a bit of the in-use map with others, and, after a crash, by the regions that had write-intents then.
"""

from __future__ import annotations

from typing import NamedTuple

from replkit.blocks.extent import Extent, clip, intersect, normalise, subtract
from replkit.errors import InvalidArgumentError
from replkit.snapshot.inuse import InUseMap
from replkit.snapshot.queue import SnapshotQueue
from replkit.snapshot.records import find_record
from replkit.snapshot.snapped import SnappedVolume


class Difference(NamedTuple):
    """What turns a copy of one image of a volume into another one; each list ascending and disjoint.

    ``data`` is to be written with what the other image holds, ``discards`` is unused there. A copy first gets the
    other image's ``size_bytes``; no extent is beyond it.
    """

    data: list[Extent]
    discards: list[Extent]
    size_bytes: int


class _Span(NamedTuple):
    """Snapshots from an older one on: what their areas keep, the in-use map of each, and the newer end."""

    saved: list[Extent]
    maps: list[InUseMap]
    end: InUseMap
    size_bytes: int


def differential(volume: SnappedVolume, older: str, newer: str | None = None) -> Difference:
    """What changed from the snapshot ``older`` to the snapshot ``newer``, or to the live volume as it is now (P5).

    A block in use at the newer end is data if an area of the span keeps a before-image of it, or if it was unused in
    one of the snapshots of the span: first writes to unused blocks leave no before-image (FIG. 39, step 657). A block
    in use in one of them and unused at the newer end is a discard. Of writes to the live volume that run meanwhile
    some may be in it; those before the call are.

    Raises:
        InvalidArgumentError: ``older`` is not older than ``newer``.
        NotFoundError: there is no such snapshot.
        SnapshotInvalidError: one of the two was invalidated.
    """
    span = _span(volume, older, newer)
    end = list(span.end.runs())
    changed, used = list(span.saved), []
    for in_use in span.maps:
        runs = list(in_use.runs())
        changed.extend(subtract(end, runs))
        used.extend(clip(runs, 0, span.end.block_count))
    return Difference(intersect(normalise(changed), end), subtract(normalise(used), end), span.size_bytes)


def undo_differential(volume: SnappedVolume, older: str) -> Difference:
    """What makes the live volume equal to the snapshot ``older`` again; errors as those of ``differential``.

    What is in use in the snapshot changed since only if an area keeps it: that is data, to be read from the snapshot.
    ``discards`` is what is in use now and was not then.
    """
    span = _span(volume, older, None)
    then = list(span.maps[0].runs())
    now = clip(span.end.runs(), 0, span.maps[0].block_count)
    return Difference(intersect(normalise(span.saved), then), subtract(now, then), volume.snapshot(older).size_bytes)


def _span(volume: SnappedVolume, older: str, newer: str | None) -> _Span:
    queue = volume.queue
    live = volume.in_use_map()
    with queue.state:
        layers = queue.layers[_place(queue, older) :]
        end, size_bytes = live, volume.size_bytes
        if newer is not None:
            length = _place(queue, newer) - _place(queue, older)
            if length <= 0:  # steps 581 and 582 of FIG. 34
                raise InvalidArgumentError(
                    f"differential: snapshot {older} is not older than snapshot {newer} (L >= M)",
                    hint="name the older snapshot first; snapshot list shows them in order",
                )
            end, size_bytes = volume.in_use_of(layers[length]), layers[length].record.size_bytes
            layers = layers[:length]
        saved = [extent for layer in layers for area in layer.areas for extent, _at in area.blocks.runs()]
        return _Span(saved, [volume.in_use_of(layer) for layer in layers], end, size_bytes)


def _place(queue: SnapshotQueue, name: str) -> int:
    return queue.layers.index(queue.layer(find_record(queue.records(), name).id, name))

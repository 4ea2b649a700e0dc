"""One valid snapshot in memory: its in-use map and the maps of its areas, staged in on demand (FIG. 42, P4)."""

from __future__ import annotations

from contextlib import suppress

from replkit.blocks.bitmap import PagedBitmap
from replkit.blocks.blockmap import BlockMap
from replkit.contracts.savevolume import SaveVolume
from replkit.errors import AlreadyExistsError, CorruptRecordError, RecordMissingError
from replkit.snapshot.area import AreaMap
from replkit.snapshot.inuse import InUseMap, get_map
from replkit.snapshot.records import AREAS, BLOCK_MAPS, SnapshotRecord


class StagedMap(AreaMap):
    """The map of a save area that gets no more before-images: may be out of memory, in a record that is its checkpoint.

    The before-image records stay the durable map; without the checkpoint it is made from them again.
    """

    __slots__ = ("_block_size", "_save")

    def __init__(self, save: SaveVolume, area: str, block_size: int) -> None:
        self.area = area
        self.next_sequence = 0
        self._save = save
        self._block_size = block_size

    def __getattr__(self, name: str) -> BlockMap:
        """Stage ``blocks`` in when they are first asked for."""
        if name != "blocks":
            raise AttributeError(name)
        try:
            self.blocks = BlockMap.from_bytes(self._save.get(map_key(self.area)))
        except (CorruptRecordError, RecordMissingError):
            rebuilt = AreaMap(self.area)
            rebuilt.load(self._save, self._save.list(f"{AREAS}{self.area}/"), self._block_size)
            self.blocks = rebuilt.blocks
        return self.blocks


def map_key(area: str) -> str:
    """Key of the checkpoint of an area's map."""
    return f"{BLOCK_MAPS}{area}"


class Layer:
    """A snapshot in the queue. ``areas`` are looked up in order; the last one of the newest layer takes new records.

    ``unsaved`` has what must be saved before it is overwritten while this layer is the newest: what is in use in it,
    and what an older snapshot used and no area keeps (the loop of FIG. 41). It may hold blocks that are saved; what
    the areas keep is never saved again.
    """

    def __init__(
        self, record: SnapshotRecord, areas: list[AreaMap], unsaved: PagedBitmap, in_use: InUseMap | None = None
    ) -> None:
        self.record = record
        self.areas = areas
        self.unsaved = unsaved
        self._in_use = in_use

    def block_count(self, block_size: int) -> int:
        """Blocks of the snapshot, which keeps its size when the volume is resized."""
        return -(-self.record.size_bytes // block_size)

    def in_use(self, save: SaveVolume, block_size: int) -> InUseMap:
        """The in-use map at the snapshot, from memory or from its record."""
        in_use = self._in_use
        if in_use is None:
            in_use = self._in_use = get_map(save, self.record.in_use_key, self.block_count(block_size))
        return in_use

    def staged_areas(self, save: SaveVolume, block_size: int) -> list[AreaMap]:
        """Write the maps of the areas, which get no more records, as checkpoints; stand-ins for them."""
        staged: list[AreaMap] = []
        for area in self.areas:
            if isinstance(area, StagedMap):
                staged.append(area)
            else:
                with suppress(AlreadyExistsError):  # put by a try that failed after it: it is the same, as said above
                    save.put(map_key(area.area), [area.blocks.to_bytes()])
                staged.append(StagedMap(save, area.area, block_size))
        save.sync()
        return staged

    def let_go(self, staged: list[AreaMap]) -> None:
        """Keep in memory only what is asked for again."""
        self.areas = staged
        self._in_use = None

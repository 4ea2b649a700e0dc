"""What the reads of a member that shares the save volume name: sets that the primary must not trim yet (S2, inv. 7)."""

from __future__ import annotations

import sys

from replkit.contracts.savevolume import SaveVolume
from replkit.replication.cells import Member
from replkit.replication.root import load_struct
from replkit.replication.shared_cells import ReadFloor, reads_cell


def floor_of_reads(save: SaveVolume, member: Member) -> int:
    """No read of the member names a set up to this number; without a limit where it reads another save volume.

    The floor never falls and is published after the fact, so that a read which begins now is above it. What a member
    left that died is bounded as its played position is: by its coming back, or by its removal.
    """
    if not member.shared:
        return sys.maxsize
    reads, _version = load_struct(save, reads_cell(member.name), ReadFloor)
    return reads.number if reads is not None and reads.copy_id == member.copy_id else 0

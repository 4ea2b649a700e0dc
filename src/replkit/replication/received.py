"""The history of sets received, for status (R8); where each swap costs requests it is written down now and then."""

from __future__ import annotations

from replkit.errors import CorruptRecordError, RecordMissingError
from replkit.replication.cells import HISTORY_LENGTH, RECEIVED, ReceivedSet, SetHistory
from replkit.replication.difference import MAX_BLOCKS
from replkit.replication.directory import numbers_between
from replkit.replication.replica import Replica
from replkit.replication.root import StructCell, load_struct
from replkit.replication.set_reader import SetReader

SETS_A_SWAP = 16


class ReceivedHistory:
    """Writes the cell ``received``. What a crash forgets is told from the headers again, without how long it took."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._cell = StructCell(replica.save, RECEIVED, SetHistory)

    def add(self, arrived: ReceivedSet) -> None:
        """One more set; neither the sender nor the player waits for this."""
        unsaved = self._replica.unsaved
        unsaved.received = (*unsaved.received, arrived)
        if not self._replica.pays or len(unsaved.received) >= SETS_A_SWAP:
            self.save()

    def save(self) -> None:
        """Write down what is not yet."""
        unsaved = self._replica.unsaved
        if unsaved.received:
            self._cell.set(SetHistory(sets=received_sets(self._replica)))
            unsaved.received = ()


def received_sets(replica: Replica) -> tuple[ReceivedSet, ...]:
    """The newest sets, newest last, those included that the cell does not tell yet."""
    history, _version = load_struct(replica.save, RECEIVED, SetHistory)
    known = history.sets if history is not None else ()
    return (*known, *replica.unsaved.received)[-HISTORY_LENGTH:]


def recover_received(replica: Replica) -> None:
    """After an opening: what a crash kept from being written down, as far as the headers are there."""
    root, known = replica.root.get(), received_sets(replica)
    if not replica.pays or not known or not root.is_at_boundary or root.last.number - known[-1].number > SETS_A_SWAP:
        return
    reader = SetReader(replica.save, lambda: root, MAX_BLOCKS)
    found = []
    for number in numbers_between(root, max(known[-1].number + 1, root.first_listed), root.last.number):
        try:
            header = reader.header(number)
        except (RecordMissingError, CorruptRecordError):
            continue
        created_s = header.created_s
        found.append(ReceivedSet(number, created_s, created_s, 0.0, header.block_count, header.data_bytes))
    replica.unsaved.received = tuple(found)

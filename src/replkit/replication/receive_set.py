"""Taking in one delta set: each chunk verified before it is kept, the whole before it is accepted (D3, inv. 5)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.message import MAX_PAYLOAD_BYTES
from replkit.contracts.position import Position
from replkit.contracts.volume import Capability
from replkit.deltaset.chunk import Chunk, decode_chunk, record_checksum
from replkit.deltaset.header import SetDigest, SetHeader, decode_header, encode_block_list
from replkit.deltaset.identity import IdentityDigest
from replkit.deltaset.keys import chunk_key, header_key, list_key, parse_set_tag
from replkit.errors import CorruptRecordError, DivergedError, ProtocolError, RecordMissingError, ReplkitError
from replkit.rcp import messages as m
from replkit.replication.cells import RECEIVING, ReceivedSet, Receiving, Root, Span
from replkit.replication.difference import MAX_BLOCKS
from replkit.replication.directory import DIFFERENCE_WRITER, add_set
from replkit.replication.replica import Replica
from replkit.replication.root import StructCell
from replkit.replication.set_writer import delete_set
from replkit.replication.trimmer import Condemning, forget_deleted, nothing_condemned

RESUME_BYTES = 32 << 20
"""Where each swap costs requests, less of a set than this is not worth one: it is sent again after a crash."""


class SetInbox:
    """The set that is arriving at a replica, over as many sessions as it takes."""

    def __init__(
        self,
        replica: Replica,
        *,
        condemning: Condemning = nothing_condemned,
        begins_at_once: Callable[[SetHeader], bool] = lambda _header: False,
    ) -> None:
        """What else the swap that publishes a set says: what the trimmer would in its own, and that a pass begins."""
        self._replica, self._condemning, self._begins_at_once = replica, condemning, begins_at_once
        self._cell = StructCell(replica.save, RECEIVING, Receiving)
        self._begun: m.SetBegin | None = None
        self._is_skipped = self._is_header_put = False
        self._content = _Content(replica)
        self._started_s = 0.0
        self.arrived: ReceivedSet | None = None

    def partial(self) -> m.Partial | None:
        """What is there of a set that broke off: the chunks up to the first that is missing or damaged."""
        self._begun = None
        receiving = self._receiving()
        if receiving is None or parse_set_tag(receiving.tag)[0] <= self._replica.root.get().last.number:
            return None
        self._replica.save.delete([header_key(receiving.tag)])  # put before a crash, but never published
        self._content = content = _Content(self._replica)
        try:
            while True:
                record = self._replica.save.get(chunk_key(receiving.tag, content.next_chunk))
                self._replica.save.size_bytes(list_key(receiving.tag, content.next_chunk))
                content.take(decode_chunk(record, block_count=MAX_BLOCKS), record)
        except (RecordMissingError, CorruptRecordError):
            self._drop_from(receiving.tag, content.next_chunk)
        return m.Partial(
            set_tag=receiving.tag, epoch=receiving.epoch, digest=receiving.digest, next_chunk=content.next_chunk
        )

    def begin(self, body: m.SetBegin) -> None:
        """A set begins, or goes on where it broke off; one that does not continue our position is refused."""
        root = self._replica.root.get()
        self._begun, self._is_header_put = body, False
        self._started_s = self._replica.runtime.monotonic()
        self._is_skipped = body.number <= root.last.number  # received before: acknowledged again, not kept again
        if self._is_skipped:
            return
        if body.first_number > root.last.number + 1:
            raise ProtocolError(f"set {body.tag} begins at {body.first_number}; this replica stands at {root.last}")
        if body.first_number == root.last.number + 1 and body.base_identity != root.last.identity:
            raise _diverged(root.last, body.tag)
        receiving = Receiving(tag=body.tag, epoch=body.epoch, digest=body.digest)
        if body.tag in root.condemned:  # nothing condemned is ever named again
            self._forget_condemned(body.tag)
        if receiving != self._receiving():
            self.drop()
            self._replica.unsaved.receiving = receiving
        if not self._replica.pays:
            self._save_receiving()

    def _forget_condemned(self, tag: str) -> None:
        """The history was cut back, and this very set comes again: what is condemned of it must be gone before."""
        delete_set(self._replica.save, tag)
        self._replica.save.sync()
        self._replica.root.mutate(lambda now: forget_deleted(now, frozenset({tag})))

    def _receiving(self) -> Receiving | None:
        return self._replica.unsaved.receiving or self._cell.get()

    def _save_receiving(self) -> None:
        """From here on the set goes on after a crash where it broke off; before, what is here of it is swept then."""
        unsaved = self._replica.unsaved
        if unsaved.receiving is not None:
            self._cell.set(unsaved.receiving)
            unsaved.receiving = None

    def chunk(self, body: m.Chunk, payload: Buffer) -> None:
        """Verify a chunk and put it; ``SaveVolumeFullError`` changes nothing, so the call can be repeated."""
        begun = self._begun
        if begun is None or self._is_skipped:
            return
        chunk = decode_chunk(payload, block_count=MAX_BLOCKS, what=f"chunk of set {body.tag}")
        self._check_head(begun, chunk, body.index)
        if body.index != self._content.next_chunk:  # what broke off was dropped since: the next session begins anew
            raise ProtocolError(f"chunk {body.index} of set {body.tag}, but {self._content.next_chunk} are here")
        self._content.check_order(chunk)
        if self._content.stored_bytes + memoryview(payload).nbytes > RESUME_BYTES:
            self._save_receiving()
        save, key = self._replica.save, chunk_key(body.tag, body.index)
        save.put(key, [payload])
        try:
            save.put(list_key(body.tag, body.index), [encode_block_list(chunk.pieces)])
        except ReplkitError:
            save.delete([key])
            raise
        self._content.take(chunk, payload)

    def end(self, payload: Buffer) -> Position:
        """The header is here: check that all of the set is there and right, put it, publish it (D3)."""
        begun, root = self._begun, self._replica.root.get()
        if begun is None or self._is_skipped:
            return root.last
        header = decode_header(memoryview(payload), what=f"header of set {begun.tag}")
        try:
            self._check_header(begun, header, root)
        except ReplkitError:
            self.drop()
            raise
        if not self._is_header_put:  # by a try whose sync or publication failed
            self._replica.save.put(header_key(begun.tag), [payload])
            self._is_header_put = True
        gone = self._replica.unsaved.deleted  # before the sync, after which they stay deleted
        self._replica.save.sync()  # of the whole set: invariant 5, as in ``put_header``
        span, condemn = Span(root.last.number + 1, header.number), self._condemning()
        until = header.number if self._replica.pays and self._begins_at_once(header) else 0

        def publish(now: Root) -> Root:
            named = add_set(condemn(forget_deleted(now, gone)), span, header.writer, header.position)
            if now.base is None or not until:
                return named
            return msgspec.structs.replace(named, base=msgspec.structs.replace(now.base, until=until))

        self._replica.root.mutate(publish)
        self._replica.unsaved.deleted -= gone
        self._replica.unsaved.receiving = None
        self.arrived = ReceivedSet(
            number=header.number,
            created_s=header.created_s,
            started_s=self._replica.runtime.now() - (self._replica.runtime.monotonic() - self._started_s),
            duration_s=self._replica.runtime.monotonic() - self._started_s,
            blocks=header.block_count,
            stored_bytes=self._content.stored_bytes,
        )
        self._begun, self._is_header_put = None, False
        self._content = _Content(self._replica)
        return header.position

    @property
    def needs_bytes(self) -> int:
        """Room that the next chunk of the set that is arriving may need; 0 while none is."""
        if self._begun is None or self._is_skipped:
            return 0
        return self._content.largest_bytes or MAX_PAYLOAD_BYTES

    def drop(self) -> None:
        """Delete what is there of the set; the rest of it in this session is passed over."""
        receiving = self._receiving()
        if receiving is not None and parse_set_tag(receiving.tag)[0] > self._replica.root.get().last.number:
            delete_set(self._replica.save, receiving.tag)
        self._is_header_put = False
        self._content = _Content(self._replica)

    def skip(self) -> None:
        """There is no room for the set now: drop it, unacknowledged; the sender sends it again later."""
        self.drop()
        self._is_skipped = True

    def _drop_from(self, tag: str, index: int) -> None:
        save = self._replica.save
        chunks, lists = chunk_key(tag, index), list_key(tag, index)
        save.delete([key for key in save.list(f"sets/{tag}/") if key >= chunks])
        save.delete([key for key in save.list(f"lists/{tag}/blocks-") if key >= lists])

    def _check_head(self, begun: m.SetBegin, chunk: Chunk, index: int) -> None:
        head = chunk.head
        _number, writer = parse_set_tag(begun.tag)
        found = (head.lineage, head.epoch, head.number, head.writer, head.index, head.block_size)
        wanted = (
            self._replica.root.get().lineage, begun.epoch, begun.number, writer, index, self._replica.volume.block_size,
        )  # fmt: skip
        if found != wanted:
            raise ProtocolError(f"chunk {index} of set {begun.tag} says it is {found}, expected {wanted}")

    def _check_header(self, begun: m.SetBegin, header: SetHeader, root: Root) -> None:
        content = self._content
        found = (header.lineage, header.epoch, header.first_number, header.number, header.writer)
        wanted = (root.lineage, begun.epoch, begun.first_number, begun.number, parse_set_tag(begun.tag)[1])
        if found != wanted:
            raise ProtocolError(f"header of set {begun.tag} says it is {found}, expected {wanted}")
        counts = (header.chunk_count, header.list_count, header.block_count, header.data_bytes)
        if counts != (content.next_chunk, content.next_chunk, content.block_count, content.plain_bytes):
            raise ProtocolError(f"header of set {begun.tag} does not fit its chunks: {counts}")
        if header.digest != content.digest.hexdigest() or header.digest != begun.digest:
            raise ProtocolError(f"set {begun.tag}: digest over its chunks is wrong")
        self._check_size(begun, header)
        identities = (header.base_identity, *header.identities)
        if identities[root.last.number + 1 - header.first_number] != root.last.identity:
            raise _diverged(root.last, begun.tag)
        is_first_cut = header.first_number == header.number and not header.writer.startswith(DIFFERENCE_WRITER)
        if is_first_cut and content.identity(header) != header.identities[-1]:
            raise ProtocolError(f"set {begun.tag}: its content does not have the identity that its header says")

    def _check_size(self, begun: m.SetBegin, header: SetHeader) -> None:
        """Only the header tells how large the volume is, so chunks of any size are taken in until then (X5)."""
        volume = self._replica.volume
        if header.volume_size_bytes > volume.size_bytes and volume.resizes is Capability.NONE:
            raise ProtocolError(
                f"set {begun.tag} is of a volume of {header.volume_size_bytes} bytes, "
                f"this one has {volume.size_bytes} and cannot be resized"
            )
        if self._content.last_stop > header.volume_block_count:
            raise ProtocolError(
                f"set {begun.tag} reaches to block {self._content.last_stop} of {header.volume_block_count}"
            )


class _Content:
    """What the chunks so far add up to."""

    def __init__(self, replica: Replica) -> None:
        self.next_chunk = self.block_count = self.plain_bytes = self.stored_bytes = self.largest_bytes = 0
        self.digest = SetDigest()
        self._replica = replica
        self._parent = replica.root.get().last.identity
        self._identity: IdentityDigest | None = None
        self.last_stop = 0

    def check_order(self, chunk: Chunk) -> None:
        """Chunks ascend, and none is empty."""
        if not chunk.pieces or chunk.pieces[0].start < self.last_stop:
            raise ProtocolError(f"chunk {chunk.head.index} of set {chunk.head.number} does not ascend")

    def take(self, chunk: Chunk, record: Buffer) -> None:
        """Add a chunk that is stored."""
        self.check_order(chunk)
        if self._identity is None:
            self._identity = IdentityDigest(self._parent, chunk.head.epoch, chunk.head.number)
        self._identity.update(chunk.pieces, [chunk.data])
        self.digest.update(record_checksum(record))
        self.next_chunk += 1
        self.block_count += sum(piece.count for piece in chunk.pieces)
        self.plain_bytes += chunk.head.plain_bytes
        size_bytes = memoryview(record).nbytes
        self.stored_bytes += size_bytes
        self.largest_bytes = max(self.largest_bytes, size_bytes)
        self.last_stop = chunk.pieces[-1].stop

    def identity(self, header: SetHeader) -> str:
        """The identity of the content, after the position at which the replica stands."""
        digest = self._identity or IdentityDigest(self._parent, header.epoch, header.number)
        return digest.hexdigest()


def _diverged(position: Position, tag: str) -> DivergedError:
    return DivergedError(
        f"set {tag} does not continue position {position} ({position.identity})",
        hint="the two volumes have different histories: resync, or make a new copy",
    )

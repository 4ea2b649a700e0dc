"""``EncryptedStore``: objects are encrypted before they go into a bucket that is not trusted.

What the bucket still sees: keys of objects, their sizes (after compression), and when each is written and read. What it
can still do: withhold objects, delete them, and give an older version of one that is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from replkit.contracts.buffers import Buffer
from replkit.errors import CorruptRecordError, InvalidArgumentError
from replkit.objectstore.keys import KeyRing
from replkit.objectstore.sealing import (
    SEGMENT_BYTES,
    SealedHead,
    head_bytes,
    seal_object,
    stored_at_most,
    unseal_head,
)
from replkit.objectstore.store import ObjectInfo, ObjectStore, check_key

HEAD_FETCH_BYTES = 4096
"""Enough for the header of an object of 63 MiB."""
NEAR_BYTES = 4 * SEGMENT_BYTES
"""A range that ends before this is fetched together with the header."""
_HEADS = 4096
_TRIES = 2


class EncryptedStore(ObjectStore):
    """``inner`` with all content encrypted under ``keys``; keys of objects stay as they are.

    ``place`` (the prefix in the bucket) is authenticated with each object, so that objects of one prefix are refused
    under another. A range costs one request if it ends within 256 KiB or the object's header is remembered, two else.
    Every create is unlike every other, since each object has a random salt: after an ambiguous ``put_new``, what is
    there is ours if it decrypts to our token, and ``inner`` finds the same by comparing bytes. ``list`` gives the
    sizes of the encrypted objects.

    Errors: ``CorruptRecordError`` names the object that was altered, cut off, or put under another key, after it was
    read twice; ``KeyMissingError`` names the key that is needed.
    """

    def __init__(
        self, inner: ObjectStore, keys: KeyRing, random_bytes: Callable[[int], bytes], *, place: str = ""
    ) -> None:
        self.url = inner.url
        self._inner, self._keys, self._random = inner, keys, random_bytes
        self._place = f"{place}/" if place else ""
        self._heads: dict[str, SealedHead] = {}  # single operations only, which are atomic

    def _seal(self, key: str, plain: bytes) -> bytes:
        check_key(key)
        if not plain:
            raise InvalidArgumentError(f"{self.url}: {key}: an object is never empty")
        self._heads.pop(key, None)
        return seal_object(self._keys, self._place + key, memoryview(plain), self._random)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Encrypted once; the inner store repeats the same bytes."""
        self._inner.put(key, [self._seal(key, b"".join(memoryview(part) for part in parts))])

    def put_new(self, key: str, data: Buffer) -> None:
        """Encrypted once, so that the inner store knows its own create again."""
        self._inner.put_new(key, self._seal(key, bytes(memoryview(data))))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Fetch and decrypt the segments that hold ``[start, stop)``; what is refused is fetched once more."""
        for attempt in range(_TRIES):
            try:
                return self._get(key, start, stop)
            except CorruptRecordError:  # damaged on the way, or the remembered header is of what was overwritten
                self._heads.pop(key, None)
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError  # the last attempt returns or raises

    def _get(self, key: str, start: int, stop: int | None) -> bytes:
        is_whole = start == 0 and stop is None
        head, window = None if is_whole else self._heads.get(key), b""
        if head is None:
            head, window = self._fetch_head(key, None if is_whole else _first_fetch(start, stop))
        if is_whole and len(window) != head.stored_bytes:
            raise CorruptRecordError(f"{head.what} has {len(window)} bytes, not {head.stored_bytes}")
        end = head.plain_bytes if stop is None else min(stop, head.plain_bytes)
        if end <= start:
            return b""
        segments = head.segments(start, end)
        first, last = head.offsets[segments.start], head.offsets[segments.stop]
        stored = window[first:last] if last <= len(window) else self._inner.get(key, first, last)
        plain = head.unseal(segments, memoryview(stored))
        if len(plain) == 1:
            return plain[0][start - segments.start * SEGMENT_BYTES : end - segments.start * SEGMENT_BYTES]
        base = segments.start * SEGMENT_BYTES
        plain[-1] = plain[-1][: end - base - (len(plain) - 1) * SEGMENT_BYTES]
        plain[0] = plain[0][start - base :]
        return b"".join(plain)

    def _fetch_head(self, key: str, fetch_bytes: int | None) -> tuple[SealedHead, bytes]:
        """The verified header, and the bytes from the object's beginning that came with it."""
        what = f"{self.url}: {key}"
        window = self._inner.get(key, 0, fetch_bytes)
        needed = head_bytes(window, what)
        if len(window) < needed and fetch_bytes is not None and fetch_bytes < needed:
            window = self._inner.get(key, 0, needed)
        if len(window) < needed:
            raise CorruptRecordError(f"{what} is cut off")
        head = unseal_head(self._keys, self._place + key, window, what)
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        self._heads[key] = head
        return head, window

    @property
    def requests(self) -> Mapping[str, int]:
        """Those of the inner one."""
        return self._inner.requests

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Keys are not encrypted; sizes are those of the encrypted objects."""
        return self._inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Nothing to decrypt."""
        doomed = list(keys)
        for key in doomed:
            self._heads.pop(key, None)
        self._inner.delete(doomed)

    def close(self) -> None:
        """Close the inner one."""
        self._heads.clear()
        self._inner.close()


def _first_fetch(start: int, stop: int | None) -> int:
    if stop is not None and start < stop <= NEAR_BYTES:
        return HEAD_FETCH_BYTES + stored_at_most(-(-stop // SEGMENT_BYTES) * SEGMENT_BYTES)
    return HEAD_FETCH_BYTES

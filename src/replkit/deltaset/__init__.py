"""Delta sets as bytes: pieces, chunks, headers, block lists, identities, and the keys under which they are kept (D3).

Comes in: extents with a kind, and the blocks read from a volume. Goes out: records that carry their own checksums,
and from records read anywhere the same values again, or ``CorruptRecordError`` (invariants 5 and 12). No I/O.
"""

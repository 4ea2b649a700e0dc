import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replkit.contracts.position import Epoch
from replkit.deltaset.identity import IdentityDigest, lineage_identity
from replkit.deltaset.pieces import Kind, Piece
from replkit.errors import InvalidArgumentError

EPOCH = Epoch(1, "aa")
BLOCKS = [
    (0, Kind.DATA),
    (1, Kind.DATA),
    (2, Kind.DATA),
    (3, Kind.ZERO),
    (4, Kind.ZERO),
    (9, Kind.DATA),
    (10, Kind.DISCARD),
]


def identity(updates, parent="p", epoch=EPOCH, number=1):
    digest = IdentityDigest(parent, epoch, number)
    for pieces, data in updates:
        digest.update(pieces, data)
    return digest.hexdigest()


def content(block):
    return bytes([block]) * 16


def grouped(cuts):
    """BLOCKS as pieces that are cut at the given indices, one update for each."""
    updates = []
    for index, (block, kind) in enumerate(BLOCKS):
        data = [content(block)] if kind is Kind.DATA else []
        last = updates[-1][0][-1] if updates else None
        if last and index not in cuts and last.stop == block and last.kind == kind:
            updates[-1] = ([Piece(last.start, last.count + 1, kind)], [b"".join(updates[-1][1] + data)])
        else:
            updates.append(([Piece(block, 1, kind)], data))
    return updates


@pytest.mark.requirement("D3")
@settings(deadline=None)
@given(st.sets(st.integers(0, len(BLOCKS))))
def test_an_identity_does_not_depend_on_how_the_set_was_cut_into_chunks(cuts):
    whole = ([p for pieces, _ in grouped(set()) for p in pieces], [d for _, data in grouped(set()) for d in data])
    assert identity(grouped(cuts)) == identity([whole])


@pytest.mark.requirement("D3")
def test_an_identity_depends_on_everything_else():
    data = [Piece(0, 1, Kind.DATA)]
    seen = {
        identity([(data, [b"a"])]),
        identity([(data, [b"b"])]),
        identity([([Piece(1, 1, Kind.DATA)], [b"a"])]),
        identity([([Piece(0, 1, Kind.ZERO)], [])]),
        identity([([Piece(0, 1, Kind.DISCARD)], [])]),
        identity([([Piece(0, 2, Kind.ZERO)], [])]),
        identity([([Piece(0, 1, Kind.ZERO), Piece(2, 1, Kind.ZERO)], [])]),
        identity([]),
        identity([(data, [b"a"])], parent="q"),
        identity([(data, [b"a"])], epoch=Epoch(1, "bb")),
        identity([(data, [b"a"])], epoch=Epoch(2, "aa")),
        identity([(data, [b"a"])], number=2),
    }
    assert len(seen) == 12
    assert all(len(value) == 32 for value in seen)


def test_asking_for_the_identity_does_not_end_it():
    digest = IdentityDigest("p", EPOCH, 1)
    digest.update([Piece(0, 1, Kind.ZERO)], [])
    assert digest.hexdigest() == digest.hexdigest()
    digest.update([Piece(1, 1, Kind.ZERO)], [])
    assert digest.hexdigest() == identity([([Piece(0, 2, Kind.ZERO)], [])])


def test_pieces_out_of_order_are_refused():
    digest = IdentityDigest("p", EPOCH, 1)
    digest.update([Piece(5, 2, Kind.ZERO)], [])
    with pytest.raises(InvalidArgumentError, match="block 6 after one that ends at 7"):
        digest.update([Piece(6, 1, Kind.ZERO)], [])


def test_each_lineage_begins_with_an_identity_of_its_own():
    assert lineage_identity("a") != lineage_identity("b")
    assert len(lineage_identity("a")) == 32

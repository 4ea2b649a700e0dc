import pytest

from replkit.contracts.position import Epoch
from replkit.deltaset.chunk import ChunkHead
from replkit.deltaset.header import Mark, SetHeader

IDENTITY = "0123456789abcdef" * 2


@pytest.fixture
def make_head():
    def make(**changes):
        values = {
            "lineage": "1f6c",
            "epoch": Epoch(2, "00ff00ff00ff00ff"),
            "number": 7,
            "writer": "w1",
            "index": 3,
            "block_size": 512,
            "compression": "none",
            "plain_bytes": 0,
        }
        return ChunkHead(**{**values, **changes})

    return make


@pytest.fixture
def make_header():
    def make(**changes):
        values = {
            "lineage": "1f6c",
            "epoch": Epoch(2, "00ff00ff00ff00ff"),
            "first_number": 6,
            "number": 7,
            "base_identity": IDENTITY,
            "identities": ("a" * 32, "b" * 32),
            "volume_size_bytes": 512 * 1000 - 100,
            "block_size": 512,
            "block_count": 9,
            "data_bytes": 512 * 4,
            "chunk_count": 2,
            "list_count": 1,
            "created_s": 1_700_000_000.25,
            "writer": "w1",
            "marks": (Mark(kind="snapshot", name="nightly"),),
            "digest": "c" * 32,
        }
        return SetHeader(**{**values, **changes})

    return make

"""Restoring onto another volume: equal, sparse, begun again after a crash, refused where it does not fit (X2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from replkit.contracts.registry import Registry
from replkit.errors import InvalidArgumentError
from replkit.recovery.restore import Restoration

SIZE = 64 << 20


@pytest.mark.requirement("X2")
def test_a_restored_file_equals_its_source_and_is_as_sparse(registry: Registry, tmp_path: Path) -> None:
    source = registry.open_volume(f"file://{tmp_path}/source", size_bytes=SIZE, create=True)
    target = registry.open_volume(f"file://{tmp_path}/target", size_bytes=SIZE, create=True)
    source.write(3, b"a" * 4096 * 5)
    source.write(9000, b"b" * 4096)
    target.write(100, b"left from before" * 256)
    restoration = Restoration(source, target)
    assert restoration.step()  # broke off here
    restoration = Restoration(source, target)
    while restoration.step():
        pass
    assert restoration.done_blocks == restoration.total_blocks
    left, right = bytearray(SIZE), bytearray(SIZE)
    source.read_into(0, left)
    target.read_into(0, right)
    assert left == right
    assert (tmp_path / "target").stat().st_blocks * 512 < 1 << 20
    source.close()
    target.close()


@pytest.mark.requirement("X2")
def test_a_target_that_is_too_small_is_left_as_it_was(registry: Registry) -> None:
    source = registry.open_volume("memory:restore-source", size_bytes=SIZE, create=True)
    target = registry.open_volume("memory:restore-target", size_bytes=SIZE // 2, create=True)
    target.write(0, b"x" * 4096)
    with pytest.raises(InvalidArgumentError, match="do not fit"):
        Restoration(source, target)
    seen = bytearray(4096)
    target.read_into(0, seen)
    assert seen == b"x" * 4096

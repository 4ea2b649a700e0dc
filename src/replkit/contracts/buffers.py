"""The type of an argument that gives access to its bytes without a copy (PEP 688)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    Buffer: TypeAlias = object

__all__ = ["Buffer"]

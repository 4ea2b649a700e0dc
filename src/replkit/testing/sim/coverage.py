"""Which fault came true in which phase: the table that a run prints, with its empty cells."""

from __future__ import annotations

from collections import Counter


class Coverage:
    """Counts of (fault, phase)."""

    def __init__(self) -> None:
        self.cells: Counter[tuple[str, str]] = Counter()

    def add(self, fault: str, phase: str) -> None:
        """A fault came true."""
        self.cells[fault, phase] += 1

    def update(self, other: Coverage | Counter[tuple[str, str]]) -> None:
        """Add what another run met."""
        self.cells.update(other.cells if isinstance(other, Coverage) else other)

    def empty(self, faults: tuple[str, ...], phases: tuple[str, ...], cannot: frozenset[tuple[str, str]]) -> list[str]:
        """Cells that could be met and were not."""
        return [
            f"{fault} x {phase}"
            for fault in faults
            for phase in phases
            if not self.cells[fault, phase] and (fault, phase) not in cannot
        ]

    def table(self, faults: tuple[str, ...], phases: tuple[str, ...], cannot: frozenset[tuple[str, str]]) -> str:
        """Lines of text: a row a fault, a column a phase; ``-`` where it cannot be, ``!`` where it was not met."""
        width = max(map(len, faults))
        numbers = [f"{number:>2} {phase}" for number, phase in enumerate(phases, 1)]
        lines = [*numbers, " " * width + "".join(f"{number:>7}" for number in range(1, len(phases) + 1))]
        for fault in faults:
            row = ["-" if (fault, phase) in cannot else str(self.cells[fault, phase] or "!") for phase in phases]
            lines.append(f"{fault:<{width}}" + "".join(f"{cell:>7}" for cell in row))
        return "\n".join(lines)


def _cannot() -> frozenset[tuple[str, str]]:
    """Cells that no run can meet, with the reason here.

    A process is left over only at a primary, which is what has something to publish, and senders are only there. An
    empty site makes no calls, and is no image to clone. A fenced primary takes no write, discard or resize, so nothing
    writes to its disk.
    """
    secondaries = ("granted", "empty", "copying", "following", "asking", "resyncing", "playing")
    cells = {(fault, phase) for fault in ("fenced process", "duplicate session") for phase in secondaries}
    cells |= {("clone", phase) for phase in ("empty", "copying", "asking", "resyncing")}
    cells |= {("write error", "fenced"), ("disk full", "fenced")}
    cells |= {("lost reply", "empty"), ("rot", "empty"), ("misdirected read", "empty")}
    return frozenset(cells)


CANNOT = _cannot()

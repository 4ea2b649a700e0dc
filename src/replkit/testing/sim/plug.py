"""The plug of a simulated site: at which call of its devices the power fails, or one of them goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from replkit.testing.crashing import Power


class Plug(Power):
    """The plug of a site: pulled at the n-th call (``fail_at``); an error at the n-th call of a kind (``break_at``)."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.random = random.Random(seed ^ 0x5EED)
        self._devices: list[Any]
        self._breaks: dict[str, int] = {}
        self.broke = ""
        """The fault that came true last."""
        self.on_spend: Callable[[], object] | None = None
        """Called at each call that changes something, when that is on its way and before the power may fail."""
        self.outcome: Callable[[], object] | None = None
        """At the next power failure decides what survives, instead of the seed; then it is over."""

    def spend(self) -> None:
        """As for any plug, and told to who listens."""
        if self.on_spend is not None:
            self.on_spend()
        super().spend()

    def restore(self) -> None:
        """As for any plug, or as ``outcome`` says."""
        outcome, self.outcome = self.outcome, None
        if outcome is not None:
            outcome()
        super().restore()

    def break_at(self, fault: str, call: int | None) -> None:
        """Let the ``call``-th call of a kind from now go wrong; ``None`` takes it back."""
        if call is None:
            self._breaks.pop(fault, None)
        else:
            self._breaks[fault] = call

    def left(self, fault: str) -> int | None:
        """How many calls of a kind are to come before it goes wrong; ``None`` when nothing is planned."""
        return self._breaks.get(fault)

    def calm(self) -> None:
        """Nothing that was planned happens."""
        self._breaks.clear()
        self.fail_at(None)

    def breaks(self, *faults: str) -> str:
        """The fault that this call meets, empty for none."""
        if self._breaks:
            for fault in faults:
                left = self._breaks.get(fault)
                if left is not None:
                    if left <= 1:
                        del self._breaks[fault]
                        self.broke = fault
                        return fault
                    self._breaks[fault] = left - 1
        return ""

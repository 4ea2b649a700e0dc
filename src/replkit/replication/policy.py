"""The policy of a volume: what an operator may change while replication runs, at either end (D2)."""

from __future__ import annotations

from math import inf
from typing import Literal

import msgspec

from replkit.contracts.savevolume import SaveVolume
from replkit.errors import CorruptRecordError, InvalidArgumentError
from replkit.replication.cells import POLICY


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Triggers of the cut and of playback, form of the chunks, and what happens when the save volume is full.

    A set is cut after ``interval_s`` or when ``high_water_bytes`` are changed, whichever comes first. A pass of
    playback begins when its oldest set has waited ``play_interval_s`` or ``play_high_water_bytes`` are there (C2).
    A secondary keeps each boundary of the last ``keep_all_s``, then one each ``keep_each_s``, till ``keep_for_s`` (X2).
    """

    interval_s: float = 60.0
    high_water_bytes: int = 256 << 20
    congestion: Literal["block", "pull-ahead"] = "block"
    compression: Literal["none", "zstd"] = "none"
    chunk_bytes: int = 4 << 20
    play_interval_s: float = 0.0
    play_high_water_bytes: int = 64 << 20
    keep_sets: int = 0
    retries: int = 5
    retry_s: float = 1.0
    slow_retry_s: float = 30.0
    keep_all_s: float = 0.0
    keep_each_s: float = 3600.0
    keep_for_s: float = 0.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}, must be at least {least}"
            for name, value, least in (
                ("interval_s", self.interval_s, 0.01),
                ("high_water_bytes", self.high_water_bytes, 4096),
                ("play_interval_s", self.play_interval_s, 0),
                ("play_high_water_bytes", self.play_high_water_bytes, 0),
                ("keep_sets", self.keep_sets, 0),
                ("retries", self.retries, 0),
                ("retry_s", self.retry_s, 0),
                ("slow_retry_s", self.slow_retry_s, 0),
                ("keep_all_s", self.keep_all_s, 0),
                ("keep_each_s", self.keep_each_s, 1),
                ("keep_for_s", self.keep_for_s, 0),
            )
            if not least <= value < inf  # not a number is refused too; JSON has neither, and the cell is JSON
        ]
        if not 4096 <= self.chunk_bytes <= 32 << 20:
            faults.append(f"chunk_bytes is {self.chunk_bytes}, must be 4 KiB to 32 MiB")
        if faults:
            raise InvalidArgumentError("policy: " + "; ".join(faults))


def load_policy(save: SaveVolume) -> Policy:
    """The policy in force; the default one where none was ever set."""
    value = save.load(POLICY).value
    if not value:
        return Policy()
    try:
        return msgspec.json.decode(value, type=Policy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidArgumentError) as error:
        raise CorruptRecordError(f"cell {POLICY}: {error}") from error


def change_policy(save: SaveVolume, **changes: object) -> Policy:
    """Change the named fields durably and return the new policy; services take it up at their next step."""
    known = {field.name for field in msgspec.structs.fields(Policy)}
    if unknown := sorted(changes.keys() - known):
        raise InvalidArgumentError(
            f"policy has no field {', '.join(unknown)}", hint=f"known: {', '.join(sorted(known))}"
        )
    old = save.load(POLICY)
    merged = {**msgspec.structs.asdict(load_policy(save)), **changes}
    try:
        policy = msgspec.convert(merged, Policy)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"policy: {error}") from error
    save.swap(POLICY, msgspec.json.encode(policy), old.version)
    return policy

"""Mutations of bytes, and the loop that feeds them to decoders and lets only typed errors come out (invariant 12)."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from replkit.errors import ReplkitError

from .targets import Target

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
LENGTHS = (0, 1, 0xFFFF, 0xFFFFFFFF, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)
MAX_MEMORY_BYTES = 96 << 20
"""What one decoder may use at most for one input, whatever lengths the input announces."""


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to four random changes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(rng, out)
    return bytes(out)


def _flip(rng: random.Random, out: bytearray) -> None:
    if out:
        place = rng.randrange(min(len(out), 256)) if rng.random() < 0.5 else rng.randrange(len(out))
        out[place] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, out: bytearray) -> None:
    if out:
        out[rng.randrange(len(out))] = rng.choice(INTERESTING)


def _length(rng: random.Random, out: bytearray) -> None:
    """Overwrite an aligned number with one that lengths like to be wrong by."""
    width = rng.choice((2, 4, 8))
    if len(out) >= width:
        at = rng.randrange(len(out) - width + 1)
        value = rng.choice(LENGTHS) & ((1 << (8 * width)) - 1)
        out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _cut(rng: random.Random, out: bytearray) -> None:
    del out[rng.randrange(len(out) + 1) :]


def _insert(rng: random.Random, out: bytearray) -> None:
    at = rng.randrange(len(out) + 1)
    out[at:at] = rng.randbytes(rng.randrange(1, 9))


def _repeat(rng: random.Random, out: bytearray) -> None:
    if out:
        at = rng.randrange(len(out))
        part = bytes(out[at : at + rng.randrange(1, 65)])
        out[at:at] = part * rng.randrange(1, 4)


def _drop(rng: random.Random, out: bytearray) -> None:
    at = rng.randrange(len(out) + 1)
    del out[at : at + rng.randrange(1, 9)]


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _flip, _set, _length, _cut, _insert, _repeat, _drop,
)  # fmt: skip


@dataclass
class Result:
    """What came of the inputs of one decoder."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class EscapedError(AssertionError):
    """A decoder let something out that is no error of ours, with the input that did it."""


def fuzz(target: Target, seed: int, inputs: int) -> Result:
    """Feed a decoder; ``EscapedError`` names seed, number and input of what went wrong."""
    rng = random.Random(f"{seed}/{target.name}")
    result = Result(target.name)
    began_s = time.monotonic()
    for number in range(inputs):
        data = mutate(rng, rng.choice(target.samples))
        if target.reseal is not None and rng.random() < 0.5:
            data = target.reseal(data)
        try:
            target.decode(data)
            result.accepted += 1
        except ReplkitError as error:
            result.refused[type(error).__name__] += 1
        except Exception as error:
            raise EscapedError(
                f"{target.name}: seed {seed}, input {number} ({data[:200].hex()}): {type(error).__name__}: {error}"
            ) from error
        result.inputs += 1
    result.seconds = time.monotonic() - began_s
    return result


def peak_bytes(target: Target, seed: int, inputs: int) -> int:
    """The most memory that the decoder held at any moment while it was fed."""
    tracemalloc.start()
    try:
        fuzz(target, seed, inputs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

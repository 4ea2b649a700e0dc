"""Every decoder under mutated input: the typed error, bounded memory, and nothing else (invariant 12; D3, T7)."""

from __future__ import annotations

import pytest

from replkit.errors import ReplkitError

from .mutation import MAX_MEMORY_BYTES, EscapedError, fuzz, peak_bytes
from .targets import Target, all_targets

TARGETS = {target.name: target for target in all_targets()}
INPUTS = 700


@pytest.mark.requirement("D3", "T7", "X3")
@pytest.mark.parametrize("name", TARGETS)
def test_only_typed_errors_come_out_of_a_decoder(name: str) -> None:
    result = fuzz(TARGETS[name], seed=1, inputs=INPUTS)
    assert result.inputs == INPUTS
    assert sum(result.refused.values()) > INPUTS // 20


@pytest.mark.parametrize("name", TARGETS)
def test_valid_samples_are_accepted(name: str) -> None:
    for sample in TARGETS[name].samples:
        TARGETS[name].decode(sample)


@pytest.mark.parametrize("name", TARGETS)
def test_memory_is_bounded_whatever_an_input_announces(name: str) -> None:
    assert peak_bytes(TARGETS[name], seed=2, inputs=150) < MAX_MEMORY_BYTES


@pytest.mark.parametrize("name", ["chunk", "set header", "message", "frame", "record head"])
def test_every_bit_of_a_header_flipped_is_refused_or_harmless(name: str) -> None:
    target = TARGETS[name]
    sample = target.samples[0]
    for bit in range(min(len(sample), 128) * 8):
        data = bytearray(sample)
        data[bit // 8] ^= 1 << bit % 8
        try:
            target.decode(bytes(data))
        except ReplkitError:
            continue


def test_the_fuzzer_catches_a_decoder_that_lets_something_else_out() -> None:
    def careless(data: bytes) -> object:
        return data.decode("ascii")

    with pytest.raises(EscapedError, match="seed 1, input"):
        fuzz(Target("careless", (b"plain text",), careless), seed=1, inputs=500)

"""``docs/reference/rcp.md`` says what the code does: frame, messages, fields with their types, every transition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from replkit.contracts import message
from replkit.contracts.position import Epoch, Position
from replkit.rcp import messages as m
from replkit.rcp.states import CALL_STEPS, COPY_STEPS, SET_STEPS, STEPS, Direction

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "rcp.md").read_text()

WORDS = [
    ("number", m.Count),
    ("name", m.Name),
    ("tag", m.Tag),
    ("id", m.Identifier),
    ("text", m.Text),
    ("boolean", bool),
    ("epoch", Epoch),
    ("position", Position),
    ("tag or nil", m.Tag | None),
    ("id or nil", m.Identifier | None),
    ("name or nil", m.Name | None),
    ("epoch or nil", Epoch | None),
    ("position or nil", Position | None),
    ("partial or nil", m.Partial | None),
    ("map of at most 1000 texts to JSON values", m.Json),
]
BOUNDED = {
    "1 to 16 numbers": (m.Hello, "versions"),
    "at most 4096 history entries": (m.Hello, "history"),
    "number from 1 to 2^40": (m.Credit, "size_bytes"),
    "map of at most 100 names to values": (m.Command, "arguments"),
    "map of at most 1000 names to values": (m.CommandDone, "result"),
}
CALLS = {m.Call: "caller", m.Reply: "called"}
"""Types of one field only; ``test_messages`` tests their bounds."""


def tables(columns: str, text: str = PAGE) -> list[list[str]]:
    """Rows of the tables whose head is ``columns``."""
    rows: list[list[str]] = []
    for block in re.findall(rf"^\| {re.escape(columns)} \|\n\|[-|]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE):
        rows += [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return rows


def section(title: str) -> str:
    found = re.search(rf"^### {title}\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title}"
    return found[1]


@pytest.mark.parametrize("struct", [*m.KINDS.values(), m.Partial], ids=lambda struct: struct.__name__)
def test_each_field_is_there_with_its_type(struct):
    hints = get_type_hints(struct, include_extras=True)
    rows = tables("field | type | meaning", section(struct.__name__))
    assert [row[0] for row in rows] == list(struct.__struct_fields__)
    for name, word, meaning in rows:
        if word in BOUNDED:
            assert BOUNDED[word] == (struct, name)
        else:
            assert dict(WORDS)[word] == hints[name]
        assert meaning


def test_each_message_is_listed_with_number_speaker_and_payload():
    speakers = {
        body: {
            "sender" if event.direction is Direction.SENT else "receiver" for _, event in STEPS if event.body is body
        }
        for body in m.KINDS.values()
    }
    expected = [
        [
            str(kind),
            body.__name__,
            CALLS.get(body) or ("either" if len(speakers[body]) == 2 else next(iter(speakers[body]))),
            f"at most {body.MAX_PAYLOAD >> 20} MiB" if body.MAX_PAYLOAD else "none",
        ]
        for kind, body in m.KINDS.items()
    ]
    assert tables("number | message | from | payload") == expected


def test_each_step_is_listed():
    speaker = {Direction.SENT: "sender", Direction.RECEIVED: "receiver"}
    assert sorted(tables("state | from | message | next state")) == sorted(
        [state.value, speaker[event.direction], event.body.__name__, following.value]
        for (state, event), following in STEPS.items()
    )
    assert tables("state of the set | message | next state") == [
        [state.value, body.__name__, following.value] for (state, body), following in SET_STEPS.items()
    ]
    assert tables("state of the copy | message | next state") == [
        [state.value, body.__name__, following.value] for (state, body), following in COPY_STEPS.items()
    ]
    assert tables("state of the calls | message | next state") == [
        [state.value, body.__name__, following.value] for (state, body), following in CALL_STEPS.items()
    ]


def test_the_frame_is_as_described():
    head = message.encode_frame_head(message.Message(5, b"body", b"payload"))
    fields = [
        (int(offset), int(size or len(head) - int(offset))) for offset, size, _ in tables("offset | size | field")
    ]
    at = {offset: head[offset : offset + size] for offset, size in fields}
    assert (at[0], at[2], at[3], at[12]) == (b"RF", b"\1", b"\5", bytes(4))
    assert [int.from_bytes(at[offset], "little") for offset in (4, 8)] == [4, 7]
    assert at[24] == b"body"
    assert fields == [(0, 2), (2, 1), (3, 1), (4, 4), (8, 4), (12, 4), (16, 8), (24, 4)]


def test_the_bounds_are_those_of_the_code():
    assert f"length of the body, at most {message.MAX_BODY_BYTES >> 20} MiB" in PAGE
    assert f"length of the payload, at most {message.MAX_PAYLOAD_BYTES >> 20} MiB" in PAGE
    assert message.PREAMBLE == b"RCP/1.0\n"

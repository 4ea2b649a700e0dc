"""What ``status`` shows to people, beside the fields that ``--json`` gives."""

import io

import pytest
from rich.console import Console

from replkit.cli.status import render

MEMBER = {
    "name": "b", "state": "following", "sender_state": "following", "received": None, "played": None,
    "outstanding_sets": 0, "outstanding_bytes": 0, "lag_s": 0.0, "rate_bytes_per_s": 0.0, "last_error": "",
}  # fmt: skip
SITE = {
    "site": "a", "pid": 1, "version": "0", "listen": "tcp://10.0.0.1:7077", "allow_remote": False, "encrypted": False,
    "volumes": [{"name": "disk", "role": "primary", "members": [MEMBER]}], "workers": [],
}  # fmt: skip


def shown(width=200, **changes):
    console = Console(file=io.StringIO(), width=width)
    console.print(render({**SITE, **changes}))
    return console.file.getvalue()


@pytest.mark.requirement("R8")
@pytest.mark.parametrize("trouble", ["disconnected", "diverged", "failed", "refused"])
def test_a_member_that_cannot_be_reached_does_not_look_as_if_it_followed(trouble):
    assert trouble not in shown()
    member = {**MEMBER, "sender_state": trouble}
    assert f"following, {trouble}" in shown(volumes=[{**SITE["volumes"][0], "members": [member]}])


@pytest.mark.requirement("X1")
def test_plaintext_beyond_loopback_is_shown():
    assert "listens at tcp://10.0.0.1:7077" in shown()
    assert "not encrypted" not in shown()
    assert "allow_remote is set: links between sites, and NBD over TCP, are not encrypted" in shown(allow_remote=True)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_cut_off_on_a_narrow_terminal(width):
    member = {**MEMBER, "name": "member-with-a-name", "last_error": "cannot connect to tcp://10.0.0.2:7077: refused"}
    words = shown(width, volumes=[{**SITE["volumes"][0], "members": [member]}]).split()
    assert "…" not in "".join(words)
    assert {"member-with-a-name", "following", "tcp://10.0.0.2:7077:"} <= {word.rstrip(";") for word in words}

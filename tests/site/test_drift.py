"""What of a configuration waits for a restart of the daemon, and what a worker takes from it at once."""

import pytest

from replkit.site.config import parse_config
from replkit.site.drift import needs_restart, with_applied

BEFORE = """
site = "a"
[peers.b]
url = "tcp://127.0.0.1:7001"
[volumes.disk]
url = "file:///srv/disk"
size = "1GiB"
role = "primary"
nbd = "unix:/run/disk"
destinations = [{ peer = "b" }]
policy = { interval_s = 5 }
save_volume = { url = "file:///srv/save", capacity = "1GiB" }
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("interval_s = 5", "interval_s = 6", []),
        ('[{ peer = "b" }]', "[]", []),
        ('1GiB"\nrole', '2GiB"\nrole', []),
        ("unix:/run/disk", "unix:/run/other", ["volumes.disk.nbd"]),
        ("/srv/save", "/srv/other", ["volumes.disk.save_volume"]),
        ("7001", "7002", ["peers"]),
        ('site = "a"', 'site = "c"\nlisten = "tcp://127.0.0.1:7003"', ["listen", "site"]),
        ("[volumes.disk]", "[volumes.other]", ["volumes.disk", "volumes.other"]),
    ],
)
def test_what_only_a_restart_brings_is_named(old, new, expected):
    assert old in BEFORE
    assert needs_restart(parse_config(BEFORE), parse_config(BEFORE.replace(old, new))) == expected


def test_a_worker_keeps_the_addresses_that_it_has_opened():
    addresses, others = {"nbd": "unix:/run/disk", "url": "file:///a"}, {"nbd": "unix:/else", "url": "file:///b"}
    spec = {**addresses, "policy": {}, "members": [], "role": "primary", "size_bytes": 1}
    new = {**others, "policy": {"keep_sets": 1}, "members": [1], "role": "secondary", "size_bytes": 2}
    assert with_applied(spec, new) == {**new, **addresses}

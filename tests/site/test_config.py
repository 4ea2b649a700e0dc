"""A configuration is believed only when all of it is right, and every fault is told at once with its place."""

from __future__ import annotations

import pytest

from replkit.errors import ConfigError, InvalidArgumentError
from replkit.site.config import load_config, parse_config, policy_of, save_volume_of
from replkit.site.sizes import format_age, format_size, parse_size

GOOD = """
site = "berlin"
listen = "tcp://127.0.0.1:7077"

[peers.paris]
url = "tcp://127.0.0.1:7078"

[volumes.disk]
url = "file:///srv/disk.img"
size = "1GiB"
role = "primary"
nbd = "unix:/run/replkit/disk.nbd"
save_volume = { url = "file:///srv/save", capacity = "2 GiB" }
destinations = [{ peer = "paris", volume = "copy" }]
policy = { interval_s = 5, high_water_bytes = "64MiB", congestion = "pull-ahead" }
"""


def faults_of(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return dict(caught.value.faults)


def test_a_good_file_becomes_values_in_bytes():
    config = parse_config(GOOD)
    disk = config.volumes["disk"]
    assert (disk.size, disk.block_size, disk.save_volume.capacity) == (1 << 30, 4096, 2 << 30)
    assert policy_of(disk) == {"interval_s": 5, "high_water_bytes": 64 << 20, "congestion": "pull-ahead"}
    assert config.control_path.name == "control.sock"


def test_all_faults_are_told_at_once_with_their_places():
    text = (
        GOOD.replace('"1GiB"', '"many"')
        .replace('"primary"', '"king"')
        .replace('peer = "paris"', 'peer = "rome"')
        .replace('site = "berlin"', 'site = "../etc"\nsurprise = 1')
        .replace("interval_s = 5", "interval_s = -1")
        .replace("tcp://127.0.0.1:7077", "tcp://0.0.0.0:7077")
        .replace("unix:/run/replkit/disk.nbd", "nowhere")
    )
    found = faults_of(text)
    assert set(found) == {
        "site",
        "surprise",
        "listen",
        "volumes.disk.size",
        "volumes.disk.role",
        "volumes.disk.nbd",
        "volumes.disk.destinations.0.peer",
        "volumes.disk.policy.interval_s",
    }
    assert "rome" in found["volumes.disk.destinations.0.peer"]
    assert "allow_remote" in found["listen"]


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a" * 65, "a b", "../a"])
def test_a_name_that_could_be_a_path_is_refused(name):
    assert faults_of(GOOD.replace("[volumes.disk]", f'[volumes."{name}"]'))


def test_two_volumes_cannot_share_a_place():
    second = GOOD[GOOD.index("[volumes.disk]") :].replace("[volumes.disk]", "[volumes.other]")
    found = faults_of(GOOD + second)
    assert set(found) == {"volumes.other.url", "volumes.other.save_volume.url", "volumes.other.nbd"}


def test_a_secondary_has_no_destinations_and_needs_an_address():
    text = GOOD.replace('"primary"', '"secondary"').replace('listen = "tcp://127.0.0.1:7077"', "")
    assert set(faults_of(text)) == {"listen", "volumes.disk.destinations"}


@pytest.mark.parametrize("text", ["site = ", "\x00", "[volumes", 'site = "a"\nvolumes = 3', "peers = [1]"])
def test_what_is_no_configuration_gets_the_typed_error(text):
    with pytest.raises(ConfigError):
        parse_config(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        load_config(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), (512, 512), ("64KiB", 65536), ("1.5g", 3 << 29), ("2 TiB", 2 << 40), ("1M", 1 << 20)],
)
def test_sizes_are_read_in_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1XB", "GiB", True, None, 1.5])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InvalidArgumentError):
        parse_size(text)


def test_sizes_and_ages_are_written_for_people():
    assert (format_size(512), format_size(3 << 29)) == ("512 B", "1.5 GiB")
    assert [format_age(age) for age in (None, -1, 0.44, 12, 300, 9000, 200000)] == [
        "-", "0.0 s", "0.4 s", "12 s", "5 min", "2 h", "2 d"
    ]  # fmt: skip


def test_one_fault_hides_no_other():
    text = (
        GOOD.replace('listen = "tcp://127.0.0.1:7077"', 'listen = "tcp://0.0.0.0:7077"\nallow_remote = "yes"')
        .replace("unix:/run/replkit/disk.nbd", "0.0.0.0:10809")
        .replace('capacity = "2 GiB"', 'capacity = "much"')
        .replace("interval_s = 5", "interval_s = inf, keep_sets = 1.5, retries = -1, chunk_bytes = 1, nothing = 1")
        .replace('"64MiB", congestion = "pull-ahead"', '"x", congestion = "push"')
    )
    found = faults_of(text)
    policy = {"interval_s", "keep_sets", "retries", "chunk_bytes", "nothing", "high_water_bytes", "congestion"}
    assert set(found) == {
        "allow_remote", "listen", "volumes.disk.nbd", "volumes.disk.save_volume.capacity",
        *(f"volumes.disk.policy.{name}" for name in policy),
    }  # fmt: skip
    assert "block, pull-ahead" in found["volumes.disk.policy.congestion"]
    assert "inf, must be a number with an end" in found["volumes.disk.policy.interval_s"]
    assert "whole number" in found["volumes.disk.policy.keep_sets"]
    assert "no size" in found["volumes.disk.policy.high_water_bytes"]


SHARED = (
    GOOD
    + """
[volumes.near]
url = "file:///srv/near.img"
size = "1024MiB"
role = "secondary"
shared_with = "disk"
"""
)


def test_a_secondary_may_share_the_save_volume_of_its_primary():
    config = parse_config(SHARED.replace('listen = "tcp://127.0.0.1:7077"', ""))
    assert save_volume_of(config, "near") == config.volumes["disk"].save_volume
    near = SHARED[SHARED.index("[volumes.near]") :]
    for wrong, path in (
        (near.replace('"disk"', '"none"'), "shared_with"),
        (near.replace('"disk"', '"near"'), "shared_with"),
        (near.replace('"secondary"', '"primary"'), "role"),
        (near.replace("1024MiB", "1023MiB"), "size"),
        (near + 'save_volume = { url = "file:///srv/s", capacity = 1 }', "shared_with"),
        (near + "policy = { interval_s = 1 }", "policy"),
        (near + "block_size = 512", "block_size"),
        (near.replace('shared_with = "disk"', ""), "save_volume"),
    ):
        assert f"volumes.near.{path}" in faults_of(GOOD + wrong), wrong
    assert "volumes.paris.shared_with" in faults_of(SHARED.replace("[volumes.near]", "[volumes.paris]"))


@pytest.mark.requirement("X1", "U1")
def test_a_url_that_no_plugin_opens_is_a_fault_of_the_file_beside_its_others(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(
        """
        site = "Not A Name"
        listen = "nix://127.0.0.1:1"
        [peers.b]
        url = "file:///x"
        [volumes.disk]
        role = "primary"
        url = "tcp://127.0.0.1:7"
        size = "1MiB"
        save_volume = { url = "file:///srv/save", capacity = "1GiB" }
        [volumes.other]
        role = "primary"
        url = "no-url"
        size = "1MiB"
        save_volume = { url = "nope:///x", capacity = "1GiB" }
        """
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    found = dict(caught.value.faults)
    assert found.keys() == {
        "site", "listen", "peers.b.url", "volumes.disk.url", "volumes.other.url", "volumes.other.save_volume.url",
    }  # fmt: skip
    assert "no plugin opens a transport at file:///x" in found["peers.b.url"]
    path.write_text('site = "a"\nplugins = ["no_such_plugin"]\n')
    with pytest.raises(ConfigError, match="plugins: plugin 'no_such_plugin' cannot be loaded"):
        load_config(path)
    assert load_config(path, places=False).site == "a", "who only looks for the control socket needs no plugin"

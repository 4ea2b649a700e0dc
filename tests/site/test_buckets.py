"""A destination in a bucket is a volume of the site; what it costs is counted over days; cells are remembered."""

from __future__ import annotations

import pytest

from replkit.backends.memory.savevolume import MemorySaveVolume
from replkit.errors import ConfigError, SwapConflictError
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.site.buckets import Entry, list_entries, place_below, write_entry
from replkit.site.config import bucket_of, parse_config
from replkit.site.plan import WorkerSpecs, volume_spec
from replkit.site.remembering import RememberingSaveVolume, remember_cells, spent_of
from replkit.site.reopening import ReopeningVolume

SITE = """
site = "a"
listen = "tcp://127.0.0.1:7077"
[volumes.disk]
url = "file:///srv/disk"
size = "1MiB"
role = "primary"
save_volume = { url = "file:///srv/save", capacity = "64MiB" }
destinations = [DESTINATION]
"""
BUCKET = '{ bucket = "s3://some-bucket/dr", endpoint = "http://127.0.0.1:9000", storage_class = "STANDARD_IA" }'


def site(destination):
    return SITE.replace("DESTINATION", destination)


@pytest.mark.requirement("U3")
def test_a_destination_in_a_bucket_is_a_secondary_of_this_site():
    config = parse_config(site(BUCKET))
    there = config.volumes["disk-bucket"]
    options = "?endpoint=http://127.0.0.1:9000&storage_class=STANDARD_IA"
    assert (there.role, there.size) == ("secondary", 1 << 20)
    assert there.url == f"s3://some-bucket/dr/disk/volume{options}"
    assert there.save_volume.url == f"s3://some-bucket/dr/disk/save{options}"
    assert there.save_volume.capacity == 64 << 20
    assert bucket_of(config, "disk-bucket") == "disk"
    assert place_below(there.catalogue, there.save_volume.url) == "disk"
    member = volume_spec(config, "disk")["members"][0]
    assert (member["name"], member["url"], member["destination_volume"]) == (
        "bucket", "tcp://127.0.0.1:7077", "disk-bucket"
    )  # fmt: skip
    workers = WorkerSpecs(config).workers({"disk": "primary", "disk-bucket": "secondary"})
    assert [kind for _, kind, _ in workers] == ["primary", "sender", "replica"]
    assert [one["name"] for one in workers[2][2]["volumes"]] == ["disk-bucket"]


@pytest.mark.parametrize(
    ("destination", "path", "what"),
    [
        ('{ bucket = "s3://b/p", peer = "x" }', "destinations.0.peer", "name a peer, or a bucket"),
        ("{ }", "destinations.0.peer", "name a peer, or a bucket"),
        ('{ bucket = "s3://b/p", volume = "x" }', "destinations.0.volume", "name of its primary"),
        ('{ peer = "x", region = "y" }', "destinations.0.region", "is for a bucket"),
        ('{ bucket = "s3://b/p" }, { bucket = "s3://b/q" }', "destinations.1.peer", "named twice"),
        ('{ bucket = "s3://b/p" }, { bucket = "s3://b/p", name = "c" }', "volumes.disk-c.url", "used by"),
    ],
)
def test_faults_of_destinations_are_told_with_their_place(destination, path, what):
    with pytest.raises(ConfigError) as caught:
        parse_config(site(destination))
    assert any(place.endswith(path) and what in said for place, said in caught.value.faults), caught.value.faults


def test_a_site_with_a_bucket_needs_an_address():
    with pytest.raises(ConfigError, match="listen"):
        parse_config(site(BUCKET).replace('listen = "tcp://127.0.0.1:7077"\n', ""))


def test_volumes_of_a_bucket_are_listed():
    store = MemoryObjectStore()
    entry = Entry(place="disk", source="disk", site="a", size_bytes=1, block_size=2, capacity_bytes=3)
    write_entry(store, entry)
    assert list_entries(store) == [entry]


class Counted(MemorySaveVolume):
    """As one in a bucket."""

    def __init__(self):
        super().__init__()
        self.loads, self.spent = 0, {"get requests": 1}

    @property
    def requests(self):
        return self.spent

    def load(self, cell):
        self.loads += 1
        return super().load(cell)


def test_a_cell_is_loaded_once_and_anew_when_it_is_old_or_refused(manual_runtime):
    save = Counted()
    cells = RememberingSaveVolume(save, manual_runtime)
    assert cells.swap("policy", b"1", 0) == 1
    save.loads = 0
    assert [cells.load("policy").value for _ in range(9)] == [b"1"] * 9
    assert save.loads == 0
    save.swap("policy", b"2", 1)
    assert cells.load("policy").value == b"1"
    with pytest.raises(SwapConflictError):
        cells.swap("policy", b"3", 1)
    assert cells.load("policy").value == b"2"
    save.swap("sent.b", b"x", 0)
    assert cells.load("sent.b").value == b"x"
    save.swap("sent.b", b"y", 1)
    manual_runtime.advance(1.5)
    assert cells.load("sent.b").value == b"y"


def test_requests_are_added_up_over_days_and_restarts(manual_runtime):
    save = Counted()
    assert spent_of(save) is None
    cells = remember_cells(save, manual_runtime)
    save.spent = {"get requests": 5, "bytes got": 7}
    assert spent_of(cells)["today"] == {"gets": 5, "bytes_got": 7}
    manual_runtime.advance(86400)
    save.spent = {"get requests": 6, "bytes got": 7}
    assert spent_of(cells) == {"today": {"gets": 1, "bytes_got": 0}, "total": {"gets": 6, "bytes_got": 7}}
    cells.ledger.save()
    save.spent = {"get requests": 2}
    again = remember_cells(save, manual_runtime)
    assert spent_of(again)["total"] == {"gets": 8, "bytes_got": 7}
    assert remember_cells(MemorySaveVolume(), manual_runtime).__class__ is MemorySaveVolume


@pytest.mark.requirement("C1", "U3")
def test_a_copy_is_read_from_a_state_that_is_not_older_than_its_snapshot(manual_runtime):
    store = MemoryObjectStore()
    with ObjectVolume.create(store, block_size=512, size_bytes=4096, runtime=manual_runtime) as writer:
        reader = ReopeningVolume(lambda: ObjectVolume.open(store, runtime=manual_runtime, read_only=True))
        writer.write(1, b"x" * 512)
        writer.flush()
        buffer = bytearray(512)
        reader.read_into(1, buffer)
        assert buffer == bytes(512)
        for letter in (b"x", b"y"):
            writer.write(1, letter * 512)
            writer.flush()
            reader.refresh()
            reader.read_into(1, buffer)
            assert buffer == letter * 512
        assert [(extent.start, extent.count) for extent in reader.in_use()] == [(1, 1)]
        reader.close()

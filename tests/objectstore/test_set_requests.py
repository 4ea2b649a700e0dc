"""What a set costs a secondary in a bucket, request by request: who pays must not find more of them one day."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from replkit.contracts.registry import SaveVolumeOptions
from replkit.errors import CorruptRecordError
from replkit.objectstore.cells import KEPT
from replkit.objectstore.memory import MemoryObjectStore
from replkit.objectstore.metered import MeteredStore
from replkit.objectstore.opening import open_save_volume
from replkit.objectstore.recent import SMALL_RECORD_BYTES, RecentRecords
from replkit.objectstore.volume import ObjectVolume
from replkit.replication import receive_set
from replkit.replication.cells import RECEIVING, Receiving
from replkit.replication.policy import Policy, change_policy
from replkit.replication.received import SETS_A_SWAP
from replkit.replication.root import load_struct
from replkit.replication.trimmer import WAIT_SETS
from replkit.site.remembering import remember_cells
from replkit.testing.crashing import CrashDisk
from replkit.testing.flaky_store import FlakyStore
from replkit.testing.objectstore_host import InlineHost
from replkit.testing.runtime import ManualRuntime
from replkit.testing.sim import machines
from replkit.testing.sim.model import read_all
from replkit.testing.sim.world import World

BLOCKS = 64
ONE_BLOCK = {
    ("volume", "put", "data"): 1,
    ("volume", "put_new", "cells/root"): 1,
    ("volume", "get", "cells/root"): 1,  # that the version before is still there fences: rule 3 of ``cells``
    ("save", "put", "bundles"): 1,
    ("save", "put_new", "own/cells/journal"): 1,
    ("save", "get", "own/cells/journal"): 5,  # rule 3, and who is the producer: two for each swap of another cell
    ("save", "put_new", "cells/root"): 1,  # names the set, says that its pass begins, and trims the one before
    ("save", "get", "cells/root"): 1,
    ("save", "put_new", "cells/playing"): 1,
    ("save", "get", "cells/playing"): 1,
}
"""Requests of a set of one block: 6 that write and 8 that read."""
WARM_UP = 2 * KEPT
"""After so many sets each cell that a set swaps has its housekeeping in its stride."""


class Bill:
    """A world whose secondary is in a bucket, and what that is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int = 4096) -> None:
        self.runtime = ManualRuntime(seed=3, waits_advance=True)
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self.objects: dict[str, dict[str, bytes]] = {"volume": {}, "save": {}}
        self.host = InlineHost(self.runtime)
        disks, saves, save_of_disk = itertools.count(), itertools.count(), machines.SimSaveVolume

        def new_disk(power, block_count, *, block_size):
            if next(disks) != 1:
                return CrashDisk(power, block_count, block_size=block_size)
            size = block_count * block_size
            return ObjectVolume.create(
                self.store("volume"), block_size=block_size, size_bytes=size, runtime=self.runtime
            )

        def new_save(power, *, sets_bytes):
            return self.open_save() if next(saves) == 1 else save_of_disk(power, sets_bytes=sets_bytes)

        monkeypatch.setattr(machines, "CrashDisk", new_disk)
        monkeypatch.setattr(machines, "SimSaveVolume", new_save)
        self.world = World(seed=5, block_count=BLOCKS, policy=Policy(interval_s=1e9, chunk_bytes=chunk_bytes))
        self.secondary = self.world.secondaries[0]
        self.world.write(0, bytes([1]) * machines.BLOCK_SIZE * 8)
        self.world.primary.replica.cut()
        self.world.add_members()
        self.world.settle()
        for block in range(WARM_UP):
            self.cost_of([block])

    def store(self, name):
        def count(operation, key):
            parts = [part for part in key.split("/") if not part.isdigit()]
            self.calls[name, operation, "/".join(parts) if "cells" in parts else parts[0]] += 1

        inner = MemoryObjectStore(f"{name}:", self.objects[name])
        return MeteredStore(FlakyStore(inner, random.Random(0), faults=(), before_call=count), self.runtime)

    def open_save(self):
        options = SaveVolumeOptions(producer=True, create=True)
        return remember_cells(open_save_volume(self.store("save"), options, self.host), self.runtime)

    def cut(self, *blocks):
        for block in blocks:
            self.world.write(block, self.world.random.randbytes(machines.BLOCK_SIZE))
        self.world.primary.replica.cut()

    def cost_of(self, *sets, done=None):
        """Requests of these sets, from the first that arrives to the end of what they set off."""
        for blocks in sets:
            self.cut(*blocks)
        self.calls.clear()
        self.world.settle(done)
        for _ in range(20):
            self.world.round()
        return {place: count for place, count in self.calls.items() if place[1] != "delete"}

    def restart(self):
        """The process of the secondary is gone and comes again."""
        self.host.kill()
        self.secondary.stop()
        self.secondary.save = self.open_save()
        self.secondary.disk = ObjectVolume.open(self.store("volume"), runtime=self.runtime)
        self.secondary.start()


def requests_of(cost):
    writes = sum(count for (_, operation, _), count in cost.items() if operation in {"put", "put_new"})
    return writes, sum(count for (_, operation, _), count in cost.items() if operation in {"get", "list"})


def without_housekeeping(cost):
    """Without that of cells at each eighth version, and of the history of sets."""
    return {
        place: count for place, count in cost.items()
        if (place[1] != "put" or place[2] in {"bundles", "data"}) and place[2] != "cells/received"
    }  # fmt: skip


@pytest.mark.requirement("U2", "U3")
def test_a_set_of_one_block_costs_six_requests_that_write_and_eight_that_read(monkeypatch):
    bill = Bill(monkeypatch)
    for block in range(KEPT):
        assert without_housekeeping(bill.cost_of([block])) == ONE_BLOCK
    assert requests_of(ONE_BLOCK) == (6, 8)


def test_what_is_done_now_and_then_adds_less_than_a_request_to_each_set(monkeypatch):
    """Housekeeping of cells, the history of sets, and one checkpoint of the volume in 64 flushes."""
    bill, count = Bill(monkeypatch), KEPT * SETS_A_SWAP
    total = sum((Counter(bill.cost_of([number % BLOCKS])) for number in range(count)), Counter())
    more = {place: found - count * ONE_BLOCK.get(place, 0) for place, found in total.items()}
    assert {place: found for place, found in more.items() if found} == {
        ("save", "put", "hints"): 33,
        ("save", "put", "own"): 16,  # hints of the journal
        ("volume", "put", "hints"): 16,
        ("save", "put_new", "cells/received"): 8,
        ("save", "get", "cells/received"): 8,
        ("save", "get", "own/cells/journal"): 16,
        ("volume", "put", "map"): 2,
        ("volume", "get", "data"): 47,  # indexes of small objects that are joined
        ("volume", "list", "holds"): 2,
    }
    assert requests_of(total) == (6 * count + 75, 8 * count + 73)


def test_a_pass_over_many_sets_costs_no_more_than_a_pass_over_one(monkeypatch):
    bill = Bill(monkeypatch)
    change_policy(bill.secondary.save, play_interval_s=1e6)
    sets = [[block, block + 1] for block in range(10)]

    def is_received():
        return bill.secondary.replica.root.last == bill.world.primary.replica.root.last

    received = without_housekeeping(bill.cost_of(*sets, done=is_received))
    assert requests_of(received) == (
        10 * 3,
        10 * 4,
    )  # bundle, journal, root; that both are still ours, and the producer
    bill.secondary.replica.player.play_now()
    played = without_housekeeping(bill.cost_of())
    of_pass = {place: count for place, count in ONE_BLOCK.items() if place[0] == "volume" or "playing" in place[2]}
    of_cells = {("save", "put_new", "cells/playing"): 2, ("save", "get", "cells/playing"): 2}
    of_trimming = {("save", "put_new", "cells/root"): 1, ("save", "get", "cells/root"): 1}
    assert played == {**of_pass, **of_cells, **of_trimming, ("save", "get", "own/cells/journal"): 3 * 2}
    assert requests_of(played) == (5, 10)


def test_a_set_of_many_chunks_costs_its_bundles_and_data_objects_more(monkeypatch):
    """What was just received is not fetched to be played."""
    bill = Bill(monkeypatch, chunk_bytes=4096)
    assert without_housekeeping(bill.cost_of(range(0, BLOCKS, 2))) == ONE_BLOCK


def test_what_is_played_is_trimmed_with_the_next_set_and_at_once_where_it_is_more_or_room_is_wished_for(monkeypatch):
    bill = Bill(monkeypatch)
    bill.cost_of([1])
    root = bill.secondary.replica.root
    assert root.last.number - root.first_kept < WAIT_SETS
    waiting = bill.secondary.save.list("sets/")
    assert waiting
    bill.cost_of([2])
    bill.cost_of([3])
    assert not set(waiting) & set(bill.secondary.save.list("sets/"))
    bill.secondary.replica.parts.room_wish.is_made = True
    for _ in range(5):
        bill.world.round()
    root = bill.secondary.replica.root
    assert root.first_kept == root.last.number + 1
    assert root.condemned == ()
    assert bill.secondary.save.list("sets/") == []


def test_a_crash_before_the_next_set_trims_what_had_waited(monkeypatch):
    bill = Bill(monkeypatch)
    for block in (1, 2, 3):
        bill.cost_of([block])
    assert bill.secondary.replica.root.condemned
    bill.restart()
    bill.cost_of([4], [5])
    assert read_all(bill.secondary.disk) == bytes(bill.world.model.image)
    tags = {key.split("/")[1] for key in bill.secondary.save.list("sets/")}
    assert len(tags) <= WAIT_SETS


def test_the_history_of_sets_survives_a_crash_that_its_cell_did_not_see(monkeypatch):
    bill = Bill(monkeypatch)
    for number in range(SETS_A_SWAP + 3):
        bill.cost_of([number])
    before = [(entry["number"], entry["created_s"]) for entry in bill.secondary.replica.status()["history"]]
    bill.restart()
    after = [(entry["number"], entry["created_s"]) for entry in bill.secondary.replica.status()["history"]]
    assert after == before
    assert after[-1][0] == bill.secondary.replica.root.last.number


@pytest.mark.parametrize("resume_bytes", [0, 1 << 20])
def test_a_set_is_named_as_arriving_once_it_is_worth_going_on_with(monkeypatch, resume_bytes):
    monkeypatch.setattr(receive_set, "RESUME_BYTES", resume_bytes)
    bill = Bill(monkeypatch, chunk_bytes=4096)
    cost = bill.cost_of(range(0, BLOCKS, 2))
    assert cost.get(("save", "put_new", "cells/receiving"), 0) == (0 if resume_bytes else 1)
    named, _version = load_struct(bill.secondary.save, RECEIVING, Receiving)
    assert (named is None) == bool(resume_bytes)


def receive_only(bill, *blocks):
    """A set arrives, and the process ends before its player looks."""
    player = bill.secondary.replica.player
    step, player.step = player.step, lambda: 0.5
    bill.cut(*blocks)
    bill.world.settle(lambda: bill.secondary.replica.root.last == bill.world.primary.replica.root.last)
    player.step = step


@pytest.mark.requirement("C2")
def test_the_swap_that_publishes_a_set_announces_the_pass_over_it(monkeypatch):
    """Invariant 6: whoever opens it then believes the volume to be in that pass, and plays it to its end."""
    bill = Bill(monkeypatch)
    receive_only(bill, 3)
    root, player = bill.secondary.replica.root, bill.secondary.replica.player
    assert root.base is not None
    assert root.base.until == root.last.number
    assert not player.is_at_rest
    bill.restart()
    player = bill.secondary.replica.player
    assert not player.is_at_rest
    assert player.position.number == root.last.number - 1
    bill.world.settle()
    assert player.is_at_rest
    assert read_all(bill.secondary.disk) == bytes(bill.world.model.image)


def test_no_pass_is_announced_that_does_not_begin_at_once(monkeypatch):
    bill = Bill(monkeypatch)
    until = bill.secondary.replica.root.base.until
    change_policy(bill.secondary.save, play_interval_s=1e6)
    receive_only(bill, 3)
    assert bill.secondary.replica.root.base.until == until
    change_policy(bill.secondary.save, play_interval_s=0.0)
    receive_only(bill, 4)  # there is one before it
    assert bill.secondary.replica.root.base.until == until
    bill.world.settle()
    key, *_ = bill.secondary.replica.player.sets.pin()
    bill.cut(5)
    assert not bill.secondary.replica.player.sets.may_write(bill.world.primary.replica.root.last.number)
    receive_only(bill)
    bill.secondary.replica.player.sets.end(key)
    assert bill.secondary.replica.root.base.until <= bill.secondary.replica.player.position.number
    bill.world.settle()
    assert read_all(bill.secondary.disk) == bytes(bill.world.model.image)


def test_a_record_is_recalled_until_it_is_taken_or_deleted_and_damage_is_not_hidden_by_it():
    objects, runtime = {}, ManualRuntime(seed=1)
    options, store = SaveVolumeOptions(producer=True, create=True), MemoryObjectStore("save:", objects)
    save = open_save_volume(store, options, InlineHost(runtime))
    chunk = random.Random(1).randbytes(1 << 20)
    save.put("sets/a/0", [chunk])
    save.put("lists/a/0", [b"list"])
    save.put("areas/a/0", [b"old"])
    save.sync()
    assert save.recall("areas/a/0") is None
    assert [bytes(save.recall("lists/a/0") or b"") for _ in range(2)] == [b"list"] * 2
    (bundle,) = [key for key, data in objects.items() if chunk[:100] in data]
    objects[bundle] = objects[bundle].replace(chunk[:100], bytes(100))
    assert bytes(save.recall("sets/a/0") or b"") == chunk
    assert save.recall("sets/a/0") is None
    with pytest.raises(CorruptRecordError, match=bundle):
        save.get("sets/a/0")
    save.delete(["lists/a/0"])
    assert save.recall("lists/a/0") is None


def test_what_is_recalled_is_bounded_and_the_oldest_goes_first():
    recent = RecentRecords(large_bytes=5 * (SMALL_RECORD_BYTES + 1), small_bytes=10)
    for number in range(8):
        recent.add(f"sets/a/{number}", bytes(SMALL_RECORD_BYTES + 1))
        recent.add(f"lists/a/{number}", b"four")
    assert [number for number in range(8) if recent.take(f"sets/a/{number}")] == [3, 4, 5, 6, 7]
    assert [number for number in range(8) if recent.take(f"lists/a/{number}")] == [6, 7]

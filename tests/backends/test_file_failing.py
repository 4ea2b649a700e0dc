"""What a file save volume does where the disk fails, or is full."""

import errno
import os
import threading

import pytest

from replkit.backends.file.layout import SECTOR_BYTES
from replkit.contracts.savevolume import Partition
from replkit.contracts.scrub import scrub
from replkit.errors import SaveVolumeFailedError, SaveVolumeFullError


def keys(save, prefix=""):
    return list(save.list(prefix))


@pytest.mark.requirement("S5")
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_is_final_until_opened_again(opened, monkeypatch, code):
    """Invariant 1."""
    save = opened()
    save.put("sets/a/0", [b"x"])

    def fail(fd):
        raise OSError(code, "broken")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(SaveVolumeFailedError, match="broken"):
        save.sync()
    monkeypatch.undo()
    for call in (
        save.sync,
        lambda: save.put("sets/a/1", [b"x"]),
        lambda: save.delete(["sets/a/0"]),
        lambda: save.swap("root", b"x", 0),
    ):
        with pytest.raises(SaveVolumeFailedError, match="broken"):
            call()
    assert bytes(save.get("sets/a/0")) == b"x"
    again = opened()
    again.put("sets/a/1", [b"x"])
    again.sync()


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, SaveVolumeFullError), (errno.EIO, SaveVolumeFailedError)]
)
def test_a_failed_put_leaves_nothing(opened, monkeypatch, code, expected):
    """Also where half of it was written before it failed."""
    save = opened()
    save.put("sets/a/0", [b"x" * 1000])
    pwritev = os.pwritev

    def fail(fd, views, offset):
        pwritev(fd, [b"".join(views)[:700]], offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(expected, match="sets/a/1"):
        save.put("sets/a/1", [b"y" * 1000])
    monkeypatch.undo()
    assert keys(save) == ["sets/a/0"]
    if expected is SaveVolumeFullError:
        save.put("sets/a/1", [b"z"])
        save.sync()
    assert keys(opened()) == ["sets/a/0", "sets/a/1"][: 2 if expected is SaveVolumeFullError else 1]


def test_threads_that_wait_are_served_by_one_sync(opened, monkeypatch):
    """Group commit: while one sync runs, all who come share the next one."""
    save = opened()
    fdatasync, began, go_on, calls = os.fdatasync, threading.Event(), threading.Event(), []

    def slow(fd):
        calls.append(fd)
        began.set()
        go_on.wait()
        fdatasync(fd)

    save.put("areas/s/first", [b"x"])
    monkeypatch.setattr(os, "fdatasync", slow)
    first = threading.Thread(target=save.sync)
    first.start()
    began.wait()
    for number in range(8):
        save.put(f"areas/s/{number}", [b"x"])
    others = [threading.Thread(target=save.sync) for _ in range(8)]
    waiting = threading.Event()
    wait = save._rounds.wait
    count = [0]

    def counted(timeout=None):
        count[0] += 1
        if count[0] == len(others):
            waiting.set()
        return wait(timeout)

    monkeypatch.setattr(save._rounds, "wait", counted)
    for thread in others:
        thread.start()
    waiting.wait()
    go_on.set()
    for thread in [first, *others]:
        thread.join()
    assert len(calls) == 2


def test_no_thread_that_waited_takes_a_failed_sync_for_a_good_one(opened, monkeypatch):
    """Group commit: what one thread's sync lost, all who shared it have lost."""
    save = opened()
    save.put("areas/s/0", [b"x"])
    outcomes, began, go_on, waits = [], threading.Event(), threading.Event(), threading.Event()

    def fail(fd):
        began.set()
        go_on.wait()
        raise OSError(errno.ENOSPC, "full")

    def sync():
        try:
            outcomes.append(save.sync())
        except SaveVolumeFailedError as error:
            outcomes.append(error)

    wait = save._rounds.wait
    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(save._rounds, "wait", lambda timeout=None: (waits.set(), wait(timeout))[1])
    first, second = threading.Thread(target=sync), threading.Thread(target=sync)
    first.start()
    began.wait()
    second.start()
    waits.wait()
    go_on.set()
    first.join()
    second.join()
    assert [type(outcome) for outcome in outcomes] == [SaveVolumeFailedError] * 2


@pytest.mark.parametrize("short", [512, 700, 1535])
def test_a_put_that_found_no_room_half_way_is_never_taken_for_a_record(opened, monkeypatch, short):
    """Its head was written; a later sync passes its number, so that recovery would believe it without a look."""
    save = opened()
    save.put("areas/s/0", [b"x" * 1000])
    pwritev = os.pwritev

    def fail(fd, views, offset):
        if sum(len(view) for view in views) <= SECTOR_BYTES:
            return pwritev(fd, views, offset)
        pwritev(fd, [b"".join(views)[:short]], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", fail)
    for key in ("areas/s/1", "areas/t/0"):  # behind another record, and first in its segment
        with pytest.raises(SaveVolumeFullError, match=key):
            save.put(key, [b"y" * 1000])
    monkeypatch.undo()
    save.put("areas/s/2", [b"z"])
    save.sync()
    save.put("areas/s/3", [b"knows how far the sync came"])
    again = opened()
    assert keys(again) == ["areas/s/0", "areas/s/2", "areas/s/3"]
    assert (again.dropped, again.damaged, list(scrub(again))) == ([], [], [])


def test_a_failed_put_that_cannot_be_taken_back_is_final(opened, monkeypatch):
    """Invariant 1: without the end mark in its place, no later sync may make the record look durable."""
    save = opened()
    pwritev = os.pwritev
    calls = []

    def fail(fd, views, offset):
        calls.append(offset)
        if len(calls) == 2:  # the head of the segment is there; this is the record
            pwritev(fd, [b"".join(views)[:700]], offset)
        if len(calls) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwritev(fd, views, offset)

    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    monkeypatch.setattr(os, "pwritev", fail)
    with pytest.raises(SaveVolumeFailedError, match="taken back"):
        save.put("sets/a/0", [b"y" * 1000])
    monkeypatch.undo()
    with pytest.raises(SaveVolumeFailedError):
        save.sync()
    assert keys(opened()) == []


def test_a_compaction_that_runs_out_of_room_brings_no_deleted_record_back(opened, monkeypatch):
    """A copy that was made must take the place of its original, though the next copy failed."""
    save = opened()
    partition = save._partitions[Partition.LISTS]
    for number in range(40):
        save.put(f"lists/kept/{number:02d}", [b"%d" % number])
        save.put(f"lists/map-{number}/0", [bytes(80_000)])
        save.delete([f"lists/map-{number}/0"])
    save.sync()
    copied, append = [], partition._append

    def fail(segment, key, *rest):
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copied.append(key)
        return append(segment, key, *rest)

    monkeypatch.setattr(partition, "_append", fail)
    with partition.lock:
        partition._compact()
    monkeypatch.undo()
    assert len(copied) == 3
    save.delete(copied)
    save.sync()
    assert keys(opened(), "lists/kept/") == [
        f"lists/kept/{n:02d}" for n in range(40) if f"lists/kept/{n:02d}" not in copied
    ]

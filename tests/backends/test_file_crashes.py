"""Losses of power: of the writes after the last sync any subset of sectors may be on the disk, and no other promise."""

import os
import random
from pathlib import Path

import pytest

from replkit.backends.file.savevolume import FileSaveVolume
from replkit.contracts.registry import SaveVolumeOptions
from replkit.errors import SaveVolumeFullError

SECTOR = 512
FILES = ("sets", "areas", "lists")


class Disk:
    """Remembers which writes were followed by a sync, and makes a disk as a loss of power could leave it."""

    def __init__(self, monkeypatch, directory):
        self.directory = directory
        self.durable = dict.fromkeys(FILES, b"")
        self.pending = []
        for name in ("pwritev", "pwrite"):
            monkeypatch.setattr(os, name, self.writing(getattr(os, name)))
        for name in ("fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self.syncing(getattr(os, name)))

    def name_of(self, fd):
        path = Path(f"/proc/self/fd/{fd}").readlink()
        return path.name if path.parent == self.directory else ""

    def writing(self, call):
        def write(fd, data, offset):
            done = call(fd, data, offset)
            joined = bytes(data) if isinstance(data, bytes) else b"".join(data)
            if self.name_of(fd) in FILES:
                self.pending.append((self.name_of(fd), offset, joined[:done]))
            return done

        return write

    def syncing(self, call):
        def sync(fd):
            call(fd)
            name = self.name_of(fd)
            if name in FILES:
                self.durable[name] = (self.directory / name).read_bytes()
                self.pending = [write for write in self.pending if write[0] != name]

        return sync

    def lose_power(self, source):
        """Write the files anew: what was synced, and of the rest each sector by chance."""
        share = source.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        images = {name: bytearray(data) for name, data in self.durable.items()}
        for name, offset, data in self.pending:
            image, at = images[name], 0
            while at < len(data):
                step = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
                if source.random() < share:
                    image.extend(bytes(max(0, offset + at + step - len(image))))
                    image[offset + at : offset + at + step] = data[at : at + step]
                at += step
        for name, image in images.items():
            (self.directory / name).write_bytes(image)
            self.durable[name] = bytes(image)
        self.pending = []


class Model:
    """What a save volume must hold, and what it may hold besides, after a loss of power."""

    def __init__(self):
        self.synced, self.unsynced, self.deleted = {}, {}, {}

    def live(self):
        return {**self.synced, **self.unsynced}

    def put(self, key, data):
        self.unsynced[key] = data

    def delete(self, key):
        self.deleted[key] = self.live()[key]
        self.synced.pop(key, None)
        self.unsynced.pop(key, None)

    def sync(self):
        self.synced, self.unsynced, self.deleted = self.live(), {}, {}

    def check_after_crash(self, save):
        assert save.damaged == []
        found = {key: bytes(save.get(key)) for key in save.list("")}
        assert {key: found.get(key) for key in self.synced} == self.synced
        allowed = {**self.live(), **self.deleted}
        assert all(allowed[key] == data for key, data in found.items())
        self.synced, self.unsynced, self.deleted = found, {}, {}


def work(save, model, source, round_number):
    for step in range(source.randrange(5, 120)):
        action = source.random()
        if action < 0.6:
            group = source.choice(("sets/a", "areas/s1", "areas/s2", "lists/x"))
            key = f"{group}/{round_number}-{step}"
            data = source.randbytes(source.choice((0, 100, 512, 3000, 9000, 30_000)))
            try:
                save.put(key, [data[:50], data[50:]])
                model.put(key, data)
            except SaveVolumeFullError:
                for victim in source.sample(sorted(model.live()), len(model.live()) * 3 // 4):
                    save.delete([victim])
                    model.delete(victim)
        elif action < 0.85 and model.live():
            victim = source.choice(sorted(model.live()))
            save.delete([victim])
            model.delete(victim)
        else:
            save.sync()
            model.sync()
    assert list(save.list("")) == sorted(model.live())


@pytest.mark.requirement("S1", "S5")
@pytest.mark.parametrize("seed", [*range(8), 95])  # 95: an end mark was put into a newer segment
def test_after_any_loss_of_power_synced_records_are_whole_and_others_whole_or_absent(tmp_path, monkeypatch, seed):
    """Invariants 1 and 12, over several crashes of one save volume that is small enough to reuse its space."""
    source = random.Random(seed)
    monkeypatch.setattr(os, "urandom", random.Random(seed).randbytes)
    directory = tmp_path / "save"
    url, options = f"file://{directory}", SaveVolumeOptions(capacity_bytes=1 << 20, create=True)
    FileSaveVolume(directory, url, options).close()
    disk, model = Disk(monkeypatch, directory), Model()
    disk.durable = {name: (directory / name).read_bytes() for name in FILES}
    for round_number in range(12):
        save = FileSaveVolume(directory, url, options)
        try:
            model.check_after_crash(save)
            work(save, model, source, round_number)
        finally:
            save.close()  # its end marks are unsynced writes like others
        disk.lose_power(source)
    save = FileSaveVolume(directory, url, options)
    model.check_after_crash(save)
    save.close()

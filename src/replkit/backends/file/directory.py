"""The directory of a file save volume: making it, opening it, and the producer's lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from replkit.backends.file.cells import FileCells
from replkit.backends.file.feed import FeedWriter
from replkit.backends.file.layout import DEFAULT_CAPACITY_BYTES, Layout, decode_layout, plan
from replkit.backends.file.syscalls import sync_directory
from replkit.contracts.registry import SaveVolumeOptions
from replkit.errors import InvalidArgumentError, NotFoundError, SaveVolumeBusyError, SaveVolumeFailedError

_FORMAT = "format.json"


def open_directory(path: Path, url: str, options: SaveVolumeOptions) -> Layout:
    """Read the layout, after making the save volume if it is absent and may be made."""
    try:
        data = (path / _FORMAT).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not options.create:
            raise NotFoundError(f"{url}: no save volume there", hint="open it with create") from None
        data = _create(path, options.capacity_bytes or DEFAULT_CAPACITY_BYTES)
    layout = decode_layout(data, str(path / _FORMAT))
    if options.capacity_bytes not in {None, layout.capacity_bytes}:
        raise InvalidArgumentError(
            f"{url}: was created with {layout.capacity_bytes} bytes, not {options.capacity_bytes}"
        )
    return layout


def _create(path: Path, capacity_bytes: int) -> bytes:
    """Make everything, and ``format.json`` last: a creation that was cut short is begun again."""
    layout = plan(capacity_bytes, int.from_bytes(os.urandom(8), "little"))
    try:
        for partition in layout.partitions:
            (path / partition.value).write_bytes(b"")
        FileCells(path / "cells.sqlite3").close()
        FeedWriter(path / "feed", 0).close()
        data = msgspec.json.encode(layout)
        fresh = path / f"{_FORMAT}.new"
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path)
        fresh.rename(path / _FORMAT)
        sync_directory(path)
        sync_directory(path.parent)
    except OSError as error:
        raise SaveVolumeFailedError(f"{path}: a save volume cannot be created there: {error}") from error
    return data


def lock_producer(path: Path, url: str, *, create: bool) -> int:
    """Take the producer's place; return the descriptor that holds it until it is closed or the process ends."""
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not (path / _FORMAT).exists():
            raise FileNotFoundError(path / _FORMAT)
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{url}: no save volume there", hint="open it with create") from None
    except OSError as error:
        raise SaveVolumeFailedError(f"{url}: cannot be opened: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise SaveVolumeBusyError(f"{url}: another process, or this one, has it open as producer") from None
    return fd

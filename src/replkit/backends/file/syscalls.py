"""The few system calls of the file backend that need care: whole transfers, holes, durable names."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from replkit.errors import InvalidArgumentError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MAX_PARTS = 1024  # IOV_MAX of Linux
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_RANGE_WRITE = 2
WRITEBACK_BYTES = 1 << 20
"""What is written in one go and is at least so large is worth a call of ``begin_writeback``."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_sync_file_range = getattr(_libc, "sync_file_range", None)  # Linux
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def path_of(url: str) -> Path:
    """The absolute path in a URL ``file:///path``, percent signs decoded."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/") or "\0" in path or path == "/":
        raise InvalidArgumentError(f"{url!r} names no file", hint="write it as file:///absolute/path")
    return Path(path)


def read_full(fd: int, view: memoryview, offset: int) -> int:
    """Read until ``view`` is full or the file ends; return how many bytes came."""
    done = os.preadv(fd, [view], offset)
    while 0 < done < view.nbytes:
        more = os.preadv(fd, [view[done:]], offset + done)
        if not more:
            break
        done += more
    return done


def write_full(fd: int, views: Sequence[memoryview], offset: int) -> int:
    """Write all of ``views`` one after another; go on after short writes. Return the offset after the last byte."""
    for first in range(0, len(views), _MAX_PARTS):
        rest = list(views[first : first + _MAX_PARTS])
        while rest:
            done = os.pwritev(fd, rest, offset)
            if not done and any(view.nbytes for view in rest):
                raise OSError(errno.EIO, "the system wrote nothing and gave no error")
            offset += done
            while rest and done >= rest[0].nbytes:
                done -= rest.pop(0).nbytes
            if done:
                rest[0] = rest[0][done:]
    return offset


def punch_hole(fd: int, offset: int, size: int) -> bool:
    """Give the space of a byte range back, so that it reads as zeros; False where the file system cannot."""
    if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}:
        return False
    raise OSError(code, os.strerror(code))


def reserve(fd: int, offset: int, size: int) -> bool:
    """Give a byte range its space, so that writing there cannot fail for lack of it; False where that is not known."""
    if _fallocate(fd, _KEEP_SIZE, offset, size) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}:
        return False
    raise OSError(code, os.strerror(code))


def begin_writeback(fd: int, offset: int, size: int) -> None:
    """Let the kernel begin to write a range now, so that the ``fdatasync`` to come has less to wait for.

    A hint: nothing is durable by it, and a write that fails is still told to the next ``fdatasync``, as only a call
    that waits takes such errors away.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _RANGE_WRITE)


def sync_data(fd: int) -> None:
    """``fdatasync``. Whatever its error is, lack of space too, earlier writes may be lost: so it is an EIO."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise OSError(errno.EIO, f"fdatasync failed: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

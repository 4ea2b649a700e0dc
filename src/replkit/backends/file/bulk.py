"""Large writes past the page cache, a little ahead of their caller (C1).

A copy of a whole volume through the page cache costs a page fault for each page and then the flush of all of it.
Here a run is copied into one of two aligned buffers, and a thread writes that with ``O_DIRECT`` while the caller gets
the next. The caller has reserved the space before, so lack of it is reported to the write that meets it.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from replkit.backends.file.syscalls import write_full

ALIGNMENT: Final = 4096
"""Of offset, length and memory of a direct write; no device or file system asks for more."""
STAGE_BYTES: Final = 4 << 20
_STAGES: Final = 2
_IDLE_S: Final = 1.0
"""After so long without work the thread ends and the buffers are given back."""


class _Job(NamedTuple):
    begin: int
    end: int
    stage: mmap.mmap


class BulkWriter:
    """Writes runs of one file in the order in which they come.

    A failed write is final, as its caller has gone on: ``wait`` gives the error from then on.
    """

    def __init__(self, fd: int) -> None:
        """Take over ``fd``, opened with ``O_DIRECT``."""
        self._fd = fd
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._free: list[mmap.mmap] = []
        self._staged = self._done = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._is_closed = False

    @classmethod
    def open(cls, fd: int) -> Self | None:
        """A second opening of the file behind ``fd``; ``None`` where that cannot be written directly."""
        try:
            return cls(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC))
        except (OSError, AttributeError):
            return None

    def write(self, views: Sequence[memoryview], begin: int) -> OSError | None:
        """Take a copy of ``views``, to be written one after another from ``begin``; all of it is aligned.

        Returns the error of an earlier write; then nothing of this one was taken.
        """
        stage: mmap.mmap | None = None
        filled = 0
        for view in views:
            done = 0
            while done < view.nbytes:
                if stage is None and (stage := self._take_stage()) is None:
                    return self._error
                part = view[done : done + STAGE_BYTES - filled]
                stage[filled : filled + part.nbytes] = part
                done += part.nbytes
                filled += part.nbytes
                if filled == STAGE_BYTES:
                    self._give(_Job(begin, begin + filled, stage))
                    begin += filled
                    stage, filled = None, 0
        if stage is not None:
            self._give(_Job(begin, begin + filled, stage))
        return None

    def wait(self, begin: int, end: int) -> OSError | None:
        """Return when what was taken for ``[begin, end)`` is in the file, with the error of any write that failed."""
        if self._jobs:
            with self._changed:
                last = self._done
                for number, job in enumerate(self._jobs, start=self._done + 1):
                    if job.begin < end and begin < job.end:
                        last = number
                while self._done < last:
                    self._changed.wait()
        return self._error

    def close(self) -> None:
        """Write what was taken, end the thread, close the file."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        os.close(self._fd)

    def _take_stage(self) -> mmap.mmap | None:
        with self._changed:
            while self._error is None:
                if self._free:
                    return self._free.pop()
                if self._staged < _STAGES:
                    self._staged += 1
                    return mmap.mmap(-1, STAGE_BYTES)
                self._changed.wait()
            return None

    def _give(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bulk-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            error = self._error
            if error is None:
                try:
                    with memoryview(job.stage) as whole, whole[: job.end - job.begin] as part:
                        write_full(self._fd, [part], job.begin)
                except OSError as failure:
                    error = failure
            with self._changed:
                self._error = error
                self._done += 1
                self._jobs.popleft()  # only now: a reader of these blocks has waited until here
                self._free.append(job.stage)
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._jobs:
                if self._is_closed or not self._changed.wait(_IDLE_S):
                    if self._jobs:
                        break
                    self._thread = None
                    self._staged -= len(self._free)
                    self._free = []
                    return None
            return self._jobs[0]

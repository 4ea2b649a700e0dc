"""Jobs: work of minutes on one volume, in a process of its own, so that nobody who serves waits for it.

The process ends with the job; the result of the last job of a volume is kept until the next one. A job goes on when the
program that asked for it dies, and ends with the daemon, however that ends.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from replkit.errors import ControlError, InvalidArgumentError, NotFoundError, ReplkitError
from replkit.site.control import Arguments
from replkit.site.processes import WorkerProcess

_log = logging.getLogger(__name__)
LOOK_EVERY_S = 0.2
ANSWER_TIMEOUT_S = 30.0
END_TIMEOUT_S = 60.0
Fields = dict[str, Any]


class JobWorker(ABC):
    """The body of the process: the job, on a thread; its progress can be asked for."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._thread: threading.Thread | None = None
        self._found: Fields = {"done": False, "error": ""}
        self.ending = threading.Event()

    def start(self, spec: Fields) -> Fields:
        """Open what the job needs, and begin."""
        self._open(spec)
        self._thread = threading.Thread(target=self._run, name="job", daemon=True)
        self._thread.start()
        return {}

    def handle(self, command: str, arguments: Arguments) -> object:  # noqa: ARG002 - the command has no arguments
        """``progress``: how far it is, and what it found."""
        if command != "progress":
            raise InvalidArgumentError(f"a job has no command {command!r}")
        with self._lock:
            return dict(self._found)

    def stop(self) -> None:
        """End after the step that is under way."""
        self.ending.set()
        if self._thread is not None:
            self._thread.join(10)
        self._stack.close()

    def note(self, **found: object) -> None:
        """Say how far it is; ``ControlError`` ends a job that is to stop."""
        if self.ending.is_set():
            raise ControlError("the job was stopped")
        with self._lock:
            self._found |= found

    @abstractmethod
    def _open(self, spec: Fields) -> None:
        """Open what the job needs, to be closed by the stack."""

    @abstractmethod
    def _work(self) -> None:
        """Do it, with a ``note`` at each step."""

    def _run(self) -> None:
        try:
            self._work()
            self.note(done=True)
        except ReplkitError as error:
            with self._lock:
                self._found |= {"done": True, "error": str(error)}
        except Exception as error:
            _log.exception("the job failed")
            if not self.ending.is_set():
                self._fail(error)


class _Job:
    """One job that runs."""

    def __init__(self, worker: WorkerProcess, on_end: Callable[[], None]) -> None:
        self.worker, self.on_end = worker, on_end
        self.began_s = time.time()
        self.is_ending = False
        self.ended = threading.Event()


class Jobs:
    """The supervisor's side: at most one job of a kind and volume at a time, watched to its end.

    Args:
        kind: of worker.
        blank: the fields of a result before anything is known.
    """

    def __init__(self, kind: str, blank: Fields) -> None:
        self._kind, self._blank = kind, blank
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._results: dict[str, Fields] = {}

    def begin(self, name: str, prepare: Callable[[], Fields], on_end: Callable[[], None] = lambda: None) -> Fields:
        """Begin a job for the volume ``name``, or join the one that runs; its progress.

        ``prepare`` gives what the process is told, and is called only if none runs; ``on_end`` clears up after it.
        """
        with self._beginning:
            if name not in self._jobs:
                worker = WorkerProcess(f"{self._kind}.{name}", self._kind, prepare())
                with self._lock:
                    job = self._jobs[name] = _Job(worker, on_end)
                    self._results[name] = {**self._blank, "volume": name, "began_s": job.began_s, "duration_s": None,
                                           "done": False, "error": ""}  # fmt: skip
                worker.start()
                threading.Thread(target=self._watch, args=(name, job), name=worker.name, daemon=True).start()
            return self.progress(name)

    def progress(self, name: str) -> Fields:
        """How far the last job of a volume is; ``NotFoundError`` where there was none."""
        with self._lock:
            if name not in self._results:
                raise NotFoundError(
                    f"no {self._kind} of volume {name} was begun", hint=f"begin with: replkit {self._kind} {name}"
                )
            return self._results[name]

    def end(self, name: str) -> Fields:
        """Stop the job of a volume, if one runs."""
        with self._beginning:  # one that is being begun is ended too
            job = self._jobs.get(name)
        if job is not None:
            self._finish(name, job, {"error": f"the {self._kind} was stopped"})
            job.ended.wait(END_TIMEOUT_S)
        return self.progress(name)

    def stop(self) -> None:
        """Stop all of them."""
        for name in list(self._jobs):
            self.end(name)

    def _watch(self, name: str, job: _Job) -> None:
        job.worker.wait_settled(ANSWER_TIMEOUT_S)
        while not job.ended.wait(LOOK_EVERY_S):
            try:
                found = job.worker.request("progress", {}, ANSWER_TIMEOUT_S)
            except ReplkitError as error:
                found = {"done": True, "error": str(error)}
            if found["done"]:
                self._finish(name, job, found)
                return
            with self._lock:
                if not job.is_ending:
                    self._results[name] = {**self._results[name], **found}

    def _finish(self, name: str, job: _Job, found: Fields) -> None:
        with self._lock:
            if job.is_ending:
                return
            job.is_ending = True
        job.worker.stop()
        try:
            job.on_end()
        except ReplkitError as error:
            _log.warning("after the %s of %s: %s", self._kind, name, error)
        with self._lock:
            result = {**self._results[name], **found, "done": True, "duration_s": time.time() - job.began_s}
            self._results[name] = result
            del self._jobs[name]
        job.ended.set()

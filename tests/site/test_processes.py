"""Workers are processes of their own: asked over a socket, started again when they die, ended cleanly."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from replkit.errors import ControlError, InvalidArgumentError, NotFoundError
from replkit.site.processes import WorkerProcess


@pytest.fixture
def spec(tmp_path):
    volume = {
        "name": "disk",
        "url": (tmp_path / "disk").as_uri(),
        "block_size": 4096,
        "save_url": (tmp_path / "s").as_uri(),
    }
    return {"site": "a", "plugins": [], "volume": volume}


@pytest.fixture
def worker(spec):
    worker = WorkerProcess("sender.disk", "sender", spec)
    worker.start()
    assert worker.wait_settled(30)
    yield worker
    worker.stop()
    assert worker.status()["pid"] is None


def test_a_worker_answers_and_its_errors_keep_their_type(worker):
    assert worker.status()["ready"]
    assert worker.request("status", {}) == {}
    with pytest.raises(InvalidArgumentError, match="no command 'dance'"):
        worker.request("dance", {})


def test_requests_at_the_same_time_get_their_own_answers(worker):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(worker.request("status", {}))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{}] * 16


def answers_with_another_pid(worker, first):
    """Ask until the new process answers; a request waits for a worker that is just starting."""
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        try:
            if worker.request("status", {}) == {} and worker.status()["pid"] not in {first, None}:
                return True
        except ControlError:
            continue
    return False


@pytest.mark.requirement("T6")
def test_a_worker_that_is_killed_is_started_again(worker):
    first = worker.status()["pid"]
    os.kill(first, signal.SIGKILL)
    assert answers_with_another_pid(worker, first)
    assert worker.status()["pid"] != first
    assert worker.status()["restarts"] == 1


def test_a_worker_that_cannot_start_says_why(spec):
    spec["plugins"] = ["no.such.plugin"]
    worker = WorkerProcess("sender.disk", "sender", spec)
    worker.start()
    assert worker.wait_settled(30)
    with pytest.raises(ControlError, match=r"no\.such\.plugin"):
        worker.request("status", {}, 0.01)
    worker.stop()


def test_a_worker_that_was_stopped_answers_no_more(spec):
    worker = WorkerProcess("sender.disk", "sender", spec)
    worker.start()
    assert worker.wait_settled(30)
    worker.stop()
    with pytest.raises((ControlError, NotFoundError)):
        worker.request("status", {}, 0.01)

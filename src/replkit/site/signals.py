"""Signals that end a process, as an event for which any thread may wait."""

from __future__ import annotations

import signal
import socket
import threading


def end_on_signals(ending: threading.Event, *numbers: signal.Signals) -> None:
    """Set ``ending`` whenever one of the signals ``numbers`` comes; called by the main thread, once a process.

    A Python handler would not do. It runs in the main thread only, which does not hear of a signal that another thread
    took, or that came just before it began to wait; and a handler that runs while the main thread enters
    ``ending.wait()`` waits for ever in ``ending.set()``, for the same lock. So the interpreter writes each signal's
    number to a socket, in whatever thread it comes, and a thread reads them there.
    """
    read_end, write_end = socket.socketpair()
    write_end.setblocking(False)
    signal.set_wakeup_fd(write_end.fileno(), warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _do_nothing)

    def watch() -> None:
        with read_end, write_end:
            while came := read_end.recv(64):
                if not set(numbers).isdisjoint(came):
                    ending.set()

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _do_nothing(_number: int, _frame: object) -> None:
    """A signal without a handler in Python would not be written to the socket."""

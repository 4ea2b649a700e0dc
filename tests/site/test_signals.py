"""A signal ends the process whichever thread it comes to, and whenever."""

import subprocess
import sys

import pytest

PROGRAM = """
import signal, threading
from replkit.site.signals import end_on_signals

ending = threading.Event()
end_on_signals(ending, signal.SIGTERM)

def take_it():
    print("ready", flush=True)
    while True:  # the kernel may give a signal to any thread; this one asks for it
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        if {often}:
            continue
        return threading.Event().wait()

threading.Thread(target=take_it, daemon=True).start()
ending.wait()
print("ended", flush=True)
"""


@pytest.mark.requirement("X1")
@pytest.mark.parametrize("often", [False, True], ids=["once", "all the time"])
def test_a_signal_that_another_thread_took_ends_the_process(often: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(often=often)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["ready", "ended"]), done.stderr


def test_another_signal_changes_nothing() -> None:
    program = """
import signal, threading
from replkit.site.signals import end_on_signals

ending = threading.Event()
end_on_signals(ending, signal.SIGTERM)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.raise_signal(signal.SIGUSR1)
print(ending.wait(0.2))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "False\n", done.stderr

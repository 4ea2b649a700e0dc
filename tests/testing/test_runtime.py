"""The manual runtime's clock stands still until it is moved."""

import threading

from replkit.testing.runtime import ManualRuntime, ThreadRuntime


def test_the_manual_clock_moves_only_by_hand():
    runtime = ManualRuntime(100.0)
    assert (runtime.now(), runtime.monotonic()) == (100.0, 100.0)
    runtime.advance(2.5)
    assert (runtime.now(), runtime.monotonic()) == (102.5, 102.5)


def test_random_bytes_depend_on_the_seed():
    assert ManualRuntime(seed=1).random_bytes(8) == ManualRuntime(seed=1).random_bytes(8)
    assert ManualRuntime(seed=1).random_bytes(8) != ManualRuntime(seed=2).random_bytes(8)
    assert ThreadRuntime().random_bytes(16) != ThreadRuntime().random_bytes(16)


def test_waits_of_one_thread_can_move_the_clock():
    runtime = ManualRuntime(100.0, waits_advance=True)
    condition, event = runtime.condition(), runtime.event()
    with condition:
        assert not condition.wait(3.0)
    assert not event.wait(4.0)
    assert runtime.now() == 107.0
    event.set()
    assert event.wait(5.0)
    assert runtime.now() == 107.0


def test_a_wait_ends_when_the_clock_is_moved_or_it_is_notified():
    for runtime in (ManualRuntime(), ThreadRuntime()):
        condition, begun, results = runtime.condition(), threading.Event(), []

        def wait(condition=condition, begun=begun, results=results):
            with condition:
                begun.set()
                results.append(condition.wait(3600))

        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        with condition:  # taken only when the other waits
            condition.notify_all()
        thread.join()
        assert results == [True]


def test_a_waiting_event_times_out_by_the_manual_clock():
    runtime = ManualRuntime()
    event, results = runtime.event(), []
    thread = threading.Thread(target=lambda: results.append(event.wait(10)))
    thread.start()
    while thread.is_alive():
        runtime.advance(5)
        thread.join(0.001)
    assert results == [False]
    event.set()
    event.clear()
    assert not event.is_set()

"""A driver calls a service when it asks for it, outlives its errors, and ends when it is told to."""

from __future__ import annotations

import threading

from replkit.errors import FencedError, LinkClosedError
from replkit.site.driver import Driver


class Service:
    """Does what its script says, a word a step."""

    def __init__(self, *script):
        self.script = list(script)
        self.steps = 0
        self.errors, self.fatal = [], []
        self.changed = threading.Condition()

    def step(self):
        with self.changed:
            self.steps += 1
            self.changed.notify_all()
            action = self.script.pop(0) if self.script else None
        if isinstance(action, Exception):
            raise action
        return action

    def driver(self):
        return Driver("service", self.step, on_error=self.on_error, on_fatal=self.on_fatal)

    def on_error(self, name, error):
        self.errors.append((name, error))

    def on_fatal(self, error):
        with self.changed:
            self.fatal.append(error)
            self.changed.notify_all()

    def wait_for(self, predicate):
        with self.changed:
            assert self.changed.wait_for(predicate, 10)


def test_a_service_that_has_work_is_called_again_at_once():
    service = Service(*[0.0] * 50, 60.0)
    driver = service.driver()
    service.wait_for(lambda: service.steps == 51)
    assert driver.stop()
    assert service.steps == 51


def test_waking_ends_a_pause():
    service = Service(60.0, 60.0)
    driver = service.driver()
    service.wait_for(lambda: service.steps == 1)
    driver.wake()
    service.wait_for(lambda: service.steps == 2)
    assert driver.stop()


def test_an_error_is_told_and_tried_again():
    broken = LinkClosedError("gone")
    service = Service(broken, 60.0)
    driver = service.driver()
    service.wait_for(lambda: service.steps == 2)
    assert driver.stop()
    assert service.errors == [("service", broken)]
    assert service.fatal == []


def test_fencing_and_bugs_end_the_service():
    for fatal in (FencedError("another owner"), ZeroDivisionError()):
        service = Service(fatal)
        driver = service.driver()
        service.wait_for(lambda service=service: service.fatal)
        assert driver.stop()
        assert service.fatal == [fatal]
        assert service.steps == 1

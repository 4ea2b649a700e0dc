"""The past of a secondary: a policy that thins it out, and a boundary that an operator holds (X2)."""

from __future__ import annotations

import threading

import pytest

from replkit.errors import NotFoundError
from replkit.replication.policy import change_policy
from replkit.site.past import Past
from replkit.testing.sim.model import read_all


@pytest.mark.requirement("X2")
def test_retention_coalesces(tell):
    """Retention: every boundary of the last 100 s, then one each 50 s up to 300 s, then none; but one is held. A block
    is written each 10 s, and what can be opened is what the volume was then.
    """
    story = tell(blocks=32)
    story.in_step()
    b = story.site("b")
    past = Past(b.secondary, b.save, story.world.runtime, threading.Event())
    b.services.append(past.step)
    story.command("b", "policy vol keep_all_s=100 keep_each_s=50 keep_for_s=300")
    change_policy(b.save, keep_all_s=100.0, keep_each_s=50.0, keep_for_s=300.0)
    images, times, held = {}, {}, 0
    start_s = story.world.runtime.now()
    for step in range(60):
        letter = "abcdefghijklmnopqrstuvwxyz"[step % 26]
        story.site("a").write(step % 32, letter.encode() * 512)
        story.ledger.write("a", step % 32, letter.encode() * 512)
        position = story.site("a").primary.cut()
        images[position.number], times[position.number] = bytes(story.ledger.images["a"]), story.world.runtime.now()
        story.world.settle(lambda: story.world.is_equal(story.site("a"), b))
        past.step()
        if step == 20:
            held = past.hold({"number": position.number})
            story.command("b", f"hold vol {held}")
        if step in {9, 24, 59}:
            story.say(f"After {story.world.runtime.now() - start_s:.0f} s, as age of each that can be opened:")
            show_past(story, past)
        story.world.runtime.advance(10.0)
    while past.step() == 0.0:
        pass
    now_s = story.world.runtime.now()
    kept = {each["position"]["number"] for each in past.moments()} & set(images)
    recent = {number for number, at in times.items() if now_s - at <= 95}
    old = [number for number in kept - recent if number != held]
    assert recent <= kept
    assert held in kept
    assert all(now_s - times[number] <= 360 for number in old)
    between = sorted(number for number in old if now_s - times[number] > 160)
    assert 2 <= len(between) <= 5, "one each 50 s, of 300 s"
    for number in sorted(kept):
        boundary = past.open({"number": number})
        assert read_all(boundary) == images[number]
        boundary.close()
    story.command("b", f"release vol {held}")
    past.release({"number": held})
    while past.step() == 0.0:
        pass
    show_past(story, past)
    with story.refused(NotFoundError):
        past.open({"number": held, "epoch": 1})
    story.end()


def show_past(story, past):
    """A line: ages in seconds, the held ones marked."""
    now_s = story.world.runtime.now()
    ages = [f"{now_s - each['created_s']:.0f}{' (held)' if each['held'] else ''}" for each in past.moments()]
    story.say(", ".join(ages))

"""Every hook is specified, documented, called with what its specification says, and cannot stop replication."""

import inspect
import re
from pathlib import Path

import pytest

from replkit.contracts.hooks import PASSED_ON, REGISTRATION_HOOKS, Hooks, hookimpl
from replkit.contracts.position import Epoch, Position
from replkit.contracts.registry import Registry
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.transport import Link, Listener, Transport
from replkit.contracts.volume import BlockVolume

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/howto/write-a-plugin.md").read_text()
NAMES = sorted(name for name in vars(Hooks) if name.startswith("replkit_"))
EPOCH = Epoch(count=1, promotion="00" * 8)
POSITION = Position(epoch=EPOCH, number=3, identity="ab" * 16)

EVENTS = {
    "replkit_delta_set_cut": {"volume": "v", "position": POSITION, "block_count": 7},
    "replkit_delta_set_received": {"volume": "v", "member": "m", "position": POSITION},
    "replkit_delta_set_played": {"volume": "v", "position": POSITION, "set_count": 2},
    "replkit_role_changed": {"volume": "v", "role": "primary", "epoch": EPOCH},
    "replkit_error": {"volume": "v", "message": "text", "error": None},
    "replkit_freeze": {"volume": "v"},
    "replkit_thaw": {"volume": "v"},
    "replkit_run_command": {"name": "n", "arguments": ("a",)},
}
"""A hook that is missing here has no test, and the next test fails."""


def recorder(name, calls, result=None):
    """A plugin whose one hook takes exactly the arguments of its specification and notes them."""
    arguments = [each for each in inspect.signature(getattr(Hooks, name)).parameters if each != "self"]

    def function(**given):
        calls.append((name, given))
        return result

    namespace = {"function": function}
    body = f"def {name}(self, {', '.join(arguments)}):\n    return function({', '.join(f'{a}={a}' for a in arguments)})"
    exec(body, namespace)
    return type("Recorder", (), {name: hookimpl(namespace[name])})()


@pytest.mark.requirement("U1")
def test_every_hook_has_a_test():
    assert sorted([*EVENTS, *REGISTRATION_HOOKS]) == NAMES


@pytest.mark.requirement("U1", "U4")
@pytest.mark.parametrize("name", NAMES)
def test_every_hook_has_its_section_in_the_guide_that_names_its_arguments(name):
    section = re.search(rf"^#+ `{name}\((.*?)\)`\n(.*?)(?=^#)", GUIDE + "\n#", re.M | re.S)
    assert section, f"docs/howto/write-a-plugin.md has no section for {name}"
    documented = [argument.strip() for argument in section[1].split(",")]
    assert documented == [each for each in inspect.signature(getattr(Hooks, name)).parameters if each != "self"]
    assert len(section[2].split()) >= 10


@pytest.mark.requirement("U1", "U4")
@pytest.mark.parametrize("contract", [BlockVolume, SaveVolume, Transport, Link, Listener])
def test_every_contract_method_has_its_section_in_the_guide(contract):
    names = [n for n, member in vars(contract).items() if inspect.isfunction(member) and not n.startswith("_")]
    assert names
    missing = [n for n in names if not re.search(rf"^#+ `{contract.__name__}\.{n}\(", GUIDE, re.M)]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_hook_is_typed_and_says_what_it_is(name):
    specification = getattr(Hooks, name)
    assert inspect.getdoc(specification)
    assert set(inspect.signature(specification).parameters) - {"self"} <= set(specification.__annotations__)


@pytest.mark.requirement("U1")
@pytest.mark.parametrize("name", EVENTS)
def test_an_event_reaches_every_plugin(name):
    registry, calls = Registry(), []
    registry.register(recorder(name, calls))
    registry.register(recorder(name, calls))
    getattr(registry.hooks, name)(**EVENTS[name])
    assert calls == [(name, EVENTS[name])] * 2


@pytest.mark.parametrize("name", REGISTRATION_HOOKS)
def test_a_registration_hook_is_called_when_the_plugin_comes(name):
    registry, calls = Registry(), []
    registry.register(recorder(name, calls))
    assert calls == [(name, {"registry": registry})]


def test_the_first_plugin_that_knows_a_command_answers():
    registry, calls = Registry(), []
    registry.register(recorder("replkit_run_command", calls, result="done"))
    registry.register(recorder("replkit_run_command", calls, result=None))
    assert registry.hooks.replkit_run_command(name="n", arguments=()) == "done"
    assert len(calls) == 2
    assert Registry().hooks.replkit_run_command(name="n", arguments=()) is None


def failing(name):
    def hook(self):
        raise RuntimeError("broken plugin")

    hook.__name__ = name
    return type("Failing", (), {name: hookimpl(hook)})()


@pytest.mark.parametrize("name", sorted(set(EVENTS) - PASSED_ON - {"replkit_error"}))
def test_a_failing_event_hook_is_reported_and_stops_nothing(name):
    registry, calls = Registry(), []
    registry.register(recorder("replkit_error", calls))
    registry.register(failing(name))
    getattr(registry.hooks, name)(**EVENTS[name])
    ((_, given),) = calls
    assert given["volume"] == "v"
    assert name in given["message"]
    assert isinstance(given["error"], RuntimeError)


def test_a_failing_error_hook_is_not_reported_to_itself(caplog):
    registry = Registry()
    registry.register(failing("replkit_error"))
    registry.register(failing("replkit_thaw"))
    registry.hooks.replkit_error(volume="v", message="text", error=None)
    registry.hooks.replkit_thaw(volume="v")
    assert caplog.text.count("broken plugin") == 3


@pytest.mark.requirement("D5")
@pytest.mark.parametrize("name", sorted(PASSED_ON))
def test_a_failing_freeze_or_command_reaches_its_caller(name):
    registry = Registry()
    registry.register(failing(name))
    with pytest.raises(RuntimeError, match="broken plugin"):
        getattr(registry.hooks, name)(**EVENTS[name])


def test_what_is_no_hook_cannot_be_called():
    with pytest.raises(AttributeError):
        Registry().hooks.replkit_nothing()

"""Hook specifications: what a plugin can give to replkit, and what replkit tells a plugin.

A plugin is a module or object with functions marked ``hookimpl`` whose names are those below; it takes as many of the
arguments as it wants. The first three hooks are called once, when the plugin is registered. The others are called
while replication runs, on the thread of the service that meets the event, so they must be quick; what they raise is
said in ``EventHooks``. A specification changes only with ``HOOKS_VERSION``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from replkit.contracts.position import Epoch, Position
    from replkit.contracts.registry import Registry

PROJECT = "replkit"
"""Name of the pluggy project and of the entry point group."""
HOOKS_VERSION = 1
"""Raised when a specification changes in a way that a plugin can notice."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_log = logging.getLogger(__name__)


class Hooks:
    """The specifications. Every hook has a section in ``docs/howto/write-a-plugin.md`` and a test that calls it."""

    @hookspec(historic=True)
    def replkit_register_volumes(self, registry: Registry) -> None:
        """Call ``registry.add_volume_scheme`` for each volume scheme of the plugin."""

    @hookspec(historic=True)
    def replkit_register_save_volumes(self, registry: Registry) -> None:
        """Call ``registry.add_save_volume_scheme`` for each save volume scheme of the plugin."""

    @hookspec(historic=True)
    def replkit_register_transports(self, registry: Registry) -> None:
        """Call ``registry.add_transport_scheme`` for each transport scheme of the plugin."""

    @hookspec
    def replkit_delta_set_cut(self, volume: str, position: Position, block_count: int) -> None:
        """A delta set of ``block_count`` blocks was committed at the primary; ``position`` is its identity."""

    @hookspec
    def replkit_delta_set_received(self, volume: str, member: str, position: Position) -> None:
        """A whole delta set is durable and verified in the save volume of ``member``."""

    @hookspec
    def replkit_delta_set_played(self, volume: str, position: Position, set_count: int) -> None:
        """A playback pass over ``set_count`` sets ended; the volume stands durably at ``position``."""

    @hookspec
    def replkit_role_changed(self, volume: str, role: str, epoch: Epoch) -> None:
        """The volume has a new role (``primary``, ``secondary``); the change is already durable."""

    @hookspec
    def replkit_error(self, volume: str, message: str, error: BaseException | None) -> None:
        """A service gave up after its retries, or a hook failed; the service goes on or waits, as the message says."""

    @hookspec
    def replkit_freeze(self, volume: str) -> None:
        """Bring the application on ``volume`` to rest before a cut (D5); an exception abandons the cut."""

    @hookspec
    def replkit_thaw(self, volume: str) -> None:
        """Let the application go on; called after every freeze, also when the cut or a freeze failed."""

    @hookspec(firstresult=True)
    def replkit_run_command(self, name: str, arguments: Sequence[str]) -> str | None:
        """Run the broadcast command ``name`` at this site (T11); ``None`` means that the plugin does not know it."""


REGISTRATION_HOOKS = ("replkit_register_volumes", "replkit_register_save_volumes", "replkit_register_transports")
"""Called once a plugin, when it is registered."""
PASSED_ON = frozenset({"replkit_freeze", "replkit_run_command"})
"""Hooks whose exception reaches the caller, because its answer decides what happens next."""


class EventHooks:
    """Calls hooks by name: ``hooks.replkit_delta_set_cut(volume=..., position=..., block_count=...)``.

    An exception of a plugin must not stop replication: it is reported through ``replkit_error`` and dropped, except
    for the hooks in ``PASSED_ON``. Arguments go by keyword.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._relay = manager.hook

    def __getattr__(self, name: str) -> Callable[..., Any]:
        caller: Callable[..., Any] = getattr(self._relay, name)  # AttributeError for what is no hook
        if name in PASSED_ON:
            return caller

        def call(**arguments: Any) -> Any:
            try:
                return caller(**arguments)
            except Exception as error:  # whatever a plugin raises
                self._report(name, str(arguments.get("volume", "")), error)
                return None

        return call

    def _report(self, name: str, volume: str, error: Exception) -> None:
        message = f"a plugin failed in {name}: {type(error).__name__}: {error}"
        _log.error("volume %r: %s", volume, message)
        if name == "replkit_error":
            return
        try:
            self._relay.replkit_error(volume=volume, message=message, error=error)
        except Exception as second:
            _log.error("volume %r: a plugin failed in replkit_error: %s", volume, second)

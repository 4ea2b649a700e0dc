"""The daemon: starts and keeps the workers of a site, and takes commands for them on the control socket."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replkit import __version__
from replkit.errors import ControlError, InvalidArgumentError, NotFoundError, ReplkitError, WrongRoleError
from replkit.site.calls import MEMBER_CALLS, PEER_CALL
from replkit.site.config import SiteConfig, load_config
from replkit.site.control import Arguments
from replkit.site.controlserver import ControlServer
from replkit.site.drift import needs_restart
from replkit.site.plan import site_spec, volume_spec
from replkit.site.roles import Placement
from replkit.site.scrubbing import Scrubs
from replkit.site.signals import end_on_signals
from replkit.site.statuses import add_figures
from replkit.site.systemd import notify
from replkit.site.verifying import Verifications
from replkit.site.waiting import wait_durable

_log = logging.getLogger(__name__)
STATUS_SCHEMA_VERSION = 1
STATUS_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 60.0
LONG_COMMAND_TIMEOUT_S = 600.0
HANDOVER_TIMEOUT_S = 120.0
HANDOVER_LOOK_S = 0.05
VOLUME_COMMANDS = frozenset(
    {
        "boundaries",
        "boundary-hold",
        "boundary-release",
        "copy-between",
        "pull",
        "cut",
        "export-add",
        "export-in-use",
        "export-remove",
        "handover-cancel",
        "pause",
        "plan",
        "policy-set",
        "policy-show",
        "refetch",
        "replica-add",
        "replica-catch-up",
        "replica-copy",
        "replica-remove",
        "resize",
        "resume",
        "salvage-delete",
        "salvage-list",
        "salvage-show",
        "snapshot-create",
        "snapshot-delete",
        "snapshot-list",
        "snapshot-restore",
        "snapshot-restore-progress",
        "snapshot-show",
        "verify-repair",
    }
)


class Supervisor:
    """One site. ``run`` returns after SIGTERM or SIGINT, when every worker has come to a clean end."""

    def __init__(self, config: SiteConfig, config_path: Path | None = None) -> None:
        self._config = config
        self._config_path = config_path
        self._ending = threading.Event()
        self._placement: Placement | None = None
        self._control = ControlServer(config.control_path, self.handle)
        self._started_s = time.time()
        self._applying = threading.Lock()
        self._scrubs = Scrubs()
        self._verifications = Verifications()

    # -- life --

    def run(self) -> None:
        """Serve the site until a signal ends it."""
        end_on_signals(self._ending, signal.SIGTERM, signal.SIGINT)
        self.start()
        try:
            self._ending.wait()
        finally:
            self.stop()

    def end_with_stdin(self) -> None:
        """End when standard input does: the program that started us is gone, however it went."""

        def watch() -> None:
            while os.read(0, 4096):
                pass
            self._ending.set()

        threading.Thread(target=watch, name="stdin", daemon=True).start()

    def start(self) -> None:
        """Start the workers and take commands; returns when each worker has started, or failed for the first time."""
        # Known before the first command can ask for them; started after the control socket has refused a second daemon.
        self._placement = Placement(self._config)
        self._control.start()
        self._placement.start()
        notify("READY=1")

    def stop(self) -> None:
        """End everything cleanly: every secondary stays at a boundary (C4)."""
        notify("STOPPING=1")
        self._control.stop()
        self._scrubs.stop()
        self._verifications.stop()
        self._placed.stop()

    @property
    def _placed(self) -> Placement:
        if self._placement is None:
            raise ControlError("the daemon is not started yet")
        return self._placement

    # -- commands --

    def handle(self, command: str, arguments: Arguments) -> Any:
        """Carry out a command of the control socket."""
        handlers: dict[str, Callable[[Arguments], Any]] = {
            "command": self._command,
            "config-apply": lambda a: self._apply(remove_members=bool(a.get("remove_members"))),
            "failover": self._failover,
            "handover": self._hand_over,
            "resync": self._resync,
            "switchover": self._switch_over,
            "peer-call": self._peer_call,
            "role-changed": lambda a: {"role": self._placed.follow(self._volume_name(a))},
            "ping": lambda _: {"site": self._config.site, "version": __version__, "pid": os.getpid()},
            "scrub-begin": self._scrub,
            "scrub-end": lambda a: self._scrubs.end(self._volume_name(a)),
            "scrub-progress": lambda a: self._scrubs.progress(self._volume_name(a)),
            "status": lambda _: self._status(),
            "verify-begin": self._verify,
            "verify-end": lambda a: self._verifications.end(self._volume_name(a)),
            "verify-progress": lambda a: self._verifications.progress(self._volume_name(a)),
            "wait": self._wait,
        }
        if command in handlers:
            return handlers[command](arguments)
        if command not in VOLUME_COMMANDS:
            raise InvalidArgumentError(f"the daemon has no command {command!r}")
        name = self._volume_name(arguments)
        result = self._pass_on(command, name, arguments)
        self._wake_senders(name)
        return result

    def _pass_on(self, command: str, name: str, arguments: Arguments) -> Any:
        """Have the worker that has the volume carry a command out."""
        return self._placed.owner(name).request(command, {**arguments, "volume": name}, LONG_COMMAND_TIMEOUT_S)

    def _peer_call(self, arguments: Arguments) -> Any:
        """A call of another site for a primary of this one."""
        name = self._volume_name(arguments)
        answer = self._pass_on(PEER_CALL, name, arguments)
        if arguments.get("call") in MEMBER_CALLS:
            self._wake_senders(name)
        return answer

    def _volume_name(self, arguments: Arguments) -> str:
        name = arguments.get("volume")
        if name is None and len(self._config.volumes) == 1:
            return next(iter(self._config.volumes))
        if name not in self._config.volumes:
            known = ", ".join(sorted(self._config.volumes)) or "none"
            raise NotFoundError(f"site {self._config.site} has no volume {name!r}", hint=f"it has: {known}")
        return str(name)

    def _wake_senders(self, volume: str) -> None:
        sender = self._placed.sender(volume)
        if sender is None:
            return
        try:
            sender.request("wake", {}, STATUS_TIMEOUT_S)
        except ReplkitError as error:
            _log.info("the sender of %s finds the change by itself: %s", volume, error)

    def _status(self) -> dict[str, Any]:
        volumes = []
        for name in self._config.volumes:
            try:
                status = self._placed.owner(name).request("status", {"volume": name}, STATUS_TIMEOUT_S)
                sender = self._placed.sender(name)
                if sender is not None and sender.status()["ready"]:
                    add_figures(status, sender.request("status", {}, STATUS_TIMEOUT_S))
                volumes.append(status)
            except ReplkitError as error:
                volumes.append({"name": name, "role": self._placed.roles.get(name), "problem": str(error)})
        return {
            "schema_version": STATUS_SCHEMA_VERSION,
            "site": self._config.site,
            "version": __version__,
            "pid": os.getpid(),
            "now_s": time.time(),
            "uptime_s": time.time() - self._started_s,
            "listen": self._config.listen,
            "allow_remote": self._config.allow_remote,
            "encrypted": False,
            "volumes": volumes,
            "workers": self._placed.describe(),
        }

    def _wait(self, arguments: Arguments) -> dict[str, Any]:
        name = self._volume_name(arguments)
        if self._placed.roles[name] != "primary":
            raise WrongRoleError(f"volume {name} is not the primary here", hint="ask the site of its primary")
        owner = self._placed.owner(name)

        def ask(command: str) -> Any:
            answer = owner.request(command, {"volume": name}, LONG_COMMAND_TIMEOUT_S)
            if command == "cut":
                self._wake_senders(name)
            return answer

        return wait_durable(
            ask,
            members=int(arguments.get("durable_on", 1)),
            level=str(arguments.get("level", "received")),
            timeout_s=arguments.get("timeout_s"),
            ending=self._ending,
        )

    def _command(self, arguments: Arguments) -> dict[str, Any]:
        """A control block to the members of a volume (T10): sent by the process of its senders."""
        name = self._volume_name(arguments)
        sender = self._placed.sender(name)
        if sender is None:
            raise WrongRoleError(f"volume {name} is not the primary here", hint="ask the site of its primary")
        answers = sender.request("command", arguments, LONG_COMMAND_TIMEOUT_S)
        return {"volume": name, "command": arguments.get("name"), "members": answers}

    # -- roles --

    def _failover(self, arguments: Arguments) -> dict[str, Any]:
        """Promote a secondary, and return when it is served as a primary (R1, R3)."""
        name = self._volume_name(arguments)
        began_s = time.monotonic()
        if self._placed.follow(name) == "primary":
            return self._is_primary_already(name, arguments)
        result: dict[str, Any] = self._pass_on("failover", name, arguments)
        self._placed.follow(name)
        return {**result, "duration_s": time.monotonic() - began_s}

    def _is_primary_already(self, name: str, arguments: Arguments) -> dict[str, Any]:
        """A fenced primary goes on; else the result of the failover with this request id, or there is nothing to do."""
        status = self._pass_on("status", name, {})
        if status["fenced_by"] is not None:
            went_on: dict[str, Any] = self._pass_on("failover", name, arguments)
            return went_on
        if not arguments.get("request") or status["promoted"]["request"] != arguments["request"]:
            raise WrongRoleError(f"volume {name} is the primary here already", hint=f"see: replkit status ({name})")
        restart = status["promoted"]["position"]
        point = {"snapshot": status["promoted"]["snapshot"], **restart}
        position = {**restart, "epoch": status["epoch"]["count"]}
        return {
            "volume": name, "role": "primary", "position": position, "restart_point": point, "duration_s": 0.0,
            "nbd": status["nbd"],
        }  # fmt: skip

    def _switch_over(self, arguments: Arguments) -> dict[str, Any]:
        """Have the primary hand over to this site, and return when this site is the primary (R2)."""
        name = self._volume_name(arguments)
        began_s = time.monotonic()
        if self._placed.follow(name) == "primary":
            raise WrongRoleError(f"volume {name} is the primary here already", hint="give the role with: failback")
        result: dict[str, Any] = self._pass_on("switchover", name, arguments)
        self._wait_for_role(name, "primary", arguments)
        return {**result, "role": "primary", "duration_s": time.monotonic() - began_s}

    def _hand_over(self, arguments: Arguments) -> dict[str, Any]:
        """Hand the role to a member, and return when this site is a secondary (R7)."""
        name = self._volume_name(arguments)
        began_s = time.monotonic()
        result: dict[str, Any] = self._pass_on("handover-begin", name, arguments)
        self._wait_for_role(name, "secondary", arguments)
        self._wait_for(name, lambda: self._placed.owner(name).request("status", {"volume": name})["handover"] is None)
        return {**result, "volume": name, "role": "secondary", "duration_s": time.monotonic() - began_s}

    def _resync(self, arguments: Arguments) -> dict[str, Any]:
        """Begin a resync; it goes on by itself (R4, R6)."""
        name = self._volume_name(arguments)
        result: dict[str, Any] = self._pass_on("resync", name, arguments)
        self._placed.follow(name)
        return result

    def _wait_for_role(self, name: str, role: str, arguments: Arguments) -> None:
        self._wait_for(name, lambda: self._placed.follow(name) == role, arguments.get("timeout_s"))

    def _wait_for(self, name: str, is_done: Callable[[], bool], timeout_s: float | None = None) -> None:
        timeout_s = float(timeout_s or HANDOVER_TIMEOUT_S)
        deadline_s = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > deadline_s or self._ending.wait(HANDOVER_LOOK_S):
                raise ControlError(
                    f"volume {name} has not changed its role after {timeout_s:g} s: the handover goes on by itself",
                    hint="see how far it is with: replkit status; give the same command again, or --cancel it",
                )

    def _scrub(self, arguments: Arguments) -> dict[str, Any]:
        name = self._volume_name(arguments)
        is_secondary = self._placed.roles[name] != "primary" and not self._placed.specs.volume(name)["shared_with"]
        if arguments.get("repair") and not is_secondary:
            raise WrongRoleError(
                f"{name} is no secondary with a save volume of its own: nothing can be fetched again for it",
                hint="blocks of a secondary are compared and sent again at the site of its primary: "
                "replkit verify --repair",
            )
        return self._scrubs.begin(name, lambda: {**self._job_spec(name), "repair": bool(arguments.get("repair"))})

    def _verify(self, arguments: Arguments) -> dict[str, Any]:
        name = self._volume_name(arguments)
        if self._placed.roles[name] != "primary":
            raise WrongRoleError(f"volume {name} is not the primary here", hint="ask the site of its primary")

        def ask(command: str, more: Arguments) -> Any:
            answer = self._pass_on(command, name, more)
            self._wake_senders(name)
            return answer

        return self._verifications.verify(name, ask, self._job_spec(name), arguments)

    def _job_spec(self, name: str) -> dict[str, Any]:
        return {**site_spec(self._config), "volume": self._placed.specs.volume(name)}

    def _apply(self, *, remove_members: bool) -> dict[str, Any]:
        """Bring policy and members to what the file says now; never a role."""
        if self._config_path is None:
            raise InvalidArgumentError("this daemon was started without a configuration file")
        with self._applying:
            config = load_config(self._config_path)
            changed: dict[str, list[str]] = {}
            for name in config.volumes.keys() & self._config.volumes.keys():
                spec = volume_spec(config, name)
                self._placed.applied(name, spec)
                arguments = {"volume": name, "spec": spec, "remove_members": remove_members}
                changed[name] = self._placed.owner(name).request("apply", arguments, LONG_COMMAND_TIMEOUT_S)
                self._wake_senders(name)
        return {"changed": changed, "needs_restart": needs_restart(self._config, config)}

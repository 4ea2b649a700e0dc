"""The primary worker: one volume over NBD with its change log, cutter and trimmer, and nothing else in its process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from replkit.contracts.hooks import hookimpl
from replkit.contracts.position import Position
from replkit.contracts.volume import BlockVolume
from replkit.errors import FencedError, InvalidArgumentError, ReplkitError, WrongRoleError
from replkit.recovery.fence import Fence
from replkit.recovery.handover import Draining
from replkit.recovery.leftbehind import open_left_behind
from replkit.recovery.ondemand import answer_pull
from replkit.recovery.service import PeerService
from replkit.replication.policy import Policy
from replkit.replication.primary import PrimaryReplica
from replkit.site.buckets import follow_from_bucket
from replkit.site.bucketstate import check_answers
from replkit.site.calls import MEMBER_CALLS, PeerLinks, RoleReporter, pack_answer, unpack_call
from replkit.site.control import Arguments
from replkit.site.drift import drift_of, with_applied
from replkit.site.driver import Driver
from replkit.site.events import RecentErrors
from replkit.site.exporting import ExportKeeper
from replkit.site.membership import Membership
from replkit.site.names import check_name
from replkit.site.opening import open_stores
from replkit.site.planning import LEFT_BEHIND_EXPORT, SALVAGE_COMMANDS, Plans, salvage_command
from replkit.site.plugins import site_registry
from replkit.site.policies import policy_changes
from replkit.site.primarycommands import PrimaryCommands
from replkit.site.restoring import PrimaryRestoring
from replkit.site.returning import FULL_COPY, Returning
from replkit.site.runtime import SiteRuntime
from replkit.site.sentry import Sentry
from replkit.site.sizing import tell_size
from replkit.site.statuses import member_progress, primary_status, snapshot_fields
from replkit.site.verifying import PrimaryVerifying
from replkit.snapshot.records import find_record

_log = logging.getLogger(__name__)
SEEDED = "seeded"
"""Cell of the site: set once the members of the configuration were added; a configuration seeds a volume once."""

CUTTING = frozenset({"cut", "handover-begin", "resize", "snapshot-create", "verify-cut"})
"""Commands that need a cut, or end the epoch: not while a snapshot is being restored."""


class PrimaryWorker:
    """Serves one primary volume."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._stack = ExitStack()
        self._errors = RecentErrors()
        self._drivers: list[Driver] = []
        self._replica: PrimaryReplica | None = None

    def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Open the stack, recover what a crash left, seed the volume if it is new, and serve it."""
        self._spec = spec["volume"]
        self._name: str = self._spec["name"]
        registry = self._registry = site_registry(spec["plugins"])
        registry.register(self._errors, "replkit-recent-errors")
        self._hooks = registry.hooks
        volume, save = open_stores(registry, self._spec)
        self._save = save
        self._stack.callback(save.close)
        self._stack.callback(volume.close)
        policy = msgspec.convert(self._spec["policy"], Policy)
        replica = PrimaryReplica.open(volume, save, SiteRuntime(), registry.hooks, self._name, policy=policy)
        self._replica = replica
        self._exports = ExportKeeper(Path(spec["run_dir"]), allow_remote=spec["allow_remote"])
        self._commands = PrimaryCommands(replica, save, self._name)
        self._restoring = PrimaryRestoring(
            replica, save, close_export=lambda: self._exports.remove_of(self._name), open_export=self._serve
        )
        is_restoring = self._restoring.resume()
        seeded = save.load(SEEDED)
        if not seeded.version:
            present = {member["name"] for member in self._status()["members"]}
            for member in self._spec["members"]:
                if member["name"] not in present:
                    _add_member(replica, member)
            save.swap(SEEDED, b"1", seeded.version)
        self._links = PeerLinks(registry, SiteRuntime())
        self._reporter = RoleReporter(Path(spec["control"]))
        self._returning = Returning(self._links, spec["own_url"], spec["site"], spec["peers"])
        self._verifying = PrimaryVerifying(replica, self._links, self._name, SiteRuntime())
        self._membership = Membership(lambda: self._primary, registry, self._name, self._wake)
        self._plans = Plans(self._links, self._returning)
        self._draining = Draining(replica)
        sentry = Sentry(replica, self._name, self._links, spec["peers"])
        sentry.first_look()
        services = [
            *replica.services(), ("fence", Fence(replica, save).step), ("handover", self._draining.step),
            ("sentry", sentry.step),
        ]  # fmt: skip
        self._drivers = [
            Driver(f"{self._name}-{name}", step, on_error=self._say, on_fatal=self._fail) for name, step in services
        ]
        registry.register(self, "replkit-primary-worker")
        if not is_restoring:
            self._serve()
        return {}

    def _serve(self) -> None:
        if self._spec["nbd"] and self._name not in self._exports:
            self._exports.add(self._name, self._primary.volume, self._spec["nbd"], writable=True)

    def stop(self) -> None:
        """Disconnect users, end the services, make all maps durable."""
        if self._replica is None:
            self._stack.close()
            return
        self._restoring.stop()
        self._draining.close()  # a request that waits for room, or for the end of a handover, would hold the server
        if self._replica.congestion.is_blocking:
            self._replica.volume.resume_writes()
        self._exports.stop()
        self._reporter.stop()
        self._links.close()
        ended = [driver.stop() for driver in self._drivers]
        if all(ended):
            try:
                self._replica.close()
            except FencedError:
                self._replica.close(clean=False)
        self._stack.close()

    @hookimpl
    def replkit_role_changed(self, volume: str, role: str) -> None:
        """The volume was handed over or resyncs: the daemon closes this process and opens it as a secondary."""
        if role == "secondary":
            self._reporter.report(volume)

    def handle(self, command: str, arguments: Arguments) -> object:
        """Carry out a command for this volume."""
        handlers: dict[str, Callable[[Arguments], object]] = {
            "apply": self._apply,
            "boundary-hold": lambda a: self._commands.hold_boundary(a, True),
            "boundary-release": lambda a: self._commands.hold_boundary(a, False),
            "copy-between": self._commands.copy_between,
            "cut": self._cut,
            "export-add": self._export_add,
            "export-remove": self._export_remove,
            "failover": lambda a: self._returning.go_on(self._primary, self._name, self._spec["nbd"], a),
            "handover-begin": self._hand_over,
            "handover-cancel": lambda _: self._returning.cancel(self._primary),
            "peer-call": self._peer_call,
            "policy-set": self._policy_set,
            "policy-show": self._policy_show,
            "progress": lambda _: self._progress(),
            "resize": self._commands.resize,
            "plan": lambda a: self._plans.plan(self._primary, self._name, a),
            "resync": self._resync,
            **{name: partial(self._salvage, name) for name in SALVAGE_COMMANDS},
            "snapshot-create": self._snapshot_create,
            "snapshot-delete": self._snapshot_delete,
            "snapshot-list": self._snapshot_list,
            "snapshot-restore": self._snapshot_restore,
            "snapshot-restore-progress": lambda _: {"volume": self._name, **self._restoring.progress()},
            "snapshot-show": self._snapshot_show,
            "status": lambda _: self._status(),
            **self._membership.commands(),
            **self._verifying.commands(),
        }
        if command not in handlers:
            raise WrongRoleError(
                f"{self._name} is the primary here: it has no {command}", hint="give the command at a secondary's site"
            )
        if command in CUTTING:
            self._refuse_while_restoring(command)
        return handlers[command](arguments)

    def _refuse_while_restoring(self, command: str) -> None:
        if self._restoring.is_pending:
            raise WrongRoleError(
                f"snapshot {self._restoring.snapshot} of {self._name} is being restored: no {command} now",
                hint="see how far it is with: replkit status",
            )

    @property
    def _primary(self) -> PrimaryReplica:
        if self._replica is None:
            raise WrongRoleError("the volume is not open yet")
        return self._replica

    def _hand_over(self, arguments: Arguments) -> dict[str, Any]:
        self._plans.check(self._primary, self._name, arguments)
        return self._returning.hand_over(self._primary, arguments)

    def _resync(self, arguments: Arguments) -> dict[str, Any]:
        self._plans.check(self._primary, self._name, arguments)
        return self._returning.resync(self._primary, self._name, arguments, None)

    def _salvage(self, command: str, arguments: Arguments) -> dict[str, Any]:
        return salvage_command(self._primary, self._name, command, arguments, self._exports.__contains__)

    def _peer_call(self, arguments: Arguments) -> dict[str, Any]:
        """A call of another site for this primary."""
        name, call_arguments, payload = unpack_call(arguments)
        if name == FULL_COPY:
            return pack_answer(self._returning.copy_to(self._primary, call_arguments), b"")
        if name == "handover-begin":
            self._refuse_while_restoring(name)
            return pack_answer(self._returning.hand_over(self._primary, call_arguments), b"")
        if name == "pull" and "have" in call_arguments:
            return pack_answer(msgspec.to_builtins(answer_pull(self._primary, call_arguments)), b"")
        answer = PeerService(lambda _volume: self._primary).handle(name, call_arguments, payload)
        if name in MEMBER_CALLS:
            self._wake()  # the member's snapshot is cut at once, not when the keeper looks the next time
        return pack_answer(*answer)

    def _cut(self, arguments: Arguments) -> dict[str, Any]:
        snapshot = arguments.get("snapshot")
        if snapshot is not None:
            return self._snapshot_create({"name": snapshot})
        return {"volume": self._name, "position": _position(self._primary.cut())}

    def _policy_show(self, _: Arguments) -> dict[str, Any]:
        return {"volume": self._name, "policy": msgspec.structs.asdict(self._primary.policy())}

    def _policy_set(self, arguments: Arguments) -> dict[str, Any]:
        policy = self._primary.set_policy(**policy_changes(arguments.get("changes", {})))
        self._wake()
        return {"volume": self._name, "policy": msgspec.structs.asdict(policy)}

    def _snapshot_create(self, arguments: Arguments) -> dict[str, Any]:
        name = check_name(arguments.get("name", ""), "snapshot")
        position = self._primary.create_snapshot(name)
        record = find_record(self._primary.snapshots(), name)
        return {"volume": self._name, "position": _position(position), **snapshot_fields(record)}

    def _snapshot_list(self, _: Arguments) -> dict[str, Any]:
        return {"volume": self._name, "snapshots": [snapshot_fields(record) for record in self._primary.snapshots()]}

    def _snapshot_restore(self, arguments: Arguments) -> dict[str, Any]:
        """Write a snapshot back; with ``dry_run`` only what would change."""
        name = check_name(arguments.get("name", ""), "snapshot")
        if arguments.get("dry_run"):
            return {"volume": self._name, **self._restoring.plan(name)}
        return {"volume": self._name, **self._restoring.begin(name)}

    def _snapshot_show(self, arguments: Arguments) -> dict[str, Any]:
        return {
            "volume": self._name,
            **snapshot_fields(find_record(self._primary.snapshots(), arguments.get("name", ""))),
        }

    def _snapshot_delete(self, arguments: Arguments) -> dict[str, Any]:
        name = check_name(arguments.get("name", ""), "snapshot")
        export = f"{self._name}.{name}"
        if export in self._exports:
            raise WrongRoleError(
                f"snapshot {name} is served as {export}",
                hint=f"stop that first: replkit export {self._name} --snapshot {name} --stop",
            )
        if name == self._restoring.snapshot:
            raise WrongRoleError(f"snapshot {name} is being restored", hint="it can be deleted when that is done")
        if any(member["copy_snapshot"] == name for member in self._status()["members"]):
            raise WrongRoleError(f"snapshot {name} is being copied to a new replica", hint="it goes when that is done")
        self._primary.delete_snapshot(name)
        return {"volume": self._name, "name": name}

    def _export_add(self, arguments: Arguments) -> dict[str, str]:
        name = arguments.get("snapshot")
        if arguments.get("left_behind"):
            return self._serve_past(LEFT_BEHIND_EXPORT, open_left_behind(self._primary), arguments, "--left-behind")
        if arguments.get("at") is not None:
            raise WrongRoleError(
                f"{self._name} is a primary: the boundaries of the past are kept at its secondaries",
                hint="give the command at a secondary's site; here are: replkit snapshot list, and snapshot restore",
            )
        if name is None:
            raise WrongRoleError(
                f"{self._name} is a primary: it is served at {self._spec['nbd'] or 'no NBD address'}",
                hint="name a snapshot with --snapshot",
            )
        volume = self._primary.open_snapshot(check_name(name, "snapshot"))
        return self._serve_past(name, volume, arguments, f"--snapshot {name}")

    def _serve_past(self, name: str, volume: BlockVolume, arguments: Arguments, option: str) -> dict[str, str]:
        stop = f"replkit export {self._name} {option} --stop"
        try:
            return self._exports.add(f"{self._name}.{name}", volume, arguments.get("address"), stop_command=stop)
        except ReplkitError:
            volume.close()
            raise

    def _export_remove(self, arguments: Arguments) -> dict[str, str]:
        name = LEFT_BEHIND_EXPORT if arguments.get("left_behind") else arguments.get("snapshot")
        if name is None:
            raise InvalidArgumentError(f"the primary {self._name} itself is served always", hint="name a snapshot")
        return self._exports.remove(f"{self._name}.{name}")

    def _apply(self, arguments: Arguments) -> list[str]:
        """Policy and members as the configuration says now; never a role."""
        self._spec = spec = with_applied(self._spec, arguments["spec"])
        changed = []
        before = msgspec.structs.asdict(self._primary.policy())
        changes = {name: value for name, value in policy_changes(spec["policy"]).items() if before[name] != value}
        if changes:
            self._primary.set_policy(**changes)
            changed += [f"policy {name} is now {value}" for name, value in sorted(changes.items())]
        present = {member.name: member for member in self._primary.root.members}
        wanted = {member["name"]: member for member in spec["members"]}
        for name in sorted(wanted.keys() - present.keys()):
            _add_member(self._primary, wanted[name])
            changed.append(f"member {name} was added")
        for name in sorted(wanted.keys() & present.keys()):
            url = wanted[name]["url"]
            if url != present[name].url and not present[name].shared:
                self._primary.members.readdress(name, url)
                changed.append(f"member {name} is reached at {url} now")
        for name in sorted(present.keys() - wanted.keys()) if arguments.get("remove_members") else ():
            self._primary.remove_member(name)
            changed.append(f"member {name} was removed")
        self._wake()
        return changed

    def _progress(self) -> dict[str, Any]:
        return member_progress(self._primary)

    def _status(self) -> dict[str, Any]:
        check_answers(self._spec)
        status = primary_status(self._primary, self._save, self._spec)
        table = {member.name: member for member in self._primary.root.members}
        for member in status["members"]:
            found = table.get(member["name"])
            member["on_demand"] = found is not None and found.on_demand
        status["restoring"] = self._restoring.progress() if self._restoring.is_pending else None
        status["errors"] = self._errors.of(self._name)
        status["exports"] = self._exports.listing() if self._drivers else []
        status["drift"] = drift_of(self._spec, role=status["role"], policy=status["policy"], members=status["members"])
        tell_size(status, self._spec, self._primary.volume.size_bytes)
        return status

    def _wake(self) -> None:
        for driver in self._drivers:
            driver.wake()

    def _say(self, name: str, error: ReplkitError) -> None:
        self._hooks.replkit_error(volume=self._name, message=f"{name}: {error}", error=error)


def _position(position: Position) -> dict[str, Any]:
    return {"epoch": position.epoch.count, "number": position.number, "identity": position.identity}


def _add_member(replica: PrimaryReplica, member: dict[str, Any]) -> None:
    if member.get("save_url") and follow_from_bucket(replica, member):
        return
    replica.add_member(member["name"], member["url"], member["destination_volume"], shared=member["shared"])

"""The replica worker: the RCP listener of a site, and all its secondary volumes with their players and views."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from replkit.contracts.buffers import Buffer
from replkit.contracts.hooks import hookimpl
from replkit.contracts.message import Message
from replkit.contracts.transport import Link, Listener
from replkit.errors import ControlError, InvalidArgumentError, NotFoundError, ReplkitError, WrongRoleError
from replkit.recovery.service import PeerService
from replkit.replication.admission import is_over
from replkit.replication.receiver import Greeting, first_message, refuse, refuse_at_primary
from replkit.replication.root import read_root
from replkit.replication.view import View
from replkit.site.bucketstate import check_answers
from replkit.site.calls import CallDesk, PeerLinks, RoleReporter
from replkit.site.control import Arguments
from replkit.site.drift import drift_of, with_applied
from replkit.site.events import RecentErrors
from replkit.site.exporting import ExportKeeper
from replkit.site.held import HeldReplica
from replkit.site.holding import Held
from replkit.site.names import check_name
from replkit.site.pastexport import export_past
from replkit.site.planning import SALVAGE_COMMANDS, Plans, salvage_command
from replkit.site.plugins import site_registry
from replkit.site.policies import policy_changes
from replkit.site.pulling import Pulling
from replkit.site.returning import Returning
from replkit.site.runtime import SiteRuntime
from replkit.site.sessions import SessionView
from replkit.site.shared import HeldShared
from replkit.site.sizing import tell_size
from replkit.site.statuses import secondary_status, snapshot_fields
from replkit.site.verifying import CALLS as VERIFY_CALLS
from replkit.snapshot.records import find_record

_log = logging.getLogger(__name__)


class ReplicaWorker:
    """Serves the secondary volumes of a site."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail
        self._runtime = SiteRuntime()
        self._errors = RecentErrors()
        self._held: dict[str, HeldReplica] = {}
        self._pulling: dict[str, Pulling] = {}
        self._sizes: dict[str, int] = {}
        self._shared: dict[str, HeldShared] = {}
        self._listener: Listener | None = None
        self._exports: ExportKeeper | None = None

    def start(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Open the volumes and listen."""
        registry = site_registry(spec["plugins"])
        registry.register(self._errors, "replkit-recent-errors")
        registry.register(self, "replkit-replica-worker")
        self._exports = ExportKeeper(Path(spec["run_dir"]), allow_remote=spec["allow_remote"])
        self._site, self._own_url, self._registry = spec["site"], spec["own_url"], registry
        self._links = PeerLinks(registry, self._runtime)
        self._reporter = RoleReporter(Path(spec["control"]))
        self._desk = CallDesk(self._answer, self._held.keys, Path(spec["control"]), self._runtime)
        self._returning = Returning(self._links, spec["own_url"], spec["site"], spec["peers"])
        self._plans = Plans(self._links, self._returning)
        self._primaries: dict[str, str] = dict(spec["primaries"])
        for volume in spec["volumes"]:
            if volume["shared_with"]:
                shared = self._shared[volume["name"]] = HeldShared(volume, registry, spec["site"], self._fail)
                shared.on_open = lambda replica, held=shared: self._serve(held, replica.view())  # type: ignore[misc]
                shared.begin()
            else:
                self._hold(volume)
        if spec["listen"]:
            self._listener = registry.open_transport(spec["listen"]).listen(spec["listen"], self._on_link)
        return {"listen": self._listener.url if self._listener is not None else None}

    def stop(self) -> None:
        """Take no more links, end the exports, close the volumes."""
        if self._listener is not None:
            self._listener.close()
        if self._exports is not None:
            self._exports.stop()
            self._desk.stop()
            self._reporter.stop()
            self._links.close()
        everything: list[Held[Any]] = [*self._held.values(), *self._shared.values()]
        for held in everything:
            held.stop()

    def _hold(self, volume: dict[str, Any]) -> None:
        self._primaries.pop(volume["name"], None)
        held = self._held[volume["name"]] = HeldReplica(
            volume, self._registry, self._site, self._fail, links=self._links
        )
        pull = volume.get("pull")
        self._pulling[held.name] = Pulling(
            held.name, pull, lambda: held.replica, self._links, partial(self._source_url, held), self._site
        )
        held.on_open = lambda replica: self._serve(held, replica.view())
        held.begin()

    def _source_url(self, held: HeldReplica) -> str:
        """Where the primary of a secondary is: here, for a bucket that this site keeps."""
        named = (held.spec.get("pull") or {}).get("peer") or held.source_site
        return self._own_url if held.spec["bucket_of"] else self._returning.url_of(named)

    def _release(self, name: str) -> dict[str, Any] | None:
        """Close a volume and serve it no longer; what it was told, ``None`` where it is not here."""
        held = self._held.pop(name, None)
        if held is None:
            return None
        self._primaries[name] = held.spec["save_url"]
        self._keeper.remove_of(name)
        held.stop()
        return held.spec

    def reopen(self, name: str) -> HeldReplica:
        """Open a volume anew, after its root was changed in a way that its services do not follow."""
        spec = self._release(name)
        if spec is not None:
            self._hold(spec)
        return self._held[name]

    def _answer(self, name: str, arguments: dict[str, Any], payload: Buffer) -> tuple[dict[str, Any], Buffer]:
        """A call of another site for a secondary here."""
        if name in VERIFY_CALLS:
            return self._held[arguments["volume"]].verifying.answer(name, arguments)
        return PeerService(lambda volume: self._held[volume].replica).handle(name, arguments, payload)

    @hookimpl
    def replkit_role_changed(self, volume: str, role: str) -> None:
        """A volume was promoted: the daemon moves it to a process of its own."""
        if role == "primary":
            self._reporter.report(volume)

    @hookimpl
    def replkit_delta_set_received(self, volume: str) -> None:
        """A set is here: its player looks now."""
        if volume in self._held:
            self._held[volume].wake()

    @hookimpl
    def replkit_delta_set_played(self, volume: str) -> None:
        """A pass has ended: its sender waits to hear of it."""
        if volume in self._held:
            self._held[volume].acknowledge()
            self._follow_size(self._held[volume])

    def _follow_size(self, held: HeldReplica) -> None:
        """Serve the view with its new size; clients connect again (X5). On another thread: it waits for reads."""
        size_bytes = held.replica.volume.size_bytes
        if held.name not in self._sizes or self._sizes[held.name] == size_bytes:
            return
        self._sizes[held.name] = size_bytes

        def serve_again() -> None:
            with suppress(NotFoundError):
                self._keeper.remove(held.name)
            self._serve(held, held.replica.view())

        threading.Thread(target=serve_again, name=f"{held.name}-size", daemon=True).start()

    def handle(self, command: str, arguments: Arguments) -> object:
        """Carry out a command for one of the volumes."""
        handlers: dict[str, Callable[[HeldReplica, Arguments], object]] = {
            "apply": self._apply,
            "boundaries": lambda held, _: {"volume": held.name, "boundaries": held.past.moments()},
            "boundary-hold": lambda held, a: held.hold_boundary(a.get("at"), is_held=True),
            "boundary-release": lambda held, a: held.hold_boundary(a.get("at"), is_held=False),
            "pull": self._pull,
            "export-add": self._export_add,
            "export-in-use": self._export_in_use,
            "export-remove": self._export_remove,
            "failover": self._failover,
            "plan": lambda held, a: self._plans.plan(held.replica, held.name, a, held.source_site),
            **{one: partial(self._salvage, one) for one in SALVAGE_COMMANDS},
            "policy-set": self._policy,
            "policy-show": self._policy,
            "refetch": lambda held, a: held.refetch(self._source_url(held), a.get("tags")),
            "snapshot-create": self._snapshot_create,
            "snapshot-delete": self._snapshot_delete,
            "snapshot-list": self._snapshot_list,
            "resync": self._resync,
            "snapshot-show": self._snapshot_show,
            "status": self._status,
            "switchover": self._returning.switchover,
        }
        name = arguments.get("volume", "")
        if command == "hold":
            return self._hold_again(arguments["spec"])
        if command == "release":
            return {"released": self._release(name) is not None}
        if name in self._shared:
            return self._handle_shared(self._shared[name], command, arguments)
        if name not in self._held:
            raise InvalidArgumentError(f"volume {name!r} is not here")
        if command not in handlers:
            raise WrongRoleError(
                f"{name} is a secondary here: this is for its primary", hint="give the command at the primary's site"
            )
        return handlers[command](self._held[name], arguments)

    def _hold_again(self, spec: dict[str, Any]) -> dict[str, Any]:
        if spec["name"] not in self._held:
            self._hold(spec)
        return {"volume": spec["name"]}

    def _resync(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        """A secondary that stands beyond the fork, or in a resync with a primary that is none any more."""
        self._plans.check(held.replica, held.name, arguments, held.source_site)
        return self._returning.resync(held.replica, held.name, arguments, lambda: self.reopen(held.name).replica)

    def _failover(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        self._plans.check(held.replica, held.name, arguments, held.source_site)
        return self._returning.failover(held, arguments)

    def _salvage(self, command: str, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        return salvage_command(held.replica, held.name, command, arguments, self._keeper.__contains__)

    def _handle_shared(self, held: HeldShared, command: str, arguments: Arguments) -> object:
        if command == "export-add" and arguments.get("snapshot") is None:
            return self._export_add(held, arguments)
        if command == "export-remove":
            return self._export_remove(held, arguments)
        return held.handle(command, arguments, self._errors.of(held.name), self._keeper.listing())

    def _on_link(self, link: Link) -> None:
        try:
            first = first_message(link, self._runtime)
            if isinstance(first, Message):
                self._desk.serve(link, first)
                return
            greeting = first
            name = greeting.hello.volume
            if name not in self._held:
                self._refuse(greeting)
                return
            if not self._held[name].is_open:  # no refusal, after which a sender waits long: it will be open soon
                link.close()
                return
            self._held[name].serve_link(greeting)
        except ReplkitError as error:
            _log.warning("link from %s: %s", link.peer, error)

    def _refuse(self, greeting: Greeting) -> None:
        """No secondary of this name is here; an old primary learns so that its epoch is over (R9)."""
        name = greeting.hello.volume
        if name in self._primaries:
            with self._registry.open_save_volume(self._primaries[name], producer=False) as save:
                root = read_root(save)
                if is_over(greeting.hello, root) and not self._fence(name, greeting):
                    greeting.link.close()  # it calls again: nothing is answered before no write is taken any more
                    return
                refuse_at_primary(greeting, root, self._runtime)
            return
        refuse(greeting, self._runtime, "unknown-volume", f"this site has no secondary volume {name!r}")

    def _fence(self, name: str, greeting: Greeting) -> bool:
        """Stop the writes of a primary of this site, which is in another process, as a hello has a higher epoch."""
        hello = greeting.hello
        arguments = {"volume": name, "epoch": msgspec.to_builtins(hello.epoch), "lineage": hello.lineage}
        try:
            self._desk.forward("fence", arguments)
        except ReplkitError as error:
            _log.warning("%s could not be told that its epoch is over: %s", name, error)
            return False
        return True

    def _serve(self, held: Held[Any], view: View) -> None:
        if not held.spec["nbd"]:
            return
        self._sizes[held.name] = view.size_bytes
        pulling = self._pulling.get(held.name)
        on_demand = pulling is not None and pulling.is_on_access
        self._keeper.add(held.name, self._session_view(held, view) if on_demand else view, held.spec["nbd"])

    def _session_view(self, held: Held[Any], newest: View) -> SessionView:
        """A view of the newest boundary, pinned for each session; a secondary on demand asks for a newer one before."""

        def pin() -> View:
            pulling = self._pulling.get(held.name)
            if pulling is not None:
                pulling.on_access()
            return held.view(pinned=True)

        return SessionView(newest, pin)

    @property
    def _keeper(self) -> ExportKeeper:
        if self._exports is None:
            raise ControlError("the worker is not started yet")
        return self._exports

    def _apply(self, held: HeldReplica, arguments: Arguments) -> list[str]:
        """Policy as the configuration says now; a secondary has no members, and a role never changes so."""
        held.spec = spec = with_applied(held.spec, arguments["spec"])
        before = held.policy()
        changes = {name: value for name, value in policy_changes(spec["policy"]).items() if before[name] != value}
        held.policy(changes)
        return [f"policy {name} is now {value}" for name, value in sorted(changes.items())]

    def _policy(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        return {"volume": held.name, "policy": held.policy(arguments.get("changes"))}

    def _export_add(self, held: Held[Any], arguments: Arguments) -> dict[str, Any]:
        """A snapshot, or the view: pinned for each session, with ``hold`` from now on, with ``follow`` not."""
        name, address = arguments.get("snapshot"), arguments.get("address")
        if arguments.get("at") is not None and isinstance(held, HeldReplica):
            return export_past(self._keeper, held, arguments, self._runtime.random_bytes(4).hex())
        if name is not None:
            volume = held.replica.volume.open_snapshot(check_name(name, "snapshot"))
            try:
                return self._keeper.add(f"{held.name}.{name}", volume, address, stop_command=_stop_command(held, name))
            except ReplkitError:
                volume.close()
                raise
        export = f"{held.name}.view"
        if export in self._keeper:
            raise WrongRoleError(f"{export} is served already", hint=f"stop it with: {_stop_command(held)}")
        follow, hold = bool(arguments.get("follow")), bool(arguments.get("hold"))
        if follow and hold:
            raise InvalidArgumentError("a view cannot both follow playback and hold a boundary", hint="choose one")
        newest = held.view(pinned=hold)
        boundary = str(newest.boundary) if follow or hold else ""
        view = newest if boundary else self._session_view(held, newest)
        try:
            return {**self._keeper.add(export, view, address), "boundary": boundary}
        except ReplkitError:
            view.close()
            raise

    def _export_remove(self, held: Held[Any], arguments: Arguments) -> dict[str, str]:
        if arguments.get("at") is not None and isinstance(held, HeldReplica):
            return self._keeper.remove(f"{held.name}.at-{held.past.number_of(arguments['at'])}")
        return self._keeper.remove(f"{held.name}.{arguments.get('snapshot') or 'view'}")

    def _pull(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        """Ask the primary for a newer version now (C5)."""
        at = arguments.get("at")
        if at is not None and not isinstance(at, int):
            raise InvalidArgumentError(f"{at!r} is no position", hint="write it as 17")
        return self._pulling[held.name].pull(
            at, allow_copy=bool(arguments.get("allow_copy")), timeout_s=float(arguments.get("timeout_s") or 60.0)
        )

    def _export_in_use(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        name, start = str(arguments.get("export", "")), arguments.get("start", 0)
        if not name.startswith(f"{held.name}.") or not isinstance(start, int) or start < 0:
            raise InvalidArgumentError(f"{name!r} from block {start!r} is no export of {held.name}")
        return self._keeper.in_use(name, start)

    def _snapshot_create(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        """Made between two passes of playback, and stamped with the last set played (P6)."""
        name = check_name(arguments.get("name", ""), "snapshot")
        record = held.create_snapshot(name)
        return {"volume": held.name, **snapshot_fields(record)}

    def _snapshot_list(self, held: HeldReplica, _: Arguments) -> dict[str, Any]:
        return {"volume": held.name, "snapshots": [snapshot_fields(one) for one in held.replica.volume.snapshots()]}

    def _snapshot_show(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        record = find_record(held.replica.volume.snapshots(), arguments.get("name", ""))
        return {"volume": held.name, **snapshot_fields(record)}

    def _snapshot_delete(self, held: HeldReplica, arguments: Arguments) -> dict[str, Any]:
        name = check_name(arguments.get("name", ""), "snapshot")
        if f"{held.name}.{name}" in self._keeper:
            raise WrongRoleError(f"snapshot {name} is served", hint=f"stop that first: {_stop_command(held, name)}")
        if held.past.is_base(name):
            raise WrongRoleError(f"a boundary that stands on snapshot {name} is served", hint="see: replkit status")
        held.replica.volume.delete_snapshot(name)
        return {"volume": held.name, "name": name}

    def _status(self, held: HeldReplica, _: Arguments) -> dict[str, Any]:
        check_answers(held.spec)
        status = secondary_status(held.replica, held.save, held.spec)
        status["policy"] = held.policy()
        status["errors"] = self._errors.of(held.name)
        status["exports"] = self._keeper.listing()
        status["drift"] = drift_of(held.spec, role=status["role"], policy=status["policy"], members=[])
        tell_size(status, held.spec, held.replica.volume.size_bytes)
        return status


def _stop_command(held: Held[Any], snapshot: str | None = None) -> str:
    return f"replkit export {held.name}{f' --snapshot {snapshot}' if snapshot else ''} --stop"

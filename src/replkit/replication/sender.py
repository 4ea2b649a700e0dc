"""The sender to one member: reads the save volume as a reader, sends, records what was acknowledged (D4, T1, FIG. 12).

It needs nothing but the save volume and a read-only volume, so it runs in a process of its own and can be stopped
and started anywhere (T6). Every step is bounded; a break costs at most the chunk that was under way.
"""

from __future__ import annotations

from typing import Any

import msgspec

from replkit.contracts.position import Epoch, Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.transport import Link, Transport
from replkit.contracts.volume import BlockVolume
from replkit.errors import (
    DivergedError,
    LinkClosedError,
    LinkTimeoutError,
    ProtocolError,
    RecordMissingError,
    RefusedError,
    ReplkitError,
)
from replkit.rcp import messages as m
from replkit.rcp.multicast import ControlBlock
from replkit.rcp.session import SenderSession
from replkit.rcp.states import State
from replkit.replication.cells import Member, Root
from replkit.replication.commands import CommandQueue, PendingCommand
from replkit.replication.new_copy import find_member
from replkit.replication.outbox import Outbox
from replkit.replication.policy import load_policy
from replkit.replication.progress import ProgressRecorder
from replkit.replication.root import read_root

CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 30.0
MESSAGES_A_STEP = 8
IDLE_PAUSE_S = 0.5


class Sender:
    """Replicates one volume to one member.

    Args:
        save: the save volume of the volume, opened as a reader; its cell ``sent.<member>`` is the sender's own.
        volume: the volume, opened read-only; new copies read a snapshot of it.
        transport: reaches the URL of the member.
        member: name of the member in the root; its URL and state are read from there.
        runtime: clock and locks.
        hooks: event hooks of the registry.
        site: name of this site, for the other end.
    """

    def __init__(  # noqa: PLR0917 - two stores, a way, a name, and the outside world
        self,
        save: SaveVolume,
        volume: BlockVolume,
        transport: Transport,
        member: str,
        runtime: Runtime,
        hooks: Any,
        *,
        name: str = "",
        site: str = "site",
    ) -> None:
        self._save, self._transport, self._runtime, self._hooks = save, transport, runtime, hooks
        self._volume, self._member_name, self._name, self._site = volume, member, name, site
        self._link: Link | None = None
        self._session: SenderSession | None = None
        self._epoch: Epoch | None = None
        self._outbox = Outbox(save, volume, self._root)
        self._progress = ProgressRecorder(save, member, runtime)
        self._cached_root = read_root(save)
        self._commands = CommandQueue(runtime)
        self._retry_at_s = 0.0
        self._failed: Member | None = None
        self._failures = 0
        self._told = ""

    def step(self, wait_s: float = 0.0) -> float:
        """Connect, send a few messages, take in answers, waiting ``wait_s`` for one; seconds until the next call."""
        try:
            return self._step(wait_s)
        except (LinkClosedError, LinkTimeoutError, ProtocolError) as error:
            return self._fail("disconnected", error, slowly=False)
        except RecordMissingError as error:
            return self._fail("stale", error, slowly=True)
        except DivergedError as error:
            return self._fail("diverged", error, slowly=True)
        except RefusedError as error:
            return self._fail("refused", error, slowly=True)
        except ReplkitError as error:
            return self._fail("failed", error, slowly=False)

    def wake(self) -> None:
        """End the wait of a step: there is something to send. From any task."""
        link = self._link
        if link is not None:
            link.wake()

    def command(self, block: ControlBlock) -> PendingCommand:
        """Let the member carry out a control block; a broadcast is one call for each sender (T10). From any task."""
        return self._commands.put(block)

    def close(self) -> None:
        """End the session in order; what was acknowledged is recorded already."""
        self._disconnect("closed")

    def status(self) -> dict[str, object]:
        """State of the member, and what it has (R8)."""
        progress, member = self._progress.get(), find_member(self._cached_root, self._member_name)
        copied = progress.copied_blocks(member) if member is not None else 0
        return {**msgspec.structs.asdict(progress), "member": self._member_name, "copy_next_block": copied,
                "sent_bytes": self._progress.sent_bytes,
                "average_bytes_per_s": self._progress.average_bytes_per_s,
                "credit_bytes": self._session.credit_bytes if self._session else 0}  # fmt: skip

    def _root(self) -> Root:
        return self._cached_root

    def _step(self, wait_s: float) -> float:
        self._cached_root = root = read_root(self._save)
        member = find_member(root, self._member_name)
        stop = stop_reason(root, member)
        if member is None or stop:
            self._disconnect(stop)
            self._progress.state(stop)
            return IDLE_PAUSE_S
        if self._link is None or self._session is None:
            pause_s = self._retry_at_s - self._runtime.monotonic()
            if member != self._failed:  # a command changed what is to be sent, or where to
                self._failures = 0
            elif pause_s > 0:
                return min(pause_s, IDLE_PAUSE_S)
            self._connect(root, member)
            return 0.0
        if root.epoch != self._epoch:  # the member learns of an epoch by a hello, before any set of it
            self._disconnect("another epoch began")
            return 0.0
        if self._session.state is State.READY and self._outbox.copy_id != member.copy_id:
            self._disconnect("another copy begins")
            return 0.0
        sent = self._send_some(self._link, self._session, root, member)
        taken = self._take(self._link, self._session, member, 0.0 if sent else wait_s)
        self._progress.tick()
        return 0.0 if sent or taken or wait_s else IDLE_PAUSE_S / 10

    def _connect(self, root: Root, member: Member) -> None:
        link = self._transport.connect(member.url, CONNECT_TIMEOUT_S)
        self._link, self._epoch = link, root.epoch
        self._session = session = SenderSession(link.peer, self._runtime.monotonic())
        hello = m.Hello(
            versions=(m.VERSION,),
            site=self._site,
            volume=member.destination_volume,
            member=member.name,
            lineage=root.lineage,
            epoch=root.epoch,
            history=root.history,
            position=root.last,
            block_size=self._volume.block_size,
            volume_size_bytes=self._volume.size_bytes,
        )
        link.send(session.send(hello, self._runtime.monotonic()), SEND_TIMEOUT_S)

    def _send_some(self, link: Link, session: SenderSession, root: Root, member: Member) -> int:
        if session.state is not State.READY:
            return 0
        now = self._runtime.monotonic()
        due = session.due(now)
        if due is not None:
            link.send(session.send(due, now), SEND_TIMEOUT_S)
        command = self._commands.next(session)
        if command is not None:
            link.send(session.send(command, now), SEND_TIMEOUT_S)
        sent = 0
        while sent < MESSAGES_A_STEP:
            transfer = self._outbox.pick(root, member)
            if transfer is None:
                break
            body, payload = transfer.peek()
            size_bytes = memoryview(payload).nbytes
            if isinstance(body, m.Chunk | m.CopyChunk) and not session.can_send(size_bytes):
                break  # S4: the receiver has no room; its credit message will come
            link.send(session.send(body, self._runtime.monotonic(), payload), SEND_TIMEOUT_S)
            self._outbox.sent(transfer, body)
            self._progress.count(size_bytes)
            if isinstance(body, m.CopyBegin):
                self._progress.change(received=None, played=None, copied="", copying=member.copy_id, copy_next_block=0)
            elif isinstance(body, m.CopyChunk):
                self._progress.copying(body.next_block)
            sent += 1
        return sent

    def _take(self, link: Link, session: SenderSession, member: Member, wait_s: float) -> int:
        taken = 0
        while taken < MESSAGES_A_STEP:
            message = link.receive(wait_s if not taken else 0.0)
            if message is None:
                break
            taken += 1
            self._handle(link, session, member, session.receive(message, self._runtime.monotonic()))
        if session.is_dead(self._runtime.monotonic()) and not link.is_receiving():
            raise LinkTimeoutError(f"member {self._member_name} was silent for too long")
        return taken

    def _handle(self, link: Link, session: SenderSession, member: Member, body: m.Body) -> None:
        match body:
            case m.Welcome():
                self._welcome(body, member)
            case m.Refuse():
                if body.epoch is not None and body.code in {"fenced", "diverged"}:
                    self._progress.change(fenced_by=body.epoch)
                error = DivergedError if body.code == "diverged" else RefusedError
                raise error(f"member {self._member_name} refused ({body.code}): {body.text}")
            case m.Ack():
                self._told = ""  # there is progress: the next trouble is worth telling again
                self._outbox.acknowledged(session)
                self._progress.change(received=body.received, played=body.played)
            case m.CopyProgress():
                self._progress.change(copy_next_block=body.next_block)
            case m.CopyDone():
                self._outbox.copy_done(session)
                self._progress.change(copied=body.copy_id, state="following")
            case m.CommandDone():
                self._commands.answered(body)
            case m.Ping():
                link.send(session.send(m.Pong(token=body.token), self._runtime.monotonic()), SEND_TIMEOUT_S)
            case m.Bye():
                raise LinkClosedError(f"member {self._member_name} ended the session: {body.reason}")

    def _welcome(self, body: m.Welcome, member: Member) -> None:
        if body.epoch.count > self._cached_root.epoch.count:
            self._progress.change(fenced_by=body.epoch)
            raise RefusedError(
                f"member {self._member_name} has seen epoch {body.epoch.count}, this volume is at "
                f"{self._cached_root.epoch.count}",
                code="fenced",
                hint="another site was promoted; resync this one",
            )
        self._check_own_epoch(body, member)
        needs_copy = self._outbox.welcome(body, member, load_policy(self._save).chunk_bytes)
        self._failures = 0
        played: Position | None = None if needs_copy else body.played
        copied = "" if needs_copy else member.copy_id
        if needs_copy:
            self._progress.change(copying=member.copy_id, copy_next_block=self._outbox.copy_from)
        self._progress.change(
            received=body.received, played=played, copied=copied, epoch=self._epoch, last_error="",
            state="copying" if needs_copy else "following",
        )  # fmt: skip

    def _check_own_epoch(self, body: m.Welcome, member: Member) -> None:
        """A member that is ahead in this very epoch got its sets from another copy of this volume (R9)."""
        ahead, last = body.received, read_root(self._save).last  # read after the answer came: it has all that was sent
        has_this_copy = body.partial is not None and body.partial.copy_id == member.copy_id
        if ahead is None or (member.needs_copy and not has_this_copy) or ahead.epoch != last.epoch:
            return
        if ahead.number > last.number or (ahead.number == last.number and ahead.identity != last.identity):
            self._progress.change(ahead=ahead)
            raise DivergedError(
                f"member {member.name} stands at {ahead}, which was never cut here (newest {last})",
                hint="this save volume was rolled back or copied: promote the member, then resync this volume",
            )

    def _fail(self, state: str, error: ReplkitError, *, slowly: bool) -> float:
        """Retry soon, then slowly; after the last quick retry the error handler is told, once (D4)."""
        self._disconnect("error")
        policy = load_policy(self._save)
        self._failures = max(self._failures + 1, policy.retries + 1 if slowly else 0)
        has_given_up = self._failures > policy.retries
        pause_s = policy.slow_retry_s if has_given_up else policy.retry_s
        self._retry_at_s = self._runtime.monotonic() + pause_s
        self._failed = find_member(self._cached_root, self._member_name)
        self._progress.change(state=state, last_error=str(error)[:1000])
        if has_given_up and self._told != state:
            self._told = state
            self._hooks.replkit_error(
                volume=self._name, message=f"member {self._member_name}: {state}: {error}", error=error
            )
        return min(pause_s, IDLE_PAUSE_S)

    def _disconnect(self, reason: str) -> None:
        link, session = self._link, self._session
        self._link = self._session = None
        self._outbox.reset()
        self._commands.lost()
        if link is None:
            return
        try:
            if session is not None and session.state is State.READY and reason != "error":
                link.send(session.send(m.Bye(reason=reason), self._runtime.monotonic()), SEND_TIMEOUT_S)
        except (LinkClosedError, LinkTimeoutError):
            self._retry_at_s = self._runtime.monotonic()
        finally:
            link.close()


def stop_reason(root: Root, member: Member | None) -> str:
    """Why nothing is to be sent to a member; empty when it is."""
    if member is None:
        return "removed"
    if root.role != "primary":
        return "not primary"
    if root.paused or member.state == "paused":
        return "paused"
    return "stale" if member.state == "stale" else ""

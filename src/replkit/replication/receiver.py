"""The receiver of one link: takes in sets and new copies, acknowledges what is durable, grants credit (D3, D4, S4)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from replkit.contracts.message import Message
from replkit.contracts.position import Epoch, Position
from replkit.contracts.runtime import Runtime
from replkit.contracts.savevolume import Partition
from replkit.contracts.transport import Link
from replkit.errors import (
    CorruptRecordError,
    DivergedError,
    LinkClosedError,
    LinkTimeoutError,
    ProtocolError,
    RefusedError,
    ReplkitError,
    SaveVolumeFullError,
)
from replkit.rcp import messages as m
from replkit.rcp.calls import is_call
from replkit.rcp.multicast import START_PLAYBACK, MulticastReceiver, VolumeMulticast
from replkit.rcp.session import ReceiverSession
from replkit.rcp.states import State
from replkit.replication.admission import check_hello, epoch_for, follow_epoch, refusal_at_primary
from replkit.replication.cells import Root
from replkit.replication.player import Player
from replkit.replication.receive_copy import CopyInbox
from replkit.replication.receive_difference import DifferenceInbox
from replkit.replication.receive_set import SetInbox
from replkit.replication.received import ReceivedHistory
from replkit.replication.replica import Replica
from replkit.replication.trimmer import Condemning, nothing_condemned

SEND_TIMEOUT_S = 30.0
MESSAGES_A_STEP = 32
CREDIT_WINDOW_BYTES = 64 << 20
STUCK_S = 10.0
"""How long nothing may come of a set for which there is no room, before it is refused."""
RESERVE_SHARE = 16
"""One part in so many of the room for sets is not granted: heads and alignment of records need it."""
PAUSE_S = 0.05


class Greeting(NamedTuple):
    """A link on which the hello has arrived, so that one listener can serve many volumes."""

    link: Link
    session: ReceiverSession
    hello: m.Hello


def first_message(link: Link, runtime: Runtime, timeout_s: float = 10.0) -> Greeting | Message:
    """Wait for the first message of a new link: a greeting, or the ``Call`` with which a link of calls begins.

    The site hands a greeting to the replica called ``hello.volume``, and a call to a ``CallServer``.
    """
    session = ReceiverSession(link.peer, runtime.monotonic())
    message = link.receive(timeout_s)
    if message is None:
        link.close()
        raise LinkTimeoutError(f"{link.peer}: no hello within {timeout_s} s")
    if is_call(message):
        return message
    body = session.receive(message, runtime.monotonic())
    if not isinstance(body, m.Hello):
        raise ProtocolError(f"{link.peer}: {type(body).__name__} instead of a hello")
    return Greeting(link, session, body)


def greet(link: Link, runtime: Runtime, timeout_s: float = 10.0) -> Greeting:
    """As ``first_message``, where nobody answers calls."""
    first = first_message(link, runtime, timeout_s)
    if isinstance(first, Message):
        link.close()
        raise ProtocolError(f"{link.peer}: a call where no calls are answered")
    return first


def refuse_at_primary(greeting: Greeting, root: Root, runtime: Runtime) -> None:
    """Answer a greeting for a volume that is a primary here: an old primary learns that its epoch is over (R9)."""
    code, text = refusal_at_primary(greeting.hello, root, greeting.hello.volume)
    refuse(greeting, runtime, code, text, epoch_for(greeting.hello, root))


def refuse(greeting: Greeting, runtime: Runtime, code: str, text: str, epoch: Epoch | None = None) -> None:
    """Answer a greeting with no, and close the link; with ``epoch`` an older sender learns that it is fenced."""
    body = m.Refuse(code=code, text=text[:1000], epoch=epoch)
    try:
        greeting.link.send(greeting.session.send(body, runtime.monotonic()), SEND_TIMEOUT_S)
    finally:
        greeting.link.close()


class Receiver:
    """One session at a replica. ``step`` until it returns ``None``; ``close`` may come from any task.

    With ``fault``, code and text of a refusal that was decided already, it says no and ends.
    """

    def __init__(
        self,
        greeting: Greeting,
        replica: Replica,
        player: Player,
        site: str,
        *,
        fault: tuple[str, str] | None = None,
        condemning: Condemning = nothing_condemned,
    ) -> None:
        self._link, self._session, self._hello = greeting
        self._fault = fault
        self._replica, self._player, self._site = replica, player, site
        self._runtime = replica.runtime
        hello = self._hello
        self._relation = VolumeMulticast(hello.volume, hello.site, {hello.member: hello.volume})
        self._sets = SetInbox(replica, condemning=condemning, begins_at_once=player.begins_at_once)
        self._copy = CopyInbox(replica, player)
        self._difference = DifferenceInbox(replica, player)
        self._copying: CopyInbox | DifferenceInbox = self._copy
        self._history = ReceivedHistory(replica)
        self._waiting: tuple[m.Body, Message] | None = None
        self._acked: tuple[Position | None, Position | None] | None = None
        self._is_welcomed = self._is_closed = self._is_over = False
        self._stepping = replica.runtime.lock()
        self._pause_s = 0.0
        self._stuck_since: tuple[float, int] | None = None
        self.waits_for = ""
        self.received_bytes = 0

    def step(self, wait_s: float = 0.0) -> float | None:
        """Take in some messages, waiting ``wait_s`` for the first; seconds to the next call, ``None`` at the end."""
        with self._stepping:
            pause_s = None if self._is_closed else self._step(wait_s)
            self._is_over = pause_s is None
            return pause_s

    @property
    def is_open(self) -> bool:
        """Whether a sender is there: it was let in, and the link has not ended (invariant 13)."""
        return self._is_welcomed and not self._is_closed and not self._is_over

    def _step(self, wait_s: float) -> float | None:
        try:
            if not self._is_welcomed:
                return self._welcome()
            self._report()
            self._refuse_if_stuck()
            if self._waiting is not None:
                return self._handle(*self._waiting)
            if not self._receive(wait_s):
                return None
        except (ProtocolError, CorruptRecordError, DivergedError, RefusedError) as error:
            self._end(_code_of(error), str(error), error)
            return None
        except (LinkClosedError, LinkTimeoutError):
            self._link.close()
            return None
        return self._pause_s

    def close(self) -> None:
        """End the link; a step that waits on it returns, and none takes in what waits for room."""
        self._is_closed = True
        self._link.close()

    def wake(self) -> None:
        """End the wait of a step: there is something to acknowledge. From any task."""
        self._link.wake()

    def end(self) -> None:
        """Close, and return when no step runs any more: another receiver may go on where this one was."""
        self.close()
        with self._stepping:
            return

    def status(self) -> dict[str, object]:
        """Who sends, what came, what the receiver waits for (R8)."""
        return {"peer": self._link.peer, "site": self._hello.site, "received_bytes": self.received_bytes,
                "credit_bytes": self._session.credit_bytes, "waits_for": self.waits_for}  # fmt: skip

    def _welcome(self) -> float | None:
        fault = self._fault or check_hello(self._hello, self._replica)
        if fault is not None:
            self._end(*fault, None)
            return None
        follow_epoch(self._hello, self._replica)
        received, played = self._positions()
        partial, copy, difference = self._sets.partial(), self._copy.partial(), self._difference.partial()
        if difference is not None:
            partial = msgspec.structs.replace(
                partial or m.Partial(), copy_id=difference.copy_id, copy_base=difference.base,
                copy_next_block=difference.next_block, copy_next_chunk=difference.chunks,
            )  # fmt: skip
        elif copy is not None:
            partial = msgspec.structs.replace(partial or m.Partial(), copy_id=copy[0], copy_next_block=copy[1])
        welcome = m.Welcome(
            version=m.VERSION, site=self._site, received=received, played=played, epoch=self._hello.epoch,
            partial=partial, credit_bytes=self._room_bytes(),
        )  # fmt: skip
        self._send(welcome)
        self._acked = (received, played)
        self._is_welcomed = True
        return 0.0

    def _receive(self, wait_s: float) -> bool:
        for count in range(MESSAGES_A_STEP):
            message = self._link.receive(wait_s if count == 0 else 0.0)
            if message is None:
                break
            body = self._session.receive(message, self._runtime.monotonic())
            if self._session.state is State.CLOSED:
                self._link.close()
                return False
            self._pause_s = self._handle(body, message)
            if self._waiting is not None:
                return True
        if self._session.is_dead(self._runtime.monotonic()) and not self._link.is_receiving():
            raise LinkTimeoutError(f"{self._link.peer}: silent for too long")
        return True

    def _handle(self, body: m.Body, message: Message) -> float:
        """Carry a message out, or keep it until there is room for it: nothing is dropped (invariant 11)."""
        self._waiting = (body, message)
        self._copying.prepare()
        if isinstance(body, m.CopyChunk | m.CopyEnd) and not self._copying.is_ready:
            return 0.0 if self._player.sets.is_idle() else PAUSE_S
        try:
            self._carry_out(body, message)
        except SaveVolumeFullError as error:
            self.waits_for = str(error)
            self._replica.room_wish.is_made = True
            root = self._replica.root.get()
            if not root.is_at_boundary and isinstance(body, m.Chunk | m.SetEnd):
                self._sets.skip()  # a full save volume must not hold up the copy; the set is sent again
            elif _may_give_way(root) or not isinstance(body, m.Chunk):
                return PAUSE_S
            else:
                raise _too_large(error.message) from error
        self.waits_for = ""
        self._waiting = None
        self._report()
        return 0.0

    def _refuse_if_stuck(self) -> None:
        """A set of which no more fits, where nothing gives way: its sender would wait for credit for ever (S4)."""
        needs_bytes = self._sets.needs_bytes
        if not needs_bytes:
            self._stuck_since = None
            return
        now, room_bytes = self._runtime.monotonic(), self._room_bytes()
        if room_bytes >= needs_bytes or _may_give_way(self._replica.root.get()) or self._link.is_receiving():
            self._stuck_since = None
        elif self._stuck_since is None or self._stuck_since[1] != self.received_bytes:
            self._stuck_since = now, self.received_bytes
        elif now - self._stuck_since[0] > STUCK_S:
            raise _too_large(f"{room_bytes} bytes of room are left")

    def _carry_out(self, body: m.Body, message: Message) -> None:
        payload = message.payload
        self.received_bytes += 0 if self.waits_for else memoryview(payload).nbytes
        match body:
            case m.SetBegin():
                self._sets.begin(body)
            case m.Chunk():
                self._leave_room(memoryview(payload).nbytes)
                self._sets.chunk(body, payload)
            case m.SetEnd():
                position = self._sets.end(payload)
                self._acked = None  # said again in any case: during a copy the sender waits for it
                self._accept(position)
            case m.SetAbort():
                self._sets.drop()
            case m.CopyBegin():
                self._copying = self._copy if body.base is None else self._difference
                self._copying.begin(body)
                self._acked = None
            case m.CopyChunk():
                progress = self._copying.chunk(body, payload)
                if progress is not None:
                    self._send(progress)
            case m.CopyEnd():
                done = self._copying.end(body)
                self._tell_difference()
                self._send(done)
            case m.Command():
                self._run(body)
            case m.Ping():
                self._send(m.Pong(token=body.token))

    def _tell_difference(self) -> None:
        """A difference is a set, too: its player need not find it by itself."""
        position, self._difference.arrived = self._difference.arrived, None
        if position is not None:
            self._replica.hooks.replkit_delta_set_received(
                volume=self._replica.name, member=self._hello.member, position=position
            )

    def _accept(self, position: Position) -> None:
        arrived = self._sets.arrived
        if arrived is not None:
            self._sets.arrived = None
            self._replica.hooks.replkit_delta_set_received(
                volume=self._replica.name, member=self._hello.member, position=position
            )
            self._report()  # the history is for status only: neither the sender nor the player waits for it
            self._history.add(arrived)

    def _run(self, body: m.Command) -> None:
        """Carry out a control block; all but *start playback* are for a plugin (T10, T11)."""
        try:
            block = MulticastReceiver(self._relation, self._hello.member, self._session).take(body)
            if block.name == START_PLAYBACK:
                self._player.play_now()
                result: str | None = "playback begins"
            else:
                arguments = [f"{name}={value}" for name, value in block.arguments.items()]
                result = self._replica.hooks.replkit_run_command(name=block.name, arguments=arguments)
            known = result is not None
            done = m.CommandDone(id=body.id, ok=known, result={"result": result} if known else {"error": "unknown"})
        except ProtocolError:
            raise
        except Exception as error:  # whatever a plugin raises is the command's result
            done = m.CommandDone(id=body.id, ok=False, result={"error": str(error)[:500]})
        self._send(done)

    def _positions(self) -> tuple[Position | None, Position | None]:
        """What is durable here: invariant 7. Nothing is played while a copy runs."""
        root = self._replica.root.get()
        if root.is_at_boundary:
            return root.last, None if self._difference.ends_boundary else self._player.position
        return (root.last if root.inconsistent is not None or root.resync is not None else None), None

    def _report(self) -> None:
        positions = self._positions()
        if positions != self._acked:
            self._send(m.Ack(received=positions[0], played=positions[1]))
            self._acked = positions
        grant = self._room_bytes() - self._session.credit_bytes
        if grant >= CREDIT_WINDOW_BYTES // 4 or (grant > 0 and self._session.credit_bytes < CREDIT_WINDOW_BYTES // 4):
            self._send(self._session.grant(grant))
        due = self._session.due(self._runtime.monotonic())
        if due is not None:
            self._send(due)

    def _room_bytes(self) -> int:
        """How much may be under way: what fits into the save volume; a copy goes to the volume instead."""
        save, root = self._replica.save, self._replica.root.get()
        if root.base is None or root.inconsistent is not None:
            return CREDIT_WINDOW_BYTES
        capacity = save.capacity_bytes(Partition.SETS)
        room = capacity - save.used_bytes(Partition.SETS) - capacity // RESERVE_SHARE
        if room < min(CREDIT_WINDOW_BYTES, capacity // 2):  # a sender waits for credit for a whole chunk
            self._replica.room_wish.is_made = True
        return max(0, min(CREDIT_WINDOW_BYTES, room))

    def _leave_room(self, size_bytes: int) -> None:
        """Sets that arrive during a difference leave it the room that it was promised (invariant 11)."""
        save, reserved = self._replica.save, self._difference.reserved_bytes
        if reserved and save.used_bytes(Partition.SETS) + size_bytes + reserved > save.capacity_bytes(Partition.SETS):
            raise SaveVolumeFullError(f"the difference that is arriving needs the last {reserved} bytes of room")

    def _send(self, body: m.Body) -> None:
        self._link.send(self._session.send(body, self._runtime.monotonic()), SEND_TIMEOUT_S)

    def _end(self, code: str, text: str, error: Exception | None) -> None:
        self._replica.hooks.replkit_error(
            volume=self._replica.name, message=f"session with {self._link.peer} refused: {text}", error=error
        )
        try:
            if self._session.state is not State.CLOSED:
                epoch = epoch_for(self._hello, self._replica.root.get())
                self._send(m.Refuse(code=code, text=text[:1000], epoch=epoch))
        except (LinkClosedError, LinkTimeoutError):
            self.waits_for = ""
        finally:
            self._link.close()


def _may_give_way(root: Root) -> bool:
    """Whether sets are kept that playback, the trimmer or the end of a copy will let go of."""
    return root.first_kept <= root.last.number or bool(root.condemned) or not root.is_at_boundary


def _too_large(what: str) -> RefusedError:
    return RefusedError(
        f"the save volume cannot hold this one set: {what}",
        code="too-large",
        hint="enlarge it, or have the primary send what changed: replkit replica catch-up",
    )


def _code_of(error: ReplkitError) -> str:
    if isinstance(error, RefusedError):
        return error.code
    return "diverged" if isinstance(error, DivergedError) else "protocol"

"""Control blocks and commands to members: queued by any task, sent by the sender, answered when done (T10, T11)."""

from __future__ import annotations

from collections import deque

from replkit.contracts.runtime import Runtime
from replkit.rcp import messages as m
from replkit.rcp.multicast import ControlBlock, Outcome
from replkit.rcp.session import SenderSession

UNSENT = Outcome(False, {"error": "the session ended before the answer"})


class PendingCommand:
    """One control block on its way to one member; ``outcome`` is there once it was answered or can no longer be."""

    def __init__(self, block: ControlBlock, runtime: Runtime) -> None:
        self.block = block
        self.outcome: Outcome | None = None
        self.done = runtime.event()

    def finish(self, outcome: Outcome) -> None:
        """The answer, or why there is none."""
        self.outcome = outcome
        self.done.set()


class CommandQueue:
    """Commands of one sender: waiting until there is a session, then open until they are answered."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: deque[PendingCommand] = deque()
        self._open: dict[int, PendingCommand] = {}

    def put(self, block: ControlBlock) -> PendingCommand:
        """Queue a control block; from any task."""
        block.check()
        pending = PendingCommand(block, self._runtime)
        self._waiting.append(pending)
        return pending

    def next(self, session: SenderSession) -> m.Command | None:
        """The next command to send; by the task that steps the sender."""
        if not self._waiting:
            return None
        pending = self._waiting.popleft()
        number = session.new_command_id()
        self._open[number] = pending
        return m.Command(id=number, name=pending.block.name, arguments=dict(pending.block.arguments))

    def answered(self, body: m.CommandDone) -> None:
        """The member has done it, or says why not."""
        pending = self._open.pop(body.id, None)
        if pending is not None:
            pending.finish(Outcome(body.ok, body.result))

    def lost(self) -> None:
        """The session is over: what was sent may or may not be done, and what waits would wait for nobody."""
        pendings = [*self._open.values(), *self._waiting]
        self._open.clear()
        self._waiting.clear()
        for pending in pendings:
            pending.finish(UNSENT)

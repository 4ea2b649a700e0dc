"""The process of a verification: it reads the primary's stores beside those who write them, and asks members (X4)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replkit.blocks.extent import Extent, normalise, total
from replkit.errors import LinkClosedError, LinkTimeoutError, RefusedError, ReplkitError
from replkit.recovery.verify import NOT_YET, PREFIX, Ask, Verification
from replkit.replication.outbox import RootReaderTable
from replkit.site.calls import PeerLinks
from replkit.site.jobs import Fields, JobWorker
from replkit.site.opening import reading_stores
from replkit.site.plugins import site_registry
from replkit.site.resending import send_again
from replkit.site.runtime import SiteRuntime
from replkit.snapshot.reader import SnapshotReader

MAX_REPORTED = 1000
ASK_AGAIN_S = 0.1
GIVE_UP_S = 120.0
"""How long a member may be out of reach, or not play on to the boundary."""


class VerifyWorker(JobWorker):
    """Compares one or more members with the primary's snapshot of one boundary."""

    def _open(self, spec: Fields) -> None:
        self._spec = spec
        registry = site_registry(spec["plugins"])
        volume, save = self._stack.enter_context(reading_stores(registry, spec["volume"]))
        self._snapshot = SnapshotReader(f"{PREFIX}{spec['id']}", volume, save, RootReaderTable(save))
        self._asking = self._stack.enter_context(ThreadPoolExecutor(1, "asking"))
        self._links = PeerLinks(registry, SiteRuntime())
        self._stack.callback(self._links.close)

    def _work(self) -> None:
        spec, blocks = self._spec, self._snapshot.block_count
        results = [_result(member["name"]) for member in spec["members"]]
        self.note(id=spec["id"], position=spec["position"], block_size=self._snapshot.block_size,
                  total=blocks * len(results), members=results)  # fmt: skip
        differing: list[Extent] = []
        for place, member in enumerate(spec["members"]):
            verification = Verification(
                id=spec["id"],
                number=spec["position"]["number"],
                snapshot=self._snapshot,
                ask=self._ask(member["url"]),
                volume=member["volume"],
            )
            error = ""
            try:
                for done in self._compare(verification):
                    results[place] = _result(member["name"], verification)
                    self.note(checked=place * blocks + done, members=list(results))
            except ReplkitError as failed:
                if self.ending.is_set():
                    raise
                error = str(failed)
            results[place] = {**_result(member["name"], verification), "error": error}
            differing += verification.differing
            self.note(checked=(place + 1) * blocks, members=list(results))
        if spec["repair"] and differing:
            extents = normalise(differing)
            number = send_again(Path(spec["control"]), spec["volume"]["name"], extents)
            self.note(repair={"blocks": total(extents), "number": number})

    def _ask(self, url: str) -> Ask:
        """Calls to a site on a thread, so that it hashes while this side does."""
        call = self._links.caller(url).call
        return lambda name, arguments, payload: self._asking.submit(call, name, arguments, payload).result

    def _compare(self, verification: Verification) -> Iterator[int]:
        """Blocks that are compared, step by step; waits for a member that is not there yet, or not there at all."""
        since_s = time.monotonic()
        while True:
            try:
                more = verification.step()
            except (RefusedError, LinkClosedError, LinkTimeoutError) as error:
                can_wait = not isinstance(error, RefusedError) or error.code == NOT_YET
                if not can_wait or time.monotonic() - since_s > GIVE_UP_S:
                    raise
                self.note()
                self.ending.wait(ASK_AGAIN_S)
                continue
            since_s = time.monotonic()
            yield verification.next_block
            if not more:
                return


def _result(name: str, verification: Verification | None = None) -> Fields:
    found = verification.differing if verification is not None else []
    return {
        "name": name,
        "compared_blocks": verification.next_block if verification is not None else 0,
        "hash_bytes": verification.hash_bytes if verification is not None else 0,
        "differing_blocks": total(found),
        "differing": [list(extent) for extent in found[:MAX_REPORTED]],
        "error": "",
    }

"""The load of fio in ``crash_rounds.py``: two jobs of its nbd engine, many writes in flight, a witness at the socket.

fio checks itself too: it saves the state of job ``verified`` while its writes hang because the server was killed, and
``fio --verify_only`` then reads what it was told was written. The witness knows which writes each block may hold.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from crash_relays import Witness, Write
from crash_sites import BLOCK, REGION_BYTES, VOLUME, BrokenPromiseError, Site, wait_until
from xxhash import xxh3_64_intdigest

NEVER = 1 << 62
HOT_BYTES = 2 << 20
"""The end of the volume, written again and again."""
WINDOW_SHARE = 4
"""This part of the volume has the other writes of a life, each block at most one: what a crash leaves in doubt is less
than the volume, so that a second full copy would stand out."""
WRITES_PER_S = 500
"""Of each job: a pass over the window must last longer than a life, as fio verifies one pass only."""
JOB = """\
[global]
ioengine=nbd
uri={uri}
thread
randseed={seed}
rw=randwrite
[verified]
bs=4k
iodepth=16
fsync=64
offset={offset}
size={size}
rate_iops={rate}
verify=crc32c
verify_fatal=1
"""
VERIFY = """\
verify_state_load=1
verify_state_save=0
verify_only=1
iodepth=1
"""
"""One at a time: fio knows where to stop from the number of reads that have ended."""
HOT_JOB = """\
[hot]
norandommap
bssplit=4k/60:8k/20:32k/20
iodepth=4
fsync=16
offset={offset}
size={size}
rate_iops={rate}
refill_buffers
time_based
runtime=3600
"""


def digests(image: bytes | bytearray) -> list[int]:
    """What each block holds."""
    view = memoryview(image)
    return [xxh3_64_intdigest(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]


class Fio:
    """One run of fio, from the start of the primary's daemon to its end."""

    def __init__(self, site: Site, folder: Path, image: bytes | bytearray, seed: int) -> None:
        self._folder, self._seed, self._site = folder, seed, site
        self._size = len(image)
        self._window = self._size // WINDOW_SHARE
        places = (self._size - HOT_BYTES - self._window) // REGION_BYTES
        self._offset = random.Random(seed).randrange(places + 1) * REGION_BYTES
        self.base = digests(image)
        path = folder / "witness.nbd"
        self._witness = Witness(path, site.socket, BLOCK)
        self._trigger, self._saved = folder / "fio.trigger", folder / "fio.saved"
        for left in (self._trigger, self._saved, folder / "local-verified-0-verify.state"):
            left.unlink(missing_ok=True)
        self._output = folder / "fio.log"
        more = HOT_JOB.format(offset=self._size - HOT_BYTES, size=HOT_BYTES, rate=WRITES_PER_S)
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [
                    *self._command("load", path, "verify_state_save=1\ndo_verify=0\n" + more),
                    f"--trigger-file={self._trigger}",
                    f"--trigger=touch {self._saved}",
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=folder,
            )

        wait_until(lambda: self.flushed > 0 or self._process.poll() is not None, "the first flush of fio")

    def _command(self, name: str, socket: Path, more: str) -> list[str]:
        """A job file; the first job must be the same for the load and for what verifies it."""
        job = JOB.format(
            uri=f"nbd+unix:///{VOLUME}?socket={socket}",
            seed=self._seed,
            offset=self._offset,
            size=self._window,
            rate=WRITES_PER_S,
        )
        path = self._folder / f"{name}.fio"
        path.write_text(job + more)
        return ["fio", f"--aux-path={self._folder}", str(path)]

    @property
    def count(self) -> int:
        """Blocks written so far."""
        return self._witness.count

    @property
    def blocks(self) -> set[int]:
        """Which blocks were written."""
        return set(self._witness.writes)

    @property
    def flushed(self) -> int:
        """Flushes that were acknowledged."""
        return self._witness.flushes

    def end(self, *, stop: bool) -> None:
        """Keep what it was told, and end it; with ``stop``, let it end itself while the server runs."""
        if stop:
            self._witness.parting.set()
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                raise BrokenPromiseError("fio hangs: not all of its requests are answered") from None
        else:
            self._save_state()
        self.stop()

    def _save_state(self) -> None:
        """Have fio keep what it was told; it never learns that nobody will answer any more, which it takes badly."""
        self._trigger.touch()
        wait_until(lambda: self._saved.exists() or self._process.poll() is not None, "the state of fio's verification")
        if not self._saved.exists():
            raise BrokenPromiseError(f"fio ended before its server:\n{self._output.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it, however it fares."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._witness.close()

    def verify(self) -> None:
        """Let fio read what it knew to be written; for a load whose server did not lose acknowledged writes."""
        done = subprocess.run(
            self._command("verify", self._site.socket, VERIFY),
            capture_output=True, text=True, timeout=120, cwd=self._folder, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BrokenPromiseError(f"primary: fio finds wrong data:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def check_primary(self, image: bytes | bytearray) -> None:
        """Every flushed write is there, and nothing is from nowhere."""
        for block, digest in enumerate(digests(image)):
            writes = self._witness.writes.get(block, [])
            kept = max((write.begun for write in writes if self._acked(write) < self._witness.covered), default=-1)
            # Any write may be what is there, but one that had ended before a flushed one began.
            allowed = {write.digest for write in writes if self._acked(write) > kept}
            if kept < 0:
                allowed.add(self.base[block])
            if digest not in allowed:
                raise BrokenPromiseError(
                    f"primary: block {block} is not of the {len(allowed)} writes that it may be of"
                )

    def was_in(self, image: bytes | bytearray) -> bool:
        """Whether there was a moment of this life at which the volume may have held just ``image``."""
        earliest, latest = -1, NEVER
        for block, digest in enumerate(digests(image)):
            writes = list(self._witness.writes.get(block, ()))
            found = next((write for write in reversed(writes) if write.digest == digest), None)
            if found is None and digest != self.base[block]:
                return False
            begun, ended = (found.begun, self._acked(found)) if found is not None else (-1, -1)
            earliest = max(earliest, begun)
            # Once a later write of the block has ended, the volume does not hold this one any more.
            latest = min([latest, *(self._acked(write) for write in writes if write.begun > ended)])
        return earliest <= latest

    def _acked(self, write: Write) -> int:
        return self._witness.acked.get(write.cookie, NEVER)

"""Rounds of real changes, written through NBD while everything else goes on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from replkit.cli.demo.image import change_files, copy_sparse, is_ext
from replkit.contracts.registry import Registry
from replkit.site.compare import differing_runs
from replkit.site.nbd.client import NbdClient

RAW_WRITES_A_ROUND = 256


class Rounds:
    """Changes a scratch copy of the image, finds the blocks that differ, and writes those to the primary.

    ``scratch`` is what the file system is to become, ``shadow`` what the primary holds already: after each round the
    volume is a valid file system again. The seed is fixed, so that two runs write the same.
    """

    def __init__(
        self, *, registry: Registry, image: Path, work: Path, files: list[Path], nbd_address: str, export: str
    ) -> None:
        self._registry = registry
        self._work = work
        self._files = files
        self._address = nbd_address
        self._export = export
        self._scratch, self._shadow = work / "scratch.img", work / "shadow.img"
        copy_sparse(image, self._scratch)
        copy_sparse(image, self._shadow)
        self._has_files = is_ext(image) and bool(files)
        self._chance = random.Random(1)  # noqa: S311 - a demo that repeats itself
        self.done = 0
        self.written_bytes = 0
        self.failure: BaseException | None = None
        self._enough = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, is_enough: Callable[[int], bool]) -> None:
        """Write rounds on a thread of their own until ``is_enough(rounds done)``, or ``stop``."""

        def work() -> None:
            try:
                with NbdClient(self._address, self._export) as client:
                    while not self._enough.is_set() and not is_enough(self.done):
                        self._one_round(client)
            except BaseException as error:  # told to the one who waits
                self.failure = error

        self._thread = threading.Thread(target=work, name="rounds", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the round in progress end."""
        self._enough.set()
        if self._thread is not None:
            self._thread.join(60)

    @property
    def is_running(self) -> bool:
        """Whether rounds are being written; raises what ended them, if it was a failure."""
        if self.failure is not None:
            raise self.failure
        return self._thread is not None and self._thread.is_alive()

    def _one_round(self, client: NbdClient) -> None:
        number = self.done + 1
        began_s = time.monotonic()
        if self._has_files:
            change_files(self._scratch, number, self._files, self._work, self._chance)
        else:
            self._change_raw()
        old = self._registry.open_volume(self._shadow.as_uri())
        new = self._registry.open_volume(self._scratch.as_uri(), read_only=True)
        with old, new:
            for offset, data in differing_runs(old, new):
                client.write(offset, data)
                old.write(offset // old.block_size, data)
                self.written_bytes += len(data)
        client.flush()
        self.done = number
        self._enough.wait(max(0.0, 0.4 - (time.monotonic() - began_s)))  # an application pauses, too

    def _change_raw(self) -> None:
        """Random blocks, where the image holds no file system that we can change."""
        with self._registry.open_volume(self._scratch.as_uri()) as volume:
            for _ in range(RAW_WRITES_A_ROUND):
                volume.write(self._chance.randrange(volume.block_count - 1), self._chance.randbytes(volume.block_size))

"""A real file system on an NBD export, mounted for as long as a ``with`` lasts: nbdfuse, a loop device, ext4.

Needs root and FUSE; a test that uses it asks ``why_not`` first. Nothing here needs the kernel's nbd module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_S = 20.0


def why_not() -> str:
    """What is missing for mounts; empty when nothing is."""
    if os.geteuid() != 0:
        return "only root can mount"
    missing = [tool for tool in ("nbdfuse", "losetup", "mkfs.ext4") if not shutil.which(tool)]
    if missing:
        return f"missing: {', '.join(missing)}"
    absent = [device for device in ("/dev/fuse", "/dev/loop-control") if not Path(device).exists()]
    return f"missing: {', '.join(absent)}" if absent else ""


def run(*words: object) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


class Disk:
    """An NBD export as a block device."""

    def __init__(self, nbd_address: str, export: str, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "disk"
        file.touch()
        socket = nbd_address.removeprefix("unix:")
        self._fuse = subprocess.Popen(
            ["nbdfuse", str(file), f"nbd+unix:///{export}?socket={socket}"], stderr=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + TIMEOUT_S
        while file.stat().st_size == 0:
            assert self._fuse.poll() is None, "nbdfuse ended"
            assert time.monotonic() < deadline_s, f"{export} does not show through nbdfuse"
            time.sleep(0.02)
        self.device = run("losetup", "-f", "--show", file).strip()

    def close(self) -> None:
        """Let go of it, also when the server behind it is gone."""
        subprocess.run(["losetup", "-d", self.device], check=False, capture_output=True)
        subprocess.run(["umount", "-l", str(self._folder / "disk")], check=False, capture_output=True)
        self._fuse.terminate()
        self._fuse.wait(TIMEOUT_S)


@contextmanager
def mounted(nbd_address: str, export: str, folder: Path, *, make: bool = False) -> Iterator[Path]:
    """The file system on an export, made first with ``make``; its journal is replayed by mounting it."""
    disk = Disk(nbd_address, export, folder)
    root = folder / "root"
    root.mkdir(exist_ok=True)
    try:
        if make:
            run("mkfs.ext4", "-q", "-F", disk.device)
        run("mount", disk.device, root)
        try:
            yield root
        finally:
            subprocess.run(["umount", str(root)], check=False, capture_output=True)
            subprocess.run(["umount", "-l", str(root)], check=False, capture_output=True)
    finally:
        disk.close()

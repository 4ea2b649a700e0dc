"""The demo from its first line to its last."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replkit.cli.demo.image import check_file_system, copy_sparse, find_tool, is_ext, make_image
from replkit.cli.demo.rounds import Rounds
from replkit.cli.demo.screen import Screen, facts_of
from replkit.cli.demo.sites import VOLUME, Daemon, Site, prepare_folder, wait_ready, write_sites
from replkit.contracts.registry import Registry, default_registry
from replkit.errors import ControlError, InvalidArgumentError, VolumeFailedError
from replkit.site.compare import Comparison, compare_volumes
from replkit.site.control import ControlClient
from replkit.site.nbd.client import NbdClient
from replkit.site.sizes import format_size

LONGEST_WRITING_S = 45.0
BLOCK_SIZE = 4096
COMPARE_STEP_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the user asked for."""

    folder: Path
    size_bytes: int
    image: Path | None = None
    rounds: int = 20
    keep_running: bool = False


def run_demo(options: DemoOptions, screen: Screen) -> None:
    """Tell the story; whatever was started is ended when it returns or is interrupted."""
    find_tool("cp")
    prepare_folder(options.folder)
    registry = default_registry()
    work = options.folder / "work"
    work.mkdir()
    primary_image = options.folder / "a" / "disk.img"
    primary_image.parent.mkdir()
    files = _make_primary(options, primary_image, work, screen)
    a, b = write_sites(options.folder, primary_image.stat().st_size)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        clients = [_start(site, stack) for site in (a, b)]
        screen.step("two sites run: [bold]a[/bold] (primary) and [bold]b[/bold] (secondary), each a daemon of its own")
        rounds = Rounds(
            registry=registry, image=primary_image, work=work, files=files, nbd_address=a.nbd_address, export=VOLUME
        )
        stack.callback(rounds.stop)
        _replicate(options, screen, clients[0], rounds, b)
        _prove(screen, registry, a, b, clients[1])
        _say_where(screen, options, a, b)
        if options.keep_running:
            screen.step("both sites keep running; Ctrl-C ends them")
            while True:
                time.sleep(1)


def _make_primary(options: DemoOptions, image: Path, work: Path, screen: Screen) -> list[Path]:
    if options.image is not None:
        if options.image.stat().st_size % BLOCK_SIZE:
            raise InvalidArgumentError(f"{options.image} is not a whole number of blocks of {BLOCK_SIZE} bytes")
        screen.step(f"copying {options.image}: your image stays as it is")
        copy_sparse(options.image, image)
        return sorted(Path(__file__).parents[2].rglob("*.py"))  # what the rounds write into it
    screen.step(f"making an ext4 image of {format_size(options.size_bytes)} with the Python standard library in it")
    return make_image(image, options.size_bytes, work)


def _start(site: Site, stack: ExitStack) -> ControlClient:
    daemon = Daemon(site)
    stack.callback(daemon.stop)
    client = stack.enter_context(daemon.connect())
    wait_ready(client, daemon)
    return client


def _replicate(options: DemoOptions, screen: Screen, control: ControlClient, rounds: Rounds, b: Site) -> None:
    """Write rounds; in their midst make the secondary; end when it follows and enough was written."""
    deadline_s = time.monotonic() + LONGEST_WRITING_S
    follows = False

    def is_enough(done: int) -> bool:
        return (done >= options.rounds and follows) or time.monotonic() > deadline_s

    rounds.start(is_enough)
    screen.step("files are written, changed and deleted through NBD, in rounds")
    _until(lambda: rounds.done >= 2 or not rounds.is_running)
    control.request("replica-add", volume=VOLUME, name="b", url=b.url, destination_volume=VOLUME)
    screen.step("a copy is made at b from a snapshot; the rounds go on")
    with screen:
        while rounds.is_running:
            volume = volume_of(control)
            screen.show("a → b, while a is written to", facts_of(volume, rounds))
            if not follows and any(member["state"] == "following" for member in volume["members"]):
                follows = True
                screen.step(f"the copy is complete after {rounds.done} rounds; b follows set by set")
            time.sleep(0.15)
    if not follows:
        raise ControlError(f"b did not follow within {LONGEST_WRITING_S:.0f} s: {volume_of(control)['members']}")
    changed = format_size(rounds.written_bytes)
    screen.step(f"{rounds.done} rounds done, {changed} changed; cutting the last set and waiting for b")
    result = control.request("wait", answer_timeout_s=None, timeout_s=90, volume=VOLUME, durable_on=1, level="played")
    screen.step(f"b has played set {result['position']['number']}, {result['waited_s']:.2f} s after the last write")


def volume_of(control: ControlClient) -> dict[str, Any]:
    """The status of the demo's volume."""
    volume: dict[str, Any] = control.request("status")["volumes"][0]
    if volume.get("problem"):
        raise ControlError(f"volume {VOLUME}: {volume['problem']}")
    return volume


def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.05)


def _prove(screen: Screen, registry: Registry, a: Site, b: Site, control: ControlClient) -> None:
    """Compare through NBD what users of both sites read, then the files, then check the file system."""
    screen.step("both are read whole over NBD, and compared")

    def show(done: int, total: int) -> None:
        screen.show("a = b ?", [("compared", f"{format_size(done)} of {format_size(total)} ({done / total:.0%})")])

    with screen:
        count = compare_exports(a.nbd_address, b.nbd_address, show)
    screen.step(f"over NBD, a and b's view are equal in all {format_size(count)}")
    found = _compare_files(registry, a, b)
    if not found.is_equal:
        raise VolumeFailedError(f"{found.differing_count} blocks differ between a and b: {found.differing}")
    screen.step(f"block for block, the volumes are equal: {found.block_count} blocks")
    if is_ext(b.image):
        screen.step(f"e2fsck -fn on b: [green]{check_file_system(b.image)}[/green]")
    state = volume_of(control)
    screen.step(f"b is {state['role']} at set {state['position']['number']}")


def compare_exports(left: str, right: str, on_progress: Callable[[int, int], None]) -> int:
    """Read both exports whole, holes too; ``VolumeFailedError`` at the first bytes that differ.

    ``on_progress`` hears of bytes compared, and of all bytes. Returns the size in bytes.
    """
    with NbdClient(left, VOLUME) as a, NbdClient(right, VOLUME) as b:
        if a.size_bytes != b.size_bytes:
            raise VolumeFailedError(f"a has {a.size_bytes} bytes, b {b.size_bytes}")
        for offset in range(0, a.size_bytes, COMPARE_STEP_BYTES):
            count = min(COMPARE_STEP_BYTES, a.size_bytes - offset)
            if a.read(offset, count) != b.read(offset, count):
                raise VolumeFailedError(f"a and b differ in the {count} bytes from {offset}")
            on_progress(offset + count, a.size_bytes)
        return a.size_bytes


def _compare_files(registry: Registry, a: Site, b: Site) -> Comparison:
    left = registry.open_volume(a.image.as_uri(), read_only=True)
    right = registry.open_volume(b.image.as_uri(), read_only=True)
    with left, right:
        return compare_volumes(left, right)


def _say_where(screen: Screen, options: DemoOptions, a: Site, b: Site) -> None:
    replkit = own_command()
    starts = [f"{replkit} serve --config {site.config} &" for site in (b, a)]
    lines = [
        f"\n[bold]Everything is in {options.folder}[/bold]: a.toml, b.toml, and for each site",
        "its volume (disk.img), its save volume (save/) and the log of its daemon (daemon.log).",
        "\n[bold]Try next[/bold]" + ("" if options.keep_running else "; the first two let both sites go on"),
        *(f"  {line}" for line in (() if options.keep_running else starts)),
        f"  {replkit} status --watch --control {a.config}",
        f"  {replkit} snapshot create disk monday --control {a.config}",
        f"  nbdinfo 'nbd+unix:///disk?socket={a.nbd_address.removeprefix('unix:')}'",
    ]
    for line in lines:
        screen.console.print(line, soft_wrap=True)


def own_command() -> str:
    """How the user can call replkit again: by its name where the shell finds the same, else as it was called now."""
    called = Path(sys.argv[0])
    if called.name != "replkit":
        return f"{sys.executable} -m replkit"
    found = shutil.which("replkit")
    return "replkit" if found is not None and Path(found).samefile(called) else str(called.absolute())

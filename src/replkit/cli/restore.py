"""``replkit restore``: bring a boundary of the past onto another volume (X2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from replkit.blocks.extent import Extent
from replkit.cli.connection import ask, control_option
from replkit.cli.output import emit, json_option, moment, position_text
from replkit.contracts.buffers import Buffer
from replkit.contracts.volume import BlockVolume, Capability
from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, ReadOnlyError

if TYPE_CHECKING:
    from replkit.site.control import ControlClient
    from replkit.site.nbd.client import NbdClient


class ServedVolume(BlockVolume):
    """A volume that the daemon serves, read over NBD; what is in use the daemon tells."""

    read_only = True
    tells_in_use = Capability.NATIVE
    discards = Capability.NONE

    def __init__(self, client: ControlClient, nbd: NbdClient, volume: str, served: dict[str, Any]) -> None:
        self.block_size, self.size_bytes = served["block_size"], served["size_bytes"]
        self._client, self._nbd, self._volume, self._export = client, nbd, volume, served["export"]

    def read_into(self, start: int, buffer: Buffer) -> None:
        """Fill ``buffer``; bytes beyond the end are zeros."""
        out = memoryview(buffer).cast("B")
        offset = start * self.block_size
        inside = min(len(out), self.size_bytes - offset)
        out[:inside] = self._nbd.read(offset, inside)
        out[inside:] = bytes(len(out) - inside)

    def in_use(self) -> Iterator[Extent]:
        """Yield what may hold data."""
        start: int | None = 0
        while start is not None:
            found = ask(self._client, "export-in-use", volume=self._volume, export=self._export, start=start)
            yield from (Extent(*each) for each in found["extents"])
            start = found["next"]

    def write(self, start: int, buffer: Buffer) -> None:
        """Refused."""
        raise ReadOnlyError(f"the past is not written ({memoryview(buffer).nbytes} bytes at block {start})")

    def flush(self) -> None:
        """Nothing to flush."""


@click.command(short_help="Bring a past boundary onto another volume.")
@click.argument("volume")
@click.option("--at", metavar="TIME|POSITION", required=True, help='As 1:17, 2026-03-01T12:00:00Z or "2h ago".')
@click.option("--to", "target", metavar="URL", required=True, help="The volume to write, as file:///srv/then.img.")
@click.option("--force", is_flag=True, help="Overwrite a target that exists.")
@json_option
@control_option
def restore(*, client: ControlClient, volume: str, at: str, target: str, force: bool, as_json: bool) -> None:
    """Write the secondary VOLUME as it was at a boundary to the volume at URL; nothing of VOLUME changes.

    A TIME means the newest boundary of which every write was made by then. Only blocks in use are copied. What broke
    off leaves a part in the target: give the command again with --force.
    """
    from replkit.site.nbd.client import NbdClient

    _refuse_own(client, target)
    if not force:
        refuse_existing(target)
    served = ask(client, "export-add", volume=volume, at=moment(at), temporary=True)
    try:
        with NbdClient(served["address"], served["export"]) as nbd:
            source = ServedVolume(client, nbd, volume, served)
            blocks = copy_onto(source, target)
    except KeyboardInterrupt:  # the export ends with its client
        click.echo(f"{target} holds a part of it only: give the command again with --force", err=True)
        raise
    result = {"volume": volume, "position": served["position"], "target": target, "size_bytes": source.size_bytes,
              "copied_bytes": blocks * source.block_size}  # fmt: skip
    emit(result, as_json, _say)


def copy_onto(source: BlockVolume, target: str) -> int:
    """Copy what is in use of ``source`` to the volume at ``target``, with a bar; blocks copied."""
    from rich.console import Console
    from rich.progress import Progress

    from replkit.recovery.restore import Restoration

    console = Console(stderr=True)
    with (
        _opened(target, source) as volume,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        restoration = Restoration(source, volume)
        task = bar.add_task("restore", total=restoration.total_blocks or None)
        while restoration.step():
            bar.update(task, completed=restoration.done_blocks)
        return restoration.done_blocks


@contextmanager
def _opened(target: str, source: BlockVolume) -> Iterator[BlockVolume]:
    """The target; one that exists keeps its size."""
    from replkit.site.plugins import site_registry

    registry = site_registry()
    try:
        volume = registry.open_volume(target, block_size=source.block_size)
    except NotFoundError:
        volume = registry.open_volume(target, size_bytes=source.size_bytes, block_size=source.block_size, create=True)
    with volume:
        yield volume


def refuse_existing(target: str) -> None:
    """``AlreadyExistsError`` where there is a volume at ``target``."""
    from replkit.site.plugins import site_registry

    with suppress(NotFoundError), site_registry().open_volume(target, read_only=True):
        raise AlreadyExistsError(f"{target} exists already", hint="name another, or overwrite it with --force")


def _refuse_own(client: ControlClient, target: str) -> None:
    """A volume of the site is in use by its daemon: writing it from here would destroy it."""
    for volume in ask(client, "status")["volumes"]:
        if _place(str(volume.get("url", ""))) == _place(target):
            raise InvalidArgumentError(
                f"{target} is volume {volume['name']} of this site", hint="restore to another volume"
            )


def _place(url: str) -> str:
    parts = urlsplit(url)
    return str(Path(unquote(parts.path)).resolve()) if parts.scheme == "file" else url


def _say(result: dict[str, Any]) -> None:
    from replkit.site.sizes import format_size

    click.echo(
        f"{result['target']} holds {result['volume']} at {position_text(result['position'])}: "
        f"{format_size(result['copied_bytes'])} in use copied"
    )

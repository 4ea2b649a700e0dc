"""Opening the two stores of a volume as its configuration says, for each kind of worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from replkit.contracts.registry import Registry
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.errors import InvalidArgumentError, NotFoundError
from replkit.site.buckets import enter_bucket
from replkit.site.remembering import remember_cells
from replkit.site.reopening import ReopeningVolume
from replkit.site.runtime import SiteRuntime
from replkit.site.sizing import is_believed


def open_stores(registry: Registry, spec: dict[str, Any]) -> tuple[BlockVolume, SaveVolume]:
    """Volume and save volume as their producer; both are made where they are absent."""
    if spec.get("catalogue"):
        enter_bucket(registry, spec)
    save = registry.open_save_volume(spec["save_url"], capacity_bytes=spec["save_capacity_bytes"], create=True)
    try:
        volume = open_volume(registry, spec, save)
        return volume, remember_cells(save, SiteRuntime(), volume)
    except BaseException:
        save.close()
        raise


def open_volume(registry: Registry, spec: dict[str, Any], save: SaveVolume | None = None) -> BlockVolume:
    """The volume, for writing; made where it is absent. By its save volume it may have another size than configured."""
    resized = None if save is None else _open_resized(registry, spec, save)
    if resized is not None:
        return resized
    volume = registry.open_volume(
        spec["url"], size_bytes=spec["size_bytes"], block_size=spec["block_size"], create=True
    )
    try:
        _check_size(volume, spec)
    except BaseException:
        volume.close()
        raise
    return volume


def _open_resized(registry: Registry, spec: dict[str, Any], save: SaveVolume) -> BlockVolume | None:
    """The volume, if it was resized since it was configured; ``None`` where it is absent, or nothing vouches for it."""
    try:
        with registry.open_volume(spec["url"], block_size=spec["block_size"], read_only=True) as found:
            size_bytes = found.size_bytes
    except NotFoundError:
        return None
    if size_bytes == spec["size_bytes"] or not is_believed(save, size_bytes, spec["block_size"]):
        return None
    return registry.open_volume(spec["url"], block_size=spec["block_size"])


@contextmanager
def reading_stores(registry: Registry, spec: dict[str, Any]) -> Iterator[tuple[BlockVolume, SaveVolume]]:
    """Both read-only, beside the process that writes them (T6)."""

    def open_() -> BlockVolume:
        return registry.open_volume(spec["url"], block_size=spec["block_size"], read_only=True)

    with (
        registry.open_save_volume(spec["save_url"], producer=False) as save,
        _beside_its_writer(open_) as volume,
    ):
        yield volume, remember_cells(save, SiteRuntime())


def _beside_its_writer(open_: Callable[[], BlockVolume]) -> BlockVolume:
    """A reader that can be refreshed; a store that counts requests gives one that stays at the state it met."""
    volume = open_()
    if not volume.requests:
        return volume
    volume.close()
    return ReopeningVolume(open_)


def _check_size(volume: BlockVolume, spec: dict[str, Any]) -> None:
    if volume.size_bytes != spec["size_bytes"]:
        raise InvalidArgumentError(
            f"volume {spec['name']}: {spec['url']} has {volume.size_bytes} bytes, the configuration says "
            f"{spec['size_bytes']}",
            hint="correct the size in the configuration",
        )

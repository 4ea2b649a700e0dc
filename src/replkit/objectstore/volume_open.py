"""What a backend's volume scheme does with a URL that leads to an object store (U2)."""

from __future__ import annotations

from replkit.contracts.registry import DEFAULT_BLOCK_SIZE, VolumeOptions
from replkit.contracts.runtime import Runtime
from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from replkit.objectstore.cache import LocalCache
from replkit.objectstore.store import ObjectStore
from replkit.objectstore.volume import ObjectVolume
from replkit.objectstore.volume_objects import RunAll, Tuning, run_in_turn


def open_object_volume(
    store: ObjectStore,
    options: VolumeOptions,
    *,
    runtime: Runtime,
    run_all: RunAll = run_in_turn,
    cache: LocalCache | None = None,
    tuning: Tuning | None = None,
) -> ObjectVolume:
    """Open the volume in ``store``, or make it where it is absent and ``options.create`` is set.

    The block size is the stored one; ``InvalidArgumentError`` where ``options`` asks for another one or another size.
    """
    try:
        volume = ObjectVolume.open(
            store, runtime=runtime, read_only=options.read_only, run_all=run_all, cache=cache, tuning=tuning
        )
    except NotFoundError:
        if not options.create:
            raise
        _create(store, options, runtime)
        return open_object_volume(store, options, runtime=runtime, run_all=run_all, cache=cache, tuning=tuning)
    if options.size_bytes not in {None, volume.size_bytes}:
        size_bytes = volume.size_bytes
        volume.close()
        raise InvalidArgumentError(f"{store.url}: has {size_bytes} bytes, not {options.size_bytes}")
    if options.block_size not in {DEFAULT_BLOCK_SIZE, volume.block_size}:
        block_size = volume.block_size
        volume.close()
        raise InvalidArgumentError(f"{store.url}: has blocks of {block_size} bytes, not of {options.block_size}")
    return volume


def _create(store: ObjectStore, options: VolumeOptions, runtime: Runtime) -> None:
    if options.size_bytes is None:
        raise InvalidArgumentError(f"{store.url}: a new volume needs a size")
    try:
        ObjectVolume.create(store, block_size=options.block_size, size_bytes=options.size_bytes, runtime=runtime)
    except AlreadyExistsError:  # another opener was first: its volume is opened
        return

"""``s3://bucket/prefix``: save volumes and volumes in a bucket of any S3 store that keeps ``If-None-Match: *``.

Comes in: a URL with options (``endpoint``, ``region``, ``storage_class``, ``sse``, ``takeover``, ``fencing``,
``encrypt``, ``limit``, ``requests``), see ``url``; credentials come from boto3's own chain, never from the URL. Goes
out: an ``ObjectSaveVolume``, ``ObjectSaveReader`` or ``ObjectVolume`` over an ``S3ObjectStore`` and the ``layers`` that
the URL asks for. boto3 and cryptography are the extra ``replkit[s3]``.
"""

from __future__ import annotations

from replkit.backends.s3.host import ThreadHost, ThreadRuntime, run_all
from replkit.backends.s3.layers import open_store
from replkit.backends.s3.url import parse_url
from replkit.contracts.hooks import hookimpl
from replkit.contracts.registry import Registry, SaveVolumeOptions, VolumeOptions
from replkit.contracts.savevolume import SaveVolume
from replkit.contracts.volume import BlockVolume
from replkit.objectstore.cache import LocalCache
from replkit.objectstore.opening import open_save_volume
from replkit.objectstore.volume_open import open_object_volume

__all__ = ["open_s3_save_volume", "open_s3_volume"]


def open_s3_save_volume(url: str, options: SaveVolumeOptions) -> SaveVolume:
    """Open as producer or reader. A producer's bucket must have shown that it can fence."""
    place = parse_url(url)
    store = open_store(place, writes=options.producer)
    return open_save_volume(store, options, ThreadHost(), takeover=place.takeover)


def open_s3_volume(url: str, options: VolumeOptions, *, cache: LocalCache | None = None) -> BlockVolume:
    """Open a volume. The bucket of one that is written must have shown that it can fence."""
    store = open_store(parse_url(url), writes=not options.read_only)
    try:
        return open_object_volume(store, options, runtime=ThreadRuntime(), run_all=run_all, cache=cache)
    except BaseException:
        store.close()
        raise


@hookimpl
def replkit_register_volumes(registry: Registry) -> None:
    """Serve ``s3:`` volumes."""
    registry.add_volume_scheme("s3", open_s3_volume)


@hookimpl
def replkit_register_save_volumes(registry: Registry) -> None:
    """Serve ``s3:`` save volumes."""
    registry.add_save_volume_scheme("s3", open_s3_save_volume)

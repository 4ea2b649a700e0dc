"""Opening a save volume in an object store, as producer or reader."""

from __future__ import annotations

from replkit.contracts.registry import SaveVolumeOptions
from replkit.contracts.savevolume import SaveVolume
from replkit.objectstore.host import Host
from replkit.objectstore.savereader import ObjectSaveReader
from replkit.objectstore.savevolume import ObjectSaveVolume
from replkit.objectstore.store import ObjectStore


def open_save_volume(
    store: ObjectStore, options: SaveVolumeOptions, host: Host, *, takeover: bool = False
) -> SaveVolume:
    """Open what is in ``store``; store and host are closed with it, or at once if it cannot be opened."""
    try:
        if options.producer:
            return ObjectSaveVolume(store, options, host, takeover=takeover)
        return ObjectSaveReader(store, options, host)
    except BaseException:
        host.close()
        store.close()
        raise

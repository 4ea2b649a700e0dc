"""Gives a simulated world the devices in which a plugin has its part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from replkit.contracts.transport import Transport
from replkit.contracts.volume import Capability
from replkit.testing.plugged.disk import PluggedDisk, VolumePlug
from replkit.testing.plugged.links import CarriedNetwork
from replkit.testing.plugged.save import PluggedSave, SavePlug
from replkit.testing.sim.devices import FaultDisk, FaultSave
from replkit.testing.sim.links import FaultNetwork
from replkit.testing.sim.plug import Plug
from replkit.testing.sim.topology import Devices, Options, Watch

_AMPLE_BYTES: Final = 1 << 30
_IMAGES: Final = frozenset({"clone", "rollback", "save state", "newer format"})
"""Events that copy the image of a machine: a save volume's cells cannot go back to an older version."""


class PluggedDevices(Devices):
    """At one site, ``at``, a plugin's volume or save volume; between all sites a plugin's transport."""

    def __init__(
        self,
        at: str = "a",
        *,
        volume: VolumePlug | None = None,
        save: SavePlug | None = None,
        transport: tuple[Transport, Callable[[], str]] | None = None,
        resizes: Capability = Capability.NONE,
    ) -> None:
        self._at, self._volume, self._save, self._transport = at, volume, save, transport
        without = set(_IMAGES) if volume or save else set()
        if volume is not None and resizes is Capability.NONE:
            without.add("resize")
        self.without = frozenset(without)

    def moved(self, at: str) -> PluggedDevices:
        """The same with the plugin at another site."""
        self._at = at
        return self

    def options(self, drawn: Options) -> Options:
        """Blocks of the size that the plugin's volume has; save volumes that were drawn small grow with them."""
        if self._volume is None or self._volume.block_size <= drawn.block_size:
            return drawn
        times = self._volume.block_size // drawn.block_size
        sets_bytes, areas_bytes = (
            size if size >= _AMPLE_BYTES else size * times for size in (drawn.sets_bytes, drawn.areas_bytes)
        )
        return msgspec.structs.replace(
            drawn, block_size=self._volume.block_size, sets_bytes=sets_bytes, areas_bytes=areas_bytes
        )

    def disk(self, site: str, plug: Plug, options: Options, watch: Watch) -> FaultDisk:
        """The plugin's volume at its site."""
        if site != self._at or self._volume is None:
            return super().disk(site, plug, options, watch)
        return PluggedDisk(plug, options.blocks, options.block_size, self._volume, partial(watch.blame, site))

    def save(self, site: str, plug: Plug, options: Options, watch: Watch) -> FaultSave:
        """The plugin's save volume at its site."""
        if site != self._at or self._save is None:
            return super().save(site, plug, options, watch)
        return PluggedSave(
            plug, self._save, partial(watch.blame, site), sets_bytes=options.sets_bytes, areas_bytes=options.areas_bytes
        )

    def network(self, watch: Watch) -> FaultNetwork:
        """The plugin's transport."""
        if self._transport is None:
            return super().network(watch)
        transport, make_url = self._transport
        return CarriedNetwork(transport, make_url, partial(watch.blame, "transport"))


__all__ = ["PluggedDevices", "SavePlug", "VolumePlug"]

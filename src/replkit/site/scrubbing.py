"""Scrubs: all that is stored for a volume is read again, in a process of its own: nobody who serves waits for it.

The process opens the save volume as a reader, beside the one that writes it, and a volume in a bucket too: there each
block has a checksum. With ``repair`` a secondary fetches damaged and lost records of its delta sets again from its
primary, and the primary of this site sends the blocks of its secondary in a bucket again that are damaged.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from replkit.blocks.extent import Extent, normalise, total
from replkit.contracts.scrub import scrub, scrub_volume
from replkit.errors import CorruptRecordError, NotFoundError, RecordMissingError
from replkit.recovery.refetch import incomplete_tags, tag_in
from replkit.replication.root import read_root
from replkit.site.bucketstate import is_in_bucket
from replkit.site.control import ControlClient
from replkit.site.jobs import Fields, Jobs, JobWorker
from replkit.site.plugins import site_registry
from replkit.site.resending import TIMEOUT_S, send_again

MAX_REPORTED = 1000
TAGS_A_CALL = 100
BLANK: Fields = {
    "checked": 0, "total": 0, "checked_blocks": 0, "damage": [], "damage_count": 0, "damaged_blocks": 0, "repair": None,
}  # fmt: skip


class ScrubWorker(JobWorker):
    """One scrub of one volume's stores."""

    def _open(self, spec: Fields) -> None:
        self._spec, self._registry = spec, site_registry(spec["plugins"])
        self._damage: list[str] = []
        self._repaired: Fields = {"blocks": 0, "number": None, "records": 0, "left": []}
        self._count = 0
        self._save = self._stack.enter_context(
            self._registry.open_save_volume(spec["volume"]["save_url"], producer=False)
        )

    def _work(self) -> None:
        progress = lambda checked, total: self.note(checked=checked, total=total)  # noqa: E731 - said where it is used
        tags = set()
        for sentence in scrub(self._save, progress):
            self._tell(sentence)
            tags.add(tag_in(sentence.partition(": ")[0]))
        for tag in self._incomplete() - tags:
            self._tell(f"lists/{tag}: a record of this set is lost")
            tags.add(tag)
        if self._spec["repair"]:
            self._refetch(sorted(tags - {""}))
        if is_in_bucket(self._spec["volume"]["url"]):
            self._repair(self._blocks())

    def _incomplete(self) -> set[str]:
        """Tags of sets that lack a record and were not trimmed meanwhile."""
        with suppress(NotFoundError, CorruptRecordError):  # a root that is damaged was told
            found = set(incomplete_tags(self._save, read_root(self._save)))
            return found & set(incomplete_tags(self._save, read_root(self._save))) if found else found
        return set()

    def _refetch(self, tags: list[str]) -> None:
        """Ask the process that holds the secondary."""
        if not tags:
            return
        with ControlClient(Path(self._spec["control"])) as client:
            for at in range(0, len(tags), TAGS_A_CALL):
                found = client.request(
                    "refetch", answer_timeout_s=TIMEOUT_S, volume=self._spec["volume"]["name"],
                    tags=tags[at : at + TAGS_A_CALL],
                )  # fmt: skip
                repair = self._repaired
                self._repaired = {
                    **repair, "records": repair["records"] + found["records"], "left": repair["left"] + found["left"],
                }  # fmt: skip
                self.note(repair=self._repaired)

    def _tell(self, sentence: str) -> None:
        self._count += 1
        if self._count <= MAX_REPORTED:
            self._damage = [*self._damage, sentence[:500]]
        self.note(damage=self._damage, damage_count=self._count)

    def _blocks(self) -> list[Extent]:
        """The damaged blocks of the volume, ascending; a volume that is no longer one is told as such."""
        volume, damaged = self._spec["volume"], list[Extent]()
        try:
            with self._registry.open_volume(volume["url"], block_size=volume["block_size"], read_only=True) as opened:
                for block, why in scrub_volume(opened, lambda checked: self.note(checked_blocks=checked)):
                    self._tell(f"block {block}: {why}")
                    damaged.append(Extent(block, 1))
                    self.note(damaged_blocks=len(damaged))
        except (CorruptRecordError, RecordMissingError) as error:
            self._tell(f"volume: {error.message}")
        return normalise(damaged)

    def _repair(self, extents: list[Extent]) -> None:
        primary = self._spec["volume"]["bucket_of"]
        if self._spec["repair"] and extents and primary:
            number = send_again(Path(self._spec["control"]), primary, extents)
            self.note(repair={**self._repaired, "blocks": total(extents), "number": number})


class Scrubs(Jobs):
    """The scrubs of a site."""

    def __init__(self) -> None:
        super().__init__("scrub", BLANK)

"""Whether a bucket answers this process: known to all stores of it together, so that a status need not ask it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from replkit.backends.s3.url import S3Url


@dataclass(frozen=True)
class Trouble:
    """For how many seconds every request has failed, and how the first did."""

    seconds: float
    first_failure: str


class Health:
    """Of one bucket. Any answer ends a trouble, also one that refuses."""

    def __init__(self) -> None:
        self._since: tuple[float, str] | None = None

    def answered(self) -> None:
        """A request came back."""
        self._since = None

    def failed(self, error: Exception) -> None:
        """A request was not answered, or the store said that it cannot answer now."""
        if self._since is None:
            self._since = (time.monotonic(), str(error))

    @property
    def trouble(self) -> Trouble | None:
        """None while the bucket answers."""
        since = self._since
        return None if since is None else Trouble(time.monotonic() - since[0], since[1])


_lock = threading.Lock()
_known: dict[tuple[str | None, str], Health] = {}


def health_of(place: S3Url) -> Health:
    """That of the bucket in which ``place`` is."""
    with _lock:
        return _known.setdefault((place.endpoint, place.bucket), Health())

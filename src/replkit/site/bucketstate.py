"""What a status says of the bucket in which a volume is: how it is used, and whether it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replkit.errors import StoreUnavailableError

TROUBLE_AFTER_S = 5.0
"""A store that throttles for a moment is in no trouble."""


def is_in_bucket(url: str) -> bool:
    """Whether what it names is there."""
    return url.startswith("s3:")


def in_buckets(spec: Mapping[str, Any]) -> list[str]:
    """Those of a volume's two URLs that are in a bucket."""
    return [url for url in (spec["url"], spec["save_url"]) if is_in_bucket(url)]


def bucket_fields(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a volume uses its bucket, as its URLs say; ``None`` where none of it is in one."""
    urls = in_buckets(spec)
    if not urls:
        return None
    from replkit.backends.s3.url import parse_url  # noqa: PLC0415 - only where there is a bucket

    places = [parse_url(url) for url in urls]
    return {
        "url": places[0].name,
        "fencing": all(place.fencing for place in places),
        "encrypted": all(place.encrypt for place in places),
        "limit_up": places[0].limit,
        "limit_down": places[0].limit_down or places[0].limit,
        "requests_at_a_time": places[0].requests or None,
    }


def check_answers(spec: Mapping[str, Any]) -> None:
    """Return at once; ``StoreUnavailableError`` while the bucket of a volume has not answered this process for long.

    So a status need not wait for it, and says what is wrong.
    """
    for url in in_buckets(spec):
        from replkit.backends.s3.health import health_of  # noqa: PLC0415 - only where there is a bucket
        from replkit.backends.s3.url import parse_url  # noqa: PLC0415 - as above

        place = parse_url(url)
        trouble = health_of(place).trouble
        if trouble is not None and trouble.seconds >= TROUBLE_AFTER_S:
            raise StoreUnavailableError(
                f"{spec['name']}: bucket {place.bucket} has not answered for {trouble.seconds:.0f} s: "
                f"{trouble.first_failure}",
                hint="replication goes on by itself when it does; until then sets wait at the primary",
            )

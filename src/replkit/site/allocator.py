"""The environment of a worker, with what its C library should know of the memory that it will use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from replkit.site.bucketstate import in_buckets

_FOR_OBJECTS = {"MALLOC_MMAP_THRESHOLD_": str(256 << 10), "MALLOC_ARENA_MAX": "2"}
"""glibc keeps freed buffers of up to 32 MiB, in an arena for each thread; objects of 8 MiB on twenty threads then hold
half as much again as they use. With these what is freed goes back to the system. No other C library looks at them."""


def worker_environment(spec: Mapping[str, Any]) -> dict[str, str]:
    """Ours; for a worker with a volume in a bucket also how to allocate, unless somebody has said that already."""
    volumes = [*spec.get("volumes", ()), *([spec["volume"]] if spec.get("volume") else ())]
    if not any(in_buckets(volume) for volume in volumes):
        return dict(os.environ)
    return {**_FOR_OBJECTS, **os.environ}

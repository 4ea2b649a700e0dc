"""Workers with a volume in a bucket are told how to allocate; the others, and what a user says, are left alone."""

from __future__ import annotations

from replkit.site.allocator import worker_environment

DISK = {"url": "file:///srv/disk", "save_url": "file:///srv/save"}
BUCKET = {"url": "s3://bucket/disk/volume", "save_url": "s3://bucket/disk/save"}


def test_only_what_has_a_bucket_is_told(monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert "MALLOC_ARENA_MAX" not in worker_environment({"volumes": [DISK]})
    assert "MALLOC_ARENA_MAX" not in worker_environment({"volume": DISK})
    assert worker_environment({"volumes": [DISK, BUCKET]})["MALLOC_ARENA_MAX"] == "2"
    assert worker_environment({"volume": BUCKET})["MALLOC_ARENA_MAX"] == "2"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    assert worker_environment({"volume": BUCKET})["MALLOC_ARENA_MAX"] == "7"

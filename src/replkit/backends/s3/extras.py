"""What else a store can do. Nothing depends on it; who chooses a store wants to know."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from replkit.backends.s3.failures import FAILURES, translate
from replkit.backends.s3.probe import Check
from replkit.backends.s3.store import S3ObjectStore
from replkit.errors import StoreUnavailableError

_PART_BYTES = 5 << 20
"""The smallest that is not the last part, by the protocol."""


def probe_extras(store: S3ObjectStore, folder: str) -> list[Check]:
    """Try them under ``folder``, which is emptied again; ``StoreUnavailableError`` where the store does not answer."""
    trials: list[tuple[str, str, Callable[[S3ObjectStore, str], str]]] = [
        ("refuses wrong checksums", "objects are verified when they are read, whatever the store does", _try_checksum),
        (
            "multipart uploads",
            "none are made: an object has at most 16 MiB, so none is ever left behind",
            _try_multipart,
        ),
    ]
    checks = []
    for number, (name, follows, trial) in enumerate(trials):
        key = f"{folder}/{number}"
        try:
            detail = trial(store, key)
        except FAILURES as error:
            failed = translate(error, f"{store.url}: {name}")
            if isinstance(failed, StoreUnavailableError):
                raise failed from error
            detail = failed.message
        checks.append(Check(name=name, passed=not detail, needed=False, follows=follows, detail=detail))
        store.delete([key])
    return checks


def _try_checksum(store: S3ObjectStore, key: str) -> str:
    wrong = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    try:
        store.client.put_object(**store.where(key), Body=b"this", ContentMD5=wrong)
    except store.client.exceptions.ClientError:
        return ""
    return "an object was taken whose Content-MD5 is another one's"


def _try_multipart(store: S3ObjectStore, key: str) -> str:
    client, where, parts = store.client, store.where(key), (bytes(_PART_BYTES), b"end")
    upload = client.create_multipart_upload(**where)["UploadId"]
    try:
        tags = [
            client.upload_part(**where, UploadId=upload, PartNumber=number, Body=part)["ETag"]
            for number, part in enumerate(parts, 1)
        ]
        listed = [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(tags, 1)]
        client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": listed})  # type: ignore[typeddict-item]
    except BaseException:
        client.abort_multipart_upload(**where, UploadId=upload)
        raise
    return "" if store.get(key, _PART_BYTES - 1) == b"\0end" else "the object is not what its parts were"

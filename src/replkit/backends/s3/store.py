"""``S3ObjectStore``: the object store contract over boto3."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from replkit.backends.s3.failures import BEYOND_THE_END, FAILURES, code_of, is_repeatable, translate
from replkit.backends.s3.health import health_of
from replkit.backends.s3.url import S3Url
from replkit.contracts.buffers import Buffer
from replkit.errors import AlreadyExistsError, InvalidArgumentError, RecordMissingError, StoreUnavailableError
from replkit.objectstore.store import ObjectInfo, ObjectStore, check_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

try:
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError as missing:  # pragma: no cover - the tests have it
    from replkit.errors import UnsupportedError

    raise UnsupportedError("s3: URLs need boto3", hint="pip install 'replkit[s3]'") from missing

MAX_DELETES = 1000
"""Keys in one request, by the protocol."""
_CONNECTIONS = 40
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_loader = botocore.session.get_session().get_component("data_loader")
_Result = TypeVar("_Result")
_Body = TypeVar("_Body", bytes, bytearray, bytes | bytearray)


class _Where(TypedDict):
    Bucket: str
    Key: str


class S3ObjectStore(ObjectStore):
    """Objects in a bucket under a prefix.

    Every request is repeated, with growing pauses, for up to ``retry_s`` seconds if its failure is of a kind that may
    pass. botocore's own repetitions are off, since a create that succeeded and is repeated behind our back looks like
    a create that was refused. ``counts`` has requests and bytes by kind.
    """

    def __init__(self, place: S3Url, client: S3Client | None = None) -> None:
        self.url = place.name
        self._place = place
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._client = client or _new_client(place)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self._health = health_of(place)
        self._extra: dict[str, Any] = {}
        if place.storage_class:
            self._extra["StorageClass"] = place.storage_class
        if place.sse:
            self._extra["ServerSideEncryption"] = place.sse
        if place.sse_key:
            self._extra["SSEKMSKeyId"] = place.sse_key

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    @property
    def client(self) -> S3Client:
        """boto3's own, for what is not in the contract."""
        return self._client

    def where(self, key: str) -> _Where:
        """Bucket and key as boto3 takes them."""
        return {"Bucket": self._place.bucket, "Key": self._key(key)}

    # -- requests --

    def _call(self, kind: str, key: str, request: Callable[[], _Result]) -> _Result:
        """Send until it succeeds, fails for good, or the time is up."""
        deadline_s = time.monotonic() + self._place.retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            self._count(f"{kind} requests", 1)
            try:
                result = request()
            except FAILURES as error:
                if is_repeatable(error):
                    self._health.failed(error)
                else:
                    self._health.answered()
                if not is_repeatable(error) or time.monotonic() + pause_s > deadline_s:
                    raise translate(error, f"{self.url}: {kind} {key}") from error
            else:
                self._health.answered()
                return result
            self._count("repetitions", 1)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the repetitions
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _count(self, what: str, number: int) -> None:
        with self._lock:
            self.counts[what] += number

    @property
    def requests(self) -> Mapping[str, int]:
        """What was sent, repetitions too."""
        with self._lock:
            return dict(self.counts)

    # -- the contract --

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """One PUT."""
        whole = parts[0] if len(parts) == 1 else b"".join(memoryview(part) for part in parts)
        body = self._body(key, whole if isinstance(whole, bytes | bytearray) else bytes(memoryview(whole)))
        full = self._key(key)
        self._call("put", key, lambda: self._put(full, body, **self._extra))

    def _put(self, full: str, body: bytes | bytearray, **options: Any) -> None:
        if self._place.md5:  # what Object Lock asks for; never relied upon
            options["ContentMD5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        # botocore takes a bytearray as well; its stubs do not know
        self._client.put_object(Bucket=self._place.bucket, Key=full, Body=body, **options)  # type: ignore[arg-type]
        self._count("bytes put", len(body))

    def _body(self, key: str, body: _Body) -> _Body:
        if not body:  # with some servers the next PUT on that connection hangs
            raise InvalidArgumentError(f"{self.url}: {key}: an object is never empty")
        return body

    def put_new(self, key: str, data: Buffer) -> None:
        """One PUT with ``If-None-Match: *``; after a failure that leaves the outcome open, reads back who was first."""
        body, full, tries = self._body(key, bytes(memoryview(data))), self._key(key), 0

        def request() -> None:
            nonlocal tries
            tries += 1
            self._put(full, body, IfNoneMatch="*", **self._extra)

        try:
            self._call("put_new", key, request)
        except AlreadyExistsError:
            if tries == 1 or not self._holds(key, body):
                raise
        except StoreUnavailableError:
            if not self._holds(key, body):
                raise

    def _holds(self, key: str, body: bytes) -> bool:
        try:
            return self.get(key) == body
        except RecordMissingError:
            return False

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """One GET, with a range unless the whole object is wanted."""
        full = self._key(key)
        ranged: dict[str, Any] = {} if not start and stop is None else {"Range": _range(start, stop)}

        def request() -> bytes:
            try:
                response = self._client.get_object(Bucket=self._place.bucket, Key=full, **ranged)
            except ClientError as error:
                if code_of(error)[0] == BEYOND_THE_END:
                    return b""
                raise
            with response["Body"] as body:
                data: bytes = body.read()  # an answer that is too short raises
            self._count("bytes got", len(data))
            return data[start:stop] if ranged and "ContentRange" not in response else data

        data = self._call("get", key, request)
        return data if stop is None else data[: max(0, stop - start)]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """A LIST for each thousand keys."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list", prefix, lambda token=token: self._client.list_objects_v2(  # type: ignore[misc]
                Bucket=self._place.bucket, Prefix=self._prefix + prefix, **token))  # fmt: skip
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"].removeprefix(self._prefix), item["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        """A batch for each thousand keys."""
        full = [self._key(key) for key in keys]
        if len(full) == 1:
            self._call("delete", full[0], lambda: self._client.delete_object(Bucket=self._place.bucket, Key=full[0]))
            return
        for first in range(0, len(full), MAX_DELETES):
            self._delete_batch(full[first : first + MAX_DELETES])

    def _delete_batch(self, full: Sequence[str]) -> None:
        names: Sequence[ObjectIdentifierTypeDef] = [{"Key": key} for key in full]
        answer = self._call("delete", full[0], lambda: self._client.delete_objects(
            Bucket=self._place.bucket, Delete={"Objects": names, "Quiet": True}))  # fmt: skip
        for failed in answer.get("Errors", ()):  # 200 with errors inside: each on its own, which says what is wrong
            key = str(failed.get("Key"))
            self._call("delete", key, lambda key=key: self._client.delete_object(Bucket=self._place.bucket, Key=key))  # type: ignore[misc]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _range(start: int, stop: int | None) -> str:
    return f"bytes={start}-" if stop is None else f"bytes={start}-{max(start, stop - 1)}"


def _new_session() -> boto3.session.Session:
    """A session of its own, for its credentials; what it loads from files is loaded once a process."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader)
    return boto3.session.Session(botocore_session=session)


def _new_client(place: S3Url) -> S3Client:
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=_CONNECTIONS,
        request_checksum_calculation="when_required",  # some stores refuse trailers; records carry our own checksums
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if place.endpoint else {},
    )
    session = _new_session()
    region = place.region or session.region_name or ("us-east-1" if place.endpoint else None)
    try:
        return session.client("s3", endpoint_url=place.endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise translate(error, place.name) from error

"""What an ``s3:`` URL says.

::

    s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-1&storage_class=STANDARD_IA&sse=AES256

``takeover=yes`` opens a save volume although another producer has it open, and fences that one. ``fencing=off`` opens
it although the store cannot fence: then two producers at a time can destroy it.

``encrypt=file:///etc/replkit/bucket.keys`` encrypts all objects with the keys of that file. ``limit=20MiB/s`` or
``limit=20MiB/s@08:00-18:00`` limits each direction, ``limit_down`` the reads; ``requests=8`` those at a time.
``metered=yes`` keeps requests and bytes in the bucket, for those that are not written by a daemon, which keeps them.
``md5=yes`` sends ``Content-MD5`` with each put, which buckets with Object Lock may ask for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from replkit.errors import InvalidArgumentError
from replkit.objectstore.store import check_key
from replkit.objectstore.throttled import parse_limit

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_PREFIX_BYTES = 400
_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
_OPTIONS = (
    "endpoint", "region", "storage_class", "sse", "sse_key", "takeover", "fencing", "retry_s", "encrypt", "limit",
    "limit_down", "requests", "metered", "md5",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class S3Url:
    """A bucket, a prefix in it, and how to reach it. ``retry_s``: for how long a failing request is repeated."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    storage_class: str | None = None
    sse: str | None = None
    sse_key: str | None = None
    takeover: bool = False
    fencing: bool = True
    retry_s: float = 60.0
    encrypt: str = ""
    limit: str = ""
    limit_down: str = ""
    requests: int = 0
    metered: bool = False
    md5: bool = False

    @property
    def name(self) -> str:
        """Short form for messages; there is no secret in it."""
        return f"s3://{self.bucket}/{self.prefix}"


def parse_url(url: str) -> S3Url:
    """Take an ``s3:`` URL apart; ``InvalidArgumentError`` says what is wrong with it (invariant 12)."""
    parts = urlsplit(url)
    if parts.username or parts.password or "@" in parts.netloc:
        raise InvalidArgumentError(
            "an s3: URL carries no credentials", hint="give them as boto3 finds them: environment, profile or role"
        )
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
        raise InvalidArgumentError(f"{url!r} is no s3: URL", hint="write it as s3://bucket/prefix?endpoint=https://…")
    prefix = parts.path.strip("/")
    if prefix:
        check_key(prefix)
    if len(prefix) > _MAX_PREFIX_BYTES:
        raise InvalidArgumentError(f"{url!r}: a prefix has at most {_MAX_PREFIX_BYTES} bytes")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise InvalidArgumentError(f"{url!r}: unknown option {unknown[0]!r}", hint=f"options are {', '.join(_OPTIONS)}")
    return S3Url(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=_endpoint(url, options.get("endpoint")),
        region=options.get("region"),
        storage_class=options.get("storage_class"),
        sse=options.get("sse"),
        sse_key=options.get("sse_key"),
        takeover=_switch(url, options, "takeover", default=False),
        fencing=_switch(url, options, "fencing", default=True),
        retry_s=_seconds(url, options.get("retry_s", "60")),
        encrypt=_given(url, options, "encrypt"),
        limit=_limit(url, options, "limit"),
        limit_down=_limit(url, options, "limit_down"),
        requests=_count(url, options),
        metered=_switch(url, options, "metered", default=False),
        md5=_switch(url, options, "md5", default=False),
    )


def _given(url: str, options: dict[str, str], name: str) -> str:
    if name in options and not options[name]:  # else an empty variable in a script would turn encryption off
        raise InvalidArgumentError(f"{url!r}: {name} is empty", hint="give it a value or leave it out")
    return options.get(name, "")


def _limit(url: str, options: dict[str, str], name: str) -> str:
    text = _given(url, options, name)
    if text:
        parse_limit(text)
    return text


def _count(url: str, options: dict[str, str]) -> int:
    text = options.get("requests", "")
    if "requests" in options and not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise InvalidArgumentError(f"{url!r}: requests is how many at a time, at least 1, not {text!r}")
    return int(text or 0)


def _endpoint(url: str, endpoint: str | None) -> str | None:
    if endpoint is not None and urlsplit(endpoint).scheme not in {"http", "https"}:
        raise InvalidArgumentError(f"{url!r}: endpoint {endpoint!r} must begin with https:// or http://")
    return endpoint


def _switch(url: str, options: dict[str, str], name: str, *, default: bool) -> bool:
    if name not in options:
        return default
    if options[name] not in _SWITCHES:
        raise InvalidArgumentError(f"{url!r}: {name} is yes or no, not {options[name]!r}")
    return _SWITCHES[options[name]]


def _seconds(url: str, text: str) -> float:
    if not re.fullmatch(r"\d{1,5}(\.\d+)?", text):
        raise InvalidArgumentError(f"{url!r}: retry_s is a number of seconds, not {text!r}")
    return float(text)

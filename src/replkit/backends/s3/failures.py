"""Failures of botocore as errors of ours: what can be repeated, what is refused, what is just not there."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from replkit.errors import (
    AlreadyExistsError,
    NotFoundError,
    RecordMissingError,
    ReplkitError,
    StoreRefusedError,
    StoreUnavailableError,
)

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_REPEATABLE_CODES = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError",
     "ServiceUnavailable", "ConditionalRequestConflict", "OperationAborted", "TooManyRequests"}
)  # fmt: skip
FAILURES = (BotoCoreError, ClientError, HTTPError, OSError)
"""What a request may raise; urllib3's own errors come from the body of an answer."""
_CONFLICT, _PRECONDITION, _TOO_MANY, _SERVER = 409, 412, 429, 500
BEYOND_THE_END = "InvalidRange"


def code_of(error: ClientError) -> tuple[str, int]:
    """The S3 error code and the HTTP status."""
    response = error.response
    return (
        str(response.get("Error", {}).get("Code", "")),
        int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
    )


def is_repeatable(error: Exception) -> bool:
    """Whether the same request may succeed when it is sent again; its outcome may be unknown."""
    if isinstance(error, ClientError):
        code, status = code_of(error)
        return code in _REPEATABLE_CODES or status in {_CONFLICT, _TOO_MANY} or status >= _SERVER
    return isinstance(error, BotoConnectionError | HTTPClientError | IncompleteReadError | HTTPError | OSError)


def translate(error: Exception, what: str) -> ReplkitError:
    """The error to raise; ``what`` names bucket, operation and key."""
    if is_repeatable(error):
        return StoreUnavailableError(f"{what}: {_text(error)}", hint="the store throttles, fails or cannot be reached")
    if isinstance(error, ClientError):
        return _translate_answer(error, what)
    if isinstance(error, BotoCoreError):
        return StoreRefusedError(f"{what}: {_text(error)}", hint="check credentials, region and endpoint")
    return StoreUnavailableError(f"{what}: {_text(error)}")


def _translate_answer(error: ClientError, what: str) -> ReplkitError:
    code, status = code_of(error)
    if code == "NoSuchBucket":
        return NotFoundError(f"{what}: there is no such bucket", hint="make the bucket first")
    if code in _MISSING:
        return RecordMissingError(f"{what}: no such object")
    if code == "PreconditionFailed" or status == _PRECONDITION:
        return AlreadyExistsError(f"{what}: is already there")
    return StoreRefusedError(f"{what}: {_text(error)}", hint="check the credentials and the rights on the bucket")


def _text(error: Exception) -> str:
    if isinstance(error, ClientError):
        code, status = code_of(error)
        return f"{code} (HTTP {status}) {error.response.get('Error', {}).get('Message', '')}".strip()
    return f"{type(error).__name__}: {error}"

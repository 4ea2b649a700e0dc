"""Keys for objects that are encrypted before they leave: several at a time, of which the newest encrypts.

A key file is text. Its first line is ``replkit-keys-1``; each other line is a key: its id, when it was made, and 32
secret bytes in base64. The id is computed from the secret, so that a damaged line is noticed. Nothing here prints a
secret: not a ``repr``, not an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from replkit.errors import InvalidArgumentError, KeyMissingError

SECRET_BYTES = 32
KEY_ID_BYTES = 8
KEY_FILE_HEAD = "replkit-keys-1"
_COMMENT = "#"
_ID_LABEL, _OBJECT_LABEL = b"replkit key id 1", b"replkit object key 1"


class Key:
    """One key; ``key_id`` (hexadecimal) is public, what it can do is not."""

    __slots__ = ("_secret", "key_id", "made")

    def __init__(self, secret: bytes, made: str) -> None:
        if len(secret) != SECRET_BYTES:
            raise InvalidArgumentError(f"a key has {SECRET_BYTES} secret bytes, not {len(secret)}")
        self._secret = secret
        self.key_id = hmac.digest(secret, _ID_LABEL, hashlib.sha256)[:KEY_ID_BYTES].hex()
        self.made = made

    def __repr__(self) -> str:
        return f"<key {self.key_id} of {self.made}>"

    def cipher(self, salt: bytes) -> AESGCM:
        """AES-256-GCM under the key of one object, which 16 random bytes tell from all others of this key."""
        return AESGCM(hmac.digest(self._secret, _OBJECT_LABEL + salt, hashlib.sha256))

    def line(self) -> str:
        """Its line in a key file: this is the secret itself."""
        return f"{self.key_id} {self.made} {base64.b64encode(self._secret).decode()}"


class KeyRing:
    """Keys, oldest first. ``name`` says in messages where they came from."""

    def __init__(self, keys: Sequence[Key], name: str = "these keys") -> None:
        if not keys:
            raise InvalidArgumentError(f"{name}: there is no key", hint="make the file with 'replkit s3 keys new FILE'")
        self.name = name
        self._keys = list(keys)
        self._by_id = {key.key_id: key for key in keys}

    def __repr__(self) -> str:
        return f"<{len(self._keys)} keys of {self.name}>"

    @property
    def newest(self) -> Key:
        """The one that encrypts."""
        return self._keys[-1]

    @property
    def key_ids(self) -> list[str]:
        """Oldest first."""
        return [key.key_id for key in self._keys]

    def find(self, key_id: str, what: str) -> Key:
        """The key with this id; ``KeyMissingError`` says that ``what`` needs it."""
        key = self._by_id.get(key_id)
        if key is None:
            raise KeyMissingError(
                f"{what} is encrypted with key {key_id}, which {self.name} does not have",
                hint="put the line of that key back into the key file; without it, or if the object was altered, "
                "its content is lost",
            )
        return key

    def with_new(self, secret: bytes, now_s: float) -> KeyRing:
        """These keys and a newer one."""
        return KeyRing([*self._keys, new_key(secret, now_s)], self.name)

    def text(self) -> str:
        """Content of a key file: secret."""
        lines = [
            KEY_FILE_HEAD,
            f"{_COMMENT} Secret. The last key encrypts, all decrypt. Keep a copy that does not depend on the bucket.",
            *(key.line() for key in self._keys),
        ]
        return "\n".join(lines) + "\n"


def new_key(secret: bytes, now_s: float) -> Key:
    """A key of 32 random bytes, made at ``now_s`` (seconds since 1970 UTC)."""
    return Key(secret, datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def parse_keys(text: str, name: str) -> KeyRing:
    """The keys of a key file; ``InvalidArgumentError`` names the line, never its content (invariant 12)."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != KEY_FILE_HEAD:
        raise InvalidArgumentError(f"{name} is no key file", hint=f"its first line must be {KEY_FILE_HEAD}")
    keys: list[Key] = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith(_COMMENT):
            continue
        key = _parse_line(line)
        if key is None or key.key_id in {other.key_id for other in keys}:
            raise InvalidArgumentError(
                f"{name}: line {number} is damaged, or there twice", hint="restore the file from its copy"
            )
        keys.append(key)
    return KeyRing(keys, name)


def _parse_line(line: str) -> Key | None:
    words = line.split()
    if len(words) != 3:
        return None
    try:
        secret = base64.b64decode(words[2], validate=True)
    except binascii.Error:
        return None
    if len(secret) != SECRET_BYTES:
        return None
    key = Key(secret, words[1])
    return key if key.key_id == words[0] else None

"""Key files: read, made and rotated, so that nobody else can read them and no crash leaves half of one."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from replkit.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, StorageError, VolumeFailedError
from replkit.objectstore.keys import SECRET_BYTES, KeyRing, new_key, parse_keys

MAX_FILE_BYTES = 1 << 20


def key_path(url: str) -> Path:
    """The path of a ``file:///…`` URL; ``InvalidArgumentError`` if it is no such."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise InvalidArgumentError(
            f"{url!r} names no key file", hint="write it as encrypt=file:///etc/replkit/bucket.keys"
        )
    return Path(unquote(parts.path))


def read_keys(path: Path) -> KeyRing:
    """The keys of a file that only its owner can read; else ``InvalidArgumentError``, without what is in it."""
    try:
        return parse_keys(_read(path), str(path))
    except InvalidArgumentError as error:
        refusal = InvalidArgumentError(error.message, hint=error.hint)
    raise refusal  # its traceback has no frame in which a secret is a variable


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}:
                raise InvalidArgumentError(
                    f"{path} can be read or written by others, or is no file of yours", hint=f"chmod 600 {path}"
                )
            return file.read(MAX_FILE_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no key file {path}", hint="make one with 'replkit s3 keys new', or copy it from the other site"
        ) from None
    except OSError as error:
        raise VolumeFailedError(f"{path}: {error.strerror}") from None


def create_keys(path: Path) -> KeyRing:
    """Make a file with one new key, durably; ``AlreadyExistsError`` if there is one."""
    keys = KeyRing([new_key(os.urandom(SECRET_BYTES), time.time())], str(path))
    _write_new(path, keys)
    _sync_folder(path)
    return keys


def rotate_keys(path: Path) -> KeyRing:
    """Put a new key at the end of the file, atomically: after a crash the file is the old or the new one.

    ``AlreadyExistsError`` while another rotation is under way: else one of two new keys would be lost, after something
    may have been encrypted with it.
    """
    path = path.resolve()
    beside = path.with_name(f"{path.name}.new")
    read_keys(path)  # refuses early, and leaves nothing behind
    _claim(beside)
    try:
        owner = path.stat()
        if owner.st_uid != os.geteuid():  # root rotates, and the daemon's own user goes on reading
            os.chown(beside, owner.st_uid, owner.st_gid)
        keys = read_keys(path).with_new(os.urandom(SECRET_BYTES), time.time())
        _write(beside, keys, os.O_TRUNC)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path)
    return keys


def _claim(beside: Path) -> None:
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise AlreadyExistsError(
            f"{beside} is there: another rotation is under way, or was broken off",
            hint="delete it if no other rotation runs; nothing is encrypted with a key that is only in it",
        ) from None
    except OSError as error:
        raise VolumeFailedError(f"{beside}: {error.strerror}") from None


def _write_new(path: Path, keys: KeyRing) -> None:
    try:
        _write(path, keys, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise AlreadyExistsError(
            f"{path} is already there", hint="to encrypt with a new key, use 'replkit s3 keys rotate'"
        ) from None
    except StorageError:
        path.unlink(missing_ok=True)  # half a file is no key file
        raise


def _write(path: Path, keys: KeyRing, flags: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | flags, 0o600), "w") as file:
            file.write(keys.text())
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except OSError as error:
        raise VolumeFailedError(f"{path}: {error.strerror}") from None


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

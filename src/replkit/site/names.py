"""Names of sites, volumes, peers, members and snapshots, and the places that follow from them."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from replkit.errors import InvalidArgumentError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAME_RULE = "a name is 1 to 64 of a-z, 0-9, '.', '_', '-' and begins with a letter or digit"
MAX_SOCKET_PATH_BYTES = 107
"""What Linux allows for the path of a Unix socket."""


def is_name(text: str) -> bool:
    """Whether ``text`` may name a site, volume, peer, member or snapshot."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """``text``, or ``InvalidArgumentError`` that says what was to be named."""
    if not isinstance(text, str) or not is_name(text):
        raise InvalidArgumentError(f"{text!r} cannot name a {what}", hint=NAME_RULE)
    return text


def state_home() -> Path:
    """Where replkit keeps state by default: below the XDG state directory of the user."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "replkit"


def default_control_socket(site: str) -> Path:
    """The control socket of a site whose config names none."""
    return state_home() / site / "control.sock"


def export_socket(run_dir: Path, export: str) -> Path:
    """The socket at which an export is served where none is named: called like it, or shorter where that is too long.

    The short name is no longer than ``control.sock``, so it fits wherever that socket of the daemon does.
    """
    path = run_dir / f"{export}.nbd"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    return run_dir / f"{hashlib.sha256(export.encode()).hexdigest()[:8]}.nbd"

"""What a service manager is told: readiness, state, the end (the protocol of sd_notify)."""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger(__name__)


def notify(message: str) -> bool:
    """Send ``message`` (as ``READY=1``) to the manager that started us; False where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(target)
            sock.sendall(message.encode())
    except OSError as error:
        _log.warning("the service manager at %s could not be told %r: %s", address, message, error)
        return False
    return True

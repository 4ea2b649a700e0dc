"""The numbers of the NBD protocol that a client needs, and where a server is."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from replkit.errors import InvalidArgumentError

DEFAULT_PORT: Final = 10809
CONNECT_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 60.0
MAX_PAYLOAD_BYTES: Final = 32 << 20

GREETING: Final = b"NBDMAGICIHAVEOPT"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY: Final = Struct(">QIII")
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
OPT_ABORT, OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = 2, 7, 8, 10
REP_ACK, REP_INFO, REP_META_CONTEXT, REP_ERROR = 1, 3, 4, 0x80000000
REP_ERR_UNKNOWN = 0x80000006
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

CAN_READ_ONLY, CAN_FLUSH, CAN_WRITE_ZEROES, CAN_MULTI_CONN = 1 << 1, 1 << 2, 1 << 6, 1 << 8

REQUEST: Final = Struct(">IHHQQI")
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
CMD_READ, CMD_WRITE, CMD_DISCONNECT, CMD_FLUSH, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 0, 1, 2, 3, 6, 7
REPLY_DONE, REPLY_NONE, REPLY_DATA, REPLY_HOLE, REPLY_STATUS, REPLY_ERROR = 1, 0, 1, 2, 5, 1 << 15
STATE_ZERO = 1 << 1
EPERM, ENOSPC = 1, 28


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an export is: a path, or a host and port."""

    url: str
    export: str
    path: str = ""
    host: str = ""
    port: int = DEFAULT_PORT

    def connect(self) -> socket.socket:
        """A connected socket."""
        if self.host:
            sock = socket.create_connection((self.host, self.port), CONNECT_TIMEOUT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(CONNECT_TIMEOUT_S)
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        return sock


def parse_url(url: str) -> Address:
    """Take ``nbd://host:port/export`` or ``nbd+unix:///export?socket=/path`` apart."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise InvalidArgumentError(f"{url!r} is no NBD URL: {error}") from None
    export = unquote(parts.path.removeprefix("/"))
    if len(export.encode()) > 4096:
        raise InvalidArgumentError(f"{url[:60]!r}...: an export name has at most 4096 bytes")
    if parts.scheme == "nbd" and parts.hostname:
        return Address(url=url, export=export, host=parts.hostname, port=port)
    sockets = parse_qs(parts.query).get("socket", [])
    if parts.scheme == "nbd+unix" and not parts.netloc and len(sockets) == 1:
        return Address(url=url, export=export, path=sockets[0])
    raise InvalidArgumentError(f"{url!r} is no NBD URL", hint="nbd://host:port/export, nbd+unix:///export?socket=/path")

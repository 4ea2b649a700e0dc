"""Addresses of the scheme ``tcp``: what may be in a URL, and who may listen or connect in plain text."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

from replkit.errors import InvalidArgumentError

SCHEME = "tcp"
LOOPBACK = "127.0.0.1"
DEFAULT_CONNECTIONS = 256


@dataclass(frozen=True, kw_only=True)
class Address:
    """A parsed URL ``tcp://host:port?plaintext=yes&connections=N``; without a host it is loopback."""

    host: str
    port: int
    plaintext: bool = False
    """The operator accepts that all data travels readable by anybody on the way."""
    connections: int = DEFAULT_CONNECTIONS
    """How many connections a listener holds at the same time."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take ``url`` apart; everything unknown in it is refused."""
        try:
            parts = urlsplit(url)
            port = parts.port
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise InvalidArgumentError(f"URL {url!r}: {error}") from None
        if parts.scheme != SCHEME or port is None or parts.path or parts.fragment or "@" in parts.netloc:
            raise InvalidArgumentError(f"{url!r} is no URL of the form tcp://host:port")
        if unknown := sorted(options.keys() - {"plaintext", "connections"}):
            raise InvalidArgumentError(f"URL {url!r} has unknown options: {', '.join(unknown)}")
        plaintext, connections = options.get("plaintext", "no"), options.get("connections", str(DEFAULT_CONNECTIONS))
        if plaintext not in ("yes", "no"):
            raise InvalidArgumentError(f"URL {url!r}: plaintext is yes or no, not {plaintext!r}")
        if not (connections.isascii() and connections.isdigit() and 0 < int(connections) <= 65536):
            raise InvalidArgumentError(f"URL {url!r}: connections is a number from 1 to 65536, not {connections!r}")
        return cls(
            host=parts.hostname or LOOPBACK, port=port, plaintext=plaintext == "yes", connections=int(connections)
        )

    @property
    def is_loopback(self) -> bool:
        """Whether nobody outside this machine can be at the other end; a name other than localhost may be anybody."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check_plaintext(self) -> None:
        """Refuse to leave the machine in plain text without the explicit option."""
        if not self.is_loopback and not self.plaintext:
            raise InvalidArgumentError(
                f"{self} is not loopback, and tcp has no encryption",
                hint="use a tunnel to a loopback address, or add ?plaintext=yes to the URL to accept it",
            )

    def with_port(self, port: int) -> Address:
        """The same address with the port that the system chose."""
        return replace(self, port=port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = ["plaintext=yes"] if self.plaintext else []
        if self.connections != DEFAULT_CONNECTIONS:
            options.append(f"connections={self.connections}")
        return f"{SCHEME}://{host}:{self.port}" + ("?" + "&".join(options) if options else "")

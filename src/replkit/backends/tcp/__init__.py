"""Transport ``tcp://host:port``: RCP over TCP, on a port that it may share with another protocol (FIG. 19, T9).

Comes in: messages, and connections from anybody. Goes out: a ``Link`` for each connection that begins with the
preamble of RCP; any other connection, with the bytes looked at, goes to ``on_other``. There is no TLS yet, so an
address that is not loopback is refused unless its URL says ``?plaintext=yes``.
"""

from replkit.backends.tcp.transport import TcpTransport, replkit_register_transports

__all__ = ["TcpTransport", "replkit_register_transports"]

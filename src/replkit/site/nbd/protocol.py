"""The numbers and layouts of the NBD protocol, as its specification (doc/proto.md of the NBD project) gives them.

Plain integers and precompiled structs, since the hot loop compares them for every request. All fields are big-endian.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

# Handshake: greeting (magic, option magic, flags), then options, each answered by replies.
NBD_MAGIC: Final = 0x4E42444D41474943
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
GREETING: Final = Struct(">QQH")
CLIENT_FLAGS: Final = Struct(">I")
OPTION: Final = Struct(">QII")  # magic, option, bytes of data
OPTION_REPLY: Final = Struct(">QIII")  # magic, option, type, bytes of data
EXPORT_NAME_REPLY: Final = Struct(">QH")  # size, transmission flags
INFO_EXPORT_REPLY: Final = Struct(">HQH")  # type, size, transmission flags
INFO_BLOCK_SIZE_REPLY: Final = Struct(">HIII")  # type, minimum, preferred, maximum
U16: Final = Struct(">H")
U32: Final = Struct(">I")

FLAG_FIXED_NEWSTYLE: Final = 1 << 0
FLAG_NO_ZEROES: Final = 1 << 1

OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_STARTTLS: Final = 5
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10

REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_ERR_UNSUP: Final = 0x80000001
REP_ERR_POLICY: Final = 0x80000002
REP_ERR_INVALID: Final = 0x80000003
REP_ERR_UNKNOWN: Final = 0x80000006
REP_ERR_TOO_BIG: Final = 0x80000009

INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3

# What an export can do.
CAN_HAS_FLAGS: Final = 1 << 0
CAN_READ_ONLY: Final = 1 << 1
CAN_FLUSH: Final = 1 << 2
CAN_FUA: Final = 1 << 3
CAN_TRIM: Final = 1 << 5
CAN_WRITE_ZEROES: Final = 1 << 6
CAN_DF: Final = 1 << 7
CAN_MULTI_CONN: Final = 1 << 8
CAN_CACHE: Final = 1 << 10
CAN_FAST_ZERO: Final = 1 << 11

# Transmission: requests and replies.
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
REQUEST: Final = Struct(">IHHQQI")  # magic, flags, type, cookie, offset, length
SIMPLE_REPLY: Final = Struct(">IIQ")  # magic, error, cookie
STRUCTURED_REPLY: Final = Struct(">IHHQI")  # magic, flags, type, cookie, bytes of payload
OFFSET_DATA_REPLY: Final = Struct(">IHHQIQ")  # a structured reply and the offset of the data that follows
ERROR_PAYLOAD: Final = Struct(">IH")  # error, bytes of text
COOKIE: Final = Struct(">Q")
STATUS_HEAD: Final = Struct(">I")  # context id
STATUS_DESCRIPTOR: Final = Struct(">II")  # length, state

CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISCONNECT: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_CACHE: Final = 5
CMD_WRITE_ZEROES: Final = 6
CMD_BLOCK_STATUS: Final = 7

CMD_FLAG_FUA: Final = 1 << 0
CMD_FLAG_NO_HOLE: Final = 1 << 1
CMD_FLAG_DF: Final = 1 << 2
CMD_FLAG_REQ_ONE: Final = 1 << 3
CMD_FLAG_FAST_ZERO: Final = 1 << 4

REPLY_FLAG_DONE: Final = 1 << 0
REPLY_OFFSET_DATA: Final = 1
REPLY_BLOCK_STATUS: Final = 5
REPLY_ERROR: Final = (1 << 15) | 1

STATE_HOLE: Final = 1 << 0
STATE_ZERO: Final = 1 << 1

OK: Final = 0
EPERM: Final = 1
EIO: Final = 5
EINVAL: Final = 22
ENOSPC: Final = 28
ENOTSUP: Final = 95

# Limits of this server; DESIGN and docs/reference name them.
MAX_NAME_BYTES: Final = 256
MAX_PAYLOAD_BYTES: Final = 32 << 20
MAX_OPTION_BYTES: Final = 8 << 10
"""Longer option data ends the session: no client has a reason to send it."""
MAX_STATUS_EXTENTS: Final = 4096
META_ALLOCATION: Final = "base:allocation"
META_ALLOCATION_ID: Final = 1

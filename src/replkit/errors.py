"""Every error that replkit raises on purpose, in one small hierarchy that says whose fault it is.

Each message names the volume, the position and the file, key or peer concerned; ``hint`` says what to do next.
Only the leaves are raised.
"""


class ReplkitError(Exception):
    """Base of all errors of replkit; not raised itself.

    Args:
        message: what happened, naming what and where.
        hint: what the reader of the message can do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        if type(self) in _BASES:
            raise TypeError(f"{type(self).__name__} is a base class: raise one of its leaves")
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class CallerError(ReplkitError):
    """The caller (operator, application or our own code above) asked for something that cannot be."""

    exit_code = 2


class StorageError(ReplkitError):
    """A volume or save volume failed, is full, or holds something else than was expected."""


class PeerError(ReplkitError):
    """The other side of a link, or the link itself, misbehaved."""


class InvalidArgumentError(CallerError):
    """An argument is outside what the call accepts; nothing was changed."""


class ConfigError(CallerError):
    """A configuration has faults; ``faults`` lists all of them as ``(path, what)``."""

    def __init__(self, message: str, *, faults: list[tuple[str, str]] | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.faults = faults or []


class NotFoundError(CallerError):
    """No volume, snapshot, member, scheme or export has this name."""


class AlreadyExistsError(CallerError):
    """The name is taken."""


class ReadOnlyError(CallerError):
    """A write, discard or resize reached a read-only volume, snapshot, view or save volume."""


class UnsupportedError(CallerError):
    """The backend does not have this capability."""


class WrongRoleError(CallerError):
    """The volume is not in the role or state that the command needs."""


class VolumeFailedError(StorageError):
    """The volume met an I/O error; after a failed flush it is poisoned until it is opened again (invariant 1)."""


class OutOfSpaceError(StorageError):
    """The store under a volume has no room left; the write was not done."""


class SaveVolumeFullError(StorageError):
    """A partition of the save volume has no room for the record; nothing was written (invariant 11)."""


class SaveVolumeFailedError(StorageError):
    """The save volume met an I/O error; poisoned until it is opened again (invariant 1)."""


class SaveVolumeBusyError(StorageError):
    """Another process holds the save volume open as its producer."""


class RecordMissingError(StorageError):
    """A key is not, or no longer, there: its boundary was trimmed."""


class CorruptRecordError(StorageError):
    """Stored bytes do not have the checksum, magic, version or lengths that they must have (invariant 12)."""


class SwapConflictError(StorageError):
    """A cell was not at the expected version: somebody else swapped it first."""


class FencedError(StorageError):
    """Another owner or a higher epoch has taken the save volume (invariant 8)."""

    exit_code = 5


class StoreUnavailableError(StorageError):
    """An object store did not answer, throttled or failed, also when asked again; a write may or may not be done."""


class StoreRefusedError(StorageError):
    """An object store refused the credentials or the request, or cannot do what its use here needs."""


class KeyMissingError(StorageError):
    """An object is encrypted with a key that the key file does not have; the message has the key's id."""


class PlanStaleError(CallerError):
    """What a plan rested on has changed, or more would be lost than it said; nothing was done (invariant 10)."""

    exit_code = 6


class SnapshotInvalidError(StorageError):
    """The snapshot lost its before-images and was invalidated visibly (invariant 4)."""


class CutAbandonedError(StorageError):
    """A cut could not be committed; its changes stay in the change log and will be in the next set."""


class InconsistentError(StorageError):
    """The volume is in the middle of a new copy or resync and stands at no boundary (invariant 6)."""

    exit_code = 3


class ProtocolError(PeerError):
    """The peer sent bytes or messages that the protocol does not allow; the session ends (invariant 12)."""


class LocalProtocolError(CallerError):
    """Our own code asked a session for a step that its state does not allow."""


class RefusedError(PeerError):
    """The peer refused the session or the set and said why; ``code`` is its short name."""

    def __init__(self, message: str, *, code: str = "refused", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class DivergedError(PeerError):
    """The two sides have histories of which neither continues the other."""

    exit_code = 4


class LinkClosedError(PeerError):
    """The link broke or was closed."""


class LinkTimeoutError(PeerError):
    """The peer did not take the message, or did not answer, in time."""


class ControlError(PeerError):
    """The daemon could not be reached, or answered with an error."""


_BASES = frozenset({ReplkitError, CallerError, StorageError, PeerError})

"""What can go wrong, each as a class of its own that says what to do."""

from __future__ import annotations

from collections.abc import Sequence


class PyQueueError(Exception):
    """The base of every error that pyqueue raises."""


class LeaseLost(PyQueueError):
    """The lease is no longer held: it ran out and was reclaimed, or it was settled before.

    The item is waiting again, is held by another worker, or is done. What this worker did with it
    may be done a second time; use the token to fence outside stores.
    """

    def __init__(self, message: str, tokens: Sequence[int] = ()) -> None:
        super().__init__(message)
        #: The tokens that no longer hold a lease.
        self.tokens = tuple(tokens)


class QueueSealed(PyQueueError):
    """The queue takes no more messages."""


class QueueFull(PyQueueError):
    """The queue, or the memory of the server, has no room for the message. Nothing was written."""


class QueueNotEmpty(PyQueueError):
    """The queue still holds items or dead letters, so it was not deleted."""


class SchemaMismatch(PyQueueError):
    """Another version of pyqueue wrote this queue. Nothing was written."""


class InvalidName(PyQueueError, ValueError):
    """The queue's name cannot be used; the message says why."""


class MessageTooLarge(PyQueueError, ValueError):
    """The payload or the headers are larger than a message may be."""


class MalformedMessage(PyQueueError, ValueError):
    """The headers of a message are not what pyqueue writes."""


class WrongType(PyQueueError):
    """A key of the queue holds another type than pyqueue's. Nothing was written."""


class PermissionDenied(PyQueueError):
    """The server wants a password, or its ACL refuses a command or a key."""


class ServerUnavailable(PyQueueError):
    """The server cannot be reached or cannot answer now."""

    def __init__(
        self, message: str, *, outcome_unknown: bool = False, ids: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        #: True when the call may have been carried out: its reply was lost.
        self.outcome_unknown = outcome_unknown
        #: The ids (of a push) or tokens (of a verb on leases) that the call was about.
        self.ids = tuple(ids)


class NotWide(PyQueueError):
    """The queue uses features whose keys the call did not name; the client sends it again."""


class StaleCall(PyQueueError):
    """A copy of a call arrived after the next call of the same slot. Nothing was written."""


class EmbeddedUnavailable(PyQueueError):
    """The embedded server is not installed, or did not start."""

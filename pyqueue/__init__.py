"""A work queue on Redis or Valkey in which every step is one atomic Lua script."""

from ._leases import Batch
from ._outgoing import Message
from .aio import AsyncLease, AsyncQueue
from .client import Lease, Queue
from .errors import (
    EmbeddedUnavailable,
    InvalidName,
    LeaseLost,
    MalformedMessage,
    MessageTooLarge,
    PermissionDenied,
    PyQueueError,
    QueueFull,
    QueueNotEmpty,
    QueueSealed,
    SchemaMismatch,
    ServerUnavailable,
    StaleCall,
    WrongType,
)
from .models import DeadLetter, Finding, Item, LeasedItem, Report, Stats, WaitingItem

__version__ = "0.1.0"

__all__ = [
    "AsyncLease",
    "AsyncQueue",
    "Batch",
    "DeadLetter",
    "EmbeddedUnavailable",
    "Finding",
    "InvalidName",
    "Item",
    "Lease",
    "LeaseLost",
    "LeasedItem",
    "MalformedMessage",
    "Message",
    "MessageTooLarge",
    "PermissionDenied",
    "PyQueueError",
    "Queue",
    "QueueFull",
    "QueueNotEmpty",
    "QueueSealed",
    "Report",
    "SchemaMismatch",
    "ServerUnavailable",
    "StaleCall",
    "Stats",
    "WaitingItem",
    "WrongType",
]

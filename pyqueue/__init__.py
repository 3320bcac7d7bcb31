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
from .worker import AsyncWorker, Hooks, Retry, Worker

__version__ = "0.1.0"

__all__ = [
    "AsyncLease",
    "AsyncQueue",
    "AsyncWorker",
    "Batch",
    "DeadLetter",
    "EmbeddedUnavailable",
    "Finding",
    "Hooks",
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
    "Retry",
    "SchemaMismatch",
    "ServerUnavailable",
    "StaleCall",
    "Stats",
    "WaitingItem",
    "Worker",
    "WrongType",
]

"""``Worker`` and ``AsyncWorker`` run a function for each item of a queue."""

from ._common import Hooks, Outcome, Retry
from ._tasks import AsyncWorker
from ._threads import Worker

__all__ = ["AsyncWorker", "Hooks", "Outcome", "Retry", "Worker"]

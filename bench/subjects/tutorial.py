"""The worker of the Kubernetes tutorial on the commands of its ``rediswq.py``, in their order."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from typing import cast

import redis

from .raw import Raw


class RedisWQ:
    """The tutorial's module: BRPOPLPUSH, SETEX; LREM, DEL; LLEN for ``empty``."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._session = str(uuid.uuid4())
        self._main = name
        self._processing = name + ":processing"
        self._lease = name + ":leased_by_session:"

    def empty(self) -> bool:
        """Whether both lists are empty."""
        return self._client.llen(self._main) == 0 and self._client.llen(self._processing) == 0

    def lease(self, seconds: int, timeout: int) -> bytes | None:
        """The last item of the list, moved to the other one and marked as leased."""
        item = cast("bytes | None", self._client.brpoplpush(self._main, self._processing, timeout))
        if item is not None:
            # redis-py's setex() warns each time that it is deprecated, which takes time.
            send = cast("Callable[..., object]", self._client.execute_command)
            send("SETEX", self._lease + self._key(item), seconds, self._session)
        return item

    def complete(self, value: bytes) -> None:
        """Removes the item and its mark."""
        self._client.lrem(self._processing, 0, value)  # type: ignore[arg-type]
        self._client.delete(self._lease + self._key(value))

    @staticmethod
    def _key(item: bytes) -> str:
        return hashlib.sha224(item).hexdigest()


class Tutorial(Raw):
    """The loop of the tutorial's ``worker.py``, which begins anew where that one ends."""

    def work(self) -> None:
        queue, handle = RedisWQ(self.client, self.settings.queue), self.handler()

        def take() -> None:
            item = queue.lease(seconds=10, timeout=2)
            if item is not None:
                handle(item)
                queue.complete(item)

        while True:
            take()
            while not queue.empty():
                take()


SUBJECT = Tutorial

"""A server and a queue for workers. What they do does not depend on the kind of the server."""

from collections.abc import Callable, Iterator

import pytest

from pyqueue import Queue
from tests.contract.relay import relay  # noqa: F401 - a fixture
from tests.one_server import session_server  # noqa: F401 - a fixture
from tests.servers import Server

OpenQueue = Callable[..., Queue]


@pytest.fixture
def open_queue(server: Server) -> Iterator[OpenQueue]:
    """Opens queues on the server, "job2" unless told otherwise, and closes them at the end."""
    opened: list[Queue] = []

    def open_one(name: str = "job2", **options: object) -> Queue:
        if "client" not in options:
            options.setdefault("url", server.url)
        queue = Queue(name, **options)  # type: ignore[arg-type]
        opened.append(queue)
        return queue

    yield open_one
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(open_queue: OpenQueue) -> Queue:
    """An empty queue."""
    return open_queue()

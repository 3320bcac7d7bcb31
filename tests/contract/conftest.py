"""Queues as their users open them."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis

from pyqueue import Queue
from tests.contract.asynchronous import Loop, open_blocking
from tests.contract.relay import relay  # noqa: F401 - a fixture
from tests.lua.harness import VirtualQueue
from tests.servers import Server, sources

OpenQueue = Callable[..., Queue]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """AsyncQueue is tried on the first server only: what differs is the client. And not with what
    is about threads.
    """
    first = sources()[0]
    extra = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("flavour") == "asyncio"
        and (
            item.callspec.params.get("session_server") != first
            or item.get_closest_marker("threads") is not None
        )
    ]
    config.hook.pytest_deselected(items=extra)
    items[:] = [item for item in items if item not in extra]


@pytest.fixture(params=["threads", "asyncio"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Which client the test is about: Queue or AsyncQueue."""
    return str(request.param)


@pytest.fixture
def open_queue(server: Server, flavour: str) -> Iterator[OpenQueue]:
    """Opens queues on the server, "job2" unless told otherwise, and closes them at the end."""
    opened: list[Queue] = []
    loop = Loop() if flavour == "asyncio" else None

    def open_one(name: str = "job2", **options: object) -> Queue:
        if "client" not in options:
            options.setdefault("url", server.url)
        open_it = partial(open_blocking, loop) if loop else Queue
        queue: Queue = open_it(name, **options)  # type: ignore[arg-type]
        opened.append(queue)
        return queue

    yield open_one
    for queue in opened:
        queue.close()
    if loop is not None:
        loop.close()


@pytest.fixture
def queue(open_queue: OpenQueue) -> Queue:
    """An empty queue."""
    return open_queue()


@pytest.fixture
def clock(queue: Queue, client: redis.Redis) -> VirtualQueue:
    """Makes ``queue`` one whose time the test moves (``clock.sleep``), and shows its inside."""
    inside = VirtualQueue(client, queue.name)
    queue._clock = lambda: str(inside.now)
    return inside

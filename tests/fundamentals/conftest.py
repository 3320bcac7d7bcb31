"""An empty queue on a real server for each lesson."""

from collections.abc import Iterator

import pytest

from pyqueue import Queue
from tests.servers import Server


@pytest.fixture
def queue(server: Server) -> Iterator[Queue]:
    """The queue "job2" of the tutorial, still empty."""
    with Queue("job2", url=server.url) as queue:
        yield queue

"""The queue that each test of a script starts with."""

import pytest
import redis

from tests.lua.harness import VirtualQueue


@pytest.fixture
def queue(client: redis.Redis) -> VirtualQueue:
    """An empty queue on an empty server, whose time stands still until the test moves it."""
    return VirtualQueue(client)

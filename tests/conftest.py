"""The fixtures that give a test a real server."""

from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings

from tests.servers import Server, launch, sources

#: `make soak`: the tests of tests/model and tests/faults ask for it by name, and do far more.
settings.register_profile("soak")


@pytest.fixture(scope="session", params=sources())
def session_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server per source for the whole run, and per worker process of pytest-xdist."""
    if request.param == "url" and hasattr(request.config, "workerinput"):
        pytest.fail("PYQUEUE_TEST_URL names one server for one process: run pytest without -n")
    with launch(request.param) as server:
        yield server


@pytest.fixture
def server(session_server: Server) -> Iterator[Server]:
    """A running, empty server; a test may pause, stop and restart it."""
    session_server.empty()
    yield session_server
    session_server.heal()


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """A client of an empty server, with bytes replies."""
    with server.client() as client:
        yield client

"""For tests of what does not depend on the kind of the server: a conftest.py imports it."""

from collections.abc import Iterator

import pytest

from tests.servers import Server, launch, sources


@pytest.fixture(scope="session")
def session_server() -> Iterator[Server]:
    """The first server that the tests run on."""
    with launch(sources()[0]) as server:
        yield server

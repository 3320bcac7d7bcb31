"""One server will do: the pages are about the client."""

from tests.one_server import session_server  # noqa: F401 - a fixture

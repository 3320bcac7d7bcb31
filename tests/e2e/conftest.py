"""A namespace per run, with one server; each test finds it empty."""

import uuid
from collections.abc import Iterator

import pytest

import pyqueue
from tests.e2e.cluster import Namespace, image_for, is_bare


@pytest.fixture(scope="session")
def session_namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    bare = is_bare()
    image = image_for(bare=bare, default=f"pyqueue:{pyqueue.__version__}")
    directory = tmp_path_factory.mktemp("e2e").resolve()
    namespace = Namespace(f"pyqueue-e2e-{uuid.uuid4().hex[:8]}", image, directory, bare=bare)
    yield namespace
    namespace.remove()


@pytest.fixture
def namespace(session_namespace: Namespace, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    yield session_namespace
    session_namespace.clear()

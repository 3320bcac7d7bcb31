"""The command and a queue to use it on. What it does does not depend on the kind of the server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyqueue import Queue
from tests.cli.tools import Cli
from tests.one_server import session_server  # noqa: F401 - a fixture
from tests.servers import Server, wait_until


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a process that has imported the command."""
    path = tmp_path_factory.mktemp("forks") / "socket"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cli.forkserver", path],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
    ) as process:
        wait_until(path.exists, "the process that forks is there")
        yield str(path)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def cli(
    server: Server, forks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    """The command, with its server in the environment and a directory of its own to work in."""
    for name in ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", "PYQUEUE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYQUEUE_URL", server.url)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    cli = Cli(server.url, tmp_path, forks)
    yield cli
    cli.close()


@pytest.fixture
def queue(server: Server) -> Iterator[Queue]:
    with Queue("job2", url=server.url) as queue:
        yield queue

"""What runs an example as its reader would: as a program of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.one_server import session_server  # noqa: F401 - a fixture
from tests.servers import Server

ROOT = Path(__file__).parents[2]
#: Starts an example, by its name and arguments; further environment variables as keywords.
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    """Starts examples on the test's server; what still runs in the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *args: object, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, ROOT / "examples" / name, *map(str, args)],
            env={**os.environ, "PYQUEUE_URL": server.url, "PYTHONPATH": str(ROOT), **environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start) -> Callable[..., list[str]]:
    """Runs an example to its end; returns the lines it printed."""

    def run(name: str, *args: object, **environ: str) -> list[str]:
        process = start(name, *args, **environ)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output.splitlines()

    return run

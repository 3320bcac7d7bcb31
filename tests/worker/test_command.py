"""Workers as programs: ``python -m pyqueue.worker``, and what signals do."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqueue import Queue
from pyqueue.worker._command import main
from tests.servers import SECONDS, Server, wait_until

ROOT = Path(__file__).parents[2]
MODULE = ("-m", "pyqueue.worker")
COMMAND = ("-m", "pyqueue", "work")


class Program:
    """A worker in a process of its own."""

    def __init__(self, directory: Path, server: Server, *args: str) -> None:
        self.directory = directory
        (directory / "notes").touch()
        with (directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *args],
                cwd=directory,
                env={
                    **os.environ,
                    "PYQUEUE_URL": server.url,
                    "PYTHONPATH": str(ROOT),
                    "NOTES": str(directory / "notes"),
                    "OPEN": str(directory / "open"),
                },
                stdout=log,
                stderr=log,
            )

    @property
    def notes(self) -> list[list[str]]:
        """What its handlers have written."""
        return [line.split() for line in (self.directory / "notes").read_text().splitlines()]

    @property
    def log(self) -> str:
        """What it has written itself."""
        return (self.directory / "log").read_text()

    def wait(self) -> int:
        return self.process.wait(SECONDS)


@contextmanager
def program(directory: Path, server: Server, *args: str) -> Iterator[Program]:
    running = Program(directory, server, *args)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


HANDLER = "tests.worker.handlers:handler"


@pytest.mark.parametrize("name", ["handler", "async_handler"])
def test_it_works_a_queue_off(server: Server, queue: Queue, tmp_path: Path, name: str) -> None:
    queue.push_many(["noop"] * 20)
    args = (*MODULE, f"tests.worker.handlers:{name}", "--queue", "job2", "--until", "drained")
    with program(tmp_path, server, *args) as running:
        assert running.wait() == 0, running.log
    assert [note[0] for note in running.notes] == ["noop"] * 20
    assert queue.stats().totals["completed"] == 20


@pytest.fixture
def here(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, in which modules are found too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYQUEUE_URL", server.url)
    return tmp_path


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        ("nowhere:handler", "no module 'nowhere'"),
        ("tests.worker.handlers:nothing", "has no 'nothing'"),
        ("tests.worker.handlers:number", "is no function but int"),
        ("tests.worker.handlers", "names no handler"),
        ("broken:handler", "cannot be imported: ZeroDivisionError"),
        ("needy:handler", "needs 'nowhere'"),
    ],
)
def test_a_handler_that_is_not_there_is_a_matter_of_configuration(
    queue: Queue, here: Path, capsys: pytest.CaptureFixture[str], handler: str, problem: str
) -> None:
    """78, and nothing is leased."""
    queue.push("noop")
    (here / "broken.py").write_text("1 / 0\n")
    (here / "needy.py").write_text("import nowhere\n")
    assert main([handler, "--queue", "job2"]) == 78
    assert problem in capsys.readouterr().err
    assert queue.stats().waiting == 1


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([HANDLER], "--queue"),
        ([HANDLER, "--queue", "a{b"], "a{b"),
        ([HANDLER, "--queue", "job2", "--concurrency", "0"], "concurrency is 0"),
        ([HANDLER, "--queue", "job2", "--concurrency", "many"], "--concurrency"),
        (["tests.worker.handlers:async_handler", "--queue=a", "--processes"], "async def"),
    ],
)
def test_wrong_usage_is_a_matter_of_configuration(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], problem: str
) -> None:
    try:
        code: object = main(args)
    except SystemExit as error:
        code = error.code
    assert code == 78
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "pool"), [(signal.SIGTERM, ()), (signal.SIGINT, ("--processes",))]
)
def test_the_first_signal_lets_handlers_end(
    server: Server,
    queue: Queue,
    tmp_path: Path,
    number: signal.Signals,
    pool: tuple[str, ...],
) -> None:
    queue.push_many(["hang", "hang", "noop"])
    args = (*MODULE, HANDLER, "--queue", "job2", "--concurrency", "2", *pool)
    with program(tmp_path, server, *args) as running:
        wait_until(lambda: len(running.notes) == 2, "two run")
        running.process.send_signal(number)
        wait_until(lambda: "nothing more is leased" in running.log, "it was heard")
        queue.push("noop")
        (tmp_path / "open").touch()
        assert running.wait() == 128 + number
    totals = queue.stats().totals
    assert (totals["completed"], totals["failed"]) == (2, 0)
    assert queue.stats().waiting == 2


@pytest.mark.parametrize("args", [("--grace", "0.1"), ()])
def test_what_runs_longer_is_given_back(
    server: Server, queue: Queue, tmp_path: Path, args: tuple[str, ...]
) -> None:
    """After the grace, or at once after a second signal: no attempt is charged."""
    queue.push("hang")
    args = (*MODULE, HANDLER, "--queue", "job2", *args)
    with program(tmp_path, server, *args) as running:
        wait_until(lambda: running.notes, "it runs")
        running.process.send_signal(signal.SIGTERM)
        if "--grace" not in args:
            wait_until(lambda: "nothing more is leased" in running.log, "it was heard")
            running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 143
    assert "1 handlers go on after the grace" in running.log
    lease = queue.lease()
    assert lease is not None
    assert lease.attempts == 0


def test_the_items_of_a_killed_worker_come_back(
    server: Server, queue: Queue, tmp_path: Path
) -> None:
    """Each, and each is done, whatever it was killed at."""
    count = 400
    queue.push_many(["noop"] * count)
    # With the names of what is logged.
    args = (*COMMAND, "job2", "--ttl", "1", "--handler", HANDLER, "--log-format", "json")
    with program(tmp_path, server, *args) as first:
        wait_until(lambda: len(first.notes) >= count // 4, "it works")
        first.process.kill()
    with program(tmp_path, server, *args) as second:
        assert second.wait() == 0, second.log
    stats = queue.stats()
    assert stats.drained
    assert stats.totals["completed"] == count
    assert stats.dead == 0
    last = json.loads(second.log.splitlines()[-1])
    assert (last["event"], last["exit_code"], last["queue"]) == ("ended", 0, "job2")


@pytest.mark.slow
def test_an_item_that_kills_its_worker_takes_no_other_with_it(
    server: Server, queue: Queue, tmp_path: Path
) -> None:
    """Those that it was leased with are charged once; then each suspect runs alone."""
    queue.configure(max_attempts=3)
    queue.push_many(["noop"] * 50 + ["signal 9"] + ["noop"] * 50)
    args = (*COMMAND, "job2", "--ttl", "1", "--handler", HANDLER)
    for expected in (*[-signal.SIGKILL] * 3, 0):
        with program(tmp_path, server, *args) as running:
            assert running.wait() == expected, running.log
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    (letter,) = queue.dead()
    assert (letter.text, letter.reason, letter.attempts) == ("signal 9", "expired", 3)
    assert queue.stats().drained
    assert queue.stats().totals["completed"] == 100
    attempts = [int(number) for word, number, _ in notes if word == "noop"]
    assert max(attempts) <= 1

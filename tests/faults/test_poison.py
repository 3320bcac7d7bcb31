"""An item that kills every worker process that takes it dies of it, and harms no other for long."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyqueue import Queue
from tests.one_server import session_server  # noqa: F401 - a fixture
from tests.servers import Server, wait_until

#: Seconds. Long enough that no lease of a worker that lives runs out on a busy machine.
TTL = 3.0
MAX_ATTEMPTS = 5
#: In the middle of a batch of 100.
PAYLOADS = [*(f"item{number}" for number in range(50)), "poison"]
PAYLOADS += [f"item{number}" for number in range(50, 99)]
NEIGHBOURS = Counter(payload for payload in PAYLOADS if payload != "poison")

#: argv: URL, ttl, the file to write to, "each" or "all". Writes a line for each item that it has
#: done: payload, attempts before this one.
WORKER = """
import os, signal, sys
from pyqueue import Queue

url, ttl, path, style = sys.argv[1:]
queue = Queue("job2", url=url)

def note(*leases):
    with open(path, "a") as file:
        file.write("".join(f"{lease.text} {lease.attempts}\\n" for lease in leases))

while True:
    batch = queue.lease_many(100, float(ttl), wait=2)
    if batch.drained:
        break
    for lease in batch:
        if lease.text == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if style == "each":
            lease.complete()
            note(lease)
    if style == "all":
        queue.complete_many(batch)
        note(*batch)
queue.close()
"""

#: $1 is the payload. Each line in one write.
PROGRAM = """
case $1 in poison) kill -9 $PPID; sleep 60;; esac
echo "$1 $((PYQUEUE_ATTEMPT - 1))" >>"$DONE"
"""


@contextmanager
def workers(number: int, command: Sequence[str], directory: Path) -> Iterator[list[int]]:
    """Keeps so many processes running, in place of each that was killed another, until all have
    ended by themselves. Gives their exit codes.
    """
    codes: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def tend() -> bool:
        for process in list(running):
            code = process.poll()
            if code is not None:
                codes.append(code)
                running.remove(process)
                if code == -signal.SIGKILL:
                    start()
        return not running

    def start() -> None:
        with (directory / "log").open("ab") as log:
            running.append(
                subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=log, stderr=log)
            )

    try:
        for _ in range(number):
            start()
        wait_until(tend, "all workers end", 120)
        yield codes
    finally:
        for process in running:
            process.kill()
            process.wait()


def attempts(path: Path) -> dict[str, list[int]]:
    """Payload → how many attempts had been charged, each time it was done."""
    found: dict[str, list[int]] = {}
    for line in path.read_text().splitlines():
        payload, number = line.split()
        found.setdefault(payload, []).append(int(number))
    return found


def check(queue: Queue, codes: Sequence[int], directory: Path) -> None:
    """The poison took exactly its attempts, and of each neighbour one at the most."""
    log = (directory / "log").read_text()
    assert Counter(codes) == {-signal.SIGKILL: MAX_ATTEMPTS, 0: len(codes) - MAX_ATTEMPTS}, log
    (letter,) = queue.dead()
    assert (letter.text, letter.reason, letter.attempts) == ("poison", "expired", MAX_ATTEMPTS)
    stats = queue.stats()
    assert stats.drained
    assert stats.totals["completed"] == len(NEIGHBOURS)
    done = attempts(directory / "done")
    assert set(done) == set(NEIGHBOURS)
    assert max(number for numbers in done.values() for number in numbers) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "style"), [(1, "each"), (3, "all")])
def test_workers_that_lease_100(server: Server, tmp_path: Path, style: str, number: int) -> None:
    """Of such a batch no more than the poison's neighbours are charged, and those once: each is
    leased alone from then on, so that the poison is alone as well.
    """
    with Queue("job2", url=server.url) as queue:
        queue.push_many(PAYLOADS)
        command = [sys.executable, "-c", WORKER, server.url, str(TTL)]
        command += [str(tmp_path / "done"), style]
        with workers(number, command, tmp_path) as codes:
            check(queue, codes, tmp_path)
        done = attempts(tmp_path / "done")
        assert all(len(numbers) == 1 for numbers in done.values())
        charged = [payload for payload, numbers in done.items() if numbers == [1]]
        # With one worker it is known who was in its batch, and not yet completed.
        if number == 1:
            assert len(charged) == (99 if style == "all" else 49)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "concurrency"), [(1, 1), (3, 4)])
def test_programs_that_kill_their_worker(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    concurrency: int,
) -> None:
    """`pyqueue work` starts a suspect when nothing else runs in its process, and nothing else while
    it does: else the poison would be charged to others each time.
    """
    monkeypatch.setenv("DONE", str(tmp_path / "done"))
    with Queue("job2", url=server.url) as queue:
        queue.push_many(PAYLOADS)
        command = [sys.executable, "-m", "pyqueue", "--url", server.url, "work", "job2"]
        command += ["--ttl", str(TTL), "--concurrency", str(concurrency)]
        command += ["--", "sh", "-c", PROGRAM, "sh", "{}"]
        with workers(number, command, tmp_path) as codes:
            check(queue, codes, tmp_path)
        done = attempts(tmp_path / "done")
        charged = [payload for payload, numbers in done.items() if max(numbers) == 1]
        # Those that ran beside it the first time, and those that were done but not yet completed.
        assert len(charged) <= 2 * concurrency

"""``Worker`` with child processes, on a real server."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyqueue import Lease, Queue, Worker
from tests.servers import Server, wait_until
from tests.worker.handlers import handler
from tests.worker.tools import running, steal


@pytest.fixture(scope="module", autouse=True)
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests: the process that forks the children keeps its environment."""
    directory = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTES", str(directory / "notes"))
        patch.setenv("OPEN", str(directory / "open"))
        yield directory


@pytest.fixture(autouse=True)
def notes(directory: Path) -> Callable[[], list[list[str]]]:
    """What handlers have written, line by line."""
    path = directory / "notes"
    path.write_text("")
    (directory / "open").unlink(missing_ok=True)
    return lambda: [line.split(" ") for line in path.read_text().splitlines()]


Notes = Callable[[], list[list[str]]]


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def test_each_slot_is_a_process(queue: Queue, notes: Notes) -> None:
    queue.push_many(["noop"] * 40)
    worker = Worker(queue, handler, concurrency=2, pool="processes", until="drained")
    assert worker.run() == 0
    pids = {int(pid) for _, _, pid in notes()}
    assert len(notes()) == 40
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    assert queue.stats().totals["completed"] == 40
    wait_until(lambda: not any(map(alive, pids)), "they have ended")


def test_a_process_that_dies_fails_its_own_item_only(queue: Queue, notes: Notes) -> None:
    """And says of what; another takes its place."""
    queue.configure(max_attempts=1)
    bad = [f"signal {signal.SIGSEGV:d}", f"signal {signal.SIGKILL:d}", "exit 3", "sysexit"]
    queue.push_many(["noop"] * 5 + bad + ["noop"] * 5)
    worker = Worker(queue, handler, concurrency=2, pool="processes", until="drained")
    assert worker.run() == 0
    assert queue.stats().totals["completed"] == 10
    letters = {letter.text: letter.error for letter in queue.dead()}
    assert letters.pop("sysexit").endswith("SystemExit: 3\n")
    assert letters == {
        bad[0]: "its process ended: killed by SIGSEGV",
        bad[1]: "its process ended: killed by SIGKILL",
        "exit 3": "its process ended: exit code 3",
    }
    assert len({pid for _, _, pid in notes()}) >= 4


def test_what_it_raises_and_settles_counts_as_in_a_thread(queue: Queue, notes: Notes) -> None:
    queue.configure(max_attempts=2, backoff=0)
    queue.push_many(["raise apples", "bury it", "retry", "complete", "fail", "lost"])
    worker = Worker(
        queue, handler, concurrency=1, pool="processes", until="drained", bury_on=KeyError
    )
    assert worker.run() == 0
    letters = {letter.text: letter for letter in queue.dead()}
    assert set(letters) == {"raise apples", "bury it", "fail"}
    assert letters["raise apples"].error.endswith("ValueError: apples\n")
    assert "_processes.py" not in letters["raise apples"].error
    assert letters["bury it"].reason == "KeyError"
    assert letters["fail"].error == "as told"
    words = Counter(word for word, *_ in notes())
    expected = {"raise": 2, "bury": 1, "retry": 2, "complete": 1, "noop": 1, "fail": 2}
    assert words == {**expected, "lost": 2}
    assert ["lost", "as", "True"] in notes()


def test_a_lost_lease_ends_the_process(
    queue: Queue, server: Server, notes: Notes, directory: Path
) -> None:
    """SIGTERM raises SystemExit in the handler, so that it can clean up."""
    queue.push("hang")
    lost: list[Lease] = []
    with Queue("job2", url=server.url) as own:
        worker = Worker(
            own,
            handler,
            concurrency=1,
            pool="processes",
            ttl=0.5,
            until="drained",
            on_lease_lost=lost.append,
        )
        with running(worker) as background:
            wait_until(notes, "it runs")
            (held,) = queue.leases()
            steal(queue, held)
            wait_until(lambda: ["cleaned", "0"] in notes(), "it was told, and has cleaned up")
            wait_until(lambda: len(notes()) == 3, "another one has begun")
            (directory / "open").touch()
            assert background.wait() == 0
    assert [x.token for x in lost] == [held.token]
    totals = queue.stats().totals
    assert (totals["completed"], totals["released"], totals["failed"]) == (1, 1, 0)


def test_the_end_of_the_grace(queue: Queue, notes: Notes) -> None:
    """SIGTERM, then SIGKILL; the items go back, no attempt charged."""
    queue.push_many(["hang", "stubborn"])
    worker = Worker(queue, handler, concurrency=2, pool="processes", grace=0.1)
    with running(worker) as background:
        wait_until(lambda: len(notes()) == 2, "both run")
        pids = [int(pid) for _, _, pid in notes()]
        worker.stop()
        assert background.wait() == 0
    assert ["cleaned", "0"] in notes()
    stats = queue.stats()
    assert (stats.waiting, stats.delayed, stats.leased) == (2, 0, 0)
    assert stats.totals["failed"] == 0
    assert not any(map(alive, pids))


def test_a_handler_that_others_cannot_import(queue: Queue) -> None:
    with pytest.raises(ValueError, match="child processes cannot import the handler"):
        Worker(queue, lambda _: None, pool="processes")


PROGRAM = """
import sys
from pyqueue import Queue, Worker
from tests.worker.handlers import handler

if __name__ == "__main__":
    queue = Queue("job2", url=sys.argv[1])
    sys.exit(Worker(queue, handler, concurrency=2, pool="processes", ttl=1).run())
"""


def test_children_end_with_their_parent(
    queue: Queue, server: Server, notes: Notes, tmp_path: Path
) -> None:
    """Their items go to somebody else: they must not go on."""
    queue.push_many(["hang", "hang"])
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, script, server.url], env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        wait_until(lambda: len(notes()) == 2, "both run")
        process.kill()
    pids = [int(pid) for _, _, pid in notes()]
    wait_until(lambda: not any(map(alive, pids)), "they have ended")
    wait_until(lambda: queue.stats().expired == 2, "their leases run out")


def test_a_child_that_cannot_start_is_a_matter_of_configuration(
    queue: Queue, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its item is not charged."""
    queue.push("apple")
    (tmp_path / "fickle.py").write_text(
        "import os\nif 'CHILD' in os.environ: raise ImportError('not here')\n"
        "os.environ['CHILD'] = ''\ndef handler(lease): pass\n"
    )
    script = tmp_path / "program.py"
    program = PROGRAM.replace("tests.worker.handlers", "fickle").replace("=2", "=1")
    script.write_text(program)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script, server.url],
        env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78, done.stderr.decode()
    assert b"can it import the handler?" in done.stderr
    lease = queue.lease()
    assert lease is not None
    assert lease.attempts == 0

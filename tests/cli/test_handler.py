"""``pyqueue work --handler``: the same as ``python -m pyqueue.worker``, of the command line."""

from pathlib import Path

import pytest

from pyqueue import Queue
from tests.cli.tools import Cli

SYNC, ASYNC = "tests.worker.handlers:handler", "tests.worker.handlers:async_handler"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((SYNC,), 3),
        ((SYNC, "--processes", "--concurrency", "2"), 3),
        ((ASYNC,), 1),
    ],
)
def test_it_works_a_queue_off(
    cli: Cli,
    queue: Queue,
    tmp_path: Path,
    args: tuple[str, ...],
    words: int,
) -> None:
    """Until it is drained, as without it."""
    notes = tmp_path / "notes"
    queue.push_many(["noop"] * 20)
    done = cli("work", "job2", "--handler", *args, env={"NOTES": str(notes)})
    assert done.code == 0, done.err
    assert [len(line.split()) for line in notes.read_text().splitlines()] == [words] * 20
    assert queue.stats().totals["completed"] == 20
    assert "job2: the worker has ended with 0" in done.err


def test_modules_of_the_current_directory(cli: Cli, queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Shop:\n    @staticmethod\n    def sell(lease):\n        print(lease.text)\n"
    )
    queue.push("apple")
    done = cli("work", "job2", "--handler", "mine:Shop.sell")
    assert (done.code, done.text) == (0, "apple\n")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--handler", "nowhere:handler"), "no module 'nowhere'"),
        (("--handler", ASYNC, "--processes"), "async def"),
        (("--handler", SYNC, "--max-items", "1"), "--max-items"),
        (("--handler", SYNC, "--", "true"), "no program"),
        (("--processes", "--", "true"), "--handler"),
    ],
)
def test_wrong_usage_is_a_matter_of_configuration(
    cli: Cli, queue: Queue, args: tuple[str, ...], problem: str
) -> None:
    queue.push("apple")
    done = cli("work", "job2", *args)
    assert done.code == 78
    assert problem in done.err
    assert queue.stats().waiting == 1

"""The programs of examples/ do what their docstrings say, also when a worker dies or is late."""

import os
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from pyqueue import Queue
from tests.examples.conftest import Start
from tests.servers import Server, wait_until

FRUITS = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange"]
Run = Callable[..., list[str]]


def _stop_with_an_item(process: subprocess.Popen[str], queue: Queue) -> None:
    """SIGSTOP at a moment when the process holds an item."""

    def stopped() -> bool:
        process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it has ended"
        if queue.stats().leased > 0:
            return True
        process.send_signal(signal.SIGCONT)
        return False

    wait_until(stopped, "the worker is stopped in the middle of an item")


@pytest.mark.parametrize("name", ["tutorial_worker.py", "tutorial_drain.py"])
def test_the_tutorials_worker(name: str, start: Start, client: redis.Redis) -> None:
    client.rpush("job2", *FRUITS)
    workers = [start(name, SECONDS="0.02") for _ in range(2)]
    outputs = [worker.communicate(timeout=60)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    done = [line for output in outputs for line in output if line.startswith("Working on ")]
    assert sorted(done) == [f"Working on {fruit}" for fruit in FRUITS]


@pytest.mark.slow
def test_images_go_through_both_stages_although_a_worker_is_killed_in_each(
    server: Server, run: Run, start: Start, tmp_path: Path
) -> None:
    photos = 8
    run("resize_images.py", "fill", tmp_path, photos)
    for name in ("{photos}normalize", "{photos}thumbnail"):
        with Queue(name, url=server.url) as queue:
            victim = start("resize_images.py", "work", tmp_path, "--ttl", 0.5)
            wait_until(lambda: queue.stats().totals["completed"], "an item is done")
            _stop_with_an_item(victim, queue)
            victim.kill()
    run("resize_images.py", "work", tmp_path, "--ttl", 10)

    for name, items in (("{photos}normalize", photos), ("{photos}thumbnail", 3 * photos)):
        with Queue(name, url=server.url) as queue:
            stats = queue.stats()
            # Pushed once and completed once, whatever died in between.
            assert stats.drained
            assert stats.dead == 0
            assert stats.totals["expired"] > 0
            assert (stats.totals["pushed"], stats.totals["completed"]) == (items, items)
    made = sorted(path.name for path in (tmp_path / "thumbnails").glob("*.png"))
    widths = (128, 256, 64)
    assert made == [f"photo-{n:04}-{width}.png" for n in range(photos) for width in widths]


@pytest.mark.slow
def test_a_stale_worker_cannot_overwrite_the_table(
    server: Server, run: Run, start: Start, tmp_path: Path
) -> None:
    database = tmp_path / "accounts.sqlite"
    run("fenced_table.py", "enter", database, "anna", 100)
    late = start("fenced_table.py", "work", database, "--ttl", 1, "--seconds", 1)
    assert late.stdout is not None
    assert late.stdout.readline() == "anna: adding up\n"  # it has read 100
    late.send_signal(signal.SIGSTOP)

    run("fenced_table.py", "enter", database, "anna", 42)
    other = run("fenced_table.py", "work", database, "--ttl", 10)
    assert other == ["anna: adding up", "anna: 142"] * 2

    late.send_signal(signal.SIGCONT)
    output, _ = late.communicate(timeout=60)
    assert output.splitlines() == [
        "anna: too late with 100, nothing is overwritten",
        "anna: the lease was lost",
    ]
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT account, sum FROM sums").fetchall() == [("anna", 142)]
    db.close()
    assert Counter(line.split()[1] for line in run("fenced_table.py", "show", database)) == {
        "142": 1
    }
    with Queue("accounts", url=server.url) as queue:
        assert queue.stats().totals["completed"] == 2


@pytest.mark.slow
def test_the_crawler_is_thorough_and_polite(run: Run, client: redis.Redis) -> None:
    lines = run("crawler.py", "--pause", 0.1)
    visited = [line for line in lines if line.startswith("http://")]
    hosts = [line for line in lines if not line.startswith("http://")]
    again = [line for line in visited if "again in 0.5 s" in line]
    pages = Counter(line for line in visited if line not in again)
    # Each page once, but for those that were busy: they were asked twice.
    assert (len(pages), set(pages.values()), len(again)) == (21, {1}, 3)
    for host in hosts:
        found = re.fullmatch(r"127\.0\.0\.1:\d+: 7 pages, 8 visits, (\d\.\d\d) s between two", host)
        assert found, host
        assert float(found[1]) >= 0.1
    assert len(hosts) == 3
    assert client.keys() == []

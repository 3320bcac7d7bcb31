"""`pyqueue work`, told to end, or killed: no item is lost, done twice or charged an attempt."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from pyqueue import Queue
from pyqueue.cli import _guard
from tests.cli.tools import SECONDS, Cli, Running, is_alive, numbers, sh, suspect
from tests.servers import Server, wait_until

#: Runs until it is told to end, with a child in its process group.
WAITS = "sleep 600 & echo $! > child; echo $$ > pid; wait"
#: Does not care.
STUBBORN = "trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done"


def started(cli: Cli, queue: Queue, script: str, *options: str) -> Running:
    """A worker whose program runs."""
    queue.push("apple")
    worker = cli.start("work", "job2", *options, *sh(script))
    wait_until(lambda: numbers(cli.directory / "pid"), "the program runs")
    return worker


def was_given_back(queue: Queue) -> None:
    """The item waits, and no attempt was charged."""
    (item,) = queue.waiting()
    assert (item.text, item.state, item.attempts) == ("apple", "waiting", 0)
    stats = queue.stats()
    assert (stats.leased, stats.totals["released"], stats.totals["failed"]) == (0, 1, 0)


def all_gone(cli: Cli) -> None:
    for name in ("pid", "child"):
        for pid in numbers(cli.directory / name):
            wait_until(lambda: not is_alive(pid), f"process {pid} has ended")  # noqa: B023 - at once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_program_and_its_children_and_gives_the_item_back(
    cli: Cli, queue: Queue, number: signal.Signals
) -> None:
    worker = started(cli, queue, WAITS)
    worker.send(number)
    assert worker.wait() == 128 + number
    was_given_back(queue)
    all_gone(cli)
    assert f"job2: {number.name}; nothing done in " in worker.err


def test_a_program_that_ends_its_work_meanwhile_is_completed(cli: Cli, queue: Queue) -> None:
    worker = started(cli, queue, "trap 'exit 0' TERM; echo $$ > pid; while :; do sleep 0.01; done")
    assert worker.stop() == 143
    assert queue.stats().drained
    assert queue.stats().totals["completed"] == 1


def test_a_program_that_buries_its_item_meanwhile_is_heard(cli: Cli, queue: Queue) -> None:
    worker = started(cli, queue, "trap 'exit 65' TERM; echo $$ > pid; while :; do sleep 0.01; done")
    assert worker.stop() == 143
    assert queue.stats().dead == 1


def test_a_program_that_does_not_end_is_killed_after_the_grace(cli: Cli, queue: Queue) -> None:
    worker = started(cli, queue, STUBBORN, "--grace", "0.3")
    before = time.monotonic()
    assert worker.stop() == 143
    assert time.monotonic() - before > 0.3
    was_given_back(queue)
    all_gone(cli)
    assert "its program did not end: SIGKILL" in worker.err


def test_a_second_signal_does_not_wait(cli: Cli, queue: Queue) -> None:
    worker = started(cli, queue, STUBBORN, "--grace", "600")
    worker.send(signal.SIGTERM)
    worker.until("SIGKILL in 10 min")
    worker.send(signal.SIGINT)
    assert worker.wait() == 143
    was_given_back(queue)
    all_gone(cli)


def test_what_a_program_leaves_behind_does_not_go_on(cli: Cli, queue: Queue) -> None:
    """The script ends at SIGTERM, its child does not: the item goes to somebody else, so it must
    not go on.
    """
    script = """
        (trap '' TERM; touch ready; sleep 600) & echo $! > child
        while [ ! -e ready ]; do sleep 0.01; done
        echo $$ > pid; wait
    """
    worker = started(cli, queue, script, "--grace", "600")
    assert worker.stop() == 143
    was_given_back(queue)
    all_gone(cli)


def test_a_worker_with_nothing_to_do_ends_at_once(cli: Cli, client: redis.Redis) -> None:
    """It does not wait for the end of its BLMOVE, 1.5 to 2 s. The quickest of three counts: the
    machine may be busy.
    """
    took = []
    for _ in range(3):
        worker = cli.start("work", "job2", "--until", "forever", *sh("true"))
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "it waits in BLMOVE")
        before = time.monotonic()
        assert worker.stop() == 143
        took.append(time.monotonic() - before)
    assert min(took) < 1


def test_several_programs_are_all_told(cli: Cli, queue: Queue) -> None:
    queue.push_many(["a", "b", "c", "d"])
    script = "touch $1; [ $1 = a ] && trap 'exit 0' TERM; while :; do sleep 0.01; done"
    worker = cli.start("work", "job2", "--concurrency", "3", *sh(script))
    wait_until(lambda: all((cli.directory / x).exists() for x in "abc"), "three programs run")
    assert worker.stop() == 143
    stats = queue.stats()
    assert (stats.waiting, stats.totals["completed"], stats.totals["released"]) == (3, 1, 2)
    assert not any(item.attempts for item in queue.waiting())


def test_a_suspect_that_waits_for_its_turn_is_given_back(cli: Cli, queue: Queue) -> None:
    held_back = suspect(queue, "suspect")
    worker = started(cli, queue, WAITS, "--concurrency", "2")
    held_back.release()
    worker.until("alone since")
    assert worker.stop() == 143
    assert sorted((item.text, item.attempts) for item in queue.waiting()) == [
        ("apple", 0),
        ("suspect", 1),
    ]


def test_what_was_ignored_stays_ignored(cli: Cli, queue: Queue) -> None:
    """`nohup pyqueue work …` outlives its terminal."""
    queue.push("apple")
    worker = cli.start(
        "work",
        "job2",
        *sh("echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done"),
        prefix=("nohup",),
    )
    wait_until(lambda: numbers(cli.directory / "pid"), "the program runs")
    worker.send(signal.SIGHUP)
    (cli.directory / "go").touch()
    assert worker.wait() == 0


def test_ctrl_c_on_a_terminal_reaches_the_program_only_through_the_worker(
    cli: Cli, queue: Queue
) -> None:
    """The whole foreground process group gets SIGINT from a terminal; the program is not in it."""
    script = """
        trap 'touch interrupted' INT; trap 'exit 0' TERM
        echo $$ > pid; while :; do sleep 0.01; done
    """
    queue.push("apple")
    worker = cli.start("work", "job2", *sh(script), prefix=("setsid",))
    wait_until(lambda: numbers(cli.directory / "pid"), "the program runs")
    os.killpg(worker.process.pid, signal.SIGINT)
    assert worker.wait() == 130
    assert queue.stats().totals["completed"] == 1
    assert not (cli.directory / "interrupted").exists()


def test_the_programs_of_a_killed_worker_are_killed_with_it(cli: Cli, queue: Queue) -> None:
    """Its item goes to another worker when the lease has run out: two would work on it at once.
    That holds for what a script has started, too.
    """
    worker = started(cli, queue, WAITS, "--ttl", "0.6")
    worker.send(signal.SIGKILL)
    worker.wait()
    all_gone(cli)
    done = cli("work", "job2", "--ttl", "5", *sh('echo "$PYQUEUE_ATTEMPT"'))
    assert (done.code, done.text) == (0, "2\n")
    totals = queue.stats().totals
    assert (totals["completed"], totals["expired"]) == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_the_guard_finds_a_program_that_was_just_about_to_start() -> None:
    """The worker is killed before it could say which process it has started; and what the program
    itself has started may have left its process group.
    """
    token = str(time.time_ns())
    guard = subprocess.Popen([sys.executable, "-I", "-S", _guard.__file__], stdin=subprocess.PIPE)
    assert guard.stdin is not None
    guard.stdin.write(f"{token} 0\n9{token} 0\n9{token} -\n".encode())
    guard.stdin.close()
    others = []
    for number in (token, f"9{token}"):
        environment = {**os.environ, "PYQUEUE_TOKEN": number}
        others.append(subprocess.Popen(["setsid", "sleep", "600"], env=environment))
    late, other = others
    try:
        assert late.wait(SECONDS) == -signal.SIGKILL
        assert guard.wait(SECONDS) == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_server_that_hangs_does_not_keep_a_signal_from_the_program(
    cli: Cli, queue: Queue, server: Server
) -> None:
    """And then the worker does not wait for it for long: an orchestrator kills after 30 s."""
    worker = started(cli, queue, WAITS, "--concurrency", "2", "--ttl", "2")
    server.pause()
    worker.send(signal.SIGTERM)
    wait_until(lambda: not is_alive(numbers(cli.directory / "pid")[0]), "the program has ended")
    assert worker.wait() == 143
    assert "was not settled: the server does not answer; the lease runs out in" in worker.err


def test_process_1_of_a_container(cli: Cli, queue: Queue) -> None:
    """There SIGTERM has no default action: a worker without a handler would be killed hard."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    allowed = subprocess.run([*unshare, "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no process namespace of its own: {allowed.stderr.decode().strip()}")
    queue.push("apple")
    script = "echo $$ > pid; ls /proc | grep -c '^[0-9]' >&2; while :; do sleep 0.01; done"
    outer = cli.start("work", "job2", *sh(script), prefix=unshare)
    wait_until(lambda: numbers(cli.directory / "pid"), "the program runs")
    children = Path(f"/proc/{outer.process.pid}/task/{outer.process.pid}/children")
    (worker,) = map(int, children.read_text().split())
    os.kill(worker, signal.SIGTERM)
    assert outer.process.wait(SECONDS) == 143
    was_given_back(queue)

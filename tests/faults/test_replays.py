"""Thousands of dropped replies for each verb, processes that fork, and calls that are broken off.

The client is as redis-py makes it, with its own retries; only the pauses between them are left out.
``make replays`` drops 10,000 replies of each verb; otherwise it is a few hundred.
"""

import ctypes
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from pyqueue import Queue, ServerUnavailable
from tests.alarm import Interrupted, alarm  # noqa: F401 - a fixture
from tests.faults import fleet
from tests.faults.proxy import INVISIBLE, Call, Fault, Proxy
from tests.faults.replays import VERBS, Trial, Verb
from tests.lua.harness import SCRIPTS
from tests.servers import Server, wait_until

#: Replies that are dropped, of each verb.
DROPPED = int(os.environ.get("PYQUEUE_REPLAYS", "100"))
DROPS = (Fault.REPLY_LOST, Fault.REPLY_LOST_TWICE, Fault.REPLY_CUT)
#: Of ten calls so many meet one of the other faults, or none.
OTHERS = 3


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr("redis.retry.sleep", lambda _: None)
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture
def queue(proxy: Proxy) -> Iterator[Queue]:
    """Of a client as ``redis.Redis()`` makes it."""
    path = proxy.url.removeprefix("unix://")
    with redis.Redis(unix_socket_path=path) as client, Queue("job2", client=client) as queue:
        yield queue


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_dropped_replies(verb: Verb, queue: Queue, client: redis.Redis, proxy: Proxy) -> None:
    seed = random.getrandbits(32)
    print(f"{seed=}")
    choice = random.Random(seed)
    others = [*INVISIBLE, *(() if verb.leases else (Fault.NEVER_ANSWERED,))]
    other = itertools.cycle(others)

    def plan(_: Call) -> Fault:
        return next(other) if choice.randrange(10) < OTHERS else choice.choice(DROPS)

    trial = Trial(verb, queue, client)
    trial.round()  # without faults: what gets lost later is no answer that the script is not known
    proxy.plan = plan
    while sum(proxy.hit[fault] for fault in DROPS) < DROPPED:
        trial.round()
    proxy.deliver_late_copies()
    trial.end()
    assert proxy.strangers == []
    assert all(proxy.hit[fault] for fault in others)
    assert trial.unheard == proxy.hit[Fault.NEVER_ANSWERED]
    print(f"{verb.name}: {trial.calls} calls, {proxy.hit}")


def test_calls_that_nobody_hears(queue: Queue, client: redis.Redis, proxy: Proxy) -> None:
    """What they leased is given back by the slot's next call, no attempt charged."""
    for script in SCRIPTS.values():
        client.script_load(script.source)
    rounds = max(10, DROPPED // 10)
    with Queue("job2", client=client) as direct:
        for number in range(rounds):
            direct.push_many(["apple", "banana"])
            unheard(proxy, queue.lease)
            apple = queue.lease()
            assert apple is not None
            assert (apple.text, apple.deliveries, apple.attempts) == ("apple", 1, 0)
            unheard(proxy, partial(queue.lease_many, 1, completed=[apple]))
            banana = queue.lease()
            assert banana is not None
            assert (banana.text, banana.deliveries, banana.attempts) == ("banana", 1, 0)
            assert [item.token for item in direct.leases()] == [banana.token]
            banana.complete()
            stats = direct.stats()
            assert stats.drained
            assert stats.totals["completed"] == 2 * (number + 1)
        assert direct.stats().totals["unseen"] == 2 * rounds
        assert proxy.hit[Fault.NEVER_ANSWERED] == 2 * rounds


def unheard(proxy: Proxy, call: Callable[[], object]) -> None:
    proxy.next(Fault.NEVER_ANSWERED)
    with pytest.raises(ServerUnavailable, match="unknown"):
        call()


@pytest.mark.slow
def test_processes_that_fork_in_the_middle_of_calls(
    proxy: Proxy, client: redis.Redis, tmp_path: Path
) -> None:
    """Threads work on one client, and 60 children of theirs go on with it; replies get lost."""
    items = 2_000
    with Queue("job2", client=client) as direct:
        direct.push_many(map(str, range(items)))
        direct.seal()
        # No copies that arrive late: one of an empty answer would lease for a child that has ended.
        faults = (*DROPS, Fault.REQUEST_LOST)
        proxy.plan = lambda _: random.choice(faults) if random.random() < 0.1 else Fault.NONE
        forks("crowd", proxy, tmp_path)
        stats = direct.stats()
    folders = [tmp_path, *(path for path in tmp_path.iterdir() if path.is_dir())]
    leases = [lease for folder in folders for lease in fleet.read(folder, 600)]
    print(fleet.check(leases, [str(number) for number in range(items)]))
    assert stats.drained
    assert stats.totals["completed"] == items
    assert stats.totals["unseen"] == stats.totals["expired"] == stats.dead == 0
    assert proxy.strangers == []
    assert proxy.slots > 60
    assert sum(proxy.hit[fault] for fault in faults) > 100


def test_a_child_leaves_the_unanswered_call_to_its_parent(
    proxy: Proxy, client: redis.Redis, tmp_path: Path
) -> None:
    for script in SCRIPTS.values():
        client.script_load(script.source)
    with Queue("job2", client=client) as direct:
        direct.push_many(["apple", "banana"])
    proxy.next(Fault.NEVER_ANSWERED)
    forks("unanswered", proxy, tmp_path)
    assert proxy.strangers == []


def forks(what: str, proxy: Proxy, directory: Path) -> None:
    arguments = (sys.executable, "-m", "tests.faults.forks", what, proxy.url, "job2", directory)
    subprocess.run([*map(str, arguments)], check=True)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_signal_while_the_server_stands_still(
    verb: Verb, server: Server, client: redis.Redis
) -> None:
    def break_off(call: Callable[[], object]) -> None:
        server.pause()
        try:
            with pytest.raises(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.01))
                call()
        finally:
            server.resume()

    with Queue("job2", url=server.url) as queue:
        trial = Trial(verb, queue, client)
        for _ in range(5):
            trial.broken_off(break_off)
        trial.clear()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_an_exception_in_a_thread_while_the_server_stands_still(
    verb: Verb, server: Server, client: redis.Redis
) -> None:
    def break_off(call: Callable[[], object]) -> None:
        broken: list[bool] = []

        def run() -> None:
            with pytest.raises(Interrupted):
                call()
            broken.append(True)

        def reads() -> bool:
            frame = sys._current_frames().get(thread.ident or 0)
            while frame is not None and frame.f_code.co_name != "read_response":
                frame = frame.f_back
            return frame is not None

        thread = threading.Thread(target=run)
        server.pause()
        try:
            thread.start()
            wait_until(reads, "the thread waits for an answer")
            ident = ctypes.c_ulong(thread.ident or 0)
            raised = ctypes.py_object(Interrupted)
            assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, raised) == 1
        finally:
            server.resume()
            thread.join()
        assert broken

    with Queue("job2", url=server.url) as queue:
        trial = Trial(verb, queue, client)
        for _ in range(5):
            trial.broken_off(break_off)
        trial.clear()

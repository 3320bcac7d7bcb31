"""``Worker`` with threads, on a real server."""

import logging
import signal
import threading
import time
from collections import Counter

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry

from pyqueue import AsyncLease, Hooks, Lease, LeaseLost, Message, Queue, Retry, Worker
from pyqueue.worker import Outcome
from tests.contract.relay import Relay
from tests.servers import SECONDS, Server, wait_until
from tests.worker.conftest import OpenQueue
from tests.worker.tools import Gate, running, steal


def nothing(lease: Lease) -> None:
    """A handler."""


def test_each_item_is_handled_once_and_completed(queue: Queue) -> None:
    payloads = [f"item{number}" for number in range(500)]
    queue.push_many(payloads)
    seen: list[str] = []
    worker = Worker(queue, lambda lease: seen.append(lease.text), until="drained")
    assert worker.run() == 0
    assert Counter(seen) == Counter(payloads)
    stats = queue.stats()
    assert stats.drained
    assert stats.totals["completed"] == 500
    assert {x for x, n in stats.totals.items() if n} == {"pushed", "completed"}


def test_handlers_run_at_once_up_to_the_concurrency(queue: Queue) -> None:
    queue.push_many(map(str, range(9)))
    gate = Gate()
    with running(Worker(queue, gate, concurrency=4, until="drained")) as background:
        wait_until(lambda: len(gate.entered) == 4, "four run")
        wait_until(lambda: queue.stats().waiting == 5, "and no more are leased")
        gate.open()
        assert background.wait() == 0
    assert len(gate.entered) == 9


def test_an_exception_fails_the_item_and_its_traceback_is_kept(queue: Queue) -> None:
    queue.configure(max_attempts=2, backoff=0)
    queue.push("apple")
    seen = []

    def handler(lease: Lease) -> None:
        seen.append(lease.attempts)
        raise ValueError("no apples")

    assert Worker(queue, handler, until="drained").run() == 0
    assert seen == [0, 1]
    (letter,) = queue.dead()
    assert letter.reason == "failed"
    assert "in handler" in letter.error
    assert letter.error.endswith("ValueError: no apples\n")
    assert "pyqueue/worker" not in letter.error


class Hopeless(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Hopeless("a"), "Hopeless"),
        (KeyError("a"), "KeyError"),
        (ValueError("a"), "failed"),
        (Retry(error="just so"), "failed"),
        (SystemExit(3), "failed"),
    ],
)
def test_the_class_of_an_exception_decides(queue: Queue, error: BaseException, reason: str) -> None:
    """Those in bury_on and those not in retry_on bury; others are tried again."""
    queue.configure(max_attempts=2, backoff=0)
    queue.push("apple")
    seen = []

    def handler(lease: Lease) -> None:
        seen.append(lease.attempts)
        raise error

    worker = Worker(queue, handler, until="drained", retry_on=(ValueError,), bury_on=Hopeless)
    assert worker.run() == 0
    (letter,) = queue.dead()
    assert letter.reason == reason
    assert seen == ([0, 1] if reason == "failed" else [0])
    if isinstance(error, Retry):
        assert letter.error == "just so"


def test_retry_chooses_the_delay(queue: Queue) -> None:
    queue.push("apple")
    seen = []

    def handler(lease: Lease) -> None:
        seen.append((time.monotonic(), lease.attempts))
        if len(seen) == 1:
            raise Retry(in_=0.3) from ValueError("not yet")

    assert Worker(queue, handler, until="drained").run() == 0
    (first, _), (second, attempts) = seen
    assert attempts == 1
    assert second - first >= 0.3


def test_a_handler_settles_by_itself(queue: Queue, open_queue: OpenQueue) -> None:
    """Each verb; and what it returns or raises after that changes nothing."""
    queue.configure(max_attempts=1)
    verbs = ["complete", "push", "fail", "bury", "release", "extend", "raise"]
    queue.push_many(verbs)
    other = open_queue("{job2}next")

    def handler(lease: Lease) -> None:
        match lease.text:
            case "complete":
                lease.complete()
            case "push":
                lease.complete(push=Message("pushed", queue="{job2}next"))
            case "fail":
                lease.fail("as told")
            case "bury":
                lease.bury("because")
            case "release" if lease.deliveries == 0:
                lease.release()
            case "extend":
                lease.extend(30)
            case "raise":
                lease.complete()
                raise ValueError

    assert Worker(queue, handler, until="drained").run() == 0
    totals = queue.stats().totals
    assert (totals["completed"], totals["failed"], totals["released"]) == (5, 1, 1)
    assert {x.text: x.reason for x in queue.dead()} == {"fail": "failed", "bury": "because"}
    lease = other.lease()
    assert lease is not None
    assert lease.text == "pushed"
    lease.complete()


def test_a_keyboard_interrupt_of_a_handler_ends_the_worker(queue: Queue) -> None:
    queue.push_many(["a", "b", "c"])

    def handler(lease: Lease) -> None:
        raise KeyboardInterrupt

    assert Worker(queue, handler, concurrency=1).run() == 130
    assert queue.stats().waiting == 3
    lease = queue.lease()
    assert lease is not None
    assert (lease.text, lease.attempts) == ("a", 0)


def test_a_suspect_runs_alone(queue: Queue) -> None:
    """It may have killed its worker: then nobody else's attempts go with it."""
    queue.push("suspect")
    lease = queue.lease(ttl=0.001)
    assert lease is not None
    wait_until(lambda: queue.stats().expired, "it has run out")
    assert queue.reclaim(hold=0) == 1
    queue.push_many(map(str, range(200)), priority=1)
    queue.push_many(map(str, range(200)))
    active = 0
    beside = []
    lock = threading.Lock()

    def handler(lease: Lease) -> None:
        nonlocal active
        with lock:
            active += 1
            before = active
        if lease.suspect:
            for _ in range(20):
                queue.stats()  # others have had a chance
            beside.append((lease.text, before, active))
        with lock:
            active -= 1

    assert Worker(queue, handler, until="drained").run() == 0
    assert beside == [("suspect", 1, 1)]
    assert queue.stats().totals["completed"] == 401


def test_what_was_leased_ahead_of_a_slow_item_goes_to_others(
    queue: Queue, open_queue: OpenQueue
) -> None:
    """Untouched: no attempt is charged."""
    queue.push_many(map(str, range(1000)))
    gate = Gate()

    def handler(lease: Lease) -> None:
        if lease.text == "300":
            gate(lease)

    with running(Worker(queue, handler, concurrency=1, until="drained")) as background:
        wait_until(lambda: gate.entered, "the slow one runs")
        ahead = queue.stats().leased
        wait_until(lambda: queue.stats().leased == 1, "what was leased ahead is given back")
        with running(Worker(open_queue(), nothing)):
            wait_until(lambda: queue.stats().live == 1, "another worker does the rest")
        gate.open()
        assert background.wait() == 0
    totals = queue.stats().totals
    assert totals["completed"] == 1000
    assert totals["released"] == ahead - 1 > 0
    assert totals["expired"] == totals["failed"] == 0


def test_leases_are_extended_those_ahead_too(queue: Queue) -> None:
    """With a ttl shorter than the second after which they are given back."""
    queue.push_many(map(str, range(500)))
    gate = Gate()

    def handler(lease: Lease) -> None:
        if lease.text == "300":
            gate(lease)

    with running(Worker(queue, handler, concurrency=1, ttl=0.4, until="drained")) as background:
        wait_until(lambda: gate.entered, "the slow one runs")
        first = gate.entered[0].deadline
        assert queue.stats().leased > 1
        wait_until(lambda: gate.entered[0].deadline > first + 0.8, "it was extended, twice")
        gate.open()
        assert background.wait() == 0
    totals = queue.stats().totals
    assert totals["expired"] == 0
    assert totals["completed"] == 500


def test_a_lost_lease(
    queue: Queue, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler can see it, the callback is called, and nothing is settled after that."""
    queue.push("apple")
    lost: list[Lease] = []
    seen: list[object] = []
    done = threading.Event()

    def handler(lease: Lease) -> None:
        if seen:
            done.set()
            return
        seen.append(lease)
        steal(queue, lease)
        wait_until(lambda: lost, "it is told")
        assert lease.settled
        try:
            lease.extend()
        except LeaseLost as error:
            seen.append(error)
            raise

    with running(Worker(open_queue(), handler, ttl=0.5, on_lease_lost=lost.append)):
        assert done.wait(SECONDS)
        wait_until(lambda: queue.stats().drained, "the second time it is done")
        wait_until(lambda: len(seen) == 2, "the first handler has seen it")
    assert [x.token for x in lost] == [x.token for x in seen[:1] if isinstance(x, Lease)]
    assert isinstance(seen[1], LeaseLost)
    totals = queue.stats().totals
    assert (totals["completed"], totals["released"], totals["failed"]) == (1, 1, 0)
    assert "the lease is lost while it is worked on" in caplog.text


def test_max_lease_takes_an_item_away_from_a_handler_that_hangs(
    queue: Queue, open_queue: OpenQueue
) -> None:
    queue.push("apple")
    lost = threading.Event()
    gate = Gate()
    worker = Worker(open_queue(), gate, ttl=0.3, max_lease=0.5, on_lease_lost=lambda _: lost.set())
    with running(worker):
        assert lost.wait(SECONDS)
        gate.open()
        wait_until(lambda: len(gate.entered) == 2, "it is tried again")
        wait_until(lambda: queue.stats().drained, "and done")
    assert gate.entered[1].attempts == 1
    assert gate.entered[1].suspect


def test_stop_waits_for_what_runs_and_gives_the_rest_back(queue: Queue) -> None:
    queue.push_many(map(str, range(500)))
    gate = Gate()

    def handler(lease: Lease) -> None:
        if lease.text == "200":
            gate(lease)

    with running(Worker(queue, handler, concurrency=1)) as background:
        wait_until(lambda: gate.entered, "one runs")
        background.worker.stop()
        wait_until(lambda: queue.stats().leased == 1, "the rest is given back")
        gate.open()
        assert background.wait() == 0
    stats = queue.stats()
    assert stats.leased == 0
    assert (stats.waiting, stats.totals["completed"]) == (299, 201)
    assert stats.totals["expired"] == 0
    lease = queue.lease()
    assert lease is not None
    assert (lease.text, lease.attempts) == ("201", 0)


def test_after_the_grace_what_runs_is_given_back(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread cannot be ended; what it does afterwards is not settled."""
    queue.push_many(["a", "b"])
    gate = Gate()
    with running(Worker(queue, gate, concurrency=1, grace=0.1)) as background:
        wait_until(lambda: gate.entered, "one runs")
        background.worker.stop()
        assert background.wait() == 0
        stats = queue.stats()
        assert (stats.waiting, stats.leased) == (2, 0)
        assert "1 handlers go on after the grace" in caplog.text
        gate.open()
    lease = queue.lease()
    assert lease is not None
    assert (lease.text, lease.attempts) == ("a", 0)


def test_a_handler_stops_its_worker(queue: Queue) -> None:
    queue.push_many(map(str, range(100)))
    worker = Worker(queue, lambda _: worker.stop(), concurrency=1)
    assert worker.run() == 0
    stats = queue.stats()
    assert stats.waiting == 99
    assert stats.totals["completed"] == 1
    assert worker.run() == 0, "it can run again"
    assert queue.stats().totals["completed"] == 2


def test_a_worker_runs_once_at_a_time(queue: Queue) -> None:
    worker = Worker(queue, nothing)
    with running(worker) as background:
        wait_until(lambda: worker._run is not None, "it runs")
        with pytest.raises(RuntimeError, match="runs already"):
            worker.run()
        worker.stop()
        assert background.wait() == 0


def test_new_items_wake_it(queue: Queue, client: redis.Redis) -> None:
    seen: list[str] = []
    with running(Worker(queue, lambda lease: seen.append(lease.text))):
        for number in range(5):
            wait_until(lambda: client.info("clients")["blocked_clients"], "it is blocked")
            seen.clear()
            client.rpush("job2", str(number))
            wait_until(lambda: seen, "it was handled")
            queue.push("delayed", delay=0.05)
            wait_until(lambda: "delayed" in seen, "so was that")
    wait_until(lambda: queue.stats().drained, "all is completed")


def test_a_paused_a_limited_and_a_sealed_queue(queue: Queue) -> None:
    queue.push_many(map(str, range(30)))
    queue.pause()
    queue.configure(max_leased=2)
    active: list[int] = []
    most = []

    def handler(lease: Lease) -> None:
        active.append(0)
        most.append(len(active))
        active.pop()

    with running(Worker(queue, handler, until="sealed")) as background:
        wait_until(lambda: background.worker._run, "it runs")
        assert queue.stats().waiting == 30
        queue.resume()
        wait_until(lambda: most, "it goes on")
        queue.seal()
        assert background.wait() == 0
    assert len(most) == 30
    assert max(most) <= 2


def test_a_queue_that_never_had_an_item(
    open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    worker = Worker(open_queue("job3"), nothing, until="drained", start_wait=0.3)
    assert worker.run() == 0
    assert time.monotonic() - began >= 0.3
    assert "has never had an item: is the name right?" in caplog.text
    seen: list[str] = []
    late = open_queue("job4")
    worker = Worker(late, lambda x: seen.append(x.text), until="drained", start_wait=SECONDS)
    with running(worker) as background:
        open_queue("job4").push("apple")
        assert background.wait() == 0
    assert seen == ["apple"]


def test_the_server_goes_away_and_comes_back(server: Server, queue: Queue) -> None:
    """Each item is handled once: what was done is completed when the server is back."""
    queue.push_many(map(str, range(300)))
    seen: Counter[str] = Counter()
    half = threading.Event()
    gate = Gate()

    def handler(lease: Lease) -> None:
        seen[lease.text] += 1
        if lease.text == "150":
            half.set()
            gate(lease)
        if lease.text == "151":
            raise ValueError

    own = Queue("job2", client=server.client())  # no repeats of redis-py's
    queue.configure(backoff=0)
    with running(Worker(own, handler, concurrency=3, until="drained")) as background:
        assert half.wait(SECONDS)
        server.stop(kill=True)
        gate.open()
        assert background.code is None
        server.start()
        assert background.wait() == 0
    assert seen.pop("151") > 1
    # What was leased by the call whose answer died with the server came to nobody before.
    assert set(seen.values()) == {1}
    assert len(seen) == 299
    own.close()


def test_the_server_stays_away(
    server: Server, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.push_many(["a", "b"])
    gate = Gate()
    own = Queue("job2", client=server.client())
    with running(Worker(own, gate, concurrency=1, server_wait=0.3, grace=0.1)) as background:
        wait_until(lambda: gate.entered, "one runs")
        server.stop(kill=True)
        gate.open()
        assert background.wait() == 69
    assert f"item {gate.entered[0].id}" in caplog.text
    assert "could not be settled: the server does not answer" in caplog.text
    own.close()


def test_permissions_that_are_missing_are_the_end(server: Server) -> None:
    with server.client() as client:
        client.set("job2", "not a list")
        with Queue("job2", url=server.url) as queue:
            assert Worker(queue, nothing).run() == 78


def test_lost_replies_lose_and_double_nothing(relay: Relay, queue: Queue) -> None:
    queue.push_many(map(str, range(100)))
    seen: Counter[str] = Counter()

    def handler(lease: Lease) -> None:
        seen[lease.text] += 1
        if int(lease.text) % 10 == 0:
            relay.lose_replies()
        if int(lease.text) % 10 == 5:
            relay.lose_requests()

    client = redis.Redis.from_url(relay.url, retry=RedisRetry(NoBackoff(), 0))
    fragile = Queue("job2", client=client)
    assert Worker(fragile, handler, concurrency=2, until="drained").run() == 0
    assert seen == Counter(str(number) for number in range(100))
    totals = queue.stats().totals
    assert (totals["completed"], totals["expired"], totals["failed"]) == (100, 0, 0)
    fragile.close()
    client.close()


class Recorder(Hooks):
    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def started(self, lease: Lease | AsyncLease) -> None:
        self.calls.append((lease.text, "started"))

    def error(self, lease: Lease | AsyncLease, error: BaseException) -> None:
        self.calls.append((lease.text, "error", type(error).__name__))
        raise RuntimeError("in a hook")

    def finished(self, lease: Lease | AsyncLease, outcome: Outcome, seconds: float) -> None:
        assert 0.01 <= seconds < SECONDS
        self.calls.append((lease.text, "finished", outcome))

    def lost(self, lease: Lease | AsyncLease) -> None:
        self.calls.append((lease.text, "lost"))


def test_hooks(queue: Queue, open_queue: OpenQueue, caplog: pytest.LogCaptureFixture) -> None:
    """What they raise harms nothing."""
    queue.configure(max_attempts=1)
    queue.push_many(["done", "failed", "buried", "settled", "released"])
    recorder = Recorder()

    def handler(lease: Lease) -> None:
        time.sleep(0.01)  # not to wait: to take time
        match lease.text:
            case "failed":
                raise ValueError
            case "buried":
                raise KeyError
            case "settled":
                lease.complete()
            case "released":
                steal(queue, lease)

    worker = Worker(open_queue(), handler, concurrency=1, bury_on=KeyError, hooks=recorder)
    with running(worker):
        wait_until(lambda: ("released", "finished", "lost") in recorder.calls, "it is all told")
    expected = [
        ("done", "started"),
        ("done", "finished", "completed"),
        ("failed", "started"),
        ("failed", "error", "ValueError"),
        ("failed", "finished", "failed"),
        ("buried", "started"),
        ("buried", "error", "KeyError"),
        ("buried", "finished", "buried"),
        ("settled", "started"),
        ("settled", "finished", "settled"),
        ("released", "started"),
        ("released", "finished", "lost"),
    ]
    assert sorted(set(recorder.calls)) == sorted(expected)
    assert "a hook has raised an exception" in caplog.text


def test_the_log_says_what_happened_and_never_a_payload(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.configure(max_attempts=1)
    queue.push("secret")

    def handler(lease: Lease) -> None:
        raise ValueError("of the handler")

    with caplog.at_level(logging.INFO):
        assert Worker(queue, handler, until="drained").run() == 0
    (record,) = [x for x in caplog.records if getattr(x, "event", "") == "failed"]
    (letter,) = queue.dead()
    fields = record.__dict__["fields"]
    assert (fields["queue"], fields["item"], fields["dead"]) == ("job2", letter.id, True)
    assert record.__dict__["token"] == fields["token"] > 0
    assert letter.id in record.getMessage()
    assert "secret" not in caplog.text


def test_signal_handlers_are_put_back(queue: Queue) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    during = []

    def handler(lease: Lease) -> None:
        during.append(signal.getsignal(signal.SIGTERM))

    queue.push("a")
    assert Worker(queue, handler, until="drained").run() == 0
    queue.push("a")
    assert Worker(queue, handler, until="drained", signals=False).run() == 0
    assert [x == before[0] for x in during] == [False, True]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": 1001},
        {"prefetch": -1},
        {"ttl": 0},
        {"max_lease": -1},
        {"until": "sometime"},
        {"pool": "tasks"},
        {"grace": -1},
        {"server_wait": -1},
    ],
)
def test_options_out_of_range(queue: Queue, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Worker(queue, nothing, **options)  # type: ignore[arg-type]

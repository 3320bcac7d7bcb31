"""What a worker decides, without threads, tasks, servers and clocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from pyqueue import PermissionDenied, PyQueueError, ServerUnavailable
from pyqueue.worker._engine import (
    LAST,
    Ask,
    Block,
    Complete,
    End,
    Engine,
    GiveBack,
    Interrupt,
    Start,
    Until,
    Wait,
)


@dataclass(eq=False)
class Item:
    token: int
    suspect: bool = False


@dataclass
class Answer:
    items: Sequence[Item] = ()
    reason: str = "items"
    retry_in: float | None = None
    sealed: bool = False
    fresh: bool = False
    drained: bool = field(init=False)

    def __post_init__(self) -> None:
        self.drained = self.reason == "drained"

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


class Driver:
    """A worker in which the test is the clock, the server and the slots."""

    def __init__(
        self,
        concurrency: int = 2,
        prefetch: int = 100,
        until: Until = "drained",
        server_wait: float = 600,
    ) -> None:
        self.now = 1000.0
        self.engine: Engine[Item] = Engine(
            concurrency=concurrency,
            prefetch=prefetch,
            until=until,
            start_wait=60,
            server_wait=server_wait,
            grace=20,
            now=self.now,
        )
        self._tokens = iter(range(1, 10_000))

    def turn(self) -> object:
        return self.engine.turn(self.now)

    def ask(self, expected: int) -> Ask[Item]:
        step = self.turn()
        assert isinstance(step, Ask), step
        assert step.n == expected
        return step

    def lease(self, n: int, expected: int | None = None, *, suspect: bool = False) -> list[Item]:
        """The worker asks, and gets n items."""
        self.ask(n if expected is None else expected)
        items = [Item(next(self._tokens), suspect) for _ in range(n)]
        self.engine.leased(Answer(items), self.now)
        return items

    def nothing(self, reason: str, retry_in: float | None = None, **what: bool) -> None:
        """The worker asks, and gets none."""
        step = self.turn()
        assert isinstance(step, Ask), step
        self.engine.leased(Answer((), reason, retry_in, **what), self.now)

    def start(self, n: int) -> list[Item]:
        """Slots take items."""
        return [self.engine.ready.popleft() for _ in range(n)]

    def finish(self, items: Sequence[Item]) -> None:
        """Handlers return."""
        self.engine.done.extend(items)

    def wait(self) -> float | None:
        step = self.turn()
        assert isinstance(step, Wait), step
        return step.seconds


def test_one_call_completes_what_is_done_and_leases_for_the_free_slots() -> None:
    driver = Driver(concurrency=3)
    items = driver.lease(3)
    assert driver.start(3) == items
    assert driver.wait() is None
    driver.finish(items[:2])
    ask = driver.ask(2)
    assert ask.completed == items[:2]
    driver.engine.leased(Answer([Item(77), Item(78)]), driver.now)
    assert list(driver.engine.held) == [items[2].token, 77, 78]


def test_slow_handlers_have_nothing_leased_ahead() -> None:
    driver = Driver()
    for _ in range(5):
        items = driver.start(2) if driver.engine.ready else driver.lease(2) and driver.start(2)
        driver.now += 1
        driver.finish(items)
        driver.lease(2)


@pytest.mark.parametrize("prefetch", [0, 7, 100])
def test_as_many_are_leased_ahead_as_handlers_end_within_some_ms(prefetch: int) -> None:
    """And never more than the limit."""
    driver = Driver(prefetch=prefetch)
    asked = []
    for _ in range(30):
        step = driver.turn()
        if isinstance(step, Wait):
            break
        assert isinstance(step, Ask)
        asked.append(len(driver.engine.held) - len(step.completed) + step.n)
        items = [Item(next(driver._tokens)) for _ in range(step.n)]
        driver.engine.leased(Answer(items), driver.now)
        driver.finish(driver.start(len(driver.engine.ready)))
        driver.now += 0.001
    assert asked[0] == 2
    assert max(asked) == 2 + min(prefetch, asked[-1] - 2)
    assert (max(asked) > 2) == (prefetch > 0)


def test_what_waits_too_long_for_a_slot_goes_back() -> None:
    driver = Driver(concurrency=1)
    for _ in range(10):
        step = driver.turn()
        assert isinstance(step, Ask)
        items = [Item(next(driver._tokens)) for _ in range(step.n)]
        driver.engine.leased(Answer(items), driver.now)
        driver.finish(driver.start(len(driver.engine.ready)))
        driver.now += 0.001
    step = driver.turn()
    assert isinstance(step, Ask)
    assert step.n > 3
    ahead = [Item(next(driver._tokens)) for _ in range(step.n)]
    driver.engine.leased(Answer(ahead), driver.now)
    driver.start(1)
    while not isinstance(driver.turn(), Wait):
        driver.engine.leased(Answer((), "empty"), driver.now)
    seconds = driver.wait()
    assert seconds is not None
    assert 0 < seconds <= 1
    driver.now += 1
    step = driver.turn()
    assert isinstance(step, GiveBack)
    assert step.leases == ahead[1:]
    driver.engine.settled()
    assert list(driver.engine.held.values()) == ahead[:1]
    assert not isinstance(driver.turn(), Ask), "they would come back at once"


def test_a_suspect_starts_when_nothing_else_runs_and_nothing_is_leased_meanwhile() -> None:
    driver = Driver(concurrency=3)
    first = driver.lease(1, 3)
    driver.start(1)
    driver.now += 1
    (suspect,) = driver.lease(1, 2, suspect=True)
    assert not driver.engine.ready
    assert isinstance(driver.turn(), Wait)
    driver.finish(first)
    step = driver.turn()
    assert isinstance(step, Complete), "nothing is leased beside it"
    driver.engine.settled()
    assert isinstance(driver.turn(), Start)
    assert isinstance(driver.turn(), Wait)
    assert driver.start(1) == [suspect]
    driver.engine.ended.append(suspect)
    driver.ask(3)


def test_a_completed_suspect_lets_others_come() -> None:
    driver = Driver()
    (suspect,) = driver.lease(1, 2, suspect=True)
    assert isinstance(driver.turn(), Start)
    assert driver.start(1) == [suspect]
    driver.finish([suspect])
    step = driver.turn()
    assert isinstance(step, Complete)
    driver.engine.settled()
    driver.ask(2)


def test_an_empty_queue_is_waited_for_in_blmove_and_others_are_slept_on() -> None:
    driver = Driver()
    driver.nothing("empty", 0.5)
    step = driver.turn()
    assert isinstance(step, Block)
    assert 0 < step.seconds <= 0.5
    assert driver.wait() is None
    driver.engine.woken()
    driver.nothing("paused")
    seconds = driver.wait()
    assert seconds is not None
    assert 1 < seconds <= 2
    driver.now += seconds
    driver.nothing("empty", 0)
    driver.ask(2)


@pytest.mark.parametrize(
    ("until", "fresh", "sealed", "ends"),
    [
        ("drained", False, False, True),
        ("drained", True, False, False),
        ("drained", True, True, True),
        ("sealed", False, False, False),
        ("sealed", False, True, True),
        ("forever", False, True, False),
    ],
)
def test_when_a_drained_queue_is_the_end(
    until: Until, fresh: bool, sealed: bool, ends: bool
) -> None:
    driver = Driver(until=until)
    driver.nothing("drained", fresh=fresh, sealed=sealed)
    assert isinstance(driver.turn(), End) == ends


def test_a_queue_that_never_had_an_item_is_given_some_time() -> None:
    driver = Driver()
    driver.now += 59.5
    driver.nothing("drained", fresh=True)
    step = driver.turn()
    assert isinstance(step, Block)
    assert step.seconds <= 0.5
    driver.now += 0.5
    driver.engine.woken()
    driver.nothing("drained", fresh=True)
    assert driver.turn() == End(0, ())
    assert driver.engine.never_had_any


def test_the_end_gives_back_what_was_not_started_and_waits_for_the_rest() -> None:
    driver = Driver()
    first, second = driver.lease(2)
    driver.start(1)
    driver.engine.stop(143, driver.now)
    step = driver.turn()
    assert isinstance(step, GiveBack)
    assert step.leases == [second]
    driver.engine.settled()
    assert driver.wait() == 20
    driver.finish([first])
    step = driver.turn()
    assert isinstance(step, Complete)
    driver.engine.settled()
    assert driver.turn() == End(143, ())


def test_after_the_grace_handlers_are_interrupted_and_their_items_given_back() -> None:
    driver = Driver()
    first, second = driver.lease(2)
    driver.start(2)
    driver.engine.stop(143, driver.now)
    driver.now += 20
    assert isinstance(driver.turn(), Interrupt)
    assert driver.wait() == LAST
    driver.engine.abandon()
    step = driver.turn()
    assert isinstance(step, GiveBack)
    assert step.leases == [first, second]
    driver.engine.settled()
    assert driver.turn() == End(143, ())


def test_a_second_signal_ends_the_grace() -> None:
    driver = Driver()
    driver.lease(2)
    driver.start(2)
    driver.engine.stop(143, driver.now)
    assert isinstance(driver.turn(), Wait)
    driver.engine.stop(130, driver.now)
    assert isinstance(driver.turn(), Interrupt)
    assert driver.engine.code == 143


def test_what_a_dead_server_does_not_take_is_told_of() -> None:
    driver = Driver()
    items = driver.lease(2)
    driver.finish(driver.start(2))
    driver.engine.stop(143, driver.now)
    end: object = None
    while not isinstance(end, End):
        end = driver.turn()
        if isinstance(end, Complete):
            driver.engine.unreachable(driver.now)
        elif isinstance(end, Wait):
            assert end.seconds is not None
            driver.now += end.seconds
    assert end == End(143, items)
    assert driver.now == pytest.approx(1000 + LAST, abs=0.1)


def test_a_call_without_an_answer_is_repeated_with_all_that_it_completed() -> None:
    driver = Driver(server_wait=10)
    items = driver.lease(2)
    driver.finish(driver.start(2))
    assert driver.ask(2).completed == items
    while driver.engine.code is None:
        assert driver.engine.unreachable(driver.now) == items
        if driver.engine.code is None:
            seconds = driver.wait()
            assert seconds is not None
            assert 0 < seconds <= 2
            driver.now += seconds
            assert driver.ask(2).completed == items
    assert driver.turn() == End(69, items)
    assert 1010 <= driver.now <= 1012


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionDenied("no"), 78),
        (PyQueueError("what?"), 1),
        (ServerUnavailable("gone"), 69),
    ],
)
def test_an_error_that_stays_is_the_end(error: PyQueueError, code: int) -> None:
    driver = Driver()
    items = driver.lease(2)
    driver.finish(driver.start(2))
    driver.ask(2)
    assert driver.engine.refused(error, driver.now) == items
    assert driver.turn() == End(code, ())


def test_what_is_lost_before_it_is_started_is_dropped() -> None:
    driver = Driver()
    first, second = driver.lease(2)
    driver.start(1)
    assert driver.engine.is_working_on(first)
    assert driver.engine.lost(first)
    assert not driver.engine.lost(second)
    driver.ask(1)
    assert list(driver.engine.held.values()) == [first]
    driver.finish([first])
    assert not driver.engine.is_working_on(first)

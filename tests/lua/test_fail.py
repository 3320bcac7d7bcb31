"""lua/fail.lua"""

import pytest

from tests.lua.harness import START, WAKE, Letter, VirtualQueue, envelope, raw_id
from tests.lua.scenes import message


def test_an_attempt_is_charged_and_the_item_delayed(queue: VirtualQueue) -> None:
    queue.push(message(1))
    (token,) = queue.take()
    assert queue.fail(token) == [[], []]
    ((due, delayed),) = queue.delayed()
    assert delayed == envelope(b"pushed 1", message(1)[4:20], deliveries=1, attempts=1)
    assert START + 500 <= due <= START + 1_000
    assert queue.leased() == {}
    assert queue.waiting() == [WAKE]
    assert queue.counters() == {"failed": 1}


def test_the_backoff_doubles_up_to_its_most_with_jitter(queue: VirtualQueue) -> None:
    queue.client.hset(
        queue.key("meta"), mapping={"max_attempts": 100, "backoff_base": 100, "backoff_max": 5_000}
    )
    jitter = set()
    for attempts in range(50):
        queue.now += 1_000
        queue.client.delete(queue.name)
        queue.rpush(envelope(b"x", attempts=attempts))
        (token,) = queue.take()
        queue.fail(token)
        whole = min(100 * 2**attempts, 5_000)
        wait = queue.delayed()[-1][0] - queue.now
        queue.client.delete(queue.key("delayed"))
        assert whole / 2 <= wait <= whole
        jitter.add(wait / whole)
    assert len(jitter) > 40


def test_without_a_configuration_it_is_a_second_that_doubles_up_to_five_minutes(
    queue: VirtualQueue,
) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 100)
    for attempts, whole in ((0, 1_000), (3, 8_000), (20, 300_000)):
        queue.rpush(envelope(b"x", attempts=attempts))
        queue.fail(*queue.take())
        ((due, _),) = queue.delayed()
        queue.client.delete(queue.key("delayed"), queue.name)
        assert whole / 2 <= due - queue.now <= whole


def test_items_that_fail_together_do_not_come_back_together(queue: VirtualQueue) -> None:
    """math.random of a script is the same on every run."""
    queue.rpush(*map(str, range(50)))
    queue.fail(*queue.take(50))
    assert len({due for due, _ in queue.delayed()}) > 30


def test_retry_in_is_exact(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.fail(*queue.take(2), retry_in=7_000)
    assert [due for due, _ in queue.delayed()] == [START + 7_000] * 2


def test_without_a_wait_it_goes_to_the_tail(queue: VirtualQueue) -> None:
    """Not to the head, where it would be tried in vain again and again before the others."""
    queue.push(*(message(number) for number in range(4)))
    queue.fail(*queue.take(2), retry_in=0)
    assert [m[27:] for m in queue.waiting()] == [
        b"pushed 2",
        b"pushed 3",
        b"pushed 0",
        b"pushed 1",
    ]


@pytest.mark.parametrize("most", [None, 1, 3])
def test_used_up_attempts_are_death(queue: VirtualQueue, most: int | None) -> None:
    if most is not None:
        queue.client.hset(queue.key("meta"), "max_attempts", most)
    queue.push(message(1))
    for attempt in range(1, (most or 5) + 1):
        queue.now += 1
        (token,) = queue.take()
        expected = [[], [0]] if attempt == (most or 5) else [[], []]
        assert queue.fail(token, retry_in=0, error=b"boom %d" % attempt) == expected
    assert queue.waiting() == []
    dead = envelope(b"pushed 1", message(1)[4:20], deliveries=attempt, attempts=attempt)
    assert queue.dead() == {
        message(1)[4:20]: (queue.now, Letter(b"failed", b"w", b"boom %d" % attempt, dead))
    }
    assert queue.counters() == {"failed": attempt, "dead": 1} | (
        {"max_attempts": most} if most else {}
    )


def test_a_raw_message_dies_under_the_id_of_its_first_token(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 2)
    queue.rpush("apple")
    (first,) = queue.take()
    queue.fail(first, retry_in=0)
    queue.now += 1
    queue.fail(*queue.take(), retry_in=0)
    (id,) = queue.dead()
    assert id == raw_id(first)


def test_a_copy_of_a_dead_item_does_not_overwrite_it(queue: VirtualQueue) -> None:
    """Somebody may push the same envelope twice, or push a dead letter's message again."""
    queue.client.hset(queue.key("meta"), "max_attempts", 1)
    queue.rpush(message(1), message(1), message(1))
    tokens = queue.take(3)
    assert queue.fail(*tokens) == [[], [0, 1, 2]]
    assert set(queue.dead()) == {message(1)[4:20], raw_id(tokens[1]), raw_id(tokens[2])}
    assert queue.counters()["dead"] == 3


def test_the_error_is_cut_at_2_kib(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 1)
    queue.rpush("a", "b")
    queue.fail(*queue.take(1), error=b"e" * 5_000)
    queue.fail(*queue.take(1), error=b"\xff\0")
    errors = {letter.error for _, letter in queue.dead().values()}
    assert errors == {b"e" * 2_048, b"\xff\0"}


def test_long_workers_fit_the_record(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 1)
    queue.rpush("a")
    queue.fail(*queue.lease(worker=b"w" * 255).tokens, error=b"")
    ((_, letter),) = queue.dead().values()
    assert (letter.worker, letter.error) == (b"w" * 255, b"")


def test_lost_and_dead_are_said_by_position(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 3)
    queue.rpush("a", envelope(b"b", attempts=2), "c")
    a, b, c = queue.take(3)
    queue.complete(c)
    assert queue.fail(c, b, a, 7) == [[0, 3], [1]]
    with queue.unchanged():
        assert queue.again() == [[0, 3], [1]]


def test_a_token_given_twice_is_charged_once(queue: VirtualQueue) -> None:
    queue.push(message(1))
    (token,) = queue.take()
    assert queue.fail(token, token, retry_in=0) == [[1], []]
    assert queue.waiting() == [
        envelope(b"pushed 1", message(1)[4:20], deliveries=1, attempts=1),
    ]


def test_counts_stop_at_what_fits(queue: VirtualQueue) -> None:
    queue.client.hset(queue.key("meta"), "max_attempts", 10**9)
    queue.rpush(envelope(b"x", deliveries=65535, attempts=65535))
    queue.fail(*queue.take(), retry_in=0)
    assert queue.waiting() == [envelope(b"x", deliveries=65535, attempts=65535)]


def test_a_failed_item_is_no_suspect(queue: VirtualQueue) -> None:
    """Its worker lived to tell."""
    queue.rpush("a", "b")
    queue.fail(*queue.take(2), retry_in=0)
    assert len(queue.lease(10).messages) == 2


def test_a_lease_that_ran_out_and_was_not_reclaimed_fails(queue: VirtualQueue) -> None:
    queue.push(message(1))
    (token,) = queue.take()
    queue.sleep(3_600_000)
    assert queue.fail(token, retry_in=0) == [[], []]
    assert queue.counters() == {"failed": 1}


def test_bad_arguments(queue: VirtualQueue) -> None:
    for retry_in in ("-1", "0.5", "x", "nan", "1e14"):
        with queue.refused("ARGUMENT retry_in is not an integer from 0"):
            queue.fail(7, retry_in=retry_in)
    for count in (0, 1001):
        with queue.refused("ARGUMENT tokens is not an integer from 1 to 1000"):
            queue.fail(*range(count))


def test_a_thousand(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(1000)))
    assert queue.fail(*queue.take(1000)) == [[], []]
    assert len(queue.delayed()) == 1000
    queue.client.hset(queue.key("meta"), "max_attempts", 2)
    queue.sleep(1_000)
    for _ in range(10):
        queue.fail(*queue.take(100))
    assert len(queue.dead()) == 1000

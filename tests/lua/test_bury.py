"""lua/bury.lua"""

from tests.lua.harness import Letter, VirtualQueue, envelope, raw_id
from tests.lua.scenes import message


def test_it_is_dead_at_once(queue: VirtualQueue) -> None:
    queue.push(message(1), message(2))
    (token,) = queue.take()
    queue.now += 5
    assert queue.bury(token, reason=b"no good", error=b"boom") == []
    dead = envelope(b"pushed 1", message(1)[4:20], deliveries=1, attempts=1)
    assert queue.dead() == {
        message(1)[4:20]: (queue.now, Letter(b"no good", b"w", b"boom", dead)),
    }
    assert queue.waiting() == [message(2)]
    assert queue.leased() == {}
    assert queue.counters() == {"dead": 1}


def test_a_raw_message_has_the_id_of_its_token(queue: VirtualQueue) -> None:
    queue.rpush("apple", "apple")
    tokens = queue.take(2)
    queue.bury(*tokens)
    assert set(queue.dead()) == {raw_id(token) for token in tokens}


def test_the_lost_are_said_by_position(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    queue.complete(a)
    assert queue.bury(a, b, 7) == [0, 2]
    assert queue.bury(b) == [0]
    assert len(queue.dead()) == 1


def test_a_token_given_twice_is_buried_once(queue: VirtualQueue) -> None:
    queue.rpush("a")
    (token,) = queue.take()
    assert queue.bury(token, token) == [1]
    assert queue.counters() == {"dead": 1}


def test_reason_and_error_are_cut_to_what_fits(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.bury(*queue.take(), reason=b"r" * 300, error=b"e" * 3_000)
    ((_, letter),) = queue.dead().values()
    assert (letter.reason, letter.error) == (b"r" * 255, b"e" * 2_048)


def test_empty_words(queue: VirtualQueue) -> None:
    queue.rpush("")
    queue.bury(*queue.take(), reason=b"", error=b"")
    ((_, letter),) = queue.dead().values()
    assert (letter.reason, letter.error, letter.message[27:]) == (b"", b"", b"")


def test_one_to_a_thousand(queue: VirtualQueue) -> None:
    for count in (0, 1001):
        with queue.refused("ARGUMENT tokens is not an integer from 1 to 1000"):
            queue.bury(*range(count))
    queue.rpush(*map(str, range(1000)))
    assert queue.bury(*queue.take(1000)) == []
    assert len(queue.dead()) == 1000
    assert queue.stats()["dead"] == 1000


def test_a_copy_of_an_item_that_died_before_does_not_overwrite_it(queue: VirtualQueue) -> None:
    queue.push(message(1), message(1))
    one, two = queue.take(2)
    queue.bury(one)
    queue.bury(two)
    assert set(queue.dead()) == {message(1)[4:20], raw_id(two)}


def test_a_copy_of_a_dead_item_does_not_overwrite_it(queue: VirtualQueue) -> None:
    queue.push(message(1), message(1))
    one, two = queue.take(2)
    queue.bury(one, two)
    assert set(queue.dead()) == {message(1)[4:20], raw_id(two)}

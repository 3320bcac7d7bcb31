"""lua/waiting.lua"""

from tests.lua.harness import START, WAKE, Reply, VirtualQueue, envelope
from tests.lua.scenes import message


def page(queue: VirtualQueue, offset: int, count: int) -> tuple[int, list[Reply]]:
    now, following, *rest = queue.call("waiting", offset, count)
    assert now == queue.now
    entries = list(zip(rest[::3], rest[1::3], rest[2::3], strict=True))
    return following, entries


def full(queue: VirtualQueue) -> list[Reply]:
    """Two handed off, three in the list, two delayed; what a page shows of them."""
    queue.push(*(message(number) for number in range(7)))
    queue.release(*queue.take(1), delay=9_000)
    queue.release(*queue.take(1), delay=4_000)
    for _ in range(2):
        queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    return [
        (b"handoff", 0, message(2)),
        (b"handoff", 0, message(3)),
        (b"waiting", 0, message(4)),
        (b"waiting", 0, message(5)),
        (b"waiting", 0, message(6)),
        (b"delayed", 4_000, envelope(b"pushed 1", message(1)[4:20], deliveries=1)),
        (b"delayed", 9_000, envelope(b"pushed 0", message(0)[4:20], deliveries=1)),
    ]


def test_the_order_is_that_of_leasing(queue: VirtualQueue) -> None:
    everything = full(queue)
    assert page(queue, 0, 1000) == (-1, everything)
    queue.sleep(5_000)
    assert [due for _, due, _ in page(queue, 5, 10)[1]] == [0, 4_000]


def test_any_page(queue: VirtualQueue) -> None:
    everything = full(queue)
    for offset in range(9):
        for count in range(1, 9):
            end = offset + count
            following, entries = page(queue, offset, count)
            assert entries == everything[offset:end]
            assert following == (end if end < 7 else -1)


def test_an_empty_queue_and_an_end_that_is_past(queue: VirtualQueue) -> None:
    assert page(queue, 0, 1000) == (-1, [])
    full(queue)
    assert page(queue, 10**15, 1000) == (-1, [])


def test_more_than_a_few(queue: VirtualQueue) -> None:
    messages = [message(number) for number in range(1000)]
    queue.push(*messages)
    assert [m for _, _, m in page(queue, 0, 1000)[1]] == messages
    assert [m for _, _, m in page(queue, 3, 100)[1]] == messages[3:103]


def test_a_page_ends_early_when_it_is_large(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (1 << 18)] * 20)
    following, entries = page(queue, 0, 1000)
    assert following == len(entries) == 4
    assert page(queue, following, 1000)[0] == 8
    queue.release(*queue.take(4), delay=5_000)
    queue.release(*queue.take(3), delay=5_000)
    queue.client.delete(queue.name)
    following, entries = page(queue, 0, 1000)
    assert following == len(entries) == 4
    assert len(page(queue, following, 1000)[1]) == 3
    queue.rpush("a", *[b"x" * (1 << 20)] * 20)
    assert [len(message) for _, _, message in page(queue, 0, 2)[1]] == [1, 1 << 20]


def test_wake_markers_are_not_shown(queue: VirtualQueue) -> None:
    queue.rpush(WAKE, "a", WAKE)
    queue.client.lmove(queue.name, queue.key("handoff").decode(), "LEFT", "RIGHT")
    assert page(queue, 0, 10) == (-1, [(b"waiting", 0, b"a")])
    assert page(queue, 0, 1) == (1, [])
    assert page(queue, 1, 1) == (2, [(b"waiting", 0, b"a")])


def test_anything_is_shown_as_it_is(queue: VirtualQueue) -> None:
    odd = [b"", b"\0PQ\1 malformed", b"\xff\0", envelope(b"", flags=1)]
    queue.rpush(*odd)
    assert [m for _, _, m in page(queue, 0, 10)[1]] == odd


def test_bad_arguments(queue: VirtualQueue) -> None:
    for offset in ("", "-1", "0.5", "x", "nan"):
        with queue.refused("ARGUMENT offset is not an integer from 0"):
            queue.call("waiting", offset, 1)
    for count in ("", "0", "1001", "-1", "0.5", "x", "nan"):
        with queue.refused("ARGUMENT count is not an integer from 1 to 1000"):
            queue.call("waiting", 0, count)


def test_the_time_does_not_matter_for_what_is_due_but_was_not_promoted(
    queue: VirtualQueue,
) -> None:
    queue.rpush("a")
    queue.release(*queue.take(), delay=5_000)
    queue.sleep(60_000)
    assert [due for _, due, _ in page(queue, 0, 10)[1]] == [0]
    assert queue.now == START + 60_000

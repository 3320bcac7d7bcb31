"""lua/dead.lua"""

from tests.lua.harness import START, Letter, Reply, VirtualQueue, raw_id


def page(queue: VirtualQueue, offset: int, count: int) -> tuple[int, list[Reply]]:
    now, following, *rest = queue.call("dead", offset, count)
    assert now == queue.now
    entries = list(zip(rest[::3], rest[1::3], rest[2::3], strict=True))
    return following, entries


def test_the_oldest_comes_first(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    a, b, c = queue.take(3)
    for token in (b, c, a):
        queue.bury(token)
        queue.now += 1_000
    following, everything = page(queue, 0, 1000)
    assert following == -1
    assert [(id, died) for id, died, _ in everything] == [
        (raw_id(b), START),
        (raw_id(c), START + 1_000),
        (raw_id(a), START + 2_000),
    ]
    assert [Letter.unpack(record).message[27:] for _, _, record in everything] == [b"b", b"c", b"a"]
    for offset in range(5):
        for count in range(1, 5):
            end = offset + count
            expected = (end if end < 3 else -1, everything[offset:end])
            assert page(queue, offset, count) == expected


def test_nobody_died(queue: VirtualQueue) -> None:
    assert page(queue, 0, 10) == (-1, [])


def test_a_page_ends_early_when_it_is_large(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (1 << 18)] * 6)
    queue.bury(*queue.take(4), *queue.take(2))
    following, entries = page(queue, 0, 1000)
    assert following == len(entries) == 4
    assert len(page(queue, 4, 1000)[1]) == 2


def test_bad_arguments(queue: VirtualQueue) -> None:
    for offset in ("", "-1", "0.5", "x", "nan"):
        with queue.refused("ARGUMENT offset is not an integer from 0"):
            queue.call("dead", offset, 1)
    for count in ("", "0", "1001", "-1", "0.5", "x", "nan"):
        with queue.refused("ARGUMENT count is not an integer from 1 to 1000"):
            queue.call("dead", 0, count)


def test_a_time_of_death_without_its_record_is_left_out(queue: VirtualQueue) -> None:
    """Somebody removed the record by hand."""
    queue.rpush("a", "b")
    a, b = queue.take(2)
    queue.bury(a, b)
    queue.client.hdel(queue.key("dead"), raw_id(a))
    following, entries = page(queue, 0, 10)
    assert (following, [id for id, _, _ in entries]) == (-1, [raw_id(b)])

"""lua/leases.lua"""

from tests.lua.harness import START, Reply, VirtualQueue


def page(queue: VirtualQueue, offset: int, count: int) -> tuple[int, list[Reply]]:
    now, following, *rest = queue.call("leases", offset, count)
    assert now == queue.now
    entries = list(zip(rest[::4], rest[1::4], rest[2::4], rest[3::4], strict=True))
    return following, entries


def test_the_order_is_that_of_the_deadlines(queue: VirtualQueue) -> None:
    queue.rpush("a", "b", "c")
    late = queue.lease(ttl=9_000, worker=b"one").first
    soon = queue.lease(ttl=3_000, worker=b"two").first
    between = queue.lease(ttl=6_000, worker=b"").first
    everything = [
        (b"%d" % soon, START + 3_000, b"two", b"b"),
        (b"%d" % between, START + 6_000, b"", b"c"),
        (b"%d" % late, START + 9_000, b"one", b"a"),
    ]
    assert page(queue, 0, 1000) == (-1, everything)
    for offset in range(5):
        for count in range(1, 5):
            end = offset + count
            expected = (end if end < 3 else -1, everything[offset:end])
            assert page(queue, offset, count) == expected


def test_what_ran_out_is_still_held(queue: VirtualQueue) -> None:
    queue.rpush("a")
    queue.take(ttl=1_000)
    queue.sleep(60_000)
    assert [deadline for _, deadline, _, _ in page(queue, 0, 10)[1]] == [START + 1_000]


def test_nothing_is_held(queue: VirtualQueue) -> None:
    assert page(queue, 0, 10) == (-1, [])


def test_a_page_ends_early_when_it_is_large(queue: VirtualQueue) -> None:
    queue.rpush(*[b"x" * (1 << 18)] * 6)
    queue.take(4)
    queue.take(2)
    following, entries = page(queue, 0, 1000)
    assert following == len(entries) == 4
    assert len(page(queue, 4, 1000)[1]) == 2


def test_a_lease_whose_message_somebody_took_away_is_left_out(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    a, b = queue.take(2)
    queue.client.hdel(queue.key("leased").decode(), str(a))
    assert [token for token, _, _, _ in page(queue, 0, 10)[1]] == [b"%d" % b]


def test_bad_arguments(queue: VirtualQueue) -> None:
    queue.rpush("a", "b")
    queue.take(2)
    for offset in ("", "-1", "0.5", "x", "nan"):
        with queue.refused("ARGUMENT offset is not an integer from 0"):
            queue.call("leases", offset, 1)
    for count in ("", "0", "1001", "-1", "0.5", "x", "nan"):
        with queue.refused("ARGUMENT count is not an integer from 1 to 1000"):
            queue.call("leases", 0, count)

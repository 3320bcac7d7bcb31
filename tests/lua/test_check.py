"""lua/check.lua as it is called; all that it finds is in tests/contract/test_check.py."""

from typing import cast

import pytest

from pyqueue._keys import SUFFIXES
from tests.lua.harness import Arg, Reply, VirtualQueue
from tests.lua.scenes import SCENES, id_of, number_of

PARTS = ("waiting", *(name for name in SUFFIXES if name != "meta"), "keys")


def pages(queue: VirtualQueue, part: str, count: int) -> list[Reply]:
    """A part from its first page to its last."""
    result: list[Reply] = []
    cursor: Arg = 0
    while cursor != b"":
        with queue.unchanged():
            reply = queue.call("check", part, cursor, count)
        assert reply[0] == queue.now
        cursor = reply[1]
        result.append(reply)
    return result


def problems(queue: VirtualQueue, part: str, count: int = 1000) -> list[list[bytes]]:
    """Kind, where, ref, id, detail of each."""
    found: list[list[bytes]] = []
    for reply in pages(queue, part, count):
        given = cast("list[bytes]", reply[5 if part == "keys" else 8])
        found += [given[at : at + 5] for at in range(0, len(given), 5)]
    return found


def mend(queue: VirtualQueue, problem: list[bytes], *, write: bool = True) -> bytes:
    what, where, ref, id, detail = problem
    return cast("bytes", queue.call("repair", int(write), what, where, ref, id, detail, "", "", ""))


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("part", PARTS)
def test_a_sound_queue_has_no_problem(
    queue: VirtualQueue, make: type, part: str, count: int
) -> None:
    make(queue)
    assert problems(queue, part, count) == []


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
def test_every_item_is_met_once_whatever_the_size_of_a_page(
    queue: VirtualQueue, make: type
) -> None:
    make(queue)
    for part in ("waiting", "handoff", "priority", "delayed", "grouped", "leased", "dead"):
        counted = [
            [sum(page[at] for page in pages(queue, part, count)) for at in (2, 3, 4, 5)]
            for count in (1, 2, 1000)
        ]
        assert counted[0] == counted[1] == counted[2], part
        ids = [b"".join(page[7] for page in pages(queue, part, count)) for count in (1, 1000)]
        assert sorted(ids[0][i : i + 16] for i in range(0, len(ids[0]), 16)) == sorted(
            ids[1][i : i + 16] for i in range(0, len(ids[1]), 16)
        )


def test_it_says_where_an_id_is(queue: VirtualQueue) -> None:
    SCENES["features"](queue)
    message = queue.grouped()[0][2]
    id = id_of(number_of(message))
    reply = queue.call("check", "grouped", 0, 100, id, b"nowhere.........")
    assert reply[9].count(id) == 1
    assert b"nowhere........." not in reply[9]


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
def test_a_lease_without_its_message_and_one_without_its_deadline(
    queue: VirtualQueue, make: type
) -> None:
    make(queue)
    tokens = sorted(queue.leased())
    queue.client.hdel(queue.key("leased"), str(tokens[0]))
    queue.client.zrem(queue.key("leases"), tokens[1])
    found = problems(queue, "leases") + problems(queue, "leased")
    assert sorted(problem[2] for problem in found) == [b"%d" % token for token in tokens[:2]]
    for problem in found:
        with queue.unchanged():
            assert mend(queue, problem, write=False) == b"found"
        assert mend(queue, problem) == b"done"
        assert mend(queue, problem) == b"fine"
    assert problems(queue, "leases") + problems(queue, "leased") == []
    assert set(queue.leased()) in (set(tokens[1:]), set(tokens[2:]))


def test_bad_arguments(queue: VirtualQueue) -> None:
    for part in ("", "job2", "nothing"):
        with queue.refused("ARGUMENT"):
            queue.call("check", part, 0, 10)
    for count in ("0", "1001", "x", "nan", ""):
        with queue.refused("ARGUMENT"):
            queue.call("check", "waiting", 0, count)

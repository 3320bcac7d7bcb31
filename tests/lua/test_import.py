"""lua/import.lua"""

import struct

import pytest

from tests.lua.harness import START, Arg, Letter, VirtualQueue, envelope
from tests.lua.scenes import asking, busy, id_of, message


def record(
    content: bytes, reason: bytes = b"why", worker: bytes = b"w", error: bytes = b"boom"
) -> bytes:
    lengths = bytes([1, len(reason)]) + reason + bytes([len(worker)]) + worker
    return lengths + struct.pack(">H", len(error)) + error + content


def test_letters_come_back_as_they_were(queue: VirtualQueue) -> None:
    letters = {
        id_of(1): (START - 5_000, record(message(1))),
        id_of(2): (0, record(b"", b"", b"", b"")),
        b"\0" * 16: (10**15, record(b"\0\xff", b"r" * 255, b"w" * 255, b"e" * 2048)),
    }
    args: list[Arg] = [x for id, (died, letter) in letters.items() for x in (id, died, letter)]
    assert queue.call("import", *args) == []
    expected = {id: (died, Letter.unpack(letter)) for id, (died, letter) in letters.items()}
    assert queue.dead() == expected
    assert queue.counters() == {"imported": 3}
    _, following, *rest = queue.call("dead", 0, 100)
    assert following == -1
    assert rest[::3] == [id_of(2), id_of(1), b"\0" * 16]  # by the time of death
    with queue.unchanged():
        assert queue.again() == []


def test_what_was_exported_can_be_imported(queue: VirtualQueue) -> None:
    queue.push(*(message(number) for number in range(5)))
    queue.bury(*queue.take(5))
    before = queue.dead()
    exported = queue.call("dead", 0, 100)[2:]
    queue.call("purge", "dead")
    assert queue.call("import", *exported) == []
    assert queue.dead() == before
    assert queue.call("redrive", *before) == []
    assert len(queue.waiting()) == 5


def test_those_that_are_there_stay_as_they_are(queue: VirtualQueue) -> None:
    queue.call("import", id_of(1), START, record(b"old"))
    again: list[Arg] = [
        id_of(1),
        5,
        record(b"new"),
        id_of(2),
        6,
        record(b"two"),
        id_of(2),
        7,
        record(b"3"),
    ]
    assert queue.call("import", *again) == [0, 2]
    assert {id: (died, x.message) for id, (died, x) in queue.dead().items()} == {
        id_of(1): (START, b"old"),
        id_of(2): (6, b"two"),
    }
    assert queue.counters() == {"imported": 2}
    with queue.unchanged():
        assert queue.again() == [0, 2]


def test_into_a_queue_in_the_middle_of_its_life(queue: VirtualQueue) -> None:
    scene = busy(queue)
    leased, waiting, state = queue.leased(), queue.waiting(), queue.state()
    assert queue.call("import", id_of(50), START, record(message(50))) == []
    assert (queue.leased(), queue.waiting()) == (leased, waiting)
    assert queue.state().last == state.last
    assert len(queue.dead()) == 2
    assert queue.complete(*scene.tokens) == []
    assert queue.stats()["total_imported"] == 1
    assert queue.stats()["total_dead"] == 1


def test_letters_that_ask_for_something(queue: VirtualQueue) -> None:
    """Their keys and groups are those of the living, until they are redriven."""
    queue.ask(asking(1, unique="k"))
    letter = asking(2, unique="k", group="g", priority=3)
    assert queue.call("import", id_of(2), START, record(letter)) == []
    assert queue.holders("unique") == {b"k": id_of(1)}
    assert queue.call("redrive", id_of(2)) == [0]
    queue.complete(*queue.take())
    assert queue.call("redrive", id_of(2)) == []
    assert queue.lease().messages == [letter]


def test_a_letter_that_asks_on_a_queue_that_knows_no_features(queue: VirtualQueue) -> None:
    queue.call("import", id_of(2), START, record(asking(2, group="g")))
    assert queue.state().version == 1
    assert queue.call("redrive", id_of(2)) == []
    assert queue.state().version == 2
    assert queue.holders("groups") == {b"g": id_of(2)}


@pytest.mark.parametrize(
    "broken",
    [
        *(b"", b"\1", b"\1\3wh", b"\1\3why", b"\1\3why\1", b"\1\3why\1w", b"\1\3why\1w\0"),
        *(b"\1\3why\1w\0\4boo", b"\0\3why\1w\0\4boom", b"\2\3why\1w\0\4boom", b"\1\xff\1\0\0"),
        b"\1\0\0\xff\xff",
    ],
)
def test_what_is_no_letter(queue: VirtualQueue, broken: bytes) -> None:
    with queue.refused("ARGUMENT what is to be imported is no dead letter"):
        queue.call("import", id_of(1), START, record(b"x"), id_of(2), START, broken)


def test_bad_arguments(queue: VirtualQueue) -> None:
    for id in (b"", b"i" * 15, b"i" * 17):
        with queue.refused("ARGUMENT what is to be imported is no dead letter"):
            queue.call("import", id, START, record(b"x"))
    for died in ("-1", "0.5", "nan", "x", "", "1e16"):
        with queue.refused("ARGUMENT time of death is not an integer from 0"):
            queue.call("import", id_of(1), died, record(b"x"))
    with queue.refused("ARGUMENT"):
        queue.call("import")
    with queue.refused("ARGUMENT"):
        queue.call("import", id_of(1), START)
    with queue.refused("ARGUMENT"):
        queue.call("import", *[x for n in range(1001) for x in (id_of(n), 1, record(b""))])


def test_a_thousand(queue: VirtualQueue) -> None:
    many: list[Arg] = []
    for number in range(1000):
        many += (id_of(number), number, record(b"x"))
    assert queue.call("import", *many) == []
    assert len(queue.dead()) == 1000
    assert queue.call("import", *many) == list(range(1000))


def test_of_a_large_time_no_digit_is_lost(queue: VirtualQueue) -> None:
    queue.call("import", id_of(1), 1_799_999_999_999, record(envelope(b"x")))
    assert queue.dead()[id_of(1)][0] == 1_799_999_999_999

"""Call ids: no two calls may ever share one."""

import os
import pickle
import threading

import pytest

from pyqueue._calls import SLOT_BYTES, Slot, Slots


def test_a_slot_is_eight_random_bytes() -> None:
    slots = {Slot().id for _ in range(1000)}
    assert len(slots) == 1000
    assert {len(id) for id in slots} == {SLOT_BYTES} == {8}


def test_a_slot_that_is_in_use_is_not_given_out() -> None:
    slots = Slots()
    first, second = slots.take(), slots.take()
    assert first is not second
    slots.give(first)
    assert slots.take() is first


def test_the_one_used_last_comes_first() -> None:
    """So that what it leaves unresolved is resolved soon, and few slots are used at all."""
    slots = Slots()
    given = [slots.take() for _ in range(3)]
    for slot in given:
        slots.give(slot)
    assert slots.take() is given[-1]


def test_all_are_taken_out_at_once() -> None:
    slots = Slots()
    given = [slots.take() for _ in range(3)]
    for slot in given[:2]:
        slots.give(slot)
    assert set(slots.take_all()) == set(given[:2])
    assert slots.take_all() == []
    slots.give(given[2])
    assert slots.take_all() == [given[2]]


def test_threads_never_hold_the_same_slot() -> None:
    slots = Slots()
    held: set[bytes] = set()
    lock = threading.Lock()
    clashes = []

    def use() -> None:
        for _ in range(2_000):
            slot = slots.take()
            with lock:
                if slot.id in held:
                    clashes.append(slot.id)
                held.add(slot.id)
            with lock:
                held.remove(slot.id)
            slots.give(slot)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert 1 <= len(slots.take_all()) <= 8


def in_a_child(what: str) -> bytes:
    """What a forked child finds, with a slot of its parent's lying free."""
    slots = Slots()
    slot = slots.take()
    slots.give(slot)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if what == "take":
                os.write(write, slots.take().id)
            else:
                os.write(write, b"".join(slot.id for slot in slots.take_all()) or b"none")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    found = os.read(read, 100)
    os.close(read)
    assert slots.take() is slot
    return b"its parent's" if found == slot.id else found


def test_a_forked_child_has_slots_of_its_own() -> None:
    assert len(in_a_child("take")) == SLOT_BYTES


def test_a_forked_child_resolves_nothing_of_its_parents() -> None:
    assert in_a_child("take_all") == b"none"


def test_pickled_slots_are_new_ones() -> None:
    slots = Slots()
    slot = slots.take()
    slots.give(slot)
    copy = pickle.loads(pickle.dumps(slots))
    assert copy.take().id != slot.id


def test_a_slot_is_not_pickled_with_a_connection() -> None:
    slot = Slot()
    slot.connection = threading.Lock()
    with pytest.raises(TypeError):
        pickle.dumps(slot)

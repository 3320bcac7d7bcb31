"""The names of queues and of their keys."""

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from pyqueue import InvalidName, Queue
from pyqueue._keys import MAX_NAME_BYTES, SUFFIXES, Keys

VALID = [
    *("job2", "a", "A", "0", "a b", " ", "a:b", ":", ":meta", "a:meta", "meta", "a:", "größe", "✓"),
    *("\\", '"', "'", "*", "?", "[a]", "a\u2028b", "💥", "a" * 200),
    *("{a}x", "{a}b", "{a}xx", "{ab}x", "{a b}x y", "{:}x", "{meta}meta", "{a}x:", "{a}x:y"),
    *("{a}metax", "{a}meta", "{a}x:metax", "{a}x:Meta", "{ü}ß", "{a}" + "x" * 197),
]
INVALID = {
    "": "not valid",
    "{}": "not valid",
    "{a}": "not valid",
    "{}x": "not valid",
    "{a": "not valid",
    "a}": "not valid",
    "a}b": "not valid",
    "a{b}": "not valid",
    "a{b}c": "not valid",
    "{a}{b}": "not valid",
    "{a}x{b}": "not valid",
    "{{a}}x": "not valid",
    "{a}}x": "not valid",
    "}{": "not valid",
    "{a}:x": "not valid",
    "{a}:meta": "not valid",
    "{a}x:meta": "ends like an internal key",
    "{a}x:y:leases": "ends like an internal key",
    "a\nb": "control character",
    "a\0": "control character",
    "\x7f": "control character",
    "a\x9fb": "control character",
    "a\t": "control character",
    "a" * 201: "201 bytes long",
    "ü" * 101: "202 bytes long",
    "{a}" + "x" * 198: "201 bytes long",
    "\ud800": "UTF-8",
}


@pytest.mark.parametrize("name", VALID)
def test_a_name_that_can_be_used(name: str) -> None:
    keys = Keys(name)
    assert keys.name == name
    assert keys.waiting == name.encode()


@pytest.mark.parametrize("name", INVALID)
def test_a_name_that_cannot(name: str) -> None:
    with pytest.raises(InvalidName, match=INVALID[name]):
        Keys(name)


def test_an_invalid_name_is_a_value_error_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="not valid"):
        Queue("a{b}c", url="redis://127.0.0.1:1")


def test_a_queue_has_sixteen_keys() -> None:
    keys = Keys("job2")
    assert keys.all == (b"job2", *(b"{job2}:" + suffix.encode() for suffix in SUFFIXES))
    assert keys.handoff == b"{job2}:handoff"
    tagged = Keys("{tag}rest")
    assert tagged.all[0] == b"{tag}rest"
    assert tagged.all[1:] == tuple(b"{tag}rest:" + suffix.encode() for suffix in SUFFIXES)


def test_a_script_picks_its_keys_in_order() -> None:
    keys = Keys("a")
    assert keys.pick(("meta", "waiting", "calls0")) == (b"{a}:meta", b"a", b"{a}:calls0")
    everything = keys.pick(("dead", "waiting", "every"))
    assert everything[:2] == (b"{a}:dead", b"a")
    assert sorted(everything) == sorted(keys.all)
    with pytest.raises(KeyError):
        keys.pick(("leafs",))


@pytest.mark.parametrize("name", VALID)
def test_all_keys_are_in_one_cluster_slot(name: str) -> None:
    assert len({key_slot(key) for key in Keys(name).all}) == 1


def nasty_names() -> list[str]:
    """Names made of what is in keys, of up to four pieces."""
    pieces = ["a", "x", "{", "}", ":", "meta", "leases", "{a}", ":meta"]
    names = []
    for length in range(1, 5):
        for chosen in itertools.product(pieces, repeat=length):
            try:
                Keys(name := "".join(chosen))
            except InvalidName:
                continue
            names.append(name)
    return sorted(set(names) | set(VALID))


def test_no_key_belongs_to_two_queues() -> None:
    owner: dict[bytes, str] = {}
    names = nasty_names()
    assert len(names) > 300
    for name in names:
        for key in Keys(name).all:
            assert owner.setdefault(key, name) == name, (key, name, owner[key])


@given(st.text(alphabet="{}:ab" + string.whitespace + "\0é", max_size=12))
def test_any_text_is_a_name_or_is_refused(name: str) -> None:
    try:
        keys = Keys(name)
    except InvalidName:
        return
    assert len(set(keys.all)) == 16
    assert len({key_slot(key) for key in keys.all}) == 1
    assert len(keys.waiting) <= MAX_NAME_BYTES

"""A slice of `make fuzz`, and that its oracle sees what it is there for."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from tests.fuzz import __main__ as fuzzing
from tests.fuzz.cases import Case, Mutator, as_bytes, seeds
from tests.fuzz.oracle import Broken, judge, run
from tests.lua.harness import MAGIC, SCRIPTS, WAKE, envelope

SECONDS = 7


@pytest.mark.slow
def test_a_slice(client: redis.Redis) -> None:
    """`make fuzz FUZZ_SECONDS=…` does more; what breaks here is in the message, to be kept."""
    seed = random.randrange(2**32)
    report = fuzzing.fuzz(client, [*fuzzing.read(fuzzing.CORPUS), *seeds()], SECONDS, seed)
    assert not report.broken, f"seed {seed}\n{report}"
    assert report.cases > 30
    assert len(report.features) > 50


def test_the_same_seed_makes_the_same_cases() -> None:
    first, second = seeds()[0], seeds()[-1]
    made = [
        [mutator.mutate(first, second) for _ in range(50)]
        for mutator in (Mutator(7), Mutator(7), Mutator(8))
    ]
    assert made[0] == made[1] != made[2]


def test_there_is_a_first_case_for_each_verb() -> None:
    assert {step[0] for case in seeds() for step in case["steps"]} >= set(SCRIPTS)


def test_messages_are_what_the_protocol_says() -> None:
    assert as_bytes({"payload": "p", "id": "0123456789abcdef"}) == envelope(
        b"p", b"0123456789abcdef"
    )
    assert as_bytes({"cat": ["\0", {"rep": ["ab", 2]}]}) == b"\0abab"
    assert judge(WAKE).kind == "marker"
    assert judge(MAGIC).kind == "malformed"
    assert judge(b"apple").kind == "raw"
    assert judge(envelope(b"", headers=b"\x81\xa1k\x01")).kind == "envelope"
    assert judge(envelope(b"", headers=b"\x81\xa1k")).kind == "malformed"
    assert judge(envelope(b"", headers=b"\x81\xa1k\xc4\x00")).why == "bin or ext"


# That it notices


@contextmanager
def changed(verb: str, old: str, new: str) -> Iterator[None]:
    """A script with another text."""
    script = SCRIPTS[verb]
    assert old in script.source
    source = script.source.replace(old, new)
    # Its SHA is of no script that the server knows, so that it is sent.
    other = type(script)(
        **{name: getattr(script, name) for name in ("name", "keys", "args", "takes_call")},
        source=source,
        sha="0" * 40,
    )
    SCRIPTS[verb] = other
    try:
        yield
    finally:
        SCRIPTS[verb] = script


LEASED: Case = {"name": "job2", "steps": [["rpush", "a", "b"], ["lease", 1, 1000, "w"]]}
BAD: Case = {"name": "job2", "steps": [["rpush", "\0PQ\1", "b"], ["lease", 5, 1000, "w"]]}
DEEP: Case = {
    "name": "job2",
    "steps": [["push", "", {"headers": "\x81\xa1k\xc1", "payload": "p"}], ["stats"]],
}


@pytest.mark.parametrize(
    ("verb", "old", "new", "case", "said"),
    [
        ("lease", "redis.call('LPOP', waiting) -- half", "-- half", LEASED, "too many"),
        (
            "lease",
            "redis.call('HSET', leased, name, holder .. messages[1])",
            "redis.call('HSET', leased, name, holder .. 'other')",
            LEASED,
            "lost",
        ),
        (
            "lease",
            "spoiled[i] = { spoiled_first + i - 1, message,",
            "spoiled[i] = { spoiled_first + i - 1, 'x',",
            BAD,
            "lost",
        ),
        ("lease", "not pcall(cmsgpack.unpack,", "not cmsgpack.unpack(", DEEP, "raised"),
        ("lease", "if what == 'malformed' then", "if what == 'x' then", BAD, "malformed message"),
        ("stats", "return reply", "return reply .. 'x'", DEEP, "raised"),
        ("lease", "reply = { 'drained'", "reply = { 'paused'", LEASED, "answers b'paused'"),
    ],
)
def test_it_notices(
    client: redis.Redis, verb: str, old: str, new: str, case: Case, said: str
) -> None:
    assert run(client, case).calls > 0
    with changed(verb, old, new), pytest.raises(Broken, match=said):
        run(client, case)

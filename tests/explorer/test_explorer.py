"""A slice of the exploration, and whether it would find anything."""

import pytest
import redis

from pyqueue._scripts import Script
from tests.explorer.scenarios import SCENARIOS
from tests.explorer.search import Explorer, Found, walk
from tests.explorer.states import Kind

#: A broken script: which, what is taken out of it, what takes its place; in which scenario that
#: shows, after how many steps, and as what.
PLANTED = {
    "a copy of a lease call leases again": (
        ("lease", "if again then", "if false then"),
        ("work", 2, "has changed something"),
    ),
    "complete does not look what it removed": (
        ("complete", "if removed <= #ARGV - from then", "if false then"),
        ("work", 3, "I2: not [0] were lost"),
    ),
    "items whose lease was never seen stay leased": (
        ("lease", "if unseen then", "if false then"),
        ("work", 2, "I4: a is raw after a delivery"),
    ),
    "a late call is carried out": (
        ("complete", "if number < known then", "if false then"),
        ("work", 4, "has changed"),
    ),
    "a failure is not charged": (
        ("fail", "returned(message, token, 1, 0)", "returned(message, token, 0, 0)"),
        ("retries", 2, "I3, I7: a is waiting, not delayed"),
    ),
    "what comes after a suspect is leased with it": (
        ("lease", "alone = true\n", "\n"),
        ("retries", 3, "not leased alone"),
    ),
    "a lease that was held through an outage is reclaimed": (
        ("reclaim", "if now < guard_at + hold then", "if false then"),
        ("silence", 3, "I3, I7: a is waiting, not leased"),
    ),
    "a group's next is not let go": (
        ("complete", "if bit.band(flags, 16) ~= 0 then", "if false then"),
        ("groups", 2, "I3, I7: b is grouped, not delayed"),
    ),
    "what is dead keeps its dedupe key": (
        ("bury", "\nunbind(tokens)\n", "\n"),
        ("unique", 2, "the dedupe keys are"),
    ),
    "a follow-up is there, and what it follows too": (
        ("complete_push", "  forget({ ARGV[5] })\n", ""),
        ("pipeline", 2, "is leased"),
    ),
    "tokens follow the clock alone": (
        (
            "lease",
            "new_first, new_count = math.max(last + 1, micros)",
            "new_first, new_count = micros",
        ),
        ("work", 2, "I5"),
    ),
}


def explore(
    client: redis.Redis,
    name: str,
    *,
    states: int,
    items: int = 3,
    pushed: int = 2,
    planted: tuple[str, str, str] = ("", "", ""),
) -> Found:
    verb, old, new = planted

    def patch(script: Script) -> str:
        if script.name != verb:
            return script.source
        assert old in script.source
        return script.source.replace(old, new)

    explorer = Explorer(client, SCENARIOS[name], items, patch=patch)
    return walk(explorer.begin(3, pushed), explorer, depth=12, most=states)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slice(client: redis.Redis, name: str) -> None:
    asking = SCENARIOS[name].kinds != (Kind(),)
    found = explore(client, name, states=3_000, items=4 if asking else 3, pushed=3 if asking else 2)
    assert not found.violation, "\n".join(found.trace)
    assert found.states >= 3_000


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found_by_their_shortest_traces(client: redis.Redis, bug: str) -> None:
    planted, (name, steps, what) = PLANTED[bug]
    asking = SCENARIOS[name].kinds != (Kind(),)
    found = explore(client, name, states=10_000, items=4 if asking else 3, planted=planted)
    assert what in found.violation
    assert len(found.depths) - 1 == steps, "\n".join(found.trace)
    print("\n".join(found.trace))

"""A slice of the exploration, and whether it would find anything."""

from collections.abc import Collection
from dataclasses import replace

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
        ("fail", "returned(value, token, 1, 0)", "returned(value, token, 0, 0)"),
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
    "more are leased than are allowed at once": (
        ("lease", "if free < most then\n      most, reason = free, 'limit'", "if false then"),
        ("limits", 5, "max_leased"),
    ),
    "the rate is not charged for what was leased": (
        ("lease", "ahead, told = ahead + #messages * interval, 0", "told = 0"),
        ("limits", 1, "the bucket is"),
    ),
    "all who wait for the rate are told the same": (
        ("lease", "math.ceil(hint + told * interval / 1000)", "hint"),
        ("limits", 3, "wait is"),
    ),
    "a lease is extended for longer than is allowed": (
        ("extend", "tonumber(settings[2] or 1e13)", "1e13"),
        ("limits", 4, "I7: a deadline is"),
    ),
    "a full queue takes one more": (
        ("push", "if there + #ARGV - 5 > tonumber", "if there + #ARGV - 6 > tonumber"),
        ("limits", 1, "a push was not refused: FULL"),
    ),
    "what is purged keeps its dedupe key": (
        (
            "purge",
            "{ entry[3], asks.unique, i > 1 and asks.group }",
            "{ entry[3], nil, i > 1 and asks.group }",
        ),
        ("purge", 2, "the dedupe keys are"),
    ),
    "purged letters are dead for those who count": (
        ("purge", "redis.call('UNLINK', dead, died)", "redis.call('UNLINK', dead)"),
        ("purge", 2, "I3: dead are not died"),
    ),
    "a letter is imported twice": (
        ("import", "if redis.call('HEXISTS', dead, ARGV[i]) == 1 then", "if false then"),
        ("retries", 3, "are kept"),
    ),
    "a queue is deleted though items are leased": (
        (
            "delete",
            "live = live + math.max(redis.call('HLEN', leased), redis.call('ZCARD', leases))",
            "",
        ),
        ("purge", 2, "a deletion answered"),
    ),
    "a deleted queue keeps its dead letters": (
        (
            "delete",
            "redis.call('UNLINK', unpack(KEYS))",
            "redis.call('UNLINK', unpack(KEYS, 1, 6))",
        ),
        ("purge", 1, "something was not deleted"),
    ),
    "a follow-up goes into the next queue only by half": (
        (
            "complete_push",
            "local unique, unique_due, groups, grouped = KEYS[at + 5]",
            "local groups, unique, unique_due, grouped = KEYS[at + 5]",
        ),
        ("pipelines", 2, "the heads are"),
    ),
    "a follow-up is there, and what it follows is not dead": (
        ("fail_push", "if outcome == 2 then\n  local ended", "if outcome > 0 then\n  local ended"),
        ("pipelines", 2, "I1"),
    ),
    "a dead worker's call is carried out after a later one": (
        ("complete", "if number < known then", "if false then"),
        ("ghosts", 5, "has changed"),
    ),
    "calls without the keys of features are carried out": (
        ("complete", "if not grouped and bit.band(flags, 244) ~= 0 then", "if false then"),
        ("narrow", 4, "without the keys of the features"),
    ),
    "a call that is refused for its keys has written something": (
        (
            "release",
            "return redis.error_reply('WIDE the queue",
            "redis.call('HDEL', meta, 'max_attempts') return redis.error_reply('WIDE the queue",
        ),
        ("narrow", 4, "a call that was WIDE has changed something"),
    ),
    "sound leases are mended": (
        (
            "repair",
            "and (strange or not redis.call('ZSCORE', leases, ref))",
            "",
        ),
        ("purge", 2, "repair has mended something"),
    ),
    "a sound queue is found to be wrong": (
        ("check", "(redis.call('HGET', bound, name) or nil) ~= bond(message)", "true"),
        ("purge", 2, "check has found"),
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

#: Where that is deep: with which verbs and events alone.
ONLY = {
    "a late call is carried out": {"lease", "complete", "complete_and_lease", "late"},
    "more are leased than are allowed at once": {"push", "lease", "time"},
    "all who wait for the rate are told the same": {"lease", "lease_many", "unseen"},
    "a lease is extended for longer than is allowed": {"lease", "extend", "time"},
    "a dead worker's call is carried out after a later one": {
        *("lease", "complete", "lost", "death", "ghost"),
    },
}


def explore(
    client: redis.Redis,
    name: str,
    *,
    states: int,
    items: int = 3,
    pushed: int = 2,
    planted: tuple[str, str, str] = ("", "", ""),
    only: Collection[str] = (),
) -> Found:
    verb, old, new = planted

    def patch(script: Script) -> str:
        if script.name != verb:
            return script.source
        assert old in script.source
        return script.source.replace(old, new)

    scenario = SCENARIOS[name]
    if only:
        verbs = tuple(verb for verb in scenario.verbs if verb.__name__ in only)
        events = tuple(event for event in scenario.events if event in only)
        scenario = replace(scenario, verbs=verbs, events=events)
    explorer = Explorer(client, scenario, items, patch=patch)
    return walk(explorer.begin(3, pushed), explorer, depth=12, most=states)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slice(client: redis.Redis, name: str) -> None:
    asking = SCENARIOS[name].kinds != (Kind(),)
    found = explore(client, name, states=600, items=4 if asking else 3, pushed=3 if asking else 2)
    assert not found.violation, "\n".join(found.trace)
    assert found.states >= 600


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found_by_their_shortest_traces(client: redis.Redis, bug: str) -> None:
    planted, (name, steps, what) = PLANTED[bug]
    asking = SCENARIOS[name].kinds != (Kind(),)
    found = explore(
        client,
        name,
        states=10_000,
        items=4 if asking else 3,
        planted=planted,
        only=ONLY.get(bug, ()),
    )
    assert what in found.violation
    assert len(found.depths) - 1 == steps, "\n".join(found.trace)
    print("\n".join(found.trace))

"""``Queue.check``: every damage that can be done with plain commands is found and mended.

Each damage is made by hand, on a queue that uses every feature. Then: a check finds it and changes
nothing; a repair mends it; a second check finds nothing; and working the queue off gives every item
once, but for those that the damage took away.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, cast

import pytest
import redis

from pyqueue import Message, Queue, Report
from pyqueue._message import id_bytes
from tests.lua.harness import NEVER, WAKE, State, VirtualQueue, dump, envelope
from tests.servers import Server


@dataclass
class Scene:
    """A queue with something of everything."""

    queue: Queue
    inside: VirtualQueue
    client: redis.Redis
    #: Of what is leased: payload → token.
    tokens: dict[bytes, int]
    #: What was pushed and is not done.
    live: Counter[bytes]
    dead: Counter[bytes]

    def key(self, name: str) -> bytes:
        return self.inside.key(name)

    def message(self, payload: bytes) -> bytes:
        """The message in flight with this payload."""
        return next(x.message for x in self.queue.leases() if x.payload == payload)


@pytest.fixture
def scene(queue: Queue, clock: VirtualQueue, client: redis.Redis) -> Scene:
    queue.configure(max_leased=500, rate=1e6)
    queue.push_many([f"done {i}" for i in range(3)])
    queue.complete_many(queue.lease_many(3))
    queue.push_many([f"dead {i}" for i in range(3)])
    queue.bury_many(queue.lease_many(3), "why")
    queue.push("later", delay=30)
    queue.push("late in a group", group="late", delay=40)
    queue.push("behind it", group="late")
    queue.push("held", group="a", unique="held")
    queue.push_many(["a 1", "a 2"], group="a")
    queue.push_many([f"held {i}" for i in range(3)])
    client.rpush("job2", "raw held")
    tokens = {x.payload: x.token for x in queue.lease_many(5)}
    queue.push_many([f"plain {i}" for i in range(40)])
    client.rpush("job2", "raw", "raw", "")
    queue.push("waits", group="b", unique="waits")
    queue.push("b 1", group="b", unique="b 1")
    queue.push("windowed", unique="windowed", unique_for=10)
    queue.push_many(["high", "higher"], priority=5)
    queue.push("low", priority=-5, unique="low")
    client.lmove("job2", clock.key("handoff").decode(), "LEFT", "RIGHT")
    live = Counter(
        [
            *(b"later", b"late in a group", b"behind it", b"a 1", b"a 2", b"raw", b"raw", b""),
            *(b"waits", b"b 1", b"windowed", b"high", b"higher", b"low"),
            *(b"plain %d" % i for i in range(40)),
            *tokens,
        ]
    )
    assert set(tokens) == {b"held", b"held 0", b"held 1", b"held 2", b"raw held"}
    scene = Scene(queue, clock, client, tokens, live, Counter(b"dead %d" % i for i in range(3)))
    assert_sound(queue)
    return scene


def kinds(report: Report) -> Counter[str]:
    return Counter(finding.kind for finding in report.findings)


def assert_sound(queue: Queue) -> Report:
    report = queue.check()
    assert report.findings == []
    assert report.accounted is True
    assert report.ok
    return report


def work_off(scene: Scene) -> Counter[bytes]:
    """Hours later everything is done; what was given."""
    given: Counter[bytes] = Counter()
    held: dict[str, bytes] = {}
    for _ in range(200):
        scene.inside.sleep(100_000)
        batch = scene.queue.lease_many(500, ttl=50)
        if batch.drained:
            return given
        for lease in batch:
            # Of one group never two at once.
            assert lease.group is None or lease.group not in held, lease.payload
            if lease.group is not None:
                held[lease.group] = lease.payload
        given += Counter(lease.payload for lease in batch)
        assert all(scene.queue.complete_many(batch))
        held.clear()
    raise AssertionError("it is never drained")


Damage = Callable[[Scene], object]


def sequenced(message: bytes, number: int = 7) -> bytes:
    return struct.pack(">Q", number) + message


def copy_held(where: str) -> Damage:
    """Puts a second copy of an item in flight somewhere, and changes nothing else."""

    def damage(scene: Scene) -> None:
        message = scene.message(b"held 1")
        if where in ("waiting", "handoff"):
            scene.client.lpush(scene.key(where), message)
        elif where == "dead":
            scene.client.hset(scene.key(where), message[4:20], b"\1\0\0\0\0" + message)
            scene.client.zadd(scene.key("died"), {message[4:20]: 5})
        elif where == "leased":
            scene.client.hset(scene.key(where), "17", b"\0" + message)
            scene.client.zadd(scene.key("leases"), {"17": scene.inside.now + 5000})
        else:
            scene.client.zadd(scene.key(where), {sequenced(message): scene.inside.now + 5000})

    return damage


def second_in_list(scene: Scene) -> None:
    at = cast("bytes", scene.client.lindex("job2", 3))
    scene.client.rpush("job2", at)


def deep_second_in_list(scene: Scene) -> None:
    """Too deep to be taken out: a marker takes its place."""
    at = cast("bytes", scene.client.lindex("job2", 3))
    for _ in range(3):
        scene.client.rpush("job2", *(b"filling" for _ in range(9000)))
    scene.client.rpush("job2", at)
    for _ in range(3):
        scene.client.rpush("job2", *(b"filling" for _ in range(9000)))
    scene.live[b"filling"] += 54_000


def second_of_the_dead(scene: Scene) -> None:
    id, record = next(iter(cast("Any", scene.client.hgetall(scene.key("dead"))).items()))
    scene.client.hset(scene.key("dead"), b"another id 16 by", record)
    scene.client.zadd(scene.key("died"), {b"another id 16 by": 5})
    assert id != b"another id 16 by"


def second_that_is_raw(scene: Scene) -> None:
    """As a release that stopped half-way leaves it."""
    token = scene.tokens[b"raw held"]
    id = struct.pack(">Q", token // 1000)[2:] + struct.pack(">H", 0x7000 + token % 1000)
    scene.client.lpush("job2", envelope(b"raw held", id + b"\x80raw\0\0\0\0", deliveries=1))


def set_state(**fields: object) -> Damage:
    return lambda scene: scene.inside.change_state(**fields)


def set_field(name: str, value: str) -> Damage:
    return lambda scene: scene.client.hset(scene.key("meta"), name, value)


def drop_head(scene: Scene) -> None:
    """A foreign LREM takes the head of a group."""
    waits = next(x for x in scene.queue.waiting() if x.payload == b"waits")
    assert scene.client.lrem("job2", 1, waits.message) == 1  # type: ignore[arg-type]


def lost_pair(where: str, other: str) -> Damage:
    def damage(scene: Scene) -> None:
        name = b"%d" % scene.tokens[b"held"]
        scene.client.hdel(scene.key(where), name)
        scene.client.zrem(scene.key(other), name)

    return damage


@dataclass(frozen=True)
class Case:
    damage: Damage
    #: The kinds of what is found.
    found: Collection[str]
    lost: Collection[bytes] = ()
    #: Payloads that become live, or dead.
    born: Collection[bytes] = ()
    died: Collection[bytes] = ()
    undead: Collection[bytes] = ()


def delete(name: str) -> Damage:
    return lambda scene: scene.client.delete(scene.key(name))


def held_field(verb: str, where: str, payload: bytes = b"held") -> Damage:
    return lambda scene: getattr(scene.client, verb)(scene.key(where), scene.tokens[payload])


BOOKS = {"missing", "unknown"}
GONE = b"an id of nobody!"
ALL_HELD = (b"held", b"held 0", b"held 1", b"held 2", b"raw held")
CASES = {
    "a lease's message is deleted": Case(held_field("hdel", "leased"), ["lease"], [b"held"]),
    "a lease's deadline is deleted": Case(held_field("zrem", "leases"), ["leased"]),
    "a lease is deleted": Case(
        lost_pair("leased", "leases"), ["special", "head", "key", "missing"], [b"held"]
    ),
    "leases is deleted": Case(delete("leases"), ["leased"]),
    "leased is deleted": Case(delete("leased"), ["lease"], ALL_HELD),
    "special is deleted": Case(delete("special"), ["special"]),
    "groups is deleted": Case(delete("groups"), ["unled"]),
    "unique is deleted": Case(delete("unique"), ["unheld", "due"]),
    "unique_due is deleted": Case(delete("unique_due"), ["due"]),
    "died is deleted": Case(delete("died"), ["died"]),
    "dead is deleted": Case(
        delete("dead"), ["dead", "missing"], died=(b"dead 0", b"dead 1", b"dead 2")
    ),
    "grouped is deleted": Case(
        delete("grouped"), ["missing", "key"], [b"a 1", b"a 2", b"behind it", b"b 1"]
    ),
    "priority is deleted": Case(
        delete("priority"), ["missing", "key"], [b"high", b"higher", b"low"]
    ),
    "a copy in the list": Case(copy_held("waiting"), ["surplus"]),
    "a copy in the handoff": Case(copy_held("handoff"), ["surplus"]),
    "a copy in priority": Case(copy_held("priority"), ["surplus"]),
    "a copy in delayed": Case(copy_held("delayed"), ["surplus", "event"]),
    "a copy among the dead": Case(copy_held("dead"), ["surplus"]),
    "a copy that is leased": Case(copy_held("leased"), ["surplus", "event"]),
    "two in the list": Case(second_in_list, ["surplus"]),
    "two in a long list": Case(deep_second_in_list, ["surplus"]),
    "two among the dead": Case(second_of_the_dead, ["surplus"]),
    "a raw one's copy": Case(second_that_is_raw, ["surplus"]),
    "a group's head is deleted": Case(drop_head, ["head", "key", "missing"], [b"waits"]),
    "a group's head is somebody else": Case(
        lambda s: s.client.hset(s.key("groups"), "b", GONE), ["unled"]
    ),
    "a group of nobody": Case(lambda s: s.client.hset(s.key("groups"), "zz", GONE), ["head"]),
    "a key of nobody": Case(
        lambda s: s.client.hset(s.key("unique"), "zz", GONE + bytes(6)), ["key"]
    ),
    "a key's value is cut": Case(lambda s: s.client.hset(s.key("unique"), "zz", "x"), ["due"]),
    "a key's time of nobody": Case(
        lambda s: s.client.zadd(s.key("unique_due"), {"zz": 7}), ["due"]
    ),
    "a key would end": Case(lambda s: s.client.zadd(s.key("unique_due"), {"held": 7}), ["due"]),
    "a bond of nobody": Case(
        lambda s: s.client.hset(s.key("special"), "77", GONE + b"\0\0x"), ["special"]
    ),
    "no event is known": Case(set_state(event=NEVER), ["event"]),
    "no feature is known": Case(set_state(flags=1 << 31), ["flags"]),
    "times in the future": Case(
        lambda s: s.inside.change_state(called=s.inside.now + 10**9, rotated=s.inside.now + 10**9),
        ["clock"],
    ),
    "the last token is lost": Case(set_state(last=5), ["tokens"]),
    "a broken bucket": Case(set_field("bucket", "x"), ["field"]),
    "a broken setting": Case(set_field("max_leased", "many"), ["field"]),
    "a broken counter": Case(set_field("released", "x"), ["field"]),
    "a TTL": Case(lambda s: s.client.expire(s.key("leased"), 1000), ["ttl"]),
    "a TTL on the list": Case(lambda s: s.client.expire("job2", 1000), ["ttl"]),
    "a broken record of a call": Case(
        lambda s: s.client.hset(s.key("calls1"), "somebody", "x"), ["call"]
    ),
    "an unreadable lease": Case(
        lambda s: s.client.hset(s.key("leased"), str(s.tokens[b"held 0"]), b"\xffx"),
        ["damaged", "missing"],
        [b"held 0"],
        undead=[b"\xffx"],
    ),
    "an empty lease": Case(
        lambda s: s.client.hset(s.key("leased"), str(s.tokens[b"held"]), b""),
        ["damaged", "missing"],
        [b"held"],
        undead=[b""],
    ),
    "a lease of no token": Case(
        lambda s: s.client.hset(s.key("leased"), "abc", b"\0" + envelope(b"new", b"z" * 16)),
        ["leased", "unknown"],
        born=[b"new"],
    ),
    "no member of delayed": Case(
        lambda s: s.client.zadd(s.key("delayed"), {"x": 7}), ["damaged", "event"], undead=[b"x"]
    ),
    "no member of priority": Case(
        lambda s: s.client.zadd(s.key("priority"), {"x": 7}), ["damaged"], undead=[b"x"]
    ),
    "no member of grouped": Case(
        lambda s: s.client.zadd(s.key("grouped"), {"x": 0, "x\0y": 0}),
        ["damaged"],
        undead=[b"x", b"x\0y"],
    ),
    "a broken dead letter": Case(
        lambda s: s.client.hset(s.key("dead"), id_bytes(next(s.queue.dead()).id), b"\1xy"),
        ["damaged", "missing"],
        died=[b"dead 0"],
        undead=[b"\1xy"],
    ),
    "a foreign LPOP": Case(
        lambda s: s.client.lpop("job2", 2), ["missing"], [b"plain 1", b"plain 2"]
    ),
    "an envelope by RPUSH": Case(
        lambda s: s.client.rpush("job2", envelope(b"foreign", b"y" * 16)),
        ["unknown"],
        born=[b"foreign"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_damage_is_found_and_mended(scene: Scene, name: str) -> None:
    case = CASES[name]
    case.damage(scene)
    before = unexpiring(scene.client)
    report = scene.queue.check()
    # That a mended entry makes items too many or too few shows afterwards.
    assert set(kinds(report)) >= (set(case.found) - BOOKS or set(case.found)), report.findings
    assert not report.ok
    assert not any(finding.repaired for finding in report.findings)
    assert unexpiring(scene.client) == before

    report = scene.queue.check(repair=True)
    # To give a lost key back to its item can end another finding before it was mended.
    assert set(kinds(report)) == set(case.found), report.findings
    assert report.ok, report.findings
    dump(scene.client)  # no key has a TTL
    assert_sound(scene.queue)

    dead = Counter(letter.payload for letter in scene.queue.dead())
    assert dead == scene.dead - Counter(case.died) + Counter(case.undead)
    assert work_off(scene) == scene.live - Counter(case.lost) + Counter(case.born)
    assert_sound(scene.queue)
    assert scene.queue.stats().groups == 0


def unexpiring(client: redis.Redis) -> object:
    """What a server holds; TTLs are looked at elsewhere."""
    return [(key, client.dump(key)) for key in sorted(cast("list[bytes]", client.keys("*")))]


def test_markers_among_the_items_are_no_damage_and_are_tidied_up(scene: Scene) -> None:
    waiting = scene.queue.stats().waiting
    for _ in range(3):
        scene.client.linsert("job2", "AFTER", "raw", WAKE)  # type: ignore[arg-type]
    assert scene.queue.stats().waiting == waiting + 3
    assert_sound(scene.queue)
    assert scene.queue.check(repair=True).findings == []
    assert scene.queue.stats().waiting == waiting
    assert work_off(scene) == scene.live


def test_a_foreign_type_is_told_and_left_alone(scene: Scene) -> None:
    scene.client.delete(scene.key("unique_due"))
    scene.client.set(scene.key("unique_due"), "somebody else's")
    for repair in (False, True):
        report = scene.queue.check(repair=repair)
        (finding,) = report.findings
        assert (finding.kind, finding.where) == ("type", "unique_due")
        assert "string" in finding.text
        assert not report.ok
        assert report.accounted is None
    assert scene.client.get(scene.key("unique_due")) == b"somebody else's"


def test_the_same_id_with_another_payload_is_no_copy(scene: Scene) -> None:
    message = scene.message(b"held 1")
    scene.client.rpush("job2", message[:27] + b"something else")
    for repair in (False, True):
        report = scene.queue.check(repair=repair)
        assert "differs" in kinds(report)
        assert not report.ok
    given = work_off(scene)
    assert given == scene.live + Counter([b"something else"])
    assert_sound(scene.queue)


def test_two_live_items_of_a_group_or_with_a_key_are_told(scene: Scene) -> None:
    """Both are there, and both are somebody's: nothing can be taken away."""
    for number, payload in ((1, b"held"), (2, b"waits")):
        found = [*scene.queue.waiting(), *scene.queue.leases()]
        message = next(x.message for x in found if x.payload == payload)
        scene.client.rpush("job2", message[:4] + bytes([number]) * 16 + message[20:])
    for repair in (False, True):
        report = scene.queue.check(repair=repair)
        assert {"rival", "conflict"} <= set(kinds(report))
        assert not report.ok
    for _ in range(10):
        scene.inside.sleep(100_000)
        scene.queue.complete_many(scene.queue.lease_many(500))
    assert_sound(scene.queue)


def test_a_raw_message_that_was_never_leased_is_out_of_sight(scene: Scene) -> None:
    assert scene.client.lrem("job2", 1, "raw") == 1
    assert_sound(scene.queue)
    scene.client.rpush("job2", "raw", "raw")
    assert_sound(scene.queue)


def test_raw_messages_that_were_purged_are_no_loss(queue: Queue, client: redis.Redis) -> None:
    client.rpush("job2", "a", "b")
    queue.push("c")
    assert queue.purge() == 3
    report = queue.check()
    assert (report.ok, report.accounted, report.findings) == (True, None, [])
    assert "purged" in report.notes[0]


def test_an_empty_queue_and_a_plain_list_are_sound(queue: Queue, client: redis.Redis) -> None:
    assert_sound(queue)
    assert dump(client) == {}
    client.rpush("job2", "a", "b")
    report = assert_sound(queue)
    assert (report.items["waiting"], report.raw) == (2, 2)
    assert queue.check(repair=True).ok
    assert list(dump(client)) == ["job2"]


@pytest.mark.parametrize("state", [None, b"", b"\1", State().pack()[:-1], bytes(63)])
def test_a_state_that_is_lost_or_damaged_is_made_anew(
    queue: Queue, client: redis.Redis, state: bytes | None
) -> None:
    queue.push("first", priority=3)
    queue.push("held", group="a", unique="u")
    queue.push("behind", group="a")
    held = queue.lease_many(2)
    queue.push("later", delay=0.2)
    queue.seal()
    meta = VirtualQueue.__new__(VirtualQueue)  # names of keys only
    meta.keys = queue._keys
    if state is None:
        client.delete(meta.key("meta"))
    else:
        client.hset(meta.key("meta"), "state", state)
    report = queue.check()
    assert "state" in kinds(report)
    assert "seal" in report.findings[0].text
    report = queue.check(repair=True)
    assert {"state", "unknown"} <= set(kinds(report))
    assert report.ok
    assert_sound(queue)
    assert not queue.stats().sealed
    queue.push("more")
    assert all(queue.complete_many(held))
    tokens = [lease.token for lease in held]
    for lease in queue.drain(ttl=10):
        with lease:
            assert lease.token > max(tokens)
            tokens.append(lease.token)
    assert len(tokens) == 5
    assert_sound(queue)


def test_a_newer_state_is_not_touched(queue: Queue, client: redis.Redis) -> None:
    from pyqueue import SchemaMismatch

    queue.push("a")
    key = queue._keys.pick(("meta",))[0]
    client.hset(key, "state", State(version=9).pack())
    before = dump(client)
    with pytest.raises(SchemaMismatch):
        queue.check(repair=True)
    assert dump(client) == before


def test_the_report_for_json(scene: Scene) -> None:
    scene.client.hdel(scene.key("leased"), str(scene.tokens[b"held 0"]))
    found = scene.queue.check().as_dict()
    assert found["ok"] is False
    assert found["accounted"] is not None
    (finding,) = cast("list[dict[str, object]]", found["findings"])
    assert finding["kind"] == "lease"
    assert finding["what"] == str(scene.tokens[b"held 0"])


# Any damage


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_can_be_mended(scene: Scene, seed: int) -> None:
    """Keys, fields and members are deleted at random; whatever is left is worked off, once."""
    choose = random.Random(seed)
    client, keys = scene.client, scene.queue._keys
    names = [name for name in keys._names if client.exists(keys._names[name])]
    names.remove("meta")  # would be no queue for tests any more
    for _ in range(choose.randint(1, 6)):
        name = choose.choice(names)
        key = keys._names[name]
        kind = client.type(key)
        if choose.random() < 0.15:
            client.delete(key)
        elif kind == b"hash":
            fields = sorted(cast("dict[bytes, bytes]", client.hgetall(key)))
            client.hdel(key, *choose.sample(fields, min(len(fields), 2)))
        elif kind == b"zset":
            members = cast("list[bytes]", client.zrange(key, 0, -1))
            client.zrem(key, *choose.sample(members, min(len(members), 2)))
        elif kind == b"list":
            client.lset(key, choose.randrange(client.llen(key)), "to be removed")
            client.lrem(key, 1, "to be removed")
    scene.queue.check(repair=True)
    report = scene.queue.check()
    assert report.findings == [], seed
    assert report.accounted is True
    given = work_off(scene)
    assert given <= scene.live, seed
    missing = scene.queue.stats().totals["missing"]
    report = assert_sound(scene.queue)
    assert missing >= 0
    assert sum(report.items.values()) == report.items["dead"]
    # What was lost is what somebody deleted, and no more.
    stats = scene.queue.stats().totals
    adjusted = int(cast("bytes | None", client.hget(scene.key("meta"), "adjusted")) or 0)
    came = stats["pushed"] + stats["raw"] + adjusted
    assert came == stats["completed"] + missing + report.items["dead"]


# A queue that is at work

STOP = "stop the fleet"


def produce(url: str, seed: int) -> Counter[bytes]:
    """Pushes with every option until it is told to stop; returns what it has pushed."""
    choose, pushed = random.Random(seed), Counter[bytes]()
    with Queue("job2", url=url) as queue:
        while not queue._client.exists(STOP):
            payload = f"{seed} {sum(pushed.values())}"
            options: dict[str, Any] = {}
            if choose.random() < 0.4:
                options["group"] = f"group {choose.randrange(20)}"
            if choose.random() < 0.3:
                options["unique"] = payload
            if choose.random() < 0.1:
                options |= {"unique": payload, "unique_for": 0.01}
            if choose.random() < 0.2:
                options["priority"] = choose.randint(-3, 3)
            if choose.random() < 0.2:
                options["delay"] = choose.random() / 20
            if queue.stats().live < 300:
                queue.push(payload, **options)
                pushed[payload.encode()] += 1
    return pushed


def work(url: str, seed: int) -> Counter[bytes]:
    """Settles in every way until it is told to stop and nothing is left; returns what is done."""
    choose, done = random.Random(seed), Counter[bytes]()
    with Queue("job2", url=url) as queue:
        while not (queue._client.exists(STOP) and queue.stats().drained):
            for lease in queue.lease_many(choose.randint(1, 10), ttl=30, wait=0.05):
                chance = choose.random()
                if chance < 0.7:
                    lease.complete()
                    done[lease.payload] += 1
                elif chance < 0.75:
                    lease.complete(push=Message(payload=lease.payload, group="follow"))
                elif chance < 0.85:
                    lease.release()
                elif chance < 0.97:
                    lease.fail(retry_in=choose.choice([0, 0.01]))
                else:
                    lease.bury("why")
            if choose.random() < 0.05:
                queue.redrive()
    return done


def test_a_busy_queue_is_found_sound(server: Server, queue: Queue, client: redis.Redis) -> None:
    """Processes go on while it is checked and repaired again and again: nothing is found, nothing
    is broken.
    """
    queue.configure(max_attempts=1000)
    with ProcessPoolExecutor(5, mp_context=get_context("spawn")) as fleet:
        producers = [fleet.submit(produce, server.url, seed) for seed in range(2)]
        workers = [fleet.submit(work, server.url, seed) for seed in range(3)]
        try:
            for number in range(40):
                report = queue.check(repair=number % 2 == 1)
                assert report.findings == []
                assert not any(future.done() for future in producers + workers)
        finally:
            client.set(STOP, "1")
        pushed = sum((future.result(60) for future in producers), Counter[bytes]())
        done = sum((future.result(60) for future in workers), Counter[bytes]())
    while queue.redrive():
        for lease in queue.drain(ttl=30):
            with lease:
                done[lease.payload] += 1
    assert done == pushed
    assert sum(pushed.values()) > 200
    assert_sound(queue)

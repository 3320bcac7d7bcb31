"""What a push can ask for and a queue can be configured with, on the command line."""

import json
import time

import pytest

from pyqueue import Queue
from tests.cli.test_operators import bury, waiting
from tests.cli.tools import Cli, numbers, sh
from tests.servers import wait_until

ID = "01a209c4-6d0b-76d6-8569-51ce914667aa"


def test_push_takes_every_option(cli: Cli, queue: Queue) -> None:
    options = {
        "--delay": "60",
        "--priority": "-7",
        "--unique": "key",
        "--group": "user-42",
        "--max-attempts": "2",
        "--backoff": "0.5",
        "--backoff-max": "9",
        "--id": ID,
        "--header": "k=v",
    }
    done = cli("push", "job2", "apple", *[x for pair in options.items() for x in pair])
    assert (done.code, done.err) == (0, "job2: 1 item pushed\n")
    (item,) = queue.waiting()
    assert (item.id, item.priority, item.unique, item.group) == (ID, -7, "key", "user-42")
    assert (item.text, item.headers) == ("apple", {"k": "v"})
    assert 50 < item.due_in <= 60
    own = item._parts().headers
    assert (own[":max_attempts"], own[":backoff"], own[":backoff_max"]) == (2, 0.5, 9)


def test_what_has_the_key_is_not_pushed_again(cli: Cli, queue: Queue) -> None:
    first = cli("push", "job2", "apple", "--unique", "key", "--ids")
    again = cli("push", "job2", "banana", "cherry", "--unique", "key", "--ids")
    assert again.text.split() == [first.text.strip()] * 2
    assert again.err == "job2: 0 items pushed, 2 were there already\n"
    assert waiting(queue) == ["apple"]
    assert cli("work", "job2", "--", "true").code == 0
    assert cli("push", "job2", "banana", "--unique", "key").err == "job2: 1 item pushed\n"


def test_payloads_as_keys(cli: Cli, queue: Queue) -> None:
    """Also those that are no text, or too long for a key."""
    long = b"x" * 300
    lines = [b"apple", b"banana", b"apple", b"\xff", b"\xff", long, long + b"y", long, b"", b""]
    done = cli("push", "job2", "--stdin", "--unique-payload", input=b"\n".join(lines) + b"\n")
    assert done.err.startswith("job2: 6 items pushed, 4 were there already")
    expected = list(dict.fromkeys(lines))
    assert [item.payload for item in queue.waiting()] == expected
    # The library's users take the payload itself as the key.
    assert queue.push("more", unique="banana") == [item.id for item in queue.waiting()][1]


def test_a_key_that_holds_for_a_time(cli: Cli, queue: Queue) -> None:
    push = ("push", "job2", "apple", "--unique", "key", "--unique-for", "600")
    cli(*push)
    cli("work", "job2", "--", "true")
    assert cli(*push).err == "job2: 0 items pushed, 1 was there already\n"
    assert queue.stats().drained


def test_an_id_is_taken_once(cli: Cli, queue: Queue) -> None:
    for expected in ("1 item pushed", "0 items pushed, 1 was there already"):
        assert cli("push", "job2", "apple", "--id", ID).err == f"job2: {expected}\n"
    assert waiting(queue) == ["apple"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("a", "--unique", "k", "--unique-payload"), "either --unique or --unique-payload"),
        (("a", "--unique-for", "3"), "--unique-for goes with"),
        (("a", "b", "--id", ID), "--id goes with one ITEM"),
        (("a", "--id", "mine"), "not a valid UUID"),
        (("a", "--unique", ""), "unique must be from 1 to 255 bytes"),
        (("a", "--group", "g" * 256), "group must be from 1 to 255 bytes"),
        (("a", "--priority", "1048577"), "1048577 is not in the range"),
        (("a", "--delay", "-1"), "-1.0 is not in the range"),
        (("a", "--max-attempts", "0"), "0 is not in the range"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_makes_no_sense_is_refused(
    cli: Cli, queue: Queue, args: tuple[str, ...], text: str
) -> None:
    done = cli("push", "job2", *args)
    assert done.code == 2
    assert text in " ".join(done.err.split())
    assert queue.stats().live == 0


# --- configure


def test_configure_sets_shows_and_unsets(cli: Cli, queue: Queue) -> None:
    assert cli("configure", "job2").text == "job2: nothing is set: the defaults hold\n"
    args = ("--max-leased", "5", "--rate", "0.5", "--burst", "3", "--ttl", "2.5")
    more = ("--max-lease", "60", "--max-waiting", "1000", "--max-bytes", "4096")
    rest = ("--max-attempts", "2", "--backoff", "0.25", "--backoff-max", "8")
    (found,) = cli("configure", "job2", *args, *more, *rest, "--json").objects
    expected = {
        "max_leased": 5,
        "rate": 0.5,
        "burst": 3,
        "ttl": 2.5,
        "max_lease": 60,
        "max_waiting": 1000,
        "max_bytes": 4096,
        "max_attempts": 2,
        "backoff": 0.25,
        "backoff_max": 8,
    }
    assert found == {"queue": "job2", **expected}
    assert queue.stats().configuration == expected
    text = cli("configure", "job2").text
    assert "job2: max-waiting 1,000\n" in text
    assert len(text.splitlines()) == len(expected)
    stats = cli("stats", "job2").text.splitlines()
    assert any(line.split() == ["max-waiting", "1,000"] for line in stats)
    unset = [x for name in expected for x in ("--" + name.replace("_", "-"), "default")]
    assert cli("configure", "job2", *unset).text == "job2: nothing is set: the defaults hold\n"


def test_configure_refuses_what_is_out_of_range(cli: Cli, queue: Queue) -> None:
    queue.configure(ttl=5)
    for args, code in (
        (("--ttl", "-1"), 2),
        (("--burst", "1.5"), 2),
        (("--rate", "fast"), 2),
        (("--rate", "0"), 1),
        (("--max-attempts", "0"), 1),
        (("--ttl", "0"), 1),
        (("--ttl", "nan"), 2),
    ):
        done = cli("configure", "job2", *args)
        assert (done.code, done.out) == (code, b""), args
        assert args[0].strip("-").replace("-", "_") in done.err.replace("-", "_"), args
    assert queue.stats().configuration == {"ttl": 5}


def test_a_full_queue_refuses_a_push(cli: Cli, queue: Queue) -> None:
    cli("configure", "job2", "--max-waiting", "2", "--max-bytes", "3")
    assert cli("push", "job2", "a", "b").code == 0
    full = cli("push", "job2", "c")
    assert full.code == 1
    assert "2 messages wait, and the queue takes at most 2" in full.err
    cli("work", "job2", "--", "true")
    large = cli("push", "job2", "long")
    assert large.code == 1
    assert "4 bytes, the queue takes at most 3" in large.err
    assert queue.stats().drained


# --- looking


def test_peek_and_stats_show_priorities_groups_and_what_is_due(cli: Cli, queue: Queue) -> None:
    queue.push("plain")
    assert cli("peek", "job2").text.split()[:4] == ["STATE", "ID", "ATTEMPTS", "PAYLOAD"]
    queue.push("first", priority=5)
    queue.push_many(["g1", "g2", "g3"], group="user-42")
    queue.push("later", delay=600, unique="key")
    titles, *lines = cli("peek", "job2").text.splitlines()
    assert titles.split() == ["STATE", "ID", "ATTEMPTS", "PRIORITY", "GROUP", "PAYLOAD"]
    rows = [line.split() for line in lines]
    assert [row[-1] for row in rows] == ["first", "plain", "g1", "later", "g2", "g3"]
    assert rows[0][1] == "priority"
    assert rows[0][-2] == "5"
    assert rows[2][-2] == rows[5][-2] == "user-42"
    assert rows[3][1:3] == ["due", "in"]
    first, *_, last = cli("peek", "job2", "--json").objects
    assert (first["priority"], first["group"]) == (5, None)
    assert (last["state"], last["group"]) == ("grouped", "user-42")
    stats = [line.split() for line in cli("stats", "job2").text.splitlines()]
    assert ["grouped", "2", "of", "1", "group", "that", "have", "items"] in stats
    assert ["dedupe", "keys", "taken", "1"] in stats
    (found,) = cli("stats", "job2", "--json").objects
    assert (found["grouped"], found["groups"], found["unique"]) == (2, 1, 1)
    assert found["configuration"] == {}


# --- dead letters


def test_dead_letters_survive_a_purge_as_a_file(cli: Cli, queue: Queue) -> None:
    queue.push(b"\xff\0", priority=3, group="g")
    lease = queue.lease()
    assert lease is not None
    lease.bury("bad", "two\nlines")
    bury(queue, "größe", "worse")
    before = list(queue.dead())
    exported = cli("dead", "job2", "--export")
    assert [x["reason"] for x in exported.objects] == ["bad", "worse"]
    assert ["payload" in x for x in exported.objects] == [False, True]
    cli("purge", "job2", "--dead", "--yes")
    done = cli("import-dead", "job2", input=exported.out + b"\n")
    assert (done.code, done.text) == (0, "job2: 2 dead letters imported\n")
    again = cli("import-dead", "job2", "--json", input=exported.out)
    assert again.objects == [{"queue": "job2", "imported": 0, "there_already": 2}]
    after = list(queue.dead())
    assert [x.as_dict() for x in after] == [x.as_dict() for x in before]
    assert cli("redrive", "job2").text == "job2: 2 items redriven\n"
    items = list(queue.waiting())
    assert [(x.payload, x.priority, x.group) for x in items] == [
        (b"\xff\0", 3, "g"),
        ("größe".encode(), 0, None),
    ]


def test_export_gives_all_unless_told_how_many(cli: Cli, queue: Queue) -> None:
    ids = [bury(queue, "x") for _ in range(12)]
    assert [x["id"] for x in cli("dead", "job2", "--export").objects] == ids
    assert [x["id"] for x in cli("dead", "job2", "--export", "-n", "2").objects] == ids[:2]


def test_import_stops_at_what_is_no_dead_letter(cli: Cli, queue: Queue) -> None:
    bury(queue, "x")
    exported = cli("dead", "job2", "--export").out
    whole = json.loads(exported)
    for broken, text in (
        (b"nonsense", "Expecting value"),
        (b"[]", "'died_at'"),
        (json.dumps(whole | {"message": "?"}).encode(), "not base64"),
        (json.dumps(whole | {"id": "mine"}).encode(), "badly formed"),
        (json.dumps(whole | {"reason": 1}).encode(), "'reason' of a dead letter is text"),
        (json.dumps(whole | {"died_at": -1}).encode(), "seconds since the epoch, not -1"),
    ):
        queue.purge("dead")
        done = cli("import-dead", "job2", input=exported + broken + b"\n" + exported)
        assert done.code == 1
        assert "line 2 is no exported dead letter" in done.err
        assert text in done.err
        assert [x.id for x in queue.dead()] == [whole["id"]]


def test_redrive_some(cli: Cli, queue: Queue) -> None:
    for number in range(6):
        bury(queue, str(number), "odd" if number % 2 else "even")
    assert cli("redrive", "job2", "--reason", "odd", "--limit", "2").code == 0
    assert waiting(queue) == ["1", "3"]
    cli("redrive", "job2", "--limit", "2")
    assert waiting(queue) == ["1", "3", "0", "2"]
    refused = cli("redrive", "job2", ID, "--limit", "2")
    assert refused.code == 2
    assert "either ids, or --reason and --limit" in refused.err


# --- work


def test_a_worker_takes_the_queues_own_ttl_and_keeps_its_lease_with_it(
    cli: Cli, queue: Queue
) -> None:
    """The program runs for longer than the lease would last without a heartbeat."""
    queue.configure(ttl=0.6)
    queue.push("apple")
    worker = cli.start("work", "job2", *sh("touch started; sleep 2"))
    wait_until((cli.directory / "started").exists, "it runs", 60)
    (item,) = queue.leases()
    assert item.expires_in <= 0.6
    assert worker.wait() == 0
    totals = queue.stats().totals
    assert (totals["completed"], totals["expired"]) == (1, 0)


def test_ttl_on_the_command_line_is_more(cli: Cli, queue: Queue) -> None:
    queue.configure(ttl=0.6)
    queue.push("apple")
    cli.start("work", "job2", "--ttl", "600", *sh("touch started; sleep 600"))
    wait_until((cli.directory / "started").exists, "it runs", 60)
    (item,) = queue.leases()
    assert item.expires_in > 500


def test_a_program_that_hangs_is_stopped_when_max_lease_is_over(cli: Cli, queue: Queue) -> None:
    queue.configure(max_lease=1, max_attempts=1)
    queue.push("apple")
    began = time.monotonic()
    worker = cli.start("work", "job2", "-v", *sh("echo $$ > program; exec sleep 600"))
    worker.until("the lease has run out: max_lease is reached")
    assert time.monotonic() - began >= 1
    assert worker.wait() == 0
    assert numbers(cli.directory / "program")
    (letter,) = queue.dead()
    assert letter.reason == "expired"


@pytest.mark.parametrize("reason", ["paused", "limit", "rate", "group", "empty"])
def test_verbose_says_what_is_waited_for(cli: Cli, queue: Queue, reason: str) -> None:
    queue.push_many(["a", "b"], group="g" if reason == "group" else None)
    match reason:
        case "paused":
            queue.pause()
        case "limit":
            queue.configure(max_leased=0)
        case "rate":
            queue.configure(rate=0.001, burst=1)
    held = [] if reason in ("paused", "limit") else queue.lease_many(2 if reason == "empty" else 1)
    worker = cli.start("work", "job2", "-v", "--log-format", "json", "--", "true")
    worker.until('"event": "waiting"')
    (said,) = [x for x in map(json.loads, worker.err.splitlines()) if x.get("event") == "waiting"]
    assert said["reason"] == reason
    assert len(held) == (0 if reason in ("paused", "limit") else 2 if reason == "empty" else 1)
    queue.resume()
    queue.configure(max_leased=None, rate=None)
    queue.complete_many(held)
    assert worker.wait() == 0
    assert queue.stats().drained


def test_without_verbose_it_is_silent_about_that(cli: Cli, queue: Queue) -> None:
    queue.pause()
    queue.push("a")
    queue._client.config_resetstat()
    worker = cli.start("work", "job2", "--", "true")
    wait_until(lambda: queue._client.info("commandstats").get("cmdstat_evalsha"), "it has asked")
    assert worker.stop() == 143
    assert "waits" not in worker.err


def test_a_limited_queue_is_worked_off_all_the_same(cli: Cli, queue: Queue) -> None:
    """With more programs at once than may be in flight, and groups among the items."""
    queue.configure(max_leased=2, rate=200, burst=5)
    for number in range(20):
        queue.push(str(number), group=f"g{number % 3}", priority=number % 2)
    done = cli("work", "job2", "--concurrency", "4", *sh("sleep 0.05"))
    assert done.code == 0
    stats = queue.stats()
    assert (stats.drained, stats.totals["completed"], stats.groups) == (True, 20, 0)

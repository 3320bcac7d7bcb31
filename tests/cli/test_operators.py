"""`pyqueue dead`, `redrive`, `purge`, `seal`, `unseal`, `pause`, `resume` and `push --seal`."""

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import redis

from pyqueue import DeadLetter, Lease, Queue
from tests.cli.tools import COMMAND, SECONDS, Cli, numbers, on_terminal, sh
from tests.servers import Server, wait_until

#: An envelope whose headers are no map: it dies when it reaches the head.
MALFORMED = b"\0PQ\1" + b"i" * 16 + bytes(5) + b"\0\1\1" + b"body"


def take(queue: Queue) -> Lease:
    lease = queue.lease(ttl=600)
    assert lease is not None
    return lease


def bury(queue: Queue, payload: str | bytes, reason: str = "bad", error: str = "") -> str:
    """Make a dead letter; its id."""
    queue.push(payload)
    lease = take(queue)
    lease.bury(reason, error)
    return lease.id


def bury_malformed(queue: Queue, client: redis.Redis) -> DeadLetter:
    client.rpush("job2", MALFORMED)
    assert queue.lease() is None
    letter = list(queue.dead())[-1]
    assert letter.reason == "malformed"
    return letter


def waiting(queue: Queue) -> list[str]:
    return [item.text for item in queue.waiting()]


def is_blocked(client: redis.Redis, number: int = 1) -> bool:
    """Whether so many workers wait for a message, and so have found none."""
    return bool(client.info("clients")["blocked_clients"] == number)


# --- dead


def test_dead_letters_say_what_they_died_of(cli: Cli, queue: Queue, server: Server) -> None:
    with Queue("job2", url=server.url, worker="pod-1") as worker:
        first = bury(worker, "apple", "not a number", "line one\nline two")
        worker.push("banana")
        take(worker).fail(retry_in=0)
        lease = take(worker)
        lease.bury("bad")
    titles, *lines = cli("dead", "job2").text.splitlines()
    assert titles.split() == ["ID", "DIED", "REASON", "WORKER", "ATTEMPTS", "ERROR", "PAYLOAD"]
    assert len(lines) == 2
    assert lines[0].startswith(first)
    for words in (" ago ", "not a number", "pod-1", "line one", "apple"):
        assert words in lines[0]
    assert "line two" not in lines[0]
    assert lines[1].split()[0] == lease.id
    assert lines[1].split()[-2:] == ["2", "banana"]


def test_dead_letters_as_json_are_whole(cli: Cli, queue: Queue, server: Server) -> None:
    error = "e" * 1500 + "\nline two"
    with Queue("job2", url=server.url, worker="pod-1") as worker:
        worker.push(b"\xff\0", headers={"k": "v"})
        lease = take(worker)
        lease.bury("bad", error)
    (letter,) = cli("dead", "job2", "--json").objects
    died_at = datetime.fromisoformat(letter.pop("died_at"))
    assert timedelta(minutes=-1) < datetime.now(UTC) - died_at < timedelta(minutes=1)
    assert letter == {
        "id": lease.id,
        "reason": "bad",
        "worker": "pod-1",
        "error": error,
        "deliveries": 1,
        "attempts": 1,
        "suspect": False,
        "bytes": 2,
        "headers": {"k": "v"},
        "priority": 0,
        "group": None,
        "unique": None,
        "payload_base64": base64.b64encode(b"\xff\0").decode(),
    }


def test_dead_letters_come_in_pages(cli: Cli, queue: Queue) -> None:
    ids = [bury(queue, "x") for _ in range(12)]
    assert len(cli("dead", "job2").text.splitlines()) == 1 + 10
    found = cli("dead", "job2", "--offset", "10", "-n", "5", "--json").objects
    assert [letter["id"] for letter in found] == ids[10:]
    beyond = cli("dead", "job2", "--offset", "12")
    assert (beyond.code, beyond.out) == (0, b"")
    assert beyond.err == "job2: no dead letters from 12 on\n"


def test_dead_letters_do_not_act_on_the_terminal(
    cli: Cli, queue: Queue, client: redis.Redis, server: Server
) -> None:
    nasty = "\x1b]0;title\a\x9b31m\u202egnp.exe [red]x[/red]"
    with Queue("job2", url=server.url, worker=nasty) as worker:
        bury(worker, nasty, nasty, nasty)
    bury_malformed(queue, client)
    for args in ((), ("--json",)):
        out = cli("dead", "job2", *args).text
        assert all(c.isprintable() or c == "\n" for c in out)
    text = cli("dead", "job2").text
    assert text.count(r"\x1b]0;title\x07\x9b31m\u202egnp.exe [red]x[/red]") == 4
    whole, broken = cli("dead", "job2", "--json").objects
    assert [whole[key] for key in ("reason", "worker", "error", "payload")] == [nasty] * 4
    assert broken["reason"] == "malformed"
    assert "headers_error" in broken


def test_of_a_traceback_the_end_says_what_was_wrong(cli: Cli, queue: Queue) -> None:
    try:
        _ = 1 // 0
    except ZeroDivisionError as error:
        queue.push("apple")
        take(queue).bury("bad", error)
    text = cli("dead", "job2").text
    assert "ZeroDivisionError: integer division or modulo by zero" in text
    assert "Traceback" not in text


def test_a_narrow_terminal_has_the_ids_whole(cli: Cli, queue: Queue) -> None:
    """They are what `pyqueue redrive` takes."""
    id = bury(queue, "x" * 600, "r" * 200, "e" * 600)
    with on_terminal("dead", "job2") as until:
        line = next(line for line in until("xx").splitlines() if "xx" in line)
    assert line.startswith(id)
    assert line.count("…") == 3
    assert len(line.rstrip()) <= 100


# --- redrive


def test_all_dead_letters_go_back(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    """More than one call takes; but those that are malformed would only die again."""
    queue.push_many(map(str, range(1500)))
    while leases := queue.lease_many(1000, ttl=600):
        queue.bury_many(leases, "bad")
    bury_malformed(queue, client)
    done = cli("redrive", "job2")
    assert done.code == 0
    assert (
        done.text == "job2: 1,500 items redriven, 1 not: malformed, key taken, or no dead letter\n"
    )
    assert waiting(queue) == [str(number) for number in range(1500)]
    assert queue.stats().dead == 1
    (found,) = cli("redrive", "job2", "--json").objects
    assert found == {"queue": "job2", "redriven": 0, "not_redriven": 1}


def test_nothing_to_redrive_is_no_error(cli: Cli) -> None:
    done = cli("redrive", "job2")
    assert (done.code, done.text) == (0, "job2: 0 items redriven\n")


def test_those_with_a_reason_go_back(cli: Cli, queue: Queue) -> None:
    for number, reason in enumerate(("bad", "worse", "bad", "", "not bad")):
        bury(queue, f"{number}", reason)
    assert cli("redrive", "job2", "--reason", "bad").text == "job2: 2 items redriven\n"
    assert waiting(queue) == ["0", "2"]
    assert cli("redrive", "job2", "--reason", "").text == "job2: 1 item redriven\n"
    assert waiting(queue) == ["0", "2", "3"]
    assert cli("redrive", "job2", "--reason", "none").text == "job2: 0 items redriven\n"
    assert queue.stats().dead == 2


def test_those_with_an_id_go_back(cli: Cli, queue: Queue) -> None:
    first, _second, third = (bury(queue, payload) for payload in "abc")
    done = cli("redrive", "job2", third, first, third)
    assert (done.code, done.text) == (0, "job2: 2 items redriven\n")
    assert waiting(queue) == ["c", "a"]


def test_an_id_that_is_not_redriven_is_an_error(
    cli: Cli, queue: Queue, client: redis.Redis
) -> None:
    id, gone = bury(queue, "apple"), bury(queue, "banana")
    malformed = bury_malformed(queue, client)
    cli("redrive", "job2", gone)
    done = cli("redrive", "job2", gone, id, malformed.id)
    assert done.code == 1
    assert done.text == "job2: 1 item redriven, 2 not: malformed, key taken, or no dead letter\n"
    assert waiting(queue) == ["banana", "apple"]
    assert [letter.id for letter in queue.dead()] == [malformed.id]


@pytest.mark.parametrize("args", [("apple",), ("--reason", "bad", "ID")], ids=" ".join)
def test_wrong_usage_redrives_nothing(cli: Cli, queue: Queue, args: tuple[str, ...]) -> None:
    id = bury(queue, "apple")
    done = cli("redrive", "job2", *(id if arg == "ID" else arg for arg in args))
    assert done.code == 2
    assert "Error: " in done.err
    assert queue.stats().dead == 1


# --- purge


def fill(queue: Queue) -> None:
    """Two that wait, one that is delayed, one that is leased, one that is dead."""
    bury(queue, "dead")
    queue.push_many(["delayed", "leased", "a", "b"])
    take(queue).release(delay=500)
    take(queue)


def held(queue: Queue) -> tuple[int, int, int, int]:
    stats = queue.stats()
    return stats.waiting, stats.delayed, stats.leased, stats.dead


def test_what_waits_is_dropped(cli: Cli, queue: Queue) -> None:
    fill(queue)
    assert cli("purge", "job2", "--yes").text == "job2: 3 items dropped\n"
    assert held(queue) == (0, 0, 1, 1)
    (found,) = cli("purge", "job2", "--yes", "--json").objects
    assert found == {"queue": "job2", "what": "waiting", "purged": 0}


def test_or_the_dead_letters_are(cli: Cli, queue: Queue) -> None:
    fill(queue)
    assert cli("purge", "job2", "--dead", "--yes").text == "job2: 1 dead letter dropped\n"
    assert held(queue) == (2, 1, 1, 0)
    (found,) = cli("purge", "job2", "--dead", "--yes", "--json").objects
    assert found == {"queue": "job2", "what": "dead", "purged": 0}


@pytest.mark.parametrize("option", [(), ("--dead",)])
def test_where_nobody_can_be_asked_it_takes_yes(
    cli: Cli, queue: Queue, option: tuple[str, ...]
) -> None:
    fill(queue)
    done = cli("purge", "job2", *option, input=b"y\n")
    assert (done.code, done.out) == (2, b"")
    assert "give --yes" in done.err
    assert held(queue) == (2, 1, 1, 1)


def test_on_a_terminal_it_asks(cli: Cli, queue: Queue) -> None:
    fill(queue)
    with on_terminal("purge", "job2", typed=b"\n") as until:
        until("job2: drop 3 items that wait? [y/N]:")
        until("nothing was dropped")
    assert held(queue) == (2, 1, 1, 1)
    with on_terminal("purge", "job2", "--dead", typed=b"y\n") as until:
        until("job2: drop 1 dead letter? [y/N]:")
        until("job2: 1 dead letter dropped")
    assert held(queue) == (2, 1, 1, 0)


# --- seal, unseal, pause, resume


def test_seal_and_unseal_say_whether_that_changed_anything(cli: Cli, queue: Queue) -> None:
    assert cli("unseal", "job2").text == "job2: was not sealed\n"
    assert cli("seal", "job2").text == "job2: sealed\n"
    assert queue.stats().sealed
    assert cli("push", "job2", "apple").code == 1
    assert cli("seal", "job2").text == "job2: was sealed already\n"
    (found,) = cli("seal", "job2", "--json").objects
    assert found == {"queue": "job2", "sealed": True, "changed": False}
    (found,) = cli("unseal", "job2", "--json").objects
    assert found == {"queue": "job2", "sealed": False, "changed": True}
    assert not queue.stats().sealed
    cli("seal", "job2")
    assert cli("unseal", "job2").text == "job2: unsealed\n"
    assert cli("push", "job2", "apple").code == 0


def test_pause_and_resume_say_whether_that_changed_anything(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    assert cli("resume", "job2").text == "job2: was not paused\n"
    assert cli("pause", "job2").text == "job2: paused\n"
    assert queue.lease() is None
    assert cli("pause", "job2").text == "job2: was paused already\n"
    (found,) = cli("pause", "job2", "--json").objects
    assert found == {"queue": "job2", "paused": True, "changed": False}
    (found,) = cli("resume", "job2", "--json").objects
    assert found == {"queue": "job2", "paused": False, "changed": True}
    cli("pause", "job2")
    assert cli("resume", "job2").text == "job2: resumed\n"
    assert queue.lease() is not None


def test_a_worker_goes_on_after_a_pause(cli: Cli, queue: Queue) -> None:
    """What it has in hand while it is paused is completed; the next one waits."""
    queue.push_many(["0", "1"])
    script = "echo $1 >> done; until [ -e go ]; do sleep 0.01; done"
    worker = cli.start("work", "job2", *sh(script))
    wait_until(lambda: numbers(cli.directory / "done") == [0], "the first one runs")
    cli("pause", "job2")
    (cli.directory / "go").touch()
    wait_until(lambda: queue.stats().totals["completed"] == 1, "the first one is done")
    assert waiting(queue) == ["1"]
    cli("resume", "job2")
    assert worker.wait() == 0
    assert numbers(cli.directory / "done") == [0, 1]


# --- push --seal, and work --until sealed


def test_push_fills_and_seals(cli: Cli, queue: Queue) -> None:
    done = cli("push", "job2", "apple", "banana", "--seal")
    assert (done.code, done.err) == (0, "job2: 2 items pushed, and sealed\n")
    assert waiting(queue) == ["apple", "banana"]
    assert queue.stats().sealed
    again = cli("push", "job2", "cherry", "--seal")
    assert again.code == 1
    assert "sealed" in again.err
    assert "nothing was pushed; --seal was not done" in again.err


@pytest.mark.parametrize("args", [(), ("--stdin",), ("--file", "/dev/null")], ids=" ".join)
def test_push_seals_a_queue_that_never_had_an_item(
    cli: Cli, queue: Queue, args: tuple[str, ...]
) -> None:
    """Or its workers would wait for the items of a job that has none."""
    done = cli("push", "job2", "--seal", *args)
    assert (done.code, done.err) == (0, "job2: 0 items pushed, and sealed\n")
    assert queue.stats().sealed
    again = cli("push", "job2", "--seal", *args)
    assert (again.code, again.err) == (0, "job2: 0 items pushed; it was sealed already\n")
    for until in ("drained", "sealed"):
        assert cli("work", "job2", "--until", until, *sh("true")).code == 0


def test_push_does_not_seal_what_is_not_filled(cli: Cli, queue: Queue) -> None:
    """Workers would take what is there for all there is."""
    lines = b"a\n" + b"x" * 21 + b"\nb\n"
    done = cli("push", "job2", "--stdin", "--max-bytes", "20", "--seal", input=lines)
    assert done.code == 1
    assert "the 1 item before that was pushed; --seal was not done" in done.err
    assert not queue.stats().sealed


def test_push_says_when_it_is_unknown_whether_it_sealed(
    cli: Cli, server: Server, queue: Queue
) -> None:
    with subprocess.Popen(
        [*COMMAND, "push", "job2", "--stdin", "--seal"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        wait_until(lambda: queue.stats().waiting == 1, "the line is there")
        server.stop()
        _, err = process.communicate(b"", SECONDS)
    assert process.returncode == 69
    assert b"the 1 item before that was pushed; whether the queue is sealed is unknown" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("args", [("--null", "--seal"), ("--seal", "a", "--stdin")], ids=" ".join)
def test_wrong_usage_seals_nothing(cli: Cli, queue: Queue, args: tuple[str, ...]) -> None:
    assert cli("push", "job2", *args).code == 2
    assert not queue.stats().sealed


def test_workers_wait_for_the_seal(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    """Two that have found the queue drained wait on, and both end when it is sealed."""
    queue.push_many(["a", "b"])
    workers = [cli.start("work", "job2", "--until", "sealed", *sh("true")) for _ in range(2)]
    wait_until(lambda: queue.stats().totals["completed"] == 2, "both items are done")
    wait_until(lambda: is_blocked(client, 2), "both workers wait for more")
    cli("push", "job2", "c", "--seal")
    assert [worker.wait() for worker in workers] == [0, 0]
    assert queue.stats().totals["completed"] == 3
    assert all("drained" in worker.err for worker in workers)


def test_a_seal_does_not_end_workers_while_an_item_is_out(
    cli: Cli, queue: Queue, client: redis.Redis
) -> None:
    """It may come back to be done by them."""
    queue.push("apple")
    lease = take(queue)
    cli("seal", "job2")
    worker = cli.start("work", "job2", "--until", "sealed", *sh("true"))
    wait_until(lambda: is_blocked(client), "the worker waits")
    lease.release()
    assert worker.wait() == 0
    assert queue.stats().totals["completed"] == 1


@pytest.mark.parametrize("reason", ["empty", "group", "rate", "limit"])
def test_workers_started_before_the_queue_is_filled_all_end_soon_after_the_last_completion(
    cli: Cli, queue: Queue, client: redis.Redis, reason: str
) -> None:
    """With 0, within 3 s: whatever they wait for while one of them still works on the last item."""
    command = ("work", "job2", "--until", "sealed", "--log-format", "json", *sh('sleep "$1"'))
    workers = [cli.start(*command) for _ in range(6)]
    wait_until(lambda: is_blocked(client, 6), "all wait for the first item", 60)
    match reason:
        case "rate":
            queue.configure(rate=20, burst=1)
        case "limit":
            queue.configure(max_leased=2)
    group = ("--group", "g") if reason == "group" else ()
    cli("push", "job2", *["0.01"] * 20, "1.5", "--seal", *group)
    assert [worker.wait() for worker in workers] == [0] * 6
    assert queue.stats().totals["completed"] == 21
    # By their logs: how long a process takes to be gone is a matter of the machine.
    events = [json.loads(line) for worker in workers for line in worker.err.splitlines()]
    times = {
        name: [datetime.fromisoformat(x["time"]) for x in events if x.get("event") == name]
        for name in ("completed", "ending")
    }
    assert len(times["ending"]) == 6
    assert max(times["ending"]) - max(times["completed"]) < timedelta(seconds=3)

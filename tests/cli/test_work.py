"""`pyqueue work`: what the program is given, and what its end means for the item."""

import json
import os
import signal
from pathlib import Path

import pytest
import redis

from pyqueue import Queue
from tests.cli.tools import Cli, numbers, sh, steal, suspect
from tests.servers import Server, wait_until


def dead(client: redis.Redis) -> bytes:
    """The records of the dead letters, as they are."""
    return b"\n".join(record for record in client.hvals("{job2}:dead") if isinstance(record, bytes))


# --- what it is given


def test_each_item_is_run_once_in_order_and_the_end_is_0(
    cli: Cli, queue: Queue, client: redis.Redis
) -> None:
    client.rpush("job2", "apple", "banana", "apple", "")
    done = cli("work", "job2", *sh('echo "$1"'))
    assert (done.code, done.text) == (0, "apple\nbanana\napple\n\n")
    assert queue.stats().drained
    assert queue.stats().totals["completed"] == 4
    assert "job2: drained; 4 completed in " in done.err.splitlines()[-1]


def test_no_shell_sees_the_payload(cli: Cli, queue: Queue) -> None:
    payload = "$(touch ran); `touch ran` \"quoted' *"
    queue.push(payload)
    assert cli("work", "job2", "--", "printf", "%s", "{}").text == payload
    assert not (cli.directory / "ran").exists()


def test_only_a_whole_argument_is_replaced(cli: Cli, queue: Queue) -> None:
    """`sh -c 'echo {}'` would execute the payload."""
    queue.push("apple")
    args = ("{}", "x{}", "{}{}", "{ }", "{}")
    assert (
        cli("work", "job2", "--", "printf", "[%s]", *args).text == "[apple][x{}][{}{}][{ }][apple]"
    )


def test_another_string_can_stand_for_the_payload(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    assert cli("work", "job2", "-I", "%", "--", "echo", "{}", "%").text == "{} apple\n"


def test_bytes_arrive_as_they_are(cli: Cli, client: redis.Redis) -> None:
    payload = b"\xff\x1b[0m \r\n\xc3"
    client.rpush("job2", payload)
    done = cli("work", "job2", "--", "sh", "-c", 'cat; printf "%s" "$1"', "sh", "{}")
    assert done.out == payload * 2


def test_the_environment_says_what_it_is_about(cli: Cli, queue: Queue) -> None:
    lease = suspect(queue, "grün")
    lease.release()
    script = 'echo "$PYQUEUE_PAYLOAD $PYQUEUE_ID $PYQUEUE_ATTEMPT $PYQUEUE_QUEUE $PYQUEUE_TOKEN"'
    done = cli("work", "job2", "--log-format", "json", "--", "sh", "-c", script)
    payload, shown, attempt, name, token = done.text.split()
    assert (payload, shown, attempt, name) == ("grün", lease.id, "2", "job2")
    (leased,) = [event for event in events(done.err) if event["event"] == "leased"]
    assert leased["token"] == int(token)


@pytest.mark.parametrize(
    "payload", [b"\xff", b"a\0b", b"x" * (96 * 1024 + 1)], ids=["binary", "nul", "long"]
)
def test_a_payload_that_is_no_variable_is_absent_there_and_whole_on_standard_input(
    cli: Cli, client: redis.Redis, payload: bytes
) -> None:
    """Also when the worker itself has such a variable, which is of another item."""
    client.rpush("job2", payload)
    script = 'printf "%s." "${PYQUEUE_PAYLOAD-absent}"; cat'
    env = {"PYQUEUE_PAYLOAD": "inherited"}
    assert cli("work", "job2", "--", "sh", "-c", script, env=env).out == b"absent." + payload


def test_the_longest_variable(cli: Cli, queue: Queue) -> None:
    payload = "x" * (96 * 1024)
    queue.push(payload)
    assert cli("work", "job2", "--", "sh", "-c", 'printf "%s" "$PYQUEUE_PAYLOAD"').text == payload


def test_a_large_payload_that_nobody_reads_is_no_harm(cli: Cli, queue: Queue) -> None:
    queue.push_many([b"x" * (1 << 20)] * 3)
    assert cli("work", "job2", "--", "true").code == 0
    assert queue.stats().totals["completed"] == 3


def test_what_the_program_leaves_behind_does_not_hold_the_worker(cli: Cli, queue: Queue) -> None:
    """A daemon that keeps the program's standard error and reads no standard input."""
    queue.push(b"x" * (1 << 20))
    script = "sleep 600 2>&2 & echo $! > daemon; exit 0"
    try:
        done = cli("work", "job2", "--", "sh", "-c", script)
        assert done.code == 0
        assert queue.stats().drained
        os.kill(numbers(cli.directory / "daemon")[0], 0)
    finally:
        os.kill(numbers(cli.directory / "daemon")[0], signal.SIGKILL)


# --- what its end means


def test_65_buries(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    queue.push("apple")
    done = cli("work", "job2", *sh("echo bad input >&2; exit 65"))
    assert done.code == 0
    assert queue.stats().dead == 1
    assert b"exit 65" in dead(client)
    assert b"bad input" in dead(client)
    assert "buried after" in done.err


def test_75_gives_back_without_an_attempt_and_not_at_once(cli: Cli, queue: Queue) -> None:
    """At once it would be leased again and again."""
    queue.push("apple")
    script = 'echo "$PYQUEUE_ATTEMPT"; [ -e again ] || { touch again; exit 75; }'
    done = cli("work", "job2", "--log-format", "json", "--", "sh", "-c", script)
    assert (done.code, done.text) == (0, "1\n1\n")
    first, second = (e for e in events(done.err) if e["event"] == "leased")
    assert 0.8 < seconds_between(first, second) < 5
    totals = queue.stats().totals
    assert (totals["released"], totals["failed"], totals["completed"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exit 3", "exit 3"),
        ("exit 143", "exit 143"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("kill -40 $$", "killed by signal 40"),
    ],
)
def test_anything_else_fails_the_item(cli: Cli, queue: Queue, script: str, outcome: str) -> None:
    queue.push("apple")
    worker = cli.start("work", "job2", *sh(script))
    worker.until(" failed after 0.")
    assert f": {outcome}, waits again\n" in worker.err
    stats = queue.stats()
    assert (stats.delayed, stats.totals["failed"]) == (1, 1)
    (item,) = queue.waiting()
    assert item.attempts == 1
    assert worker.stop() == 143


def test_the_last_attempt_leaves_the_error_and_the_end_of_standard_error(
    cli: Cli, queue: Queue, client: redis.Redis
) -> None:
    queue.push("apple")
    for _ in range(4):
        lease = queue.lease()
        assert lease is not None
        lease.fail("before", retry_in=0)
    script = 'head -c 5000 /dev/zero | tr "\\0" x >&2; echo "disk full" >&2; exit 3'
    done = cli("work", "job2", "--", "sh", "-c", script)
    assert done.code == 0
    assert "exit 3, and is dead\n" in done.err
    assert queue.stats().dead == 1
    assert b"exit 3\nxxxx" in dead(client)
    assert b"disk full" in dead(client)
    assert "x" * 5000 in done.err


def test_standard_error_streams_through_while_the_program_runs(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    worker = cli.start(
        "work", "job2", *sh("echo half way >&2; while [ ! -e go ]; do sleep 0.01; done")
    )
    worker.until("half way\n")
    assert queue.stats().leased == 1
    (cli.directory / "go").touch()
    assert worker.wait() == 0


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"a\0b", "NUL byte"), (b"x" * 200_000, "too long for an argument")],
    ids=["nul", "long"],
)
def test_an_item_that_does_not_fit_an_argument_is_buried(
    cli: Cli, client: redis.Redis, queue: Queue, payload: bytes, reason: str
) -> None:
    client.rpush("job2", payload, "apple")
    done = cli("work", "job2", "--", "echo", "{}")
    assert (done.code, done.text) == (0, "apple\n")
    assert reason in done.err
    assert reason.encode() in dead(client)
    assert queue.stats().dead == 1


def test_without_an_argument_for_it_any_item_fits(
    cli: Cli, client: redis.Redis, queue: Queue
) -> None:
    client.rpush("job2", b"a\0b", b"x" * 200_000)
    assert cli("work", "job2", "--", "true").code == 0
    assert queue.stats().totals["completed"] == 2


# --- programs that cannot be run


def broken(directory: Path, name: str, text: str, mode: int) -> str:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)
    return f"./{name}"


@pytest.mark.parametrize(
    ("name", "text", "mode"),
    [
        ("not-executable", "#!/bin/sh\n", 0o644),
        ("no-interpreter", "#!/no/such/sh\n", 0o755),
        ("windows", "#!/bin/sh\r\n", 0o755),
        ("no-program", "\0\1\2", 0o755),
    ],
)
def test_a_program_that_cannot_be_run_is_78_and_costs_no_attempt(
    cli: Cli, queue: Queue, name: str, text: str, mode: int
) -> None:
    """A typo must not make dead letters of a queue."""
    queue.push_many(["apple", "banana"])
    done = cli("work", "job2", "--", broken(cli.directory, name, text, mode), "{}")
    assert done.code == 78
    assert f"cannot run './{name}'" in done.err
    assert ("first line" in done.err) == (name in ("no-interpreter", "windows"))
    assert [item.attempts for item in queue.waiting()] == [0, 0]
    assert [item.text for item in queue.waiting()] == ["apple", "banana"]


@pytest.mark.parametrize("program", ["no-such-program", "./no-such-program", ".", ""])
def test_a_program_that_is_not_there_is_said_before_anything_is_leased(
    cli: Cli, queue: Queue, program: str
) -> None:
    done = cli("work", "job2", "--", program)
    assert done.code == 78
    assert "no such program, or not executable" in done.err
    assert queue.stats().totals["released"] == 0


def test_the_payload_is_no_program(cli: Cli, queue: Queue) -> None:
    queue.push("ls")
    done = cli("work", "job2", "--", "{}")
    assert done.code == 78
    assert queue.stats().waiting == 1


# --- when it ends


def test_a_queue_that_never_had_an_item_is_waited_for(cli: Cli, queue: Queue) -> None:
    """A Job may start before its queue is filled."""
    worker = cli.start("work", "job2", *sh("true"))
    worker.until("it has never had an item: waits up to 60 s")
    queue.push("apple")
    assert worker.wait() == 0
    assert queue.stats().totals["completed"] == 1


def test_but_not_for_ever(cli: Cli) -> None:
    done = cli("work", "job2", "--start-wait", "0.3", *sh("true"))
    assert done.code == 0
    assert "is the name right?" in done.err


def test_until_sealed(cli: Cli, queue: Queue) -> None:
    worker = cli.start("work", "job2", "--until", "sealed", *sh("true"))
    queue.push("apple")
    wait_until(lambda: queue.stats().totals["completed"] == 1, "the first item is done")
    queue.push("banana")
    wait_until(lambda: queue.stats().totals["completed"] == 2, "the second item is done")
    queue.seal()
    assert worker.wait() == 0


def test_a_sealed_queue_is_not_waited_for(cli: Cli, queue: Queue) -> None:
    queue.seal()
    assert cli("work", "job2", *sh("true")).code == 0


def test_until_forever(cli: Cli, queue: Queue) -> None:
    worker = cli.start("work", "job2", "--until", "forever", *sh("true"))
    for number in (1, 2):
        queue.push("apple")
        wait_until(lambda n=number: queue.stats().totals["completed"] == n, "it is done")  # type: ignore[misc]
    queue.seal()
    assert worker.stop() == 143


def test_max_items_counts_what_is_done_with(cli: Cli, queue: Queue) -> None:
    """A pod that ends with 0 after an item failed would leave nobody to try it again."""
    queue.push_many(["fails", "buried", "done", "left"])
    script = "case $1 in fails) exit 1;; buried) exit 65;; done) exit 0;; *) touch ran;; esac"
    done = cli("work", "job2", "--max-items", "2", *sh(script))
    assert done.code == 0
    assert "--max-items 2 reached" in done.err
    assert [item.text for item in queue.waiting()] == ["left", "fails"]
    assert not (cli.directory / "ran").exists()


def test_max_items_is_never_exceeded_by_programs_that_run_at_once(cli: Cli, queue: Queue) -> None:
    queue.push_many(["a"] * 5)
    done = cli("work", "job2", "--max-items", "3", "--concurrency", "4", *sh("sleep 0.1"))
    assert done.code == 0
    stats = queue.stats()
    assert (stats.waiting, stats.totals["completed"], stats.totals["released"]) == (2, 3, 0)


@pytest.mark.parametrize(
    ("env", "warned"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, False),
        ({}, False),
    ],
)
def test_max_items_in_kubernetes_needs_completions(
    cli: Cli, queue: Queue, env: dict[str, str], warned: bool
) -> None:
    queue.push("apple")
    done = cli("work", "job2", "--max-items", "1", *sh("true"), env=env)
    assert ("--max-items needs `completions`" in done.err) == warned


def test_a_paused_queue_is_waited_for(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    queue.pause()
    worker = cli.start("work", "job2", *sh("true"))
    worker.until(" on ")
    queue.resume()
    assert worker.wait() == 0


# --- several at once


def test_so_many_programs_run_at_once(cli: Cli, queue: Queue) -> None:
    """Each waits until all three are there."""
    queue.push_many(["a", "b", "c"])
    script = (
        'touch "here-$1"; while [ ! -e here-a -o ! -e here-b -o ! -e here-c ]; do sleep 0.01; done'
    )
    assert cli("work", "job2", "--concurrency", "3", *sh(script)).code == 0


def test_one_at_a_time_by_default(cli: Cli, queue: Queue) -> None:
    queue.push_many(["a", "b", "c"])
    script = "mkdir busy || exit 1; sleep 0.05; rmdir busy"
    assert cli("work", "job2", *sh(script)).code == 0
    assert queue.stats().totals["failed"] == 0


def test_a_suspect_runs_alone(cli: Cli, queue: Queue) -> None:
    """It may have killed its worker: no neighbour is to be charged if it does so again."""
    suspect(queue, "suspect").release()
    queue.push_many(["a", "b", "c", "d"])
    script = """
        case $1 in
        suspect) mkdir alone; sleep 0.3; ls -d busy-* && exit 1; rmdir alone;;
        *) mkdir "busy-$1"; [ ! -e alone ] || exit 1; sleep 0.1; rmdir "busy-$1";;
        esac
    """
    done = cli("work", "job2", "--concurrency", "3", *sh(script))
    assert done.code == 0
    assert "alone since an earlier lease of it ran out" in done.err
    totals = queue.stats().totals
    assert (totals["completed"], totals["failed"]) == (5, 0)


def test_a_suspect_waits_until_nothing_else_runs(cli: Cli, queue: Queue) -> None:
    """It comes while another item is worked on: it is held, and meanwhile nothing else leased."""
    held_back = suspect(queue, "suspect")
    queue.push("first")
    script = """
        case $1 in
        first) while [ ! -e go ]; do sleep 0.01; done; touch ended;;
        suspect) [ -e ended ] && [ ! -e after-ran ] || exit 1;;
        after) touch after-ran;;
        esac
    """
    worker = cli.start("work", "job2", "--concurrency", "3", "--ttl", "0.9", *sh(script))
    worker.until("leased (attempt 1)")
    held_back.release()
    queue.push("after")
    worker.until("alone since")
    held = {lease.token: lease.deadline for lease in queue.leases()}
    assert len(held) == 2
    wait_until(
        lambda: all(x.deadline > held.get(x.token, x.deadline) for x in queue.leases()),
        "both leases are extended",
    )
    assert queue.stats().waiting == 1
    (cli.directory / "go").touch()
    assert worker.wait() == 0
    assert queue.stats().totals["completed"] == 3
    assert queue.stats().totals["failed"] == 0


def test_a_loop_costs_one_call_per_item(cli: Cli, queue: Queue, server: Server) -> None:
    queue.push_many(["a"] * 30)
    with server.client() as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert cli("work", "job2", "--", "true").code == 0
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    # One more finds out that the queue is drained, one that the script is not loaded.
    assert 31 <= calls <= 32


# --- leases


def test_a_program_may_run_longer_than_its_lease(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    worker = cli.start(
        "work", "job2", "--ttl", "0.4", *sh("while [ ! -e go ]; do sleep 0.01; done")
    )
    worker.until("leased")
    (first,) = queue.leases()
    wait_until(lambda: next(queue.leases()).deadline > first.deadline + 1, "it is extended")
    (cli.directory / "go").touch()
    assert worker.wait() == 0
    totals = queue.stats().totals
    assert (totals["completed"], totals["expired"]) == (1, 0)


def test_a_lost_lease_ends_the_program_and_settles_nothing(cli: Cli, queue: Queue) -> None:
    """Somebody else has the item: going on would do it twice at once."""
    queue.push("apple")
    script = """
        [ -e ended ] && exit 0
        trap 'echo $PYQUEUE_TOKEN > ended; exit 0' TERM
        echo $PYQUEUE_TOKEN > token
        while :; do sleep 0.01; done
    """
    worker = cli.start("work", "job2", "--ttl", "0.6", *sh(script))
    wait_until(lambda: numbers(cli.directory / "token"), "the program runs")
    (token,) = numbers(cli.directory / "token")
    steal(queue, token)
    assert worker.wait() == 0
    assert numbers(cli.directory / "ended") == [token]
    assert "its lease is lost" in worker.err
    assert "ended after the lease was lost: exit 0" in worker.err
    assert queue.stats().totals["completed"] == 1
    assert "1 completed, 1 lost" in worker.err


def test_a_program_that_does_not_end_when_its_lease_is_lost_is_killed(
    cli: Cli, queue: Queue
) -> None:
    queue.push("apple")
    script = """
        [ -e token ] && exit 0
        trap '' TERM
        echo $PYQUEUE_TOKEN > token
        while :; do sleep 0.01; done
    """
    worker = cli.start("work", "job2", "--ttl", "0.6", "--grace", "0.2", *sh(script))
    wait_until(lambda: numbers(cli.directory / "token"), "the program runs")
    steal(queue, numbers(cli.directory / "token")[0])
    assert worker.wait() == 0
    assert "did not end: SIGKILL" in worker.err


def test_an_item_that_is_lost_just_before_it_is_done_is_said(cli: Cli, queue: Queue) -> None:
    """The lease is gone, and the program ends before a heartbeat finds out."""
    queue.push("apple")
    script = (
        "[ -e go ] && exit 0; echo $PYQUEUE_TOKEN > token; while [ ! -e go ]; do sleep 0.01; done"
    )
    worker = cli.start("work", "job2", "--ttl", "60", *sh(script))
    wait_until(lambda: numbers(cli.directory / "token"), "the program runs")
    steal(queue, numbers(cli.directory / "token")[0])
    (cli.directory / "go").touch()
    assert worker.wait() == 0
    assert "could not be completed after" in worker.err
    assert queue.stats().totals["completed"] == 1


# --- the server


def test_an_outage_is_waited_out_while_the_program_goes_on(
    cli: Cli, queue: Queue, server: Server
) -> None:
    queue.push("apple")
    script = "touch begun; while [ ! -e go ]; do sleep 0.01; done; touch ended"
    worker = cli.start("work", "job2", *sh(script))
    wait_until((cli.directory / "begun").exists, "the program runs")
    server.stop()
    (cli.directory / "go").touch()
    wait_until((cli.directory / "ended").exists, "the program has ended")
    worker.until("Goes on trying for 10 min")
    server.start()
    assert worker.wait() == 0
    assert "the server answers again" in worker.err
    totals = queue.stats().totals
    assert (totals["completed"], totals["expired"], totals["failed"]) == (1, 0, 0)


def test_a_server_that_stays_away_is_69(cli: Cli, queue: Queue, server: Server) -> None:
    """What could not be settled is said, with its token."""
    queue.push("apple")
    script = "echo $PYQUEUE_TOKEN > token; while [ ! -e go ]; do sleep 0.01; done"
    worker = cli.start("work", "job2", "--server-wait", "0.2", *sh(script))
    wait_until(lambda: numbers(cli.directory / "token"), "the program runs")
    (lease,) = queue.leases()
    server.stop()
    (cli.directory / "go").touch()
    assert worker.wait() == 69
    assert f"item {lease.id} (token {lease.token}) could not be completed: " in worker.err
    assert "Goes on trying for 0.2 s" in worker.err


# --- what it writes


def events(err: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in err.splitlines()]


def seconds_between(first: dict[str, object], second: dict[str, object]) -> float:
    from datetime import datetime

    times = [datetime.fromisoformat(str(event["time"])) for event in (first, second)]
    return (times[1] - times[0]).total_seconds()


def test_the_log_as_json(cli: Cli, queue: Queue) -> None:
    id = queue.push("secret")
    args = ("--log-format", "json", "--worker", "pod-1")
    done = cli("work", "job2", *args, *sh("[ $PYQUEUE_ATTEMPT = 1 ] && exit 3; exit 0"))
    found = events(done.err)
    assert [event["event"] for event in found] == [
        "started",
        "leased",
        "failed",
        "leased",
        "completed",
        "ending",
    ]
    assert all(event["queue"] == "job2" and event["worker"] == "pod-1" for event in found)
    assert all(event["item"] == id for event in found[1:-1])
    assert [event.get("attempt") for event in found] == [None, 1, None, 2, None, None]
    assert (found[2]["exit"], found[2]["reason"], found[2]["level"]) == (3, "exit 3", "warning")
    assert (found[-1]["exit_code"], found[-1]["completed"], found[-1]["failed"]) == (0, 1, 1)


@pytest.mark.parametrize("form", ["text", "json"])
def test_payloads_are_not_logged(cli: Cli, client: redis.Redis, form: str) -> None:
    client.rpush("job2", "secret-1", "secret-2", "secret\0-3")
    script = "case $1 in *1) exit 65;; *) exit 0;; esac"
    done = cli("work", "job2", "--log-format", form, *sh(script))
    assert done.code == 0
    assert len(done.err.splitlines()) >= 7
    assert "secret" not in done.err


def test_a_person_can_follow_the_log(cli: Cli, queue: Queue) -> None:
    id = queue.push("apple")
    lines = cli("work", "job2", "--worker", "pod-1", *sh("true")).err.splitlines()
    texts = [line.split(" ", 2)[2] for line in lines]
    assert texts[0].startswith("job2: worker pod-1 on unix:")
    assert texts[1] == f"job2: item {id} leased (attempt 1)"
    assert texts[2].startswith(f"job2: item {id} completed in 0.")
    assert texts[3].startswith("job2: drained; 1 completed in ")
    assert len(texts) == 4


def test_a_worker_has_a_name(cli: Cli, queue: Queue) -> None:
    queue.push("apple")
    worker = cli.start(
        "work", "job2", "--worker", "pod-1", *sh("while [ ! -e go ]; do sleep 0.01; done")
    )
    worker.until("leased")
    assert next(queue.leases()).worker == "pod-1"
    (cli.directory / "go").touch()
    assert worker.wait() == 0
    done = cli("work", "job2", "--worker", "x" * 256, *sh("true"))
    assert done.code == 78
    assert "at most 255 bytes" in done.err

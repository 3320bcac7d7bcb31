"""`pyqueue check`: in plain words, and an exit code. What it finds is tested with `Queue.check`."""

import redis

from pyqueue import Queue
from tests.cli.tools import Cli


def test_a_sound_queue(cli: Cli, queue: Queue) -> None:
    queue.push_many(["a", "b"])
    queue.push("c", delay=60)
    done = cli("check", "job2")
    assert (done.code, done.err) == (0, "")
    line = "job2: nothing is wrong, every item accounted for (2 waiting, 1 delayed)\n"
    assert done.text == line
    assert cli("check", "job2", "--repair").text == line


def test_a_damaged_queue(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    queue.push_many(["a", "b", "c"])
    lease = queue.lease()
    assert lease is not None
    client.hdel("{job2}:leased", str(lease.token))
    client.rpop("job2")
    done = cli("check", "job2")
    assert done.code == 1
    text = " ".join(done.text.split())
    assert f"wrong lease {lease.token} a lease without its message" in text
    assert text.endswith("job2: 2 wrong, 1 item missing (1 waiting)")

    done = cli("check", "job2", "--repair")
    assert done.code == 0
    text = " ".join(done.text.split())
    assert f"mended lease {lease.token} a lease without its message" in text
    assert text.endswith("job2: 2 mended, all well, 1 item missing (1 waiting)")
    assert cli("check", "job2").text == (
        "job2: nothing is wrong, every item accounted for (1 waiting)\n"
    )


def test_what_cannot_be_mended(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    queue.push("a")
    client.set("{job2}:dead", "mine")
    done = cli("check", "job2", "--repair")
    assert done.code == 1
    assert "dead holds a string" in " ".join(done.text.split())
    assert client.get("{job2}:dead") == b"mine"


def test_as_json(cli: Cli, queue: Queue, client: redis.Redis) -> None:
    queue.push("a")
    (found,) = cli("check", "job2", "--json").objects
    assert found == {
        "queue": "job2",
        "findings": [],
        "items": {"waiting": 1, "delayed": 0, "grouped": 0, "leased": 0, "dead": 0},
        "raw": 0,
        "accounted": True,
        "missing": 0,
        "notes": [],
        "ok": True,
    }
    client.expire("job2", 1000)
    done = cli("check", "job2", "--json")
    assert done.code == 1
    (found,) = done.objects
    (finding,) = found["findings"]
    assert (finding["kind"], finding["where"], finding["repaired"]) == ("ttl", "waiting", False)

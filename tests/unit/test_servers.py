"""The servers of the tests do what the tests of faults rely on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests import servers
from tests.servers import Server, launch, wait_until


def test_each_test_gets_an_empty_server(server: Server, client: redis.Redis) -> None:
    assert server.kind in {"redis", "valkey"}
    assert server.version >= (7,)
    assert client.dbsize() == 0
    client.set("left", "behind")


test_each_test_gets_an_empty_server_again = test_each_test_gets_an_empty_server


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_a_restart_keeps_the_data(server: Server, client: redis.Redis, kill: bool) -> None:
    client.set("key", b"\x00\xff")
    server.restart(kill=kill)
    assert client.get("key") == b"\x00\xff"


def test_a_stopped_server_is_out_of_reach(server: Server) -> None:
    server.stop()
    assert not server.answers()


def test_a_paused_server_accepts_but_does_not_answer(server: Server) -> None:
    server.pause()
    with (
        redis.Redis.from_url(server.tcp_url, socket_timeout=0.1, retry=None) as hasty,
        pytest.raises(redis.TimeoutError),
    ):
        hasty.ping()


def test_the_test_after_that_finds_it_well(client: redis.Redis) -> None:
    assert client.ping()


def test_another_server_takes_arguments(server: Server) -> None:
    with launch(server.source, "--requirepass", "secret", "--maxmemory", "5mb") as other:
        assert other.kind == server.kind
        assert other.version == server.version
        with other.client() as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        with redis.Redis.from_url(other.url, password="secret") as client:
            assert client.config_get("maxmemory") == {"maxmemory": "5242880"}


def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match=r"Bad directive|wrong number of arguments"),
        launch("valkey", "--no-such-option", "1"),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_server_dies_with_the_process_that_launched_it(server: Server) -> None:
    if not isinstance(server, servers.LocalServer):
        pytest.skip("not a process of this machine")
    code = (
        "import sys\n"
        "from tests.servers import launch\n"
        f"with launch({server.source!r}) as server:\n"
        "    print(server.url, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(servers.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    with redis.Redis.from_url(url, retry=None) as client:
        assert client.ping()
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate()
        wait_until(lambda: not is_there(client), "the server has ended")
    shutil.rmtree(Path(url.removeprefix("unix://")).parent)


def is_there(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False

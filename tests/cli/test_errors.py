"""How commands fail: one line, no traceback, and an exit code that says whose turn it is."""

import json
import os

import pytest
import redis

import pyqueue
from pyqueue import Queue
from tests.cli.tools import Cli
from tests.servers import Server

WORK = ("work", "job2", "--server-wait", "0", "--", "true")
COMMANDS = {
    "push": ("push", "job2", "a"),
    "work": WORK,
    "stats": ("stats", "job2"),
    "peek": ("peek", "job2"),
    "leases": ("leases", "job2"),
    "reclaim": ("reclaim", "job2"),
    "delete": ("delete", "job2"),
}


def one_line(text: str) -> str:
    """The last line, when no line before it is an error."""
    *before, last = text.splitlines()
    assert not any("error" in line for line in before)
    return last


@pytest.mark.parametrize("args", [COMMANDS["push"], COMMANDS["stats"], WORK], ids=lambda a: a[0])
def test_no_server(cli: Cli, args: tuple[str, ...]) -> None:
    done = cli("--url", "redis://:secret@127.0.0.1:1/0", *args)
    assert done.code == 69
    assert "127.0.0.1:1 cannot be reached" in done.err
    assert "secret" not in done.err
    if args is not WORK:
        assert one_line(done.err).startswith("pyqueue: ")


@pytest.mark.parametrize(
    "args", [COMMANDS[name] for name in COMMANDS if name != "leases"], ids=lambda a: a[0]
)
def test_another_type_under_the_name(cli: Cli, client: redis.Redis, args: tuple[str, ...]) -> None:
    client.set("job2", "mine")
    done = cli(*args)
    assert done.code == 78
    assert "holds another type" in done.err
    assert client.get("job2") == b"mine"


@pytest.mark.parametrize("args", [COMMANDS["stats"], WORK], ids=["stats", "work"])
def test_what_the_server_does_not_permit(
    cli: Cli, server: Server, client: redis.Redis, args: tuple[str, ...]
) -> None:
    client.acl_setuser("small", enabled=True, passwords=["+secret"], commands=["+ping"])
    url = server.tcp_url.replace("redis://", "redis://small:{}@")
    try:
        refused = cli("--url", url.format("secret"), *args)
        wrong = cli("--url", url.format("guessed"), *args)
    finally:
        client.acl_deluser("small")
    assert (refused.code, wrong.code) == (78, 78)
    assert "ACL refuses" in refused.err
    assert "refuses the user name or the password" in wrong.err
    assert "secret" not in refused.err + wrong.err
    assert "guessed" not in wrong.err


@pytest.mark.parametrize("args", [COMMANDS["stats"], WORK], ids=["stats", "work"])
def test_a_url_that_is_none(cli: Cli, args: tuple[str, ...]) -> None:
    done = cli(*args, env={"PYQUEUE_URL": "http://u:secret@host"})
    assert done.code == 78
    assert one_line(done.err).startswith("pyqueue: the server's URL ")
    assert "secret" not in done.err


@pytest.mark.parametrize("name", ["a{b", "", "x" * 201])
@pytest.mark.parametrize("command", ["stats", "work"])
def test_a_name_that_is_none(cli: Cli, name: str, command: str) -> None:
    done = cli(command, name, *(("--", "true") if command == "work" else ()))
    assert done.code == 78
    assert one_line(done.err).startswith("pyqueue: queue name ")


def test_the_options_of_the_server_stand_before_or_after_the_command(
    cli: Cli, server: Server, queue: Queue
) -> None:
    queue.push("apple")
    env = {"PYQUEUE_URL": "redis://127.0.0.1:1"}
    for args in (("--url", server.url, "peek", "job2"), ("peek", "job2", "--url", server.url)):
        assert "apple" in cli(*args, env=env).text


def test_wrong_usage_is_2_and_for_work_78(cli: Cli) -> None:
    """A Job fails for good on 78: a typo must not be tried again and again."""
    assert cli("stats").code == 2
    assert cli("nonsense").code == 2
    assert cli("peek", "job2", "-n", "x").code == 2
    for args in (("work",), ("work", "job2"), ("work", "job2", "--ttl", "x", "--", "true")):
        done = cli(*args)
        assert done.code == 78
        assert "Usage: pyqueue work" in done.err


def test_errors_are_json_when_the_log_is(cli: Cli) -> None:
    for args in (("stats", "a{b"), ("work", "job2")):
        done = cli("--log-format", "json", *args)
        line = json.loads(done.err)
        assert line["level"] == "error"
        assert line["exit_code"] in (2, 78)


def test_help_and_version(cli: Cli) -> None:
    assert cli("--version").text == f"pyqueue {pyqueue.__version__}\n"
    overview = cli("--help").text
    for name in (*COMMANDS, "demo"):
        assert f"\n  {name} " in overview
        assert cli(name, "--help").code == 0


def test_without_its_extra_it_says_what_to_install(cli: Cli) -> None:
    (cli.directory / "rich.py").write_text("raise ModuleNotFoundError('no', name='rich')")
    path = f"{cli.directory}:{os.environ['PYTHONPATH']}"
    done = cli.fresh("stats", "job2", env={"PYTHONPATH": path})
    assert done.code == 78
    assert done.err == (
        "pyqueue: the command line is not installed: pip install 'pyqueue-redis[cli]'\n"
    )

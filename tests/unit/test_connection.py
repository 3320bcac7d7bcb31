"""Where the server is, and what is shown of it."""

import logging
import traceback
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from pyqueue import Queue, ServerUnavailable
from pyqueue._connection import connect, describe, server_url

SECRET = "h4x0r"


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"PYQUEUE_URL": "rediss://a/3"}, "rediss://a/3"),
        ({"PYQUEUE_URL": ""}, "redis://localhost:6379/0"),
        ({"REDIS_SERVICE_HOST": "10.0.0.1"}, "redis://10.0.0.1:6379/0"),
        ({"REDIS_SERVICE_HOST": "10.0.0.1", "REDIS_SERVICE_PORT": "7"}, "redis://10.0.0.1:7/0"),
        ({"REDIS_SERVICE_HOST": "fd00::1", "REDIS_SERVICE_PORT": "7"}, "redis://[fd00::1]:7/0"),
        ({"REDIS_SERVICE_HOST": "", "REDIS_SERVICE_PORT": ""}, "redis://localhost:6379/0"),
        ({"REDIS_PORT": "tcp://10.0.0.1:6379"}, "redis://localhost:6379/0"),
        ({"PYQUEUE_URL": "redis://a", "REDIS_SERVICE_HOST": "b"}, "redis://a"),
    ],
)
def test_the_url_comes_from_the_environment(environ: dict[str, str], url: str) -> None:
    assert server_url(environ) == url


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYQUEUE_URL", "redis://somewhere:1234/5")
    assert server_url() == "redis://somewhere:1234/5"
    assert repr(Queue("job2")) == "<Queue 'job2' on somewhere:1234>"
    assert repr(Queue("job2", url="redis://elsewhere")) == "<Queue 'job2' on elsewhere:6379>"


def password(url: str | None, **environ: str) -> object:
    return connect(url, environ).connection_pool.connection_kwargs.get("password")


def test_the_password_of_the_url_comes_first() -> None:
    assert password("redis://:mine@a", PYQUEUE_PASSWORD="other") == "mine"
    assert password("redis://user:mine@a", PYQUEUE_PASSWORD="other") == "mine"
    assert password("redis://a?password=mine", PYQUEUE_PASSWORD="other") == "mine"
    assert password("redis://:m%2Fi%40n%23e@a") == "m/i@n#e"


def test_a_url_without_one_takes_it_from_the_environment() -> None:
    assert password("redis://a", PYQUEUE_PASSWORD=SECRET) == SECRET
    assert password("unix:///a", PYQUEUE_PASSWORD=SECRET) == SECRET
    assert password(None, PYQUEUE_PASSWORD=SECRET, REDIS_PASSWORD="other") == SECRET
    assert password(None, PYQUEUE_URL="redis://a", PYQUEUE_PASSWORD=SECRET) == SECRET
    assert password("redis://a") is None


def test_the_tutorials_service_takes_redis_password_and_no_other_server_gets_it() -> None:
    assert password(None, REDIS_SERVICE_HOST="a", REDIS_PASSWORD=SECRET) == SECRET
    assert password(None, REDIS_PASSWORD=SECRET) == SECRET
    assert password("redis://elsewhere", REDIS_PASSWORD=SECRET) is None
    assert password(None, PYQUEUE_URL="redis://elsewhere", REDIS_PASSWORD=SECRET) is None


def test_the_embedded_server_has_no_password(tmp_path: Path) -> None:
    """It would refuse one, whatever else the environment has it for."""
    environ = {"PYQUEUE_PASSWORD": SECRET, "REDIS_PASSWORD": SECRET}
    with connect(f"embedded:{tmp_path}", environ) as client:
        assert client.ping()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://a:1/2", "a:1"),
        ("redis://a", "a:6379"),
        ("rediss://u:p@a:1", "a:1"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix://:p@/run/x@y.sock", "unix:/run/x@y.sock"),
    ],
)
def test_a_server_is_described_without_its_password(url: str, shown: str) -> None:
    assert describe(connect(url, {})) == shown


def test_other_clients_are_described_too() -> None:
    assert describe(redis.Redis(host="a", port=1, password=SECRET)) == "a:1"
    assert describe(object.__new__(RedisCluster)) == "RedisCluster"


SPECIAL = ["/", "@", "#", "?", ":", "%", "%2F", "[", "]", "[]", "&", "=", " ", "//", "/@", "?@", ""]
FORMS = [
    "redis://:{}@127.0.0.1:1/0",
    "redis://user:{}@127.0.0.1:1/0",
    "rediss://:{}@127.0.0.1:1",
    "unix://:{}@/nowhere",
    "redis://:{}@127.0.0.1:port",
    "redis://127.0.0.1:1?password={}",
    "redis://127.0.0.1:{}",
    "http://:{}@127.0.0.1",
    "{}",
]


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("begin", ["x", "12"])
@pytest.mark.parametrize("form", FORMS)
def test_a_password_is_never_shown_however_badly_the_url_is_written(
    form: str, begin: str, special: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    if form == "redis://127.0.0.1:{}" and special == "@":
        special = ""  # what comes after it would rightly be taken for the host
    url = form.format(begin + special + SECRET)
    try:
        client = connect(url, {})
        client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))
        queue = Queue("job2", client=client)
        shown = repr(queue)
        with pytest.raises(ServerUnavailable) as caught:
            queue.push("apple")
        shown += "".join(traceback.format_exception(caught.value))
    except ValueError as error:
        shown = "".join(traceback.format_exception(error))
        assert "PYQUEUE_PASSWORD" in shown
    assert SECRET not in shown + caplog.text


def test_a_bad_url_is_explained() -> None:
    with pytest.raises(ValueError, match=r"URL redis://… cannot be read.*write / as %2F"):
        connect("redis://:pa/ss@host:1", {})
    with pytest.raises(ValueError, match=r"the server's URL cannot be read: it is like redis://"):
        connect("localhost", {})

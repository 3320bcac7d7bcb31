"""Where the server is, the connection to it, and its errors in pyqueue's words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import EqualJitterBackoff
from redis.retry import Retry

from ._wire import ANSWERS, NotSent
from .errors import (
    MessageTooLarge,
    NotWide,
    PermissionDenied,
    PyQueueError,
    QueueFull,
    QueueSealed,
    SchemaMismatch,
    ServerUnavailable,
    StaleCall,
    WrongType,
)

#: Seconds until a server that does not answer is given up on, per try.
SOCKET_TIMEOUT = 5.0
#: Tries after the first, with 20 ms to 1 s between them: 2.4 to 3.8 s in all. Half of each pause is
#: random: were all of it, some callers would give up within half a second.
RETRIES = 8


def server_url(environ: Mapping[str, str] | None = None) -> str:
    """The URL of the server: PYQUEUE_URL, else what Kubernetes injects for a Service named redis
    (REDIS_SERVICE_HOST and REDIS_SERVICE_PORT; the password, if any, from REDIS_PASSWORD), else
    localhost. REDIS_PORT is not read: Kubernetes sets it to ``tcp://…``.
    """
    environ = os.environ if environ is None else environ
    if url := environ.get("PYQUEUE_URL"):
        return url
    host = environ.get("REDIS_SERVICE_HOST") or "localhost"
    port = environ.get("REDIS_SERVICE_PORT") or "6379"
    if ":" in host:  # IPv6
        host = f"[{host}]"
    return f"redis://{host}:{port}/0"


def connect(url: str | None = None, environ: Mapping[str, str] | None = None) -> redis.Redis:
    """A redis-py client for a URL (``redis://``, ``rediss://``, ``unix://``, ``embedded:``), by
    default the environment's. Raises ValueError for a URL that cannot be read.
    """
    client: redis.Redis = _connected(
        redis.Redis.from_url, url, environ, Retry, socket_timeout=SOCKET_TIMEOUT
    )
    return client


def connect_async(
    url: str | None = None, environ: Mapping[str, str] | None = None
) -> redis.asyncio.Redis:
    """As ``connect``, for asyncio; it is ``_wire_aio`` that limits the time of a call."""
    client: redis.asyncio.Redis = _connected(
        redis.asyncio.Redis.from_url, url, environ, AsyncRetry, socket_timeout=None
    )
    return client


def _connected(
    from_url: Callable[..., Any],
    url: str | None,
    environ: Mapping[str, str] | None,
    retry: Callable[..., object],
    *,
    socket_timeout: float | None,
) -> Any:  # noqa: ANN401 - a client of either kind
    environ = os.environ if environ is None else environ
    password = environ.get("PYQUEUE_PASSWORD")
    if not url and not environ.get("PYQUEUE_URL"):
        # Of the Service that Kubernetes tells of, and for no other server.
        password = password or environ.get("REDIS_PASSWORD")
    url = url or server_url(environ)
    if url.startswith("embedded:"):
        from . import embedded  # only who asks for it needs the extra

        url, password = embedded.start(embedded.parse(url)).url, None
    try:
        _check(url)
        return from_url(
            url,
            **({"password": password} if password else {}),
            socket_timeout=socket_timeout,
            socket_connect_timeout=SOCKET_TIMEOUT,
            # A Unix socket knows no keepalive, and its connection no such argument.
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            retry=retry(EqualJitterBackoff(base=0.02, cap=1), RETRIES),
        )
    except ValueError:
        # Neither the URL nor what is wrong with it is shown: any of it may be the password.
        scheme = url.partition(":")[0] if "://" in url else ""
        raise ValueError(
            f"the server's URL {scheme and scheme + '://… '}cannot be read: it is like"
            " redis://:PASSWORD@HOST:PORT/0, rediss://… (with TLS), unix:///PATH or embedded:. In a"
            " password write / as %2F, @ as %40, # as %23, ? as %3F, % as %25; or leave it out and"
            " put it into PYQUEUE_PASSWORD"
        ) from None


def _check(url: str) -> None:
    """Raises ValueError for a URL that redis-py would read in another way than it was meant."""
    parts = urlsplit(url)
    # A password with a slash or a hash in it ends the host's part, and half of it would be a port.
    if parts.netloc and "@" not in parts.netloc and "@" in parts.path + parts.fragment:
        raise ValueError


def describe(client: object) -> str:
    """Which server a client talks to, without its password."""
    pool = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", {})
    if "path" in options:
        return f"unix:{options['path']}"
    if "host" in options:
        return f"{options['host']}:{options.get('port', 6379)}"
    return type(client).__name__


#: The first word of an error reply, and what it means. The one table of lua/README.md, "Errors".
_WORDS: dict[str, tuple[type[PyQueueError], str]] = {
    "SEALED": (QueueSealed, "the queue is sealed and takes no more messages"),
    "FULL": (QueueFull, "the queue holds as many messages as it may: wait until some are done"),
    "TOOLARGE": (MessageTooLarge, "a payload is larger than the queue takes"),
    "WIDE": (NotWide, "the queue uses features whose keys the call did not name"),
    "SCHEMA": (SchemaMismatch, "the queue was written by another version of pyqueue"),
    "STALE": (StaleCall, "a later call of the same slot was already answered"),
    "ARGUMENT": (PyQueueError, "an argument is out of range"),
    "CLOCK": (PyQueueError, "a time can be given only to a queue that was made for tests"),
    "OOM": (
        QueueFull,
        (
            "the server is out of memory (maxmemory): wait until workers have drained some of it,"
            " or give it more"
        ),
    ),
    "WRONGTYPE": (
        WrongType,
        (
            "a key of the queue holds another type than pyqueue's: choose another queue name, or"
            " remove the key"
        ),
    ),
    "NOPERM": (PermissionDenied, "the server's ACL refuses this user a command or a key"),
    "NOAUTH": (
        PermissionDenied,
        (
            "the server wants a password: put it into PYQUEUE_URL (redis://:PASSWORD@HOST) or into"
            " PYQUEUE_PASSWORD"
        ),
    ),
    "WRONGPASS": (PermissionDenied, "the server refuses the user name or the password"),
    "LOADING": (ServerUnavailable, "the server is still loading its data; try again soon"),
    "READONLY": (ServerUnavailable, "the server is a read-only replica: connect to its master"),
    "MASTERDOWN": (ServerUnavailable, "the server is a replica that has lost its master"),
    "CLUSTERDOWN": (ServerUnavailable, "the cluster is down or has no node for this queue"),
    "MISCONF": (ServerUnavailable, "the server refuses writes because it cannot save to disk"),
    "NOREPLICAS": (ServerUnavailable, "the server refuses writes: too few replicas are connected"),
    "BUSY": (ServerUnavailable, "the server is busy with a script of somebody else"),
    "ERR": (PyQueueError, "the server refused the call"),
}
#: The scripts' own words say no more than the table.
_OWN = (QueueSealed, SchemaMismatch, StaleCall)
#: redis-py cuts the word off the messages that it has classes for.
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.BusyLoadingError, "LOADING"),
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
)
#: How Valkey and Redis say that a user may not run a command of a script.
_REFUSED_WITHIN = re.compile(r"ACL failure in script|The user executing the script can't")
_SUFFIX = re.compile(r" script: .*$", re.DOTALL)


def _word(error: redis.RedisError) -> str:
    text = str(error)
    if isinstance(error, redis.exceptions.AuthenticationError):
        # AUTH was not tried: said to the call, or to the HELLO before it.
        without = "required" in text.lower() or "already authenticated" in text
        return "NOAUTH" if without else "WRONGPASS"
    for kind, word in _CLASSES:
        if isinstance(error, kind):
            return word
    if _REFUSED_WITHIN.match(text):
        return "NOPERM"
    word = text.partition(" ")[0]
    return word if word in _WORDS else "ERR"


#: Connection errors for redis-py, but the server has answered, or nothing was sent.
_NOTHING_HAPPENED = (*ANSWERS, NotSent)


def nothing_happened(error: redis.RedisError) -> bool:
    """Whether the call was certainly not carried out: it was refused, or never sent. Else the
    connection broke, and it may have been.
    """
    return isinstance(error, _NOTHING_HAPPENED) or not isinstance(
        error, (redis.ConnectionError, redis.TimeoutError)
    )


def translated(
    error: redis.RedisError, queue: str, server: str, verb: str, ids: Sequence[str] = ()
) -> PyQueueError:
    """A server's or a connection's error in pyqueue's words."""
    detail = _SUFFIX.sub("", str(error)).rstrip(".")
    if isinstance(error, NotSent):
        return ServerUnavailable(
            f"queue {queue!r}: {verb}: {server} cannot be reached: {detail}. Is the server running,"
            " and does PYQUEUE_URL name it? Nothing was sent",
            ids=ids,
        )
    if not nothing_happened(error):
        return ServerUnavailable(
            f"queue {queue!r}: {verb}: no answer from {server}: {detail}. Whether the call was"
            " carried out is unknown",
            outcome_unknown=True,
            ids=ids,
        )
    word = _word(error)
    kind, meaning = _WORDS[word]
    shown = "" if detail.startswith(meaning) or kind in _OWN else f" ({detail})"
    return kind(f"queue {queue!r} on {server}: {verb}: {meaning}{shown}")

"""What is wrong with a server for a queue, in plain words, and what to do about it.

Everything here only looks: nothing is written. What a server refuses to tell (managed services
refuse CONFIG, INFO or ACL) is a note that it cannot be seen, never an error.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from . import _scripts
from ._connection import describe, nothing_happened, translated
from ._keys import Keys
from ._wire import NotSent
from .errors import PermissionDenied, PyQueueError

if TYPE_CHECKING:
    from .client import Client, Queue

Level: TypeAlias = Literal["ok", "note", "problem"]

#: The oldest servers that have all that the scripts need.
OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
#: How many round trips the latency is the median of.
ROUND_TRIPS = 20
#: Above this a worker that takes one item per call waits more than it works, seconds.
SLOW = 0.005
#: The share of maxmemory that is said to be near it.
NEAR = 0.8
#: Clocks that differ by more than the quickest failover takes can make a token be issued twice.
MOST_SKEW = 1.0
#: How long a replica has to answer, seconds.
PATIENCE = 1.0
_CONDITION = (
    "Tokens rise over a failover that loses the newest writes only as long as the clocks differ"
    " by less than the failover takes"
)
#: A call that takes longer than this is no wonder on a busy server, seconds.
SHORT_TIMEOUT = 1.0
#: The scripts may run so long, and some slower, ms.
LEAST_BUSY = 100
#: Below this an idle connection is closed between two items, seconds.
SHORT_IDLE = 10

#: The type of each key, as lua/README.md has it.
TYPES = {
    "waiting": "list",
    "handoff": "list",
    "priority": "zset",
    "delayed": "zset",
    "leases": "zset",
    "leased": "hash",
    "special": "hash",
    "dead": "hash",
    "died": "zset",
    "unique": "hash",
    "unique_due": "zset",
    "groups": "hash",
    "grouped": "zset",
    "calls0": "hash",
    "calls1": "hash",
    "meta": "hash",
}

#: Which of some calls the user may make: 1 or 0 for each. ARGV: number of words, words, and so on.
_MAY = """#!lua flags=no-writes
local answers, at = {}, 1
while at < #ARGV do
  local words = {}
  for i = 1, tonumber(ARGV[at]) do
    words[i] = ARGV[at + i]
  end
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  answers[#answers + 1] = known and allowed and 1 or 0
  at = at + #words + 1
end
return answers
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One point that was looked at."""

    #: What was looked at, a word or two: "memory", "clock" …
    check: str
    #: "problem": items would be lost, or workers stopped. "note": worth knowing, or not to be seen.
    level: Level
    #: What was found.
    text: str
    #: What to do about it; empty when there is nothing to do.
    advice: str = ""


def diagnose(queue: Queue) -> list[Finding]:
    """Looks at the server of a queue, at the queue's own keys, and at what its user may do there.

    Raises ServerUnavailable when the server cannot be reached, PermissionDenied when it wants
    another password.
    """
    server = _Server(queue._client, queue.name)
    return [*_of_server(server), *_of_queue(server, queue)]


def diagnose_server(client: Client) -> list[Finding]:
    """Looks at a server, whatever queues are on it.

    Raises ServerUnavailable when the server cannot be reached, PermissionDenied when it wants
    another password.
    """
    return list(_of_server(_Server(client, None)))


def _as_text(value: Any) -> Any:  # noqa: ANN401 - any reply
    """A reply with its bytes as text, whatever the client was made with."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return value


def _as_map(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any reply
    """A reply of names and values, which RESP2 gives as a flat list."""
    if isinstance(value, list):
        return dict(zip(value[::2], value[1::2], strict=False))
    return value if isinstance(value, dict) else {}


class _Server:
    """The one server that a queue is on, and what it tells about itself."""

    def __init__(self, client: Any, name: str | None) -> None:  # noqa: ANN401 - of several classes
        self.name = name
        self.described = describe(client)
        #: Whether the client follows a Cluster's redirections.
        self.follows = hasattr(client, "get_node_from_key")
        try:
            if self.follows:
                node = client.get_node_from_key(name) if name else client.get_primaries()[0]
                client = client.get_redis_connection(node)
            self._client = client
            self._check()
        except redis.RedisError as error:
            raise self._in_our_words(error) from error
        self.info: dict[str, Any] = _as_map(self.ask("INFO"))
        self.hello: dict[str, Any] = _as_map(self.ask("HELLO"))

    def _check(self) -> None:
        # One who may not even ping is known to the server, which is there.
        with contextlib.suppress(redis.exceptions.NoPermissionError):
            self._client.execute_command("PING")

    def _in_our_words(self, error: redis.RedisError) -> PyQueueError:
        if not nothing_happened(error):
            error = NotSent(str(error))
        name = self.name or ""
        found = translated(error, name, self.described, "doctor")
        if name:
            return found
        text = re.sub(r"^queue '' on |^queue '': doctor: ", "", str(found))
        return type(found)(text)

    def ask(self, *command: str | bytes | int) -> Any | None:  # noqa: ANN401 - any reply
        """The answer to a command; None when the server refuses it. Raises PyQueueError."""
        answer = self.try_to(*command)
        return None if isinstance(answer, redis.RedisError) else answer

    def try_to(self, *command: str | bytes | int) -> Any:  # noqa: ANN401 - any reply
        """The answer to a command, or the error that refuses it. Raises PyQueueError."""
        try:
            return _as_text(self._client.execute_command(*command))
        except redis.RedisError as error:
            if nothing_happened(error):
                return error
            raise self._in_our_words(error) from error

    def config(self, name: str) -> str | None:
        """A setting, None when it cannot be seen or is not there."""
        found = _as_map(self.ask("CONFIG", "GET", name))
        value = found.get(name)
        return None if value is None else str(value)

    @property
    def options(self) -> Mapping[str, Any]:
        """What the client's connections are made with."""
        found: Mapping[str, Any] = self._client.connection_pool.connection_kwargs
        return found

    def time(self) -> tuple[float, float, float] | None:
        """The server's time and this machine's, seconds since the epoch, and how far off the first
        may be at the most.
        """
        return _time(lambda: self.ask("TIME"))

    def beside(self, host: str, port: int) -> redis.Redis:
        """A client for a replica, with the same user."""
        kept = {"username", "password", "credential_provider", "protocol"}
        kind = self._client.connection_pool.connection_class
        encrypted = issubclass(kind, redis.SSLConnection)
        options = {
            name: value
            for name, value in self.options.items()
            if name in kept or (encrypted and name.startswith("ssl_"))
        }
        return redis.Redis.from_pool(
            redis.ConnectionPool(
                redis.SSLConnection if encrypted else redis.Connection,
                host=host,
                port=port,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
        )


def _time(ask: Callable[[], Any]) -> tuple[float, float, float] | None:
    before = time.time()
    answer = ask()
    after = time.time()
    if answer is None:
        return None
    # redis-py gives TIME as (seconds, microseconds).
    seconds, micros = answer
    return int(seconds) + int(micros) / 1e6, (before + after) / 2, (after - before) / 2


def _unseen(check: str, what: str) -> Finding:
    return Finding(check, "note", f"{what} cannot be seen: the server does not tell this user")


# The server


def _of_server(server: _Server) -> Iterator[Finding]:
    yield from _version(server.info, server.hello)
    yield from _memory(server.info)
    yield from _persistence(server.info, server.config("save"), server.config("appendfsync"))
    yield from _role(server.info or server.hello, server.config("min-replicas-to-write"))
    yield from _clock(server)
    yield from _clients(server.options, server.config("timeout"))
    yield from _timers(
        server.info.get("hz"),
        server.config("busy-reply-threshold") or server.config("lua-time-limit"),
    )
    yield from _latency(server)


def _version(info: Mapping[str, Any], hello: Mapping[str, Any]) -> Iterator[Finding]:
    kind = "valkey" if "valkey_version" in info or hello.get("server") == "valkey" else "redis"
    version = info.get(f"{kind}_version") or hello.get("version")
    if version is None:
        yield _unseen("version", "the version")
    else:
        shown = f"{kind.capitalize()} {version}"
        found = tuple(int(number) for number in re.findall(r"\d+", str(version))[:2])
        if found < OLDEST[kind]:
            yield Finding(
                "version",
                "problem",
                f"{shown} is too old: its Lua lacks what the scripts need",
                "upgrade to Redis 7.0 or Valkey 7.2, or newer",
            )
        else:
            yield Finding("version", "ok", shown)
    bits = info.get("arch_bits")
    if bits is not None and int(bits) < 64:
        yield Finding(
            "version",
            "problem",
            f"a {bits}-bit server: its Lua cuts the numbers of tokens and times",
            "run a 64-bit build",
        )


def _megabytes(number: int) -> str:
    return f"{number / (1 << 20):,.1f} MiB"


def _memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    most, policy, used = (
        info.get(name) for name in ("maxmemory", "maxmemory_policy", "used_memory")
    )
    if most is None or policy is None:
        yield _unseen("memory", "maxmemory and what is evicted")
        return
    most, used = int(most), int(used or 0)
    evicts = str(policy).startswith("allkeys")
    if most == 0:
        yield Finding(
            "memory",
            "note",
            f"maxmemory is not set, {_megabytes(used)} are used: a queue that grows takes all of"
            " the machine's memory, and the system kills the server"
            + (f"; and with it set, maxmemory-policy {policy} would evict queues" * evicts),
            "set maxmemory, and maxmemory-policy noeviction: a full server then refuses pushes,"
            " and workers drain it",
        )
        return
    if evicts:
        yield Finding(
            "memory",
            "problem",
            f"maxmemory-policy is {policy}: a full server throws whole queues away",
            "CONFIG SET maxmemory-policy noeviction, and write it into the configuration file",
        )
    elif policy != "noeviction":
        yield Finding(
            "memory",
            "note",
            f"maxmemory-policy is {policy}: it evicts keys with a TTL, and those of a queue have"
            " none; but nothing should be thrown away that others count on",
            "CONFIG SET maxmemory-policy noeviction, unless a cache shares the server",
        )
    share = used / most
    text = f"{_megabytes(used)} of {_megabytes(most)} are used ({share:.0%})"
    advice = "let workers drain it, or raise maxmemory"
    if share >= 1:
        yield Finding("memory", "problem", f"{text}: pushes are refused", advice)
    elif share >= NEAR:
        yield Finding("memory", "note", f"{text}: at 100% pushes are refused", advice)
    else:
        yield Finding("memory", "ok", text)


def _persistence(info: Mapping[str, Any], save: str | None, fsync: str | None) -> Iterator[Finding]:
    appends = info.get("aof_enabled")
    if appends is None and save is None:
        yield _unseen("persistence", "whether the server writes to disk")
        return
    if appends and int(appends):
        losing = {
            None: "how often it is synced (appendfsync) cannot be seen",
            "always": "synced before each reply: nothing that was answered is lost",
            "everysec": "synced each second: a power failure loses the last second or two, and"
            " items may come twice",
        }
        text = losing.get(
            fsync, f"appendfsync is {fsync}: a power failure can lose the last half minute"
        )
        unsafe = fsync not in losing
        yield Finding(
            "persistence",
            "note" if unsafe or fsync is None else "ok",
            f"append-only file, {text}" if not unsafe else f"append-only file, but {text}",
            "CONFIG SET appendfsync everysec, and write it into the configuration file"
            if unsafe
            else "",
        )
    elif save is None:
        yield Finding(
            "persistence",
            "note",
            "no append-only file; whether there are snapshots cannot be seen",
            "turn on the append-only file, if the service has that option",
        )
    elif save == "":
        yield Finding(
            "persistence",
            "problem",
            "nothing is written to disk: a restart of the server loses all items",
            "CONFIG SET appendonly yes, and write it into the configuration file",
        )
    else:
        yield Finding(
            "persistence",
            "note",
            f"snapshots only (save {save}): a crash of the server loses what came after the last,"
            " and brings back what was completed since",
            "CONFIG SET appendonly yes, and write it into the configuration file",
        )
    for name, what in (
        ("rdb_last_bgsave_status", "the last snapshot"),
        ("aof_last_write_status", "the last write to the append-only file"),
    ):
        if info.get(name, "ok") != "ok":
            yield Finding(
                "persistence",
                "problem",
                f"{what} failed: the server refuses writes until one succeeds",
                "look into the server's log; is its disk full?",
            )


def _replicas(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = (info.get(f"slave{number}") for number in range(int(info.get("connected_slaves", 0))))
    return [replica for replica in found if isinstance(replica, Mapping)]


def _role(info: Mapping[str, Any], wanted: str | None) -> Iterator[Finding]:
    role = info.get("role")
    if role is None:
        yield _unseen("role", "whether it is a master or a replica")
    elif role not in ("master", "primary"):
        yield Finding(
            "role",
            "problem",
            "this is a read-only replica: it takes no item and gives none",
            "connect to its master" + _address(info),
        )
    elif "connected_slaves" not in info:
        yield Finding("role", "note", "master; whether it has replicas cannot be seen")
    else:
        number = int(info["connected_slaves"])
        shown = "replica" if number == 1 else "replicas"
        yield Finding("role", "ok", f"master, {number} {shown}")
        if wanted is not None and number < int(wanted):
            yield Finding(
                "role",
                "problem",
                f"min-replicas-to-write is {wanted}, and {number} {shown} are connected: writes"
                " are refused",
                "bring the replicas back, or lower it",
            )


def _address(info: Mapping[str, Any]) -> str:
    host = info.get("master_host")
    return f", {host}:{info.get('master_port')}" if host else ""


def _clock(server: _Server) -> Iterator[Finding]:
    measured = server.time()
    if measured is None:
        yield _unseen("clock", "the server's clock")
    else:
        yield from _here(measured)
    if "connected_slaves" not in server.info:
        yield Finding(
            "clock", "note", f"the clocks of replicas, if there are any: not measured. {_CONDITION}"
        )
    for replica in _replicas(server.info):
        host, port = str(replica.get("ip", "")), int(replica.get("port", 0))
        yield from _beside(server, host, port)


def _here(measured: tuple[float, float, float]) -> Iterator[Finding]:
    there, here, error = measured
    skew = there - here
    which = "ahead of" if skew > 0 else "behind"
    text = f"the server's clock is {abs(skew):.3f} s (± {error:.3f}) {which} this machine's"
    if abs(skew) - error > MOST_SKEW:
        yield Finding(
            "clock",
            "note",
            f"{text}. Leases go by the server's clock, but ages of items and of dead letters are"
            " shown wrong",
            "run NTP on both",
        )
    else:
        yield Finding("clock", "ok", text)


def _beside(server: _Server, host: str, port: int) -> Iterator[Finding]:
    where = f"the replica {host}:{port}"
    try:
        with server.beside(host, port) as client:
            found = _time(lambda: client.execute_command("TIME"))
    except (redis.RedisError, OSError) as problem:
        reason = " ".join(str(problem).split())
        yield Finding("clock", "note", f"{where}: not measured ({reason}). {_CONDITION}")
        return
    own = server.time()
    if found is None or own is None:
        yield Finding("clock", "note", f"{where}: not measured. {_CONDITION}")
        return
    skew = (found[0] - found[1]) - (own[0] - own[1])
    yield from _between(where, skew, found[2] + own[2])


def _between(where: str, skew: float, error: float) -> Iterator[Finding]:
    text = (
        f"{where}: its clock is {abs(skew):.3f} s (± {error:.3f})"
        f" {'ahead of' if skew > 0 else 'behind'} its master's"
    )
    if abs(skew) - error > MOST_SKEW:
        yield Finding(
            "clock",
            "problem",
            f"{text}. {_CONDITION}: a token could be issued twice",
            "run NTP on all servers",
        )
    else:
        yield Finding("clock", "ok", text)


def _clients(options: Mapping[str, Any], idle: str | None) -> Iterator[Finding]:
    timeout = options.get("socket_timeout")
    if timeout is None:
        yield Finding(
            "timeouts",
            "note",
            "the client has no socket_timeout: a connection that dies silently hangs its worker",
            "give the client a socket_timeout of 5 s or so",
        )
    elif float(timeout) < SHORT_TIMEOUT:
        yield Finding(
            "timeouts",
            "note",
            f"the client's socket_timeout is {float(timeout):g} s: a busy server may take longer to"
            " answer, and each call is then sent again. (Blocking calls have their own time)",
            "give the client a socket_timeout of 5 s or so",
        )
    else:
        yield Finding(
            "timeouts",
            "ok",
            f"the client's socket_timeout is {float(timeout):g} s; blocking calls wait longer by"
            " themselves",
        )
    if idle is None:
        yield _unseen("timeouts", "after how long the server closes idle connections (timeout)")
    elif 0 < int(idle) < SHORT_IDLE:
        yield Finding(
            "timeouts",
            "note",
            f"the server closes connections that were idle for {idle} s (timeout): a worker"
            " connects anew after each item that takes longer",
            "CONFIG SET timeout 0, or a few minutes",
        )


def _timers(hz: Any, busy: str | None) -> Iterator[Finding]:  # noqa: ANN401 - as INFO has it
    if hz is None:
        yield _unseen("timers", "how often the server looks at its timers (hz)")
    elif int(hz) < 10:
        yield Finding(
            "timers",
            "note",
            f"hz is {hz}: a worker that waits for a delayed item wakes up to {1 / int(hz):.1f} s"
            " late",
            "CONFIG SET hz 10, the default",
        )
    else:
        yield Finding(
            "timers",
            "ok",
            f"hz is {hz}: a worker that waits for a delayed item wakes up to"
            f" {1000 // int(hz)} ms late",
        )
    if busy is None:
        yield _unseen("timers", "when other clients are told BUSY (busy-reply-threshold)")
    elif 0 < int(busy) < LEAST_BUSY:
        yield Finding(
            "timers",
            "note",
            f"busy-reply-threshold is {busy} ms: other clients are told BUSY while a script that"
            " moves many items runs",
            "CONFIG SET busy-reply-threshold 5000, the default",
        )


def _latency(server: _Server) -> Iterator[Finding]:
    taken = []
    for _ in range(ROUND_TRIPS):
        before = time.perf_counter()
        # An answer that refuses comes as fast.
        server.try_to("PING")
        taken.append(time.perf_counter() - before)
    median = statistics.median(taken)
    text = f"a round trip takes {median * 1000:.2f} ms (median of {ROUND_TRIPS})"
    if median > SLOW:
        yield Finding(
            "latency",
            "note",
            f"{text}: a worker that takes one item per call does {1 / median:,.0f} a second at"
            " the most",
            "lease in batches, or run the workers nearer to the server",
        )
    else:
        yield Finding("latency", "ok", text)


# The queue


def _of_queue(server: _Server, queue: Queue) -> Iterator[Finding]:
    keys = queue._keys
    placed = list(_cluster(server, keys))
    yield from placed
    yield from _permissions(server, keys)
    if all(finding.level != "problem" for finding in placed):
        yield from _contents(server, queue)


def _cluster(server: _Server, keys: Keys) -> Iterator[Finding]:
    mode = server.info.get("redis_mode") or server.hello.get("mode")
    if mode != "cluster":
        return
    (slot,) = {key_slot(key) for key in keys.all}
    moved = server.try_to("EXISTS", keys.waiting)
    if isinstance(moved, redis.exceptions.MovedError):
        yield Finding(
            "cluster",
            "problem",
            f"all keys are in slot {slot}, which is on {moved.host}:{moved.port}, and this client"
            " talks to one node only",
            "pass a redis.cluster.RedisCluster to Queue(client=…), or connect to that node",
        )
    elif server.follows:
        yield Finding("cluster", "ok", f"a Cluster: all keys are in slot {slot}")
    else:
        yield Finding(
            "cluster",
            "note",
            f"a Cluster, and a client for one node: all keys are in slot {slot}, which is here now"
            " and may move",
            "pass a redis.cluster.RedisCluster to Queue(client=…)",
        )


def commands() -> list[str]:
    """The commands that a user needs: those of the scripts, EVALSHA, EVAL and BLMOVE."""
    path = _scripts.folder() / "lib" / "allowed.lua"
    texts = re.findall(r"'([A-Z0-9 ]{2,})'", path.read_text(encoding="utf-8"))
    return ["EVALSHA", "EVAL", "BLMOVE", *" ".join(texts).split()]


#: What follows the key in a call, where that is not two values. (Not every such call could be made,
#: but what it may do is decided before.)
_AFTER: dict[str, tuple[str, ...]] = {
    "BLMOVE": ("{key}", "LEFT", "RIGHT", "1"),
    "RENAME": ("{key}",),
    **dict.fromkeys(("EXISTS", "UNLINK", "DEL", "TYPE", "LLEN", "HLEN", "ZCARD", "LPOP"), ()),
    **dict.fromkeys(("HGET", "HEXISTS", "HDEL", "LINDEX", "ZREM", "ZSCORE"), ("0",)),
}


def _call_of(command: str, key: bytes) -> tuple[bytes | str, ...]:
    """A call of a command on a key that is complete as far as its permissions go."""
    if command == "TIME":
        return (command,)
    if command in {"EVALSHA", "EVAL"}:
        return (command, "0" * 40, "1", key)
    after = _AFTER.get(command, ("0", "0"))
    return (command, key, *(key if word == "{key}" else word for word in after))


def _allowed(server: _Server, calls: Sequence[Sequence[bytes | str]]) -> list[bool] | None:
    """Which of these calls the user may make; None when that cannot be seen. None is made."""
    argv: list[bytes | str] = []
    for words in calls:
        argv += [str(len(words)), *words]
    found = server.ask("EVAL", _MAY, 0, *argv)
    if found is not None:
        return [answer == 1 for answer in found]
    user = server.ask("ACL", "WHOAMI")
    answers = []
    for words in calls:
        said = server.ask("ACL", "DRYRUN", user or "default", *words)
        if said is None:
            return None
        answers.append(said == "OK")
    return answers


def _permissions(server: _Server, keys: Keys) -> Iterator[Finding]:
    needed = commands()
    grid = [(command, key) for command in needed for key in keys.all]
    answers = _allowed(server, [_call_of(command, key) for command, key in grid])
    if answers is None:
        refused = server.try_to("EVAL", "return 1", 0)
        if isinstance(refused, redis.exceptions.NoPermissionError):
            yield Finding(
                "permissions",
                "problem",
                "the user may not run EVAL; what else it lacks cannot be seen until it may",
                f"ACL SETUSER {_user(server)} +eval",
            )
        else:
            yield _unseen("permissions", "what the user may do")
        return
    may = {pair for pair, answer in zip(grid, answers, strict=True) if answer}
    lacks = [command for command in needed if not any((command, key) in may for key in keys.all)]
    # The scripts need each key to read and to write.
    full = [name for name in ("EVALSHA", "EVAL") if name not in lacks]
    closed = [
        key
        for key in keys.all
        if not any((name, key) in may for name in full or needed if name != "TIME")
    ]
    if len(closed) == len(keys.all):
        # Then no command was seen to be allowed on any key, so those that lack cannot be told.
        lacks = []
    if not lacks and not closed:
        yield Finding("permissions", "ok", f"{_user(server)} may run all commands on all keys")
        return
    if lacks:
        yield Finding(
            "permissions",
            "problem",
            f"the user {_user(server)} may not run {', '.join(lacks)}",
            f"ACL SETUSER {_user(server)} {' '.join('+' + name.lower() for name in lacks)}",
        )
    if closed:
        shown = ", ".join(key.decode() for key in closed)
        yield Finding(
            "permissions",
            "problem",
            f"the user {_user(server)} may not read and write the keys {shown}",
            f"ACL SETUSER {_user(server)} {' '.join(_patterns(closed, keys))}",
        )


def _user(server: _Server) -> str:
    return str(server.ask("ACL", "WHOAMI") or server.options.get("username") or "default")


def _patterns(closed: Iterable[bytes], keys: Keys) -> list[str]:
    """The patterns of an ACL that open these keys."""

    def pattern(key: bytes) -> str:
        # In a pattern these four characters mean something.
        return re.sub(r"([\\*?\[])", r"\\\1", key.decode())

    found = [f"~{pattern(key)}" for key in closed if key == keys.waiting]
    inner = [key for key in closed if key != keys.waiting]
    if len(inner) == 1:
        found.append(f"~{pattern(inner[0])}")
    elif inner:
        found.append(f"~{pattern(inner[0].rpartition(b':')[0])}:*")
    return found


def _contents(server: _Server, queue: Queue) -> Iterator[Finding]:
    foreign = expiring = False
    for name, type_ in TYPES.items():
        (key,) = queue._keys.pick((name,))
        found = server.ask("TYPE", key)
        if found not in (None, "none", type_):
            foreign = True
            yield Finding(
                "queue",
                "problem",
                f"the key {key.decode()} holds a {found}, and should hold a {type_}",
                "choose another queue name, or remove the key",
            )
        left = server.ask("PTTL", key)
        if left is not None and int(left) >= 0:
            expiring = True
            yield Finding(
                "queue",
                "problem",
                f"the key {key.decode()} will be deleted in {int(left) / 1000:.0f} s (it has a TTL,"
                " which pyqueue never sets)",
                f"PERSIST '{key.decode()}', and find out who sets it",
            )
    if foreign:
        return
    try:
        stats = queue.stats()
    except PermissionDenied:
        yield _unseen("queue", "what it holds")
        return
    except PyQueueError as error:
        yield Finding("queue", "problem", str(error))
        return
    if not expiring:
        held = stats.waiting + stats.delayed + stats.leased
        yield Finding(
            "queue", "ok", f"its schema is known; {held:,} items, {stats.dead:,} dead letters"
        )

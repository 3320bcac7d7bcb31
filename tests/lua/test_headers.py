"""The scripts as text: their headers are true, and they keep the rules that a run may not show."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from pyqueue import _operations as op
from pyqueue import _scripts
from pyqueue._connection import _WORDS
from pyqueue._keys import FEATURES, OTHERS
from pyqueue.models import DeadLetter
from tests.lua.harness import CHANGING, SCRIPTS, VirtualQueue, key_names
from tests.lua.scenes import busy, message

TOKENS = [1, 2]
UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
#: Each operation once, and twice where its last arguments are a list.
OPERATIONS: list[op.Operation[Any]] = [
    op.Bury(TOKENS, "why", "boom"),
    op.Check("keys"),
    op.Check("waiting", wanted=[b"i" * 16]),
    op.Complete(TOKENS),
    op.CompletePush(1, [op.FollowUp(None, 0, 0, message(1))]),
    op.CompletePush(1, [op.FollowUp(None, 1, 2, message(1)), op.FollowUp(None, 0, 0, message(2))]),
    op.Configure({"max_attempts": 3}),
    op.Configure({"max_attempts": None, "backoff_max": 2.5}),
    op.Delete(False),
    op.Extend(TOKENS, 60),
    op.Fail(TOKENS, "boom", 5),
    op.Fail(TOKENS, "boom", None),
    op.FailPush(1, [op.FollowUp(None, 0, 0, message(1))], "boom", 5),
    op.FailPush(1, [op.FollowUp(None, 0, 0, message(1))]),
    op.Import([DeadLetter(message(1), UUID, 1.5, "why", "w", "boom")]),
    op.Lease(1, None, b"me"),
    op.Lease(1, 60, b"me"),
    op.Lease(1, 60, b"me", TOKENS),
    op.Pause(True),
    op.Purge("dead"),
    op.Push([message(1)]),
    op.Push([message(1), message(2)]),
    op.Push([message(1)], (5, 60, True)),
    op.ReadDead(0, 10),
    op.ReadLeases(0, 10),
    op.ReadStats(),
    op.ReadWaiting(0, 10),
    op.Reclaim(1000, 5),
    op.Redrive([b"i" * 16]),
    op.Release(TOKENS, 0),
    op.Release([], 0),
    op.Repair(True, "lease", "leases", b"1", b"", b""),
    op.Seal(False),
]
LIB = sorted((_scripts.folder() / "lib").glob("*.lua"))
FILES = sorted(_scripts.folder().glob("*.lua"))


@dataclass
class Header:
    """What the first lines of a script say."""

    flags: str
    keys: list[tuple[int, str, str]]
    args: list[tuple[int, bool, str]]
    returns: str
    errors: set[str]

    @classmethod
    def of(cls, source: str) -> "Header":
        lines = []
        first, *others = source.splitlines()
        for line in others:
            if not line.startswith("--"):
                break
            lines.append(line)
        text = "\n".join(lines)
        assert first.startswith("#!lua")
        returns = re.findall(r"^-- Returns (.+)$", text, re.MULTILINE)
        (errors,) = re.findall(r"^-- Errors (.+)$", text, re.MULTILINE)
        return cls(
            first.removeprefix("#!lua").strip(),
            [
                (int(number), name, kind)
                for number, name, kind in re.findall(
                    r"^-- KEYS\[(\d+)(?:\.\.\.)?\] (\w+):? (.+)$", text, re.MULTILINE
                )
            ],
            [
                (int(number), bool(dots), name)
                for number, dots, name in re.findall(
                    r"^-- ARGV\[(\d+)(\.\.\.)?\] (\w+)", text, re.MULTILINE
                )
            ],
            "; ".join(returns),
            set(errors.split()),
        )


#: Keys whose locals have another name: `special` is a function.
ALIAS = {"special": "bound"}

HEADERS = {name: Header.of(script.source) for name, script in SCRIPTS.items()}


def code(source: str) -> str:
    """Without comments."""
    return re.sub(r"--.*", "", source)


def statements(source: str) -> Iterator[tuple[str, str]]:
    """Each redis.call, and each call of a local `write` for one: the command, and its first
    argument.
    """
    for command, first in re.findall(
        r"(?:redis\.p?call|\bwrite)\(\s*'([A-Z]+)'\s*(?:,\s*([^,)]+))?", code(source)
    ):
        yield command, first.strip()


# The header against the operation


def test_every_script_has_its_operation() -> None:
    assert {operation.script.name for operation in OPERATIONS} == set(SCRIPTS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=repr)
def test_an_operation_gives_what_the_header_names(operation: op.Operation[Any]) -> None:
    header = HEADERS[operation.script.name]
    names = [name for _, _, name in header.args]
    common = ["now", "slot", "number", "ack"] if operation.script.takes_call else ["now"]
    assert names[: len(common)] == common
    own = header.args[len(common) :]
    assert {name for _, dots, name in own if not dots} <= {
        field.name for field in fields(cast("Any", operation))
    }
    given = len(operation.args())
    if own and own[-1][1]:
        assert given >= len(own) - 1
    else:
        assert given == len(own)


def decoded(queue: VirtualQueue, operation: op.Operation[Any]) -> object:
    name = operation.script.name
    return operation.decode(queue.call(name, *operation.args()))


@pytest.mark.parametrize("operation", OPERATIONS, ids=repr)
def test_an_operation_decodes_the_reply(queue: VirtualQueue, operation: op.Operation[Any]) -> None:
    busy(queue)
    assert decoded(queue, operation) is not None


def test_the_decoded_replies_are_right(queue: VirtualQueue) -> None:
    """A sample in which no two neighbours are alike, so that none can be taken for another."""
    queue.rpush("a", "b")
    reply = decoded(queue, op.Lease(1, 10, b"me"))
    assert isinstance(reply, op.LeaseReply)
    assert (reply.word, reply.now, reply.deadline) == (
        "items",
        queue.now / 1000,
        queue.now / 1000 + 10,
    )
    token = reply.first_token
    assert (token, reply.messages, reply.lost) == (queue.now * 1000, [b"a"], [])
    queue.take()
    nothing = decoded(queue, op.Lease(1, 10, b"me", [token, 7]))
    assert isinstance(nothing, op.LeaseReply)
    assert (nothing.word, nothing.retry_in, nothing.lost) == ("empty", 10.0, [1])
    assert decoded(queue, op.Fail([7, 8], "boom", 1)) == op.FailReply([0, 1], [])
    now = queue.now / 1000
    assert decoded(queue, op.Extend([token + 1, 7], 20)) == op.ExtendReply(now, [now + 20, None])
    queue.sleep(25_000)
    assert decoded(queue, op.Reclaim(1000, 0)) == op.ReclaimReply(1, 0, 0, 0.0)
    again = queue.take(ttl=7_000)
    assert decoded(queue, op.Reclaim(1000, 0)) == op.ReclaimReply(0, 0, 0, 7.0)
    queue.release(*again)
    assert decoded(queue, op.Delete(False)) == op.DeleteReply(False, 1, 0)
    assert decoded(queue, op.Purge("waiting")) == op.PurgeReply(1, False)
    drained = decoded(queue, op.Lease(1, 10, b"me"))
    assert isinstance(drained, op.LeaseReply)
    assert (drained.word, drained.sealed, drained.fresh) == ("drained", False, False)
    assert decoded(queue, op.Seal(True)) is True
    assert decoded(queue, op.Seal(True)) is False


# The header against the text


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_names_the_slots_in_order(name: str) -> None:
    header = HEADERS[name]
    assert [number for number, _, _ in header.keys] == list(range(1, len(header.keys) + 1))
    assert [number for number, _, _ in header.args] == list(range(1, len(header.args) + 1))
    assert not any(dots for _, dots, _ in header.args[:-1])
    assert header.returns
    kinds = {"LIST", "HASH", "ZSET"}
    several = {"every", "features", "others"}
    assert {kind for _, key, kind in header.keys if key not in several} <= kinds
    for _, key, kind in header.keys:
        if key == "features":
            left = [name for name in FEATURES if name not in {other for _, other, _ in header.keys}]
            assert kind.split() == left
        elif key == "others":
            assert kind.startswith(" ".join(OTHERS))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_body_takes_each_key_from_its_slot(name: str) -> None:
    """Each KEYS[i] is read once, into a local of the header's name, and so is no other number;
    those of the features come all at once.
    """
    source = code(SCRIPTS[name].source)
    names: dict[str, str] = {}
    lines = r"^local ([\w, ]+) = ((?:KEYS\[\d+\](?:, )?)+)$"
    for left, right in re.findall(lines, source, re.MULTILINE):
        numbers = re.findall(r"KEYS\[(\d+)\]", right)
        names |= dict(zip(numbers, left.split(", "), strict=True))
    single = len(names)
    for left, first in re.findall(
        r"^local ([\w, ]+) = unpack\(KEYS, (\d+)\)$", source, re.MULTILINE
    ):
        names |= {str(i): key for i, key in enumerate(left.split(", "), int(first))}
    keys = [key for _, key, _ in HEADERS[name].keys if key not in {"every", "others"}]
    if keys[-1] == "features":
        del keys[-1]
        keys += [key for key in FEATURES if key not in keys]
    expected = {str(number): ALIAS.get(key, key) for number, key in enumerate(keys, 1)}
    assert names == expected
    assert len(re.findall(r"KEYS\[\d", source)) == single


def test_follow_ups_take_each_key_of_another_queue_from_its_slot() -> None:
    text = code((_scripts.folder() / "lib" / "follow.lua").read_text())
    names: list[str] = []
    for left, right in re.findall(r"local ([\w, ]+) = (KEYS\[.*)$", text, re.MULTILINE):
        names += left.split(", ")
        numbers = [int(number) for number in re.findall(r"KEYS\[at \+ (\d)\]", right)]
        assert numbers == list(range(len(names) - len(numbers) + 1, len(names) + 1))
    assert names == list(OTHERS)
    assert re.findall(r"own_keys \+ \(target - 1\) \* (\d)", text) == [str(len(OTHERS))]
    own = {"complete_push": 13, "fail_push": 15}
    for name, count in own.items():
        assert HEADERS[name].keys[-1][:2] == (count + 1, "others")
        assert f"own_keys = {6 if count == 13 else 8}, {count}\n" in SCRIPTS[name].source


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_argument_beyond_the_header_is_read(name: str) -> None:
    header = HEADERS[name]
    read = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", code(SCRIPTS[name].source))}
    assert read <= {number for number, _, _ in header.args}
    single = {number for number, dots, _ in header.args if not dots}
    assert single <= read


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_errors_are_those_that_the_text_can_give(name: str) -> None:
    source = SCRIPTS[name].source
    given = set(re.findall(r"(?:err = |error_reply\()'([A-Z]+)", source))
    given.add("WRONGTYPE")
    if not {"features", "every"} & set(SCRIPTS[name].keys):
        given.discard("WIDE")  # its keys are always there
    if name in NEED_ROOM:
        given.add("OOM")
    assert HEADERS[name].errors == given


def test_every_error_is_known_to_the_client() -> None:
    words = {word for header in HEADERS.values() for word in header.errors}
    assert words <= set(_WORDS)


# Rules of the text

#: What takes in more than it lets go.
NEED_ROOM = {"complete_push", "fail_push", "import", "push"}
#: All that a full server must still do, to become less full.
READS = {"check", "dead", "leases", "stats", "waiting"}
FREES = set(SCRIPTS) - NEED_ROOM - READS


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_flags_are_right(name: str) -> None:
    expected = "flags=allow-oom" if name in FREES else "flags=no-writes" if name in READS else ""
    assert HEADERS[name].flags == expected


WRITES = {
    *("HDEL", "HINCRBY", "HSET", "LPOP", "LPUSH", "LREM", "LSET", "LTRIM", "PERSIST", "RENAME"),
    *("RPUSH", "UNLINK", "ZADD", "ZREM"),
}
ONLY_READS = {
    *("EXISTS", "HEXISTS", "HGET", "HLEN", "HMGET", "HSCAN", "LINDEX", "LLEN", "LRANGE"),
    *("PTTL", "TIME", "TYPE", "ZSCAN"),
    *("ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZSCORE"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_commands_that_are_bounded_are_called(name: str) -> None:
    """No KEYS, no SCAN, nothing that costs more the more a key holds. (HSCAN and ZSCAN read so many
    at a time; LREM is for lists that are not long.)
    """
    called = {command for command, _ in statements(SCRIPTS[name].source)}
    assert called <= WRITES | ONLY_READS
    if name in READS:
        assert not called & WRITES
    # And nothing hides: a command that is not written out would be seen by none of these tests.
    source = code(SCRIPTS[name].source)
    written_out = re.findall(r"redis\.p?call\(\s*'[A-Z]+'", source)
    passed_on = re.findall(r"redis\.call\(command, key, ", source)
    assert len(re.findall(r"redis\.p?call", source)) == len(written_out) + len(passed_on)
    helpers = re.findall(r"local function write\(command, key, values\)", source)
    assert len(passed_on) == len(helpers)


def test_the_commands_that_a_user_is_asked_for_are_those_that_are_called() -> None:
    text = (_scripts.folder() / "lib" / "allowed.lua").read_text()
    asked = re.findall(r"\b[A-Z]{4,}\b", text.partition("gmatch(")[2].partition("%u+")[0])
    called = {
        name: {command for command, _ in statements(SCRIPTS[name].source)} for name in CHANGING
    }
    mending = called.pop("repair")
    workers = set().union(*called.values())
    assert asked == sorted(workers)
    # Who only works on a queue need not be allowed what mends it.
    more = re.findall(r"\b[A-Z]{4,}\b", SCRIPTS["repair"].source.partition("gmatch('LREM")[2][:30])
    assert ["LREM", *more] == sorted(mending - workers)


#: What stands for one of several keys.
LOCAL_NAMES = {"hash", "list", "key", "place"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_key_is_one_of_keys(name: str) -> None:
    """A Cluster must know them all; the names of helpers' parameters are those of the keys."""
    keys = {ALIAS.get(key, key) for key in key_names(SCRIPTS[name])}
    for command, first in statements(SCRIPTS[name].source):
        if command == "TIME":
            continue
        assert first in keys | LOCAL_NAMES | {"unpack(KEYS"}, (command, first)
    passed = re.findall(r"\b(?:take|markers|add_list)\(([^)]*)\)", code(SCRIPTS[name].source))
    for arguments in passed:
        assert set(arguments.split(", ")) & (keys | LOCAL_NAMES), arguments


#: Those that run where they are included, and share their locals with the script.
BLOCKS = [path for path in LIB if path.read_text().startswith("-- Runs where it is included")]
HELPERS = [path for path in LIB if path not in BLOCKS]


def test_the_parts_that_run_where_they_are_included() -> None:
    names = {path.stem for path in BLOCKS}
    common = {"allowed", "begin", "open", "remember", "resolve", "save"}
    assert names == common | {"allowance", "bucket", "follow", "follow_place", "room", "settle"}


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.stem)
def test_a_helper_is_one_local_of_its_files_name(path: Path) -> None:
    text = code(path.read_text())
    at_the_margin = re.findall(r"^local (?:function )?(\w+)", text, re.MULTILINE)
    assert at_the_margin == [path.stem]
    assert re.findall(r"^(?!local|end|\s|\}|\))\S.*", text, re.MULTILINE) == []


@pytest.mark.parametrize("path", LIB, ids=lambda path: path.stem)
def test_a_helper_says_what_it_is_for_and_is_used(path: Path) -> None:
    assert path.read_text().startswith("-- ")
    users = [file for file in FILES + LIB if f"-- @include {path.stem}\n" in file.read_text()]
    assert users


def test_luacheck_finds_nothing(tmp_path: Path) -> None:
    """No global is set or read but Redis's own, no helper is missing, none is included in vain."""
    luacheck = shutil.which("luacheck")
    if luacheck is None:
        pytest.skip("luacheck is not installed")
    for name, script in SCRIPTS.items():
        (tmp_path / f"{name}.lua").write_text(script.source)
    config = Path(__file__).parents[2] / ".luacheckrc"
    command = [luacheck, "--config", str(config), "--no-color", "--codes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_server_takes_it_under_its_sha(client: redis.Redis, name: str) -> None:
    assert client.script_load(SCRIPTS[name].source) == SCRIPTS[name].sha


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_something_begins_and_ends_alike(name: str) -> None:
    text = (_scripts.folder() / f"{name}.lua").read_text()
    included = re.findall(r"-- @include (\w+)", text)
    parts = ["open", "begin", "allowed", "resolve", "remember", "save"]
    # `lease` has two ends: what it issued is saved before it is used.
    assert list(dict.fromkeys(part for part in included if part in parts)) == parts
    again = re.search(r"^if (not )?again then$", text, re.MULTILINE)
    assert again is not None
    assert again.start() < text.index("-- @include resolve")

"""How the text of a script is put together."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from pyqueue import _scripts


def test_every_script_loads_with_all_of_its_parts() -> None:
    names = _scripts.names()
    assert {"push", "lease", "complete", "release", "fail", "extend", "reclaim"} <= set(names)
    for name in names:
        script = _scripts.load(name)
        assert script.name == name
        assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()
        assert "@include" not in script.source
        assert script.source.startswith("#!lua")
        assert script.args[0] == "now"
        assert script is _scripts.load(name)


def test_what_takes_a_call_id() -> None:
    readers = {"check", "dead", "delete", "leases", "stats", "waiting"}
    for name in _scripts.names():
        assert _scripts.load(name).takes_call == (name not in readers)


def test_the_last_argument_may_be_many() -> None:
    assert _scripts.load("complete").args == ("now", "slot", "number", "ack", "token...")
    assert _scripts.load("complete").keys[:4] == ("waiting", "leases", "leased", "meta")


def test_the_assembled_scripts_can_be_written_out(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-m", "pyqueue._scripts"]
    subprocess.run([*command, str(tmp_path / "out")], check=True, cwd=Path(__file__).parents[2])
    written = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {name: _scripts.load(name).source for name in _scripts.names()}


def test_a_header_that_does_not_count_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scripts, "folder", lambda: tmp_path)
    (tmp_path / "wrong.lua").write_text("#!lua\n-- KEYS[1] waiting LIST\n-- KEYS[3] meta HASH\n")
    with pytest.raises(ValueError, match=r"wrong\.lua does not count its slots from 1"):
        _scripts.load("wrong")
    (tmp_path / "lost.lua").write_text("#!lua\n-- @include nowhere\n")
    with pytest.raises(FileNotFoundError):
        _scripts.load("lost")

"""The mutation check itself, and a short slice of it; `make mutants` is the whole."""

import json
import subprocess
import sys

import pytest

from tests.mutants.__main__ import reasons
from tests.mutants.lua import Folder, Source
from tests.mutants.named import NAMED, Named, named
from tests.mutants.run import KILLERS, ROOT

SCRIPT = """#!lua flags=allow-oom
-- A comment with 1 + 1.
-- @include open
local function take(token)
  if not token or token == '-' then
    count = count + 1
    redis.call(
      'ZREM',
      leases,
      math.min(token, KEYS[7])
    )
  end
end
"""


def test_each_little_change_is_a_mutant() -> None:
    assert {str(mutant) for mutant in Source("x.lua", SCRIPT).mutants({"open"})} == {
        "x.lua:10  math.min(token, KEYS[7])  ->  math.max(token, KEYS[7])",
        "x.lua:1  #!lua flags=allow-oom  ->  #!lua",
        "x.lua:3  -- @include open  ->  (nothing)",
        "x.lua:5  if not token or token == '-' then  ->  if false then",
        "x.lua:5  if not token or token == '-' then  ->  if not token and token == '-' then",
        "x.lua:5  if not token or token == '-' then  ->  if not token or token ~= '-' then",
        "x.lua:5  if not token or token == '-' then  ->  if token or token == '-' then",
        "x.lua:5  if not token or token == '-' then  ->  if true then",
        "x.lua:6  count = count + 1  ->  (nothing)",
        "x.lua:6  count = count + 1  ->  count = count + 0",
        "x.lua:6  count = count + 1  ->  count = count + 2",
        "x.lua:6  count = count + 1  ->  count = count - 1",
        "x.lua:7  redis.call( 'ZREM', leases, math.min(token, KEYS[7]) )  ->  (nothing)",
    }


def test_a_file_that_is_not_understood_is_no_file_without_mutants() -> None:
    with pytest.raises(ValueError, match=r"x\.lua:2: .* is not known"):
        _ = Source("x.lua", "local x\nx = [[text]] ~ 1").tokens


@pytest.mark.parametrize("pattern", ["count = 7", "count"])
def test_a_mutant_made_by_hand_must_fit_in_one_place(pattern: str) -> None:
    with pytest.raises(LookupError, match=r"x\.lua has"):
        named([Source("x.lua", SCRIPT)], [Named("a name", "x.lua", pattern, "")])


def test_those_made_by_hand_still_fit() -> None:
    assert len(named(Folder(ROOT / "lua").sources())) == len(NAMED)
    assert json.loads(KILLERS.read_text()).keys() == {one.name for one in NAMED}


def test_every_survivor_has_a_reason() -> None:
    assert all(reasons().values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tests_notice_when_a_check_is_broken() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--kind", "named"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""Runs tests on changed scripts, in forks of a pytest that has collected them: they start at once.

Run as a script with the files of tests. Each line of its standard input is a request, each line of
its standard output the answer to one.
"""

import hashlib
import json
import os
import re
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypedDict

import hypothesis
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from pyqueue import _scripts

PROBE = re.compile(rb"mutants (\S+) (\d+) ")
#: The first failure tells enough, and it is the same one each time.
GENERATE = settings(
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


#: These take long: they are run only when they are asked for.
LAST = "tests/faults/test_half_done.py"


class Request(TypedDict):
    """What to run, in this order, until the first failure."""

    #: Name → text of the scripts.
    scripts: dict[str, str]
    #: Their ids, those of none are passed over; None for all but those of LAST.
    tests: list[str] | None
    #: How many examples of the model follow.
    examples: int
    url: str
    seconds: float
    #: The log of a server whose scripts say what they run.
    log: str | None


class Result(TypedDict):
    """What came of it."""

    #: Why the tests could not be run.
    error: str
    #: The first test that failed, or another cause; empty when all passed.
    killed_by: str
    #: Of each test that ran, how long it took and which statements of the scripts it ran.
    tests: dict[str, tuple[float, list[tuple[str, int]]]]


class Plugin:
    """Answers requests, where pytest would run what it has collected."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        #: In a fork, what it is to do, and where it writes what came of it.
        self.request: Request | None = None
        self.writing = -1
        self.result: Result = {"error": "", "killed_by": "", "tests": {}}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Returns in each fork, to let pytest run the tests; else when the input ends."""
        for line in sys.stdin:
            reading, self.writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                self._prepare(json.loads(line), session)
                return None
            os.close(self.writing)
            answer = self._wait(pid, reading, json.loads(line)["seconds"])
            os.write(self.answers, answer.strip() + b"\n")
        return True

    def _prepare(self, request: Request, session: pytest.Session) -> None:
        self.request = request
        os.environ["PYQUEUE_TEST_URL"] = request["url"]
        for name, source in request["scripts"].items():
            script = _scripts.load(name)
            # All who use a script use this one.
            object.__setattr__(script, "source", source)
            sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            object.__setattr__(script, "sha", sha)
        if request["tests"] is None:
            session.items = [item for item in session.items if not item.nodeid.startswith(LAST)]
        else:
            items = {item.nodeid: item for item in session.items}
            session.items = [items[test] for test in request["tests"] if test in items]

    @staticmethod
    def _wait(pid: int, reading: int, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        text = b""
        late: Result = {"error": "", "killed_by": f"taking more than {seconds:.0f} s", "tests": {}}
        with os.fdopen(reading, "rb", buffering=0) as stream:
            while select.select([stream], [], [], max(deadline - time.monotonic(), 0))[0]:
                more = stream.read(1 << 16)
                if not more:
                    break
                text += more
            else:
                os.kill(pid, signal.SIGKILL)
                text = json.dumps(late).encode()
        os.waitpid(pid, 0)
        return text

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.result["killed_by"] = self.result["killed_by"] or report.nodeid

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        assert self.request is not None
        log = self.request["log"]
        began = time.monotonic()
        at = Path(log).stat().st_size if log else 0
        result = yield
        seen: list[tuple[str, int]] = []
        if log:
            with Path(log).open("rb") as stream:
                stream.seek(at)
                found = set(PROBE.findall(stream.read()))
            seen = sorted((file.decode(), int(line)) for file, line in found)
        self.result["tests"][item.nodeid] = (time.monotonic() - began, seen)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self.request is not None:
            self._end(self.request, exitstatus)

    def _end(self, request: Request, exitstatus: int) -> NoReturn:
        try:
            if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
                self.result["error"] = f"pytest ends with {exitstatus}"
            elif request["examples"] and not self.result["killed_by"]:
                self.result["killed_by"] = _model(request)
        except BaseException:  # noqa: BLE001 - it ends here
            self.result["error"] = traceback.format_exc()
        with os.fdopen(self.writing, "w") as stream:
            json.dump(self.result, stream)
        os._exit(0)


def _model(request: Request) -> str:
    from tests.model.machine import Machine

    with redis.Redis.from_url(request["url"]) as client:

        class Bound(Machine):
            def __init__(self) -> None:
                super().__init__(client)

        try:
            run_state_machine_as_test(
                hypothesis.seed(0)(Bound),
                settings=settings(
                    GENERATE,
                    max_examples=request["examples"],
                    stateful_step_count=60,
                    derandomize=False,
                ),
            )
        except Exception as error:  # noqa: BLE001 - whatever the model says
            return f"tests/model: {type(error).__name__}"
    return ""


def main(files: list[str]) -> int:
    """Answer until the standard input ends."""
    os.environ["PYQUEUE_TEST_URL"] = "each request names its own"
    settings.register_profile("mutants", GENERATE)
    answers = os.dup(1)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 1)
        options = ["-x", "-q", "--tb=no", "-s", "--timeout=60", "-p", "no:cacheprovider"]
        # pytest would rewrite what hypothesis imports, were it not imported yet.
        options += ["-W", "ignore:Module already imported", "--hypothesis-profile=mutants"]
        code = pytest.main([*options, *files], plugins=[Plugin(answers)])
        if code:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace"))
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

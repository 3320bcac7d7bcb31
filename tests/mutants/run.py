"""Runs the tests on mutants: which of them, on which server, in which process."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import redis

from tests.faults.test_half_done import CASES
from tests.mutants.forks import LAST, Request, Result
from tests.mutants.lua import Folder, Mutant
from tests.servers import LocalServer, launch

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "mutants.json"
#: Of each mutant that was made by hand the test that noticed it last: tried alone, before any plan.
KILLERS = Path(__file__).parent / "killers.json"
#: tests/lua/test_headers.py reads the text of the scripts: it would notice without running them.
FILES = [
    *(
        f"tests/lua/{path.name}"
        for path in sorted((ROOT / "tests" / "lua").glob("test_*.py"))
        if path.name != "test_headers.py"
    ),
    "tests/contract/test_check.py",
]
#: It stops a script at each of its commands: that takes long, and it is known which script.
LAST_TEST = f"{LAST}::test_what_a_stopped_script_leaves_is_mended"
EXAMPLES = 30
SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    #: Why it was not run: it is no script, or the same one.
    skipped: str
    #: The test that noticed; empty for a survivor.
    killed_by: str


class Laboratory:
    """A server, and a process that runs tests on it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.intact = folder.assembled()
        source = "redis" if shutil.which("redis-server") else "valkey"
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(launch(source, "--appendonly", "no"))
            assert isinstance(server, LocalServer)
            self.server = server
            self.forks = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.mutants.forks", *FILES, LAST],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            self.closing = stack.pop_all()

    def close(self) -> None:
        self.closing.close()

    def run(
        self,
        scripts: dict[str, str],
        tests: list[str] | None,
        examples: int = 0,
        *,
        logged: bool = False,
    ) -> Result:
        """Run tests on these scripts.

        Raises:
            RuntimeError: the tests could not be run.
        """
        request: Request = {
            "scripts": {Path(file).stem: text for file, text in scripts.items()},
            "tests": tests,
            "examples": examples,
            "url": self.server.url,
            "seconds": SECONDS,
            "log": str(self.server.directory / "log") if logged else None,
        }
        assert self.forks.stdin is not None
        assert self.forks.stdout is not None
        self.forks.stdin.write(json.dumps(request) + "\n")
        self.forks.stdin.flush()
        line = self.forks.stdout.readline()
        if not line.strip():
            raise RuntimeError("a process that runs tests has ended")
        result: Result = json.loads(line)
        if result["error"]:
            raise RuntimeError(result["error"])
        if not self._answers():
            self.server.restart(kill=True)
        return result

    def _answers(self) -> bool:
        """Whether the server is free: a script without an end holds it for ever."""
        with redis.Redis.from_url(self.server.url, socket_timeout=5) as client:
            try:
                client.flushall()
            except (redis.TimeoutError, redis.ResponseError):
                return False
        return True

    def judge(
        self, mutant: Mutant, choose: Callable[[Mutant, set[str]], list[str]], examples: int
    ) -> Outcome:
        """Break the scripts, and run the tests that `choose` names, then the model."""
        scripts = self.folder.assembled({mutant.file: mutant.text})
        changed = {file for file, text in scripts.items() if text != self.intact[file]}
        if not changed:
            return Outcome(mutant, "the same text", "")
        with redis.Redis.from_url(self.server.url) as client:
            for file in changed:
                try:
                    client.script_load(scripts[file])
                except redis.ResponseError:
                    return Outcome(mutant, "does not compile", "")
        tests = choose(mutant, {Path(file).stem for file in changed})
        return Outcome(mutant, "", self.run(scripts, tests, examples)["killed_by"])


class Plan:
    """Which tests run each statement of the scripts, and how long they take."""

    def __init__(self, ran: dict[str, tuple[float, list[list[str]]]]) -> None:
        #: Of each file the tests that noticed, and how often: they are tried first.
        self.killers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.seconds = {test: seconds for test, (seconds, _) in ran.items()}
        #: Those of LAST, by their script.
        self.last: defaultdict[str, list[str]] = defaultdict(list)
        for name, case in CASES.items():
            self.last[case.verb].append(f"{LAST_TEST}[url-{name}]")
        self.by_line: dict[tuple[str, int], list[str]] = {}
        for test, (_, lines) in ran.items():
            for file, line in lines:
                self.by_line.setdefault((file, int(line)), []).append(test)

    @classmethod
    def made(cls, laboratory: Laboratory) -> "Plan":
        """Run all tests once, on scripts that say what they run; or remember when it was done.

        Raises:
            RuntimeError: a test fails although nothing is broken.
        """
        digest = hashlib.sha256()
        for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "lua").rglob("*.lua")]):
            digest.update(path.read_bytes() if "mutants" not in path.parts[-2] else b"")
        if CACHE.exists():
            kept = json.loads(CACHE.read_text())
            if kept["of"] == digest.hexdigest():
                return cls(kept["ran"])
        probed = {source.file: source.probed() for source in laboratory.folder.sources()}
        result = laboratory.run(laboratory.folder.assembled(probed), None, logged=True)
        if result["killed_by"]:
            raise RuntimeError(f"{result['killed_by']} fails on the scripts as they are")
        CACHE.parent.mkdir(exist_ok=True)
        CACHE.write_text(json.dumps({"of": digest.hexdigest(), "ran": result["tests"]}))
        return cls(json.loads(CACHE.read_text())["ran"])

    def tests(self, mutant: Mutant, scripts: set[str]) -> list[str]:
        """The tests that run the changed line: first those that found others, and the script's; at
        last those that stop the script.
        """
        own = {f"tests/lua/test_{script}.py" for script in scripts}
        killers = self.killers[mutant.file]

        def rank(test: str) -> tuple[int, bool, float]:
            return -killers[test], test.partition("::")[0] not in own, self.seconds[test]

        found = sorted(self.by_line.get((mutant.file, mutant.probe), []), key=rank)
        return found + [test for script in sorted(scripts) for test in self.last[script]]


def judge_all(
    folder: Folder,
    mutants: list[Mutant],
    processes: int,
    report: Callable[[Outcome], None],
    *,
    quick: bool = False,
) -> list[Outcome]:
    """Try mutants, several at a time."""
    waiting = deque(mutants)
    known: dict[str, str] = json.loads(KILLERS.read_text())
    planning = Lock()
    plans: list[Plan] = []

    def take() -> Mutant | None:
        with contextlib.suppress(IndexError):
            return waiting.popleft()
        return None

    def judge(laboratory: Laboratory, mutant: Mutant) -> Outcome:
        if mutant.name in known:
            outcome = laboratory.judge(mutant, lambda _mutant, _scripts: [known[mutant.name]], 0)
            if outcome.killed_by or outcome.skipped:
                return outcome
        with planning:
            plans.extend([] if plans else [Plan.made(laboratory)])
        outcome = laboratory.judge(
            mutant,
            lambda mutant, scripts: plans[0].tests(mutant, set() if quick else scripts),
            0 if quick else EXAMPLES,
        )
        plans[0].killers[mutant.file][outcome.killed_by] += 1
        return outcome

    # Each has its own laboratory: a server ends with the thread that launched it.
    def work() -> list[Outcome]:
        outcomes: list[Outcome] = []
        with contextlib.closing(Laboratory(folder)) as laboratory:
            while mutant := take():
                outcomes.append(judge(laboratory, mutant))
                report(outcomes[-1])
        return outcomes

    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(work) for _ in range(processes)]
        try:
            return [outcome for future in futures for outcome in future.result()]
        except BaseException:
            waiting.clear()
            raise

"""``make fuzz``: runs cases on a server until the time is up, and keeps those that show new things.

The files of the corpus and the first cases are run once each, and mutations of them. A case that
breaks something is written to ``broken-*.json`` in the directory of the corpus, made as small as it
can be, and the run ends with 1.
"""

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.fuzz import oracle
from tests.fuzz.cases import Case, Mutator, seeds
from tests.lua.harness import command
from tests.servers import launch, sources

CORPUS = Path(__file__).parent / "corpus"


@dataclass
class Report:
    """What a run has shown."""

    cases: int = 0
    calls: int = 0
    features: set[str] = field(default_factory=set)
    differences: Counter[str] = field(default_factory=Counter)
    kept: list[Case] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    #: What broke, and the smallest case that breaks.
    broken: list[tuple[str, Case]] = field(default_factory=list)

    def __str__(self) -> str:
        slowest, _ = self.slowest
        lines = [f"{self.cases:,} cases, {self.calls:,} calls, {len(self.kept)} new cases kept"]
        lines += [f"{len(self.features):,} classes of outcomes", f"slowest call {slowest:.1f} ms"]
        lines += [f"  {number:,} times {what}" for what, number in sorted(self.differences.items())]
        for problem, case in self.broken:
            lines.append(f"BROKEN: {problem}\n{json.dumps(case)}")
        return "\n".join(lines)


def read(directory: Path) -> list[Case]:
    """The corpus."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("case-*.json"))]


def write(directory: Path, prefix: str, case: Case) -> Path:
    """Writes a case under a name that its content gives it."""
    text = json.dumps(case) + "\n"
    path = directory / f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    path.write_text(text)
    return path


def breaks(client: redis.Redis, case: Case) -> str | None:
    """What breaks in a case, if anything does."""
    try:
        oracle.run(client, case)
    except Exception as error:  # noqa: BLE001 - a reply that cannot be decoded raises anything
        return f"{type(error).__name__}: {error}"
    return None


def reduced(client: redis.Redis, case: Case, most: int = 300) -> Case:
    """The case without the steps and arguments that it breaks without, in the same way."""
    before = breaks(client, case)
    kind = (before or "")[:40]
    for _ in range(most):
        for smaller in _smaller(case):
            found = breaks(client, smaller)
            if found is not None and found[:40] == kind:
                case = smaller
                break
        else:
            break
    return case


def _smaller(case: Case) -> list[Case]:
    steps = case["steps"]
    found = [{**case, "steps": steps[:at] + steps[at + 1 :]} for at in range(len(steps))]
    for at, step in enumerate(steps):
        for argument in range(1, len(step)):
            less = [*step[:argument], *step[argument + 1 :]]
            found.append({**case, "steps": [*steps[:at], less, *steps[at + 1 :]]})
    return found


def fuzz(
    client: redis.Redis,
    corpus: list[Case],
    seconds: float,
    seed: int,
    on_new: Callable[[Case], object] = lambda _: None,
    most_broken: int = 3,
) -> Report:
    """Runs each case once, and mutations of those that show something, until the time is up.

    ``on_new`` gets each mutation that shows what none before has, once all cases were run.
    """
    command(client, "CONFIG", "SET", "slowlog-log-slower-than", 2000)
    report = Report()
    mutator = Mutator(seed)
    deadline = time.monotonic() + seconds
    todo = list(corpus)
    mutator.random.shuffle(todo)
    pool: list[Case] = []
    while time.monotonic() < deadline and len(report.broken) < most_broken:
        # A short run has a part of each.
        is_new = bool(pool) and (not todo or mutator.random.random() < 0.3)
        case = mutator.mutate(*mutator.random.choices(pool, k=2)) if is_new else todo.pop()
        report.cases += 1
        try:
            outcome = oracle.run(client, case)
        except Exception as error:  # noqa: BLE001 - a reply that cannot be decoded raises anything
            small = reduced(client, case)
            report.broken.append((f"{type(error).__name__}: {error}", small))
            continue
        report.calls += outcome.calls
        report.differences += outcome.differences
        report.slowest = max(report.slowest, outcome.slowest)
        if not outcome.features <= report.features:
            report.features |= outcome.features
            pool.append(case)
            if is_new and not todo:
                report.kept.append(case)
                on_new(case)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--server", default=sources()[0], help="as tests/servers.py has it")
    parser.add_argument("cases", nargs="*", type=Path, help="only these files")
    options = parser.parse_args()
    with launch(options.server) as server, server.client() as client:
        print(f"{server}, seed {options.seed}")
        if options.cases:
            given = [json.loads(path.read_text()) for path in options.cases]
            problems = [problem for case in given if (problem := breaks(client, case))]
            print("\n".join(problems) or "nothing breaks")
            return min(len(problems), 1)
        corpus = read(options.corpus)
        report = fuzz(
            client,
            [*corpus, *seeds()],
            options.seconds,
            options.seed,
            lambda case: write(options.corpus, "case", case),
        )
        print(report)
        for _, case in report.broken:
            print(f"written to {write(options.corpus, 'broken', case)}")
    return min(len(report.broken), 1)


if __name__ == "__main__":
    sys.exit(main())

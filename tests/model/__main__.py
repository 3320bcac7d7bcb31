"""The model with a large budget: ``python -m tests.model``, or ``make test-model``.

Runs seed after seed on both servers, in several processes, until so many rule steps are done, and
notes each seed that passed in a file: the next run goes on behind it. A seed that fails is printed
with its smallest example; ``--seed N --server S --steps 1`` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine
from tests.servers import launch

#: Of one seed. With many more steps an example has more choices than Hypothesis takes.
EXAMPLES, STEPS = 100, 50


class Outcome(NamedTuple):
    """What became of a seed."""

    server: str
    seed: int
    steps: int
    seconds: float
    #: Empty when it passed.
    failure: str


def run(server: str, seed: int) -> Outcome:
    """Runs one seed on a server of its own."""
    budget = hypothesis.settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    before, start = Machine.steps, time.monotonic()
    printed, failure = io.StringIO(), ""
    with launch(server) as running, running.client() as client:
        running.empty()

        class Bound(Machine):
            def __init__(self) -> None:
                super().__init__(client)

        with contextlib.redirect_stdout(printed):
            try:
                run_state_machine_as_test(hypothesis.seed(seed)(Bound), settings=budget)
            except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
                failure = printed.getvalue() + traceback.format_exc()
    return Outcome(server, seed, Machine.steps - before, time.monotonic() - start, failure)


def done_before(progress: Path) -> dict[tuple[str, int], int]:
    """Server and seed → steps, of all that passed in earlier runs."""
    if not progress.exists():
        return {}
    lines = (line.split() for line in progress.read_text().splitlines())
    return {(server, int(seed)): int(steps) for server, seed, steps in lines}


def main() -> int:
    """Returns the exit code: 1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="rule steps in all")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--server", action="append", help="valkey, redis: default both")
    parser.add_argument("--progress", type=Path, help="where passed seeds are noted")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    options = parser.parse_args()
    servers = options.server or ["valkey", "redis"]

    done = done_before(options.progress) if options.progress else {}
    steps, begun = sum(done.values()), time.monotonic()
    if done:
        print(f"{len(done)} seeds with {steps:,} rule steps are done already")
    seeds: Iterator[tuple[str, int]] = (
        (server, seed) for seed in itertools.count(options.seed) for server in servers
    )
    todo = (pair for pair in seeds if pair not in done)
    new = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        running: set[Future[Outcome]] = set()
        while True:
            late = time.monotonic() - begun > options.seconds
            while steps < options.steps and not late and len(running) < options.jobs:
                running.add(pool.submit(run, *next(todo)))
            if not running:
                break
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in finished):
                if outcome.failure:
                    print(f"seed {outcome.seed} on {outcome.server} FAILED\n{outcome.failure}")
                    return 1
                steps, new = steps + outcome.steps, new + outcome.steps
                print(
                    f"seed {outcome.seed} on {outcome.server}: {outcome.steps:,} rule steps"
                    f" in {outcome.seconds:.0f} s; {steps:,} of {options.steps:,}",
                    flush=True,
                )
                if options.progress:
                    options.progress.parent.mkdir(parents=True, exist_ok=True)
                    with options.progress.open("a") as notes:
                        notes.write(f"{outcome.server} {outcome.seed} {outcome.steps}\n")
    seconds = time.monotonic() - begun
    print(f"passed: {steps:,} rule steps, {new:,} of them now, {new / seconds:.0f} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The mutation check: breaks the scripts one little thing at a time; the tests must notice.

``python -m tests.mutants`` tries every mutant of every script, ``--sample 50`` some of them. It
prints what became of each, and fails when one survives without a reason in ``survivors.toml``.
"""

import argparse
import json
import random
import sys
import time
import tomllib
from collections import Counter
from pathlib import Path

from tests.mutants.lua import KINDS, Folder, Mutant
from tests.mutants.named import named
from tests.mutants.run import KILLERS, ROOT, Outcome, judge_all

REASONS = Path(__file__).parent / "survivors.toml"


def reasons() -> dict[tuple[str, str, str], str]:
    """The accepted survivors.

    Raises:
        ValueError: one is there twice, or has no reason.
    """
    found: dict[tuple[str, str, str], str] = {}
    for entry in tomllib.loads(REASONS.read_text(encoding="utf-8")).get("survivor", []):
        key = entry["file"], entry["was"], entry["becomes"]
        if key in found or not entry["reason"].strip():
            raise ValueError(f"{REASONS.name}: twice, or without a reason: {key}")
        found[key] = entry["reason"]
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-j", type=int, default=2, metavar="N", help="processes, default 2")
    parser.add_argument("-k", default="", metavar="TEXT", help="only those whose line has this")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, help="only of this kind; may be given again"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="so many, chosen at random")
    parser.add_argument("--seed", type=int, default=random.getrandbits(32), help="of the sample")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="without the model and without stopping the scripts: more survive",
    )
    parser.add_argument(
        "--note", action="store_true", help=f"write to {KILLERS.name} what notices the named ones"
    )
    parser.add_argument("--list", action="store_true", help="only say what they are")
    return parser.parse_args()


def _survivor(mutant: Mutant) -> str:
    fields = {"file": mutant.file, "was": mutant.was, "becomes": mutant.becomes, "reason": ""}
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["[[survivor]]", *lines])


def main() -> int:
    """Run it; returns the exit code."""
    arguments = _arguments()
    folder = Folder(ROOT / "lua")
    sources, parts = folder.sources(), folder.parts()
    kinds = arguments.kind or KINDS
    mutants = named(sources)
    mutants += [mutant for source in sources for mutant in source.mutants(parts)]
    mutants = [one for one in mutants if arguments.k in str(one) and one.kind in kinds]
    whole = not (arguments.kind or arguments.k or arguments.sample)
    if arguments.sample is not None:
        print(f"--sample {arguments.sample} --seed {arguments.seed}")
        chosen = random.Random(arguments.seed)
        mutants = chosen.sample(mutants, min(arguments.sample, len(mutants)))
    if arguments.list:
        print(*mutants, sep="\n")
        return 0
    accepted = reasons()
    began = time.monotonic()

    def report(outcome: Outcome) -> None:
        said = (
            f"skipped ({outcome.skipped})"
            if outcome.skipped
            else f"killed by {outcome.killed_by}"
            if outcome.killed_by
            else "survives"
            if outcome.mutant.key in accepted
            else "SURVIVES"
        )
        print(f"{outcome.mutant}  [{said}]", flush=True)

    outcomes = judge_all(folder, mutants, arguments.j, report, quick=arguments.quick)
    tried = [outcome for outcome in outcomes if not outcome.skipped]
    if arguments.note:
        noticed = {x.mutant.name: x.killed_by for x in tried if x.mutant.name and x.killed_by}
        KILLERS.write_text(json.dumps(noticed, indent=2, sort_keys=True) + "\n")
    survivors = [outcome.mutant for outcome in tried if not outcome.killed_by]
    # Two lines that are alike can be mutated alike: a reason is for either.
    explained = {mutant.key for mutant in survivors if not mutant.name} & accepted.keys()
    wrong = [mutant for mutant in survivors if mutant.name or mutant.key not in accepted]
    judged = {outcome.mutant.key for outcome in outcomes}
    stale = {key for key in accepted.keys() - explained if whole or key in judged}

    print("\nSurvivors, with the reason:")
    for key in sorted(explained):
        print(f"  {key[0]}: {key[1]}  ->  {key[2] or '(nothing)'}\n      {accepted[key]}")
    for key in sorted(stale):
        print(f"WARNING: {REASONS.name} has a reason for what does not survive: {key}")
    print("\nOf each kind and file the mutants, and how many survive:")
    for part in ("kind", "file"):
        totals = Counter(getattr(outcome.mutant, part) for outcome in tried)
        left = Counter(getattr(mutant, part) for mutant in survivors)
        for one, total in sorted(totals.items()):
            print(f"  {one:<28} {total:>4} {left[one]:>4}")
    print(
        f"\n{len(tried)} mutants, {len(tried) - len(survivors)} killed, "
        f"{len(survivors)} survive, {len(survivors) - len(wrong)} with a reason; "
        f"{len(outcomes) - len(tried)} are no other script; {time.monotonic() - began:.0f} s"
    )
    if wrong:
        print("\nTo kill with a test, or to explain:\n")
        print(*(_survivor(mutant) for mutant in wrong), sep="\n\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

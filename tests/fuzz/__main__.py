"""`python -m tests.fuzz`: many cases of every kind, a table of what came of them; 1 for a fault."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence

from tests.fuzz import KINDS
from tests.fuzz.pool import Result, run_cases
from torusformer.progress import Progress
from torusformer.tables import table

OUTCOMES = ("refused", "accepted", "fault")


def seeds(kinds: Sequence[str], cases: int, seed: int) -> list[tuple[str, int]]:
    """(kind, seed) of every case: the kinds in turn, seeds counted from `seed`."""
    return [(kinds[i % len(kinds)], seed + i // len(kinds)) for i in range(cases)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; 1 where one is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="of all kinds")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first case")
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="only this kind")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="J", help="processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no more")
    args = parser.parse_args(argv)
    kinds = args.kind or list(KINDS)

    counts: Counter[tuple[str, str]] = Counter()
    slowest, faults = 0.0, []
    with Progress("fuzz", total=args.cases) as progress:
        for result in run_cases(KINDS, seeds(kinds, args.cases, args.seed), args.jobs):
            counts[result.kind, result.outcome] += 1
            slowest = max(slowest, result.seconds)
            if result.outcome == "fault":
                faults.append(result)
                print(_shown(result), file=sys.stderr)
            progress.advance(f"{len(faults)} faults" if faults else "")
    rows = {kind: [counts[kind, outcome] for outcome in OUTCOMES] for kind in kinds}
    if args.json:
        by_kind = {k: dict(zip(OUTCOMES, row, strict=True)) for k, row in rows.items()}
        found = [{"kind": r.kind, "seed": r.seed, "said": r.said} for r in faults]
        print(json.dumps({"seed": args.seed, "kinds": by_kind, "faults": found}, indent=2))
    else:
        cells = [(kind, sum(row), *row) for kind, row in rows.items()]
        cells.append(
            ("all", *(sum(column) for column in zip(*(c[1:] for c in cells), strict=True)))
        )
        print(table(("kind", "cases", "refused", "accepted", "faults"), cells))
        print(f"the slowest took {slowest:.1f} s; seeds from {args.seed}")
    return 1 if faults else 0


def _shown(result: Result) -> str:
    again = f"python -m tests.fuzz --kind {result.kind} --seed {result.seed} --cases 1"
    return f"fault: {again}\n{result.said}"


if __name__ == "__main__":
    raise SystemExit(main())

"""`make bench`: measure all parts, or those named, and write results.md and results.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.runner import JSON, MARKDOWN, run
from benchmarks.store import Store
from torusformer import TorusformerError
from torusformer.tables import table

HERE = Path(__file__).parent
CACHE = HERE / ".cache"


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 if a part failed; 2 after a user's mistake; 130 if stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure, and write {MARKDOWN} and {JSON}. Resumes what was interrupted.",
        epilog="example: make bench ONLY=attention_only,growth",
    )
    parser.add_argument("--only", default="", metavar="PART[,PART]", help="these parts alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes into .cache")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="names.txt for the part `names`, usps.npz for `usps`, for `sentences` a folder of "
        "train.tsv, dev.tsv and teacher/ or student-best/ and student-fast/",
    )
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    args = parser.parse_args(argv)

    from benchmarks.parts import PARTS  # torch, Brevitas and Concrete

    if args.list:
        print(table(("", ""), [(part.name, part.title) for part in PARTS]))
        return 0
    store = Store(CACHE / ("quick" if args.quick else "full"))
    folder = store.folder / "results" if args.quick else HERE
    folder.mkdir(exist_ok=True)
    only = [name for name in args.only.split(",") if name]
    try:
        failed = run(PARTS, only, store, folder, quick=args.quick, data=args.data)
    except TorusformerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        said = "stopped; what was measured is kept, the same command goes on from there"
        print(f"\nbench: {said}", file=sys.stderr)
        return 130
    print(f"{folder / MARKDOWN}")
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

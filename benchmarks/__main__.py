"""`python -m benchmarks`: measures the rows of the table; prints `name ratio target error`, one line a row."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import demands, gradients, report, solving, training
from benchmarks.models import Absent
from benchmarks.rows import ROWS, Row, row_named
from benchmarks.solving import Plan, Result, line

KINDS: dict[str, Callable[[Row, Plan], Result]] = {
    "population": solving.measure,
    "gradient": gradients.measure,
    "first": demands.first_result,
    "million": demands.million,
    "training": training.measure,
}
"""How rows are measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 for a row that does not exist."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="rows to run; all of them by default")
    parser.add_argument("--list", action="store_true", help="show the rows and stop")
    parser.add_argument("--quick", action="store_true", help="few patients and runs, to see that everything works")
    parser.add_argument("--patients", type=int, default=10_000, help="size of a population (10000)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="results go to its folder bench (out)")
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="Python of the peers' environment")
    parser.add_argument("--page", action="store_true", help="write the table into docs/performance.md as well")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(f"{row.name:28} {row.work}" for row in ROWS))
        return 0
    try:
        rows = [row_named(name) for name in given.only] or list(ROWS)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    # An absolute path that keeps the link of a virtual environment, by which its interpreter finds its libraries.
    plan = Plan((given.out / "bench").absolute(), given.peers.absolute(), given.patients)
    if given.quick:
        plan = Plan(plan.out, plan.python, min(given.patients, 200), sample=10, budget=0.1, repeats=2)
    results = []
    for row in rows:
        results.append(_measured(row, plan))
        print(line(results[-1]), flush=True)
        # After each row, so that a run that is stopped leaves what it has measured.
        report.write(results, plan.out)
    if given.page:
        report.into_page(results)
    return 0


def _measured(row: Row, plan: Plan) -> Result:
    try:
        return KINDS[row.kind](row, plan)
    except Absent as reason:
        return Result(row, problem=f"skipped: {reason}")


if __name__ == "__main__":
    sys.exit(main())

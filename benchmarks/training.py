"""Measures a training step of a hybrid: pharmacokinetics with a learned elimination, the gradient of everything."""

import sys
from dataclasses import replace

from benchmarks.evaluating import answer_path, beside
from benchmarks.exchange import Answer, Request
from benchmarks.ours_training import batch
from benchmarks.rows import Row
from benchmarks.solving import RTOLS, Plan, Result, run

KINKED = 1e-3
"""Error of the gradient at which tools may be compared: a flux changes its gate with its sign, and at such a kink the
derivative of a numerical solution comes closer to the exact one no faster than the first power of the step."""


def measure(row: Row, plan: Plan) -> Result:
    """Runs the row; the reference is diffrax at 1e-11, and the disagreement its distance from 1e-10."""
    folder = plan.out / "tasks" / row.name
    folder.mkdir(parents=True, exist_ok=True)
    batch().write(folder / "batch.npz")
    request = Request(str(folder), str(answer_path(folder, "ours")), RTOLS, 1, 1, plan.budget, plan.repeats)

    def ask(name: str, rtols: tuple[float, ...], repeats: int) -> Answer:
        asked = replace(request, answer=str(answer_path(folder, name.replace(" ", "_"))), rtols=rtols, repeats=repeats,
                        options={"clock": name})  # fmt: skip
        return run("benchmarks.peers.diffrax_training", asked, str(plan.python), plan.limit)

    def ours() -> Answer:
        return run("benchmarks.ours_training", request, sys.executable, plan.limit)

    return beside(row, plan, (1e-10, 1e-11), ours, ask, KINKED)

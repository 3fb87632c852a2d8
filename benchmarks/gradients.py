"""Measures log-likelihoods of PEtab problems with their gradients."""

import sys
from dataclasses import replace

from benchmarks import likelihood
from benchmarks.evaluating import answer_path, beside
from benchmarks.exchange import Answer, Request
from benchmarks.rows import Row
from benchmarks.solving import RTOLS, Plan, Result, run

PROBLEMS = {"boehm": "Boehm_JProteomeRes2014", "fujita": "Fujita_SciSignal2010", "bachmann": "Bachmann_MSB2011"}


def measure(row: Row, plan: Plan) -> Result:
    """Runs a row.

    Raises:
        Absent: when the problem is not in the reference data.
    """
    problem = PROBLEMS[row.case]
    folder = plan.out / "tasks" / row.name
    likelihood.read(problem, folder)
    options = {"outputs": likelihood.output_names(problem), "problem": str(likelihood.benchmark_folder(problem))}
    request = Request(
        str(folder), str(answer_path(folder, "ours")), RTOLS, 1, 1, plan.budget, plan.repeats, False, options
    )

    def ask(peer: str, rtols: tuple[float, ...], repeats: int) -> Answer:
        asked = replace(request, answer=str(answer_path(folder, peer)), rtols=rtols, repeats=repeats)
        return run(f"benchmarks.peers.{peer}_gradient", asked, str(plan.python), plan.limit)

    def ours() -> Answer:
        return run("benchmarks.ours_gradient", request, sys.executable, plan.limit)

    return beside(row, plan, (1e-11, 1e-12), ours, ask)

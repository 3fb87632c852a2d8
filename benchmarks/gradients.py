"""Measures log-likelihoods of PEtab problems with their gradients."""

import sys
from dataclasses import replace

import numpy as np

from benchmarks import likelihood
from benchmarks.evaluating import answer_path, curve, gradient_error, judged
from benchmarks.exchange import Request
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
    asked = replace(request, answer=str(answer_path(folder, "reference")), rtols=(1e-11, 1e-12), repeats=1)
    answer = run("benchmarks.peers.reference_gradient", asked, str(plan.python), plan.limit)
    if answer.problem:
        return Result(row, problem=f"no reference: {answer.problem}")
    looser, reference = (np.load(point.states) for point in answer.points)
    ours = curve(run("benchmarks.ours_gradient", request, sys.executable, plan.limit), reference)
    peers = []
    for peer in row.peers:
        asked = replace(request, answer=str(answer_path(folder, peer)))
        peers.append(curve(run(f"benchmarks.peers.{peer}_gradient", asked, str(plan.python), plan.limit), reference))
    return judged(row, ours, peers, gradient_error(looser, reference))

"""AMICI: value and gradient of a log-likelihood by CVODES with forward sensitivities."""

import logging
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.exchange import Evidence, Request
from benchmarks.measure import Evaluate, serve_value


def prepare(request: Request) -> Evaluate:
    """The problem imported and compiled by AMICI's own reader of PEtab."""
    import amici
    from amici.importers.petab.v1 import import_petab_problem
    from amici.sim.sundials.petab.v1 import simulate_petab
    from petab.v1 import Problem

    # The SWIG that wraps a model must be the one that AMICI was built with: that of this environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = Evidence.read(Path(request.task))
    source = Path(request.options["problem"])
    problem = Problem.from_yaml(str(source / f"{source.name}.yaml"))
    model = import_petab_problem(problem, output_dir=tempfile.mkdtemp(), model_name="m", verbose=logging.ERROR)
    solver = model.create_solver()
    solver.set_sensitivity_order(amici.sim.sundials.SensitivityOrder.first)
    solver.set_sensitivity_method(amici.sim.sundials.SensitivityMethod.forward)
    solver.set_max_steps(100_000)
    names = problem.x_free_ids
    theta = dict(zip(names, given.theta, strict=True))

    def evaluate(rtol: float) -> np.ndarray:
        solver.set_relative_tolerance(rtol)
        solver.set_absolute_tolerance(1e-3 * rtol)
        found = simulate_petab(
            problem, amici_model=model, solver=solver, problem_parameters=theta, scaled_parameters=True,
            scaled_gradients=True,
        )  # fmt: skip
        return -np.r_[found["llh"], [found["sllh"][name] for name in names]]

    return evaluate


if __name__ == "__main__":
    serve_value("AMICI", ("amici",), "CVODES with KLU, forward sensitivities, its own reader of PEtab", prepare)

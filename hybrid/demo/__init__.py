"""The demonstration: a mechanism with something missing, a hybrid that finds it, a population on a new regimen."""

import time
from pathlib import Path

import numpy as np

from hybrid.demo import experiment as parts
from hybrid.demo.page import write
from hybrid.fit import fit
from hybrid.results import FitOptions
from mechanistic import reference
from mechanistic.errors import SolveError

__all__ = ["run"]


def run(out: Path, seed: int = 0, options: FitOptions | None = None) -> parts.Comparison:
    """Runs the demonstration and writes pictures, netCDF, fits and a page into `out`; says what it is doing.

    Args:
        out: folder; made where it does not exist.
        seed: of the simulated cohort and the initial weights.
        options: of both fits.

    Raises:
        SolveError: when the imported mechanism does not agree with libRoadRunner.
    """
    out.mkdir(parents=True, exist_ok=True)
    clock = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - clock:5.1f} s] {text}", flush=True)

    model = parts.mechanism()
    say(f"1/7 read {model!r} from SBML")
    report = reference.check(model.with_initial(gut=100.0), np.linspace(0.0, parts.HORIZON, 61))
    if not report.agrees:
        raise SolveError("the import does not agree with libRoadRunner:", str(report).splitlines())
    say("2/7 a dose of 100 mg simulated here and by libRoadRunner agrees")
    data = parts.experiment(seed)
    say(f"3/7 simulated {parts.SUBJECTS} subjects from a richer model; no fit sees {len(data.held_out)} of them")
    print(data.train, flush=True)
    say("4/7 fit the mechanism alone")
    first = fit(parts.mechanism_simulator(), data.train, options=options, seed=seed)
    say("5/7 fit the hybrid: the mechanism and one learned flux out of `central`")
    second = fit(parts.hybrid_simulator(seed), data.train, start=first, options=options, seed=seed)
    say("6/7 score both on held-out subjects and on a regimen never seen")
    comparison = parts.judge(first, second, data)
    result = parts.Result(report, data, first, second, comparison, seed)
    print(result.field.statement(), flush=True)
    print(comparison.table().round(3).to_string(na_rep=""), flush=True)
    print(f"the hybrid closes {100 * comparison.recovered:.0f} % of the gap between mechanism and truth", flush=True)
    say(f"7/7 simulate {parts.PATIENTS} virtual patients on the new regimen and write {out}")
    write(out, result)
    say(f"done; open {out / 'index.html'}")
    return comparison

"""roadrunner: CVODE on rates compiled by LLVM, one patient at a time, one call between doses."""

import numpy as np

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve, serve
from benchmarks.peers.compiled import smallest_size


def prepare(task: Task, request: Request) -> Solve:
    """The model loaded once; parameters and states are set as whole vectors."""
    import roadrunner

    runner = roadrunner.RoadRunner(str(task.folder / "model.xml"))
    model, atol = runner.model, ABSOLUTE * smallest_size(task)
    species = list(model.getFloatingSpeciesIds())
    order = [task.states.index(name) for name in species]
    back = [species.index(name) for name in task.states]
    known = list(model.getGlobalParameterIds())
    places = [known.index(name) for name in task.parameter_names]
    runner.selections = species
    segments = task.segments()
    spans = [np.unique(np.r_[s.start, task.times[s.first : s.first + s.count], s.end]) for s in segments]
    skipped = [int(task.times[s.first] != s.start) for s in segments]

    def solve(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
        runner.integrator.relative_tolerance = rtol
        runner.integrator.absolute_tolerance = atol * rtol
        result = np.full((len(initial), len(task.times), len(task.states)), np.nan)
        for row, (p, x) in enumerate(zip(parameters, initial, strict=True)):
            model.reset()
            model.setGlobalParameterValues(places, p)
            for s, span, skip in zip(segments, spans, skipped, strict=True):
                model.setFloatingSpeciesAmounts((x + s.jump)[order])
                course = np.asarray(runner.simulate(times=list(span)))[:, back]
                result[row, s.first : s.first + s.count] = course[skip : skip + s.count]
                x = course[-1]
        return result

    return solve


if __name__ == "__main__":
    serve(
        "roadrunner",
        ("libroadrunner",),
        "CVODE, one patient after the other, parameters and states set as whole vectors, one call between doses",
        prepare,
    )

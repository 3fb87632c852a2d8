"""How time is taken, the same for Kinetwin and for every peer; needs NumPy alone."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.exchange import Answer, Measured, Request, Task

Solve = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Parameters `(patient, parameter)`, initial states `(patient, state)` and a relative tolerance to states
`(patient, time, state)`."""

Evaluate = Callable[[float], np.ndarray]
"""A relative tolerance to a value and its gradient, `(1 + parameter,)`."""

ABSOLUTE = 1e-3
"""Absolute over relative tolerance, in multiples of a state's size: what the measure of error forgives as well."""


def timed(work: Callable[[], object], repeats: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """CPU seconds (all threads of the process) and seconds of `repeats` calls; the caller has warmed up."""
    cpu, wall = [], []
    for _ in range(repeats):
        began, started = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - began)
        wall.append(time.perf_counter() - started)
    return tuple(cpu), tuple(wall)


def serve(tool: str, distributions: tuple[str, ...], settings: str, prepare: Callable[[Task, Request], Solve]) -> None:
    """Answers the request whose path is the first argument of the process.

    Args:
        tool: name for tables.
        distributions: whose versions are told.
        settings: how the tool is run, in words.
        prepare: makes the solver: everything that is done once a model.
    """
    request = Request.read(Path(sys.argv[1]))
    answer = Path(request.answer)
    task = Task.read(Path(request.task))
    began = time.process_time()
    solve = prepare(task, request)
    if request.alone:
        solve = _one_by_one(solve)
    solve(task.parameters[:1], task.initial[:1], request.rtols[0])
    setup = time.process_time() - began
    points = tuple(_point(solve, task, request, rtol, answer) for rtol in request.rtols)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions: Mapping[str, str] = {name: version(name) for name in distributions}
    Answer(tool, dict(versions), settings, setup, memory, points).write(answer)


def serve_value(
    tool: str, distributions: tuple[str, ...], settings: str, prepare: Callable[[Request], Evaluate]
) -> None:
    """Answers the request whose path is the first argument of the process; a point is one evaluation."""
    request = Request.read(Path(sys.argv[1]))
    answer = Path(request.answer)
    began = time.process_time()
    evaluate = prepare(request)
    evaluate(request.rtols[0])
    setup, points = time.process_time() - began, []
    for rtol in request.rtols:
        path = answer.with_name(f"{answer.stem}-{rtol:.0e}.npy")
        np.save(path, evaluate(rtol))
        cost = timed(lambda r=rtol: evaluate(r), 1)[0][0]
        repeats = max(1, min(request.repeats, int(request.repeats * request.budget / max(cost, 1e-9))))
        cpu, wall = timed(lambda r=rtol: evaluate(r), repeats)
        points.append(Measured(rtol, 1, cpu, wall, str(path)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Answer(tool, {n: version(n) for n in distributions}, settings, setup, memory, tuple(points)).write(answer)


def _point(solve: Solve, task: Task, request: Request, rtol: float, answer: Path) -> Measured:
    sample = min(request.sample, len(task.parameters))
    states = solve(task.parameters[:sample], task.initial[:sample], rtol)
    path = answer.with_name(f"{answer.stem}-{rtol:.0e}.npy")
    np.save(path, states)
    failed = int((~np.isfinite(states).all(axis=(1, 2))).sum())
    count = _affordable(solve, task, request, rtol, sample)
    p, x = task.parameters[:count], task.initial[:count]
    cpu, wall = timed(lambda: solve(p, x, rtol), request.repeats)
    return Measured(rtol, count, cpu, wall, str(path), failed)


def _affordable(solve: Solve, task: Task, request: Request, rtol: float, sample: int) -> int:
    """How many patients fit the budget; found by solving more and more, because a call costs something by itself."""
    count = sample
    while True:
        seconds = timed(lambda n=count: solve(task.parameters[:n], task.initial[:n], rtol), 1)[0][0]
        if count >= request.patients or seconds > request.budget / 2:
            return count
        count = min(request.patients, int(count * max(1.5, min(8.0, 0.8 * request.budget / max(seconds, 1e-9)))))


def _one_by_one(solve: Solve) -> Solve:
    def each(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
        return np.concatenate([solve(p[None], x[None], rtol) for p, x in zip(parameters, initial, strict=True)])

    return each

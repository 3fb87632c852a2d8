"""Measures a row: a reference, Kinetwin and each peer, every one in a process of its own on one core."""

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import final

import numpy as np

from benchmarks.compare import Point, errors, seconds_at
from benchmarks.exchange import Answer, Request, Task
from benchmarks.models import CASES
from benchmarks.populations import task
from benchmarks.rows import Row

RTOLS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
USUAL = 1e-6
"""The tolerance at whose error a peer is compared."""

ROOT = Path(__file__).resolve().parent.parent
THREADS = tuple(f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"))
XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@final
@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        out: folder for everything that is written.
        python: the interpreter of the peers' environment.
        patients: size of a population.
        sample: patients whose error is measured.
        budget: seconds of one timed run.
        repeats: timed runs.
        limit: seconds that a process may take.
    """

    out: Path
    python: Path
    patients: int = 10_000
    sample: int = 50
    budget: float = 0.5
    repeats: int = 5
    limit: float = 300.0


@final
@dataclass(frozen=True)
class Curve:
    """A tool's work–precision curve; `ratio` is its time over ours at its error for `USUAL`, None without one."""

    tool: str
    versions: dict[str, str]
    settings: str
    setup: float
    points: tuple[Point, ...] = ()
    problem: str = ""
    ratio: float | None = None


@final
@dataclass(frozen=True)
class Result:
    """What came out of a row: `ratio` against the fastest peer, the error at which it holds, or why there is none."""

    row: Row
    ratio: float | None = None
    error: float | None = None
    against: str = ""
    problem: str = ""
    disagreement: float | None = None
    curves: tuple[Curve, ...] = field(default=())


def measure(row: Row, plan: Plan) -> Result:
    """Runs a row.

    Raises:
        Absent: when its model is not there.
    """
    case = CASES[row.case]
    folder = plan.out / "tasks" / row.name
    made = task(case, plan.sample if row.alone else max(plan.sample, plan.patients), folder)
    if not row.peers:
        return _cores(row, plan, made)
    reference, disagreement, problem = _reference(made, plan, case.stiff)
    if reference is None:
        return Result(row, problem=problem)
    request = _request(made, plan, row, case.stiff)
    ours = _curve(run("benchmarks.ours", request, sys.executable, plan.limit), reference, made.sizes)
    ask = partial(run, python=str(plan.python), limit=plan.limit)
    peers = [_curve(ask(f"benchmarks.peers.{peer}", _for(request, peer)), reference, made.sizes) for peer in row.peers]
    peers = [replace(peer, ratio=_ratio(peer, ours)) for peer in peers]
    compared = [(peer.ratio, peer) for peer in peers if peer.ratio is not None]
    if not compared:
        why = "; ".join(f"{c.tool}: {c.problem or 'no common error'}" for c in (ours, *peers))
        return Result(row, problem=why, disagreement=disagreement, curves=(ours, *peers))
    ratio, fastest = min(compared, key=lambda pair: pair[0])
    return Result(row, ratio, _usual(fastest).error, fastest.tool, "", disagreement, (ours, *peers))


def _request(made: Task, plan: Plan, row: Row, stiff: bool) -> Request:
    answer = str(made.folder / "ours.json")
    options = {"stiff": stiff, "solver": row.solver, "second": str(made.folder / "second.npy"), "threads": 1}
    patients = len(made.parameters)
    return Request(
        str(made.folder), answer, RTOLS, plan.sample, patients, plan.budget, plan.repeats, row.alone, options
    )  # fmt: skip


def _for(request: Request, tool: str) -> Request:
    return replace(request, answer=str(Path(request.task) / f"{tool}.json"))


def _reference(made: Task, plan: Plan, stiff: bool) -> tuple[np.ndarray | None, float, str]:
    """States of the sample, the largest distance of the second method's, and why there is none."""
    request = Request(
        str(made.folder), str(made.folder / "reference.json"), (1e-12,), plan.sample, plan.sample, 0.0, 1, False,
        {"stiff": stiff, "second": str(made.folder / "second.npy")},
    )  # fmt: skip
    answer = run("benchmarks.peers.reference", request, str(plan.python), plan.limit)
    if answer.problem:
        return None, float("nan"), f"no reference: {answer.problem}"
    states, other = np.load(answer.points[0].states), np.load(request.options["second"])
    return states, float(errors(other, states[: len(other)], made.sizes).max()), ""


def _cores(row: Row, plan: Plan, made: Task) -> Result:
    """Wall time on one core over wall time on all."""
    count = len(os.sched_getaffinity(0))
    request = replace(_request(made, plan, row, False), rtols=(USUAL,), budget=8 * plan.budget)
    walls, curves = [], []
    for cores in (1, count):
        options = request.options | {"threads": cores}
        asked = replace(_for(request, f"cores{cores}"), options=options)
        answer = run("benchmarks.ours", asked, sys.executable, plan.limit, cores)
        if answer.problem:
            return Result(row, problem=answer.problem)
        point = answer.points[0]
        walls.append(median(point.wall) / point.patients)
        own = np.load(point.states)
        curves.append(_curve(replace(answer, tool=f"{answer.tool}, {cores} cores"), own, made.sizes))
    return Result(row, walls[0] / walls[1], None, f"one core of {count}", curves=tuple(curves))


def run(module: str, request: Request, python: str, limit: float, cores: int = 1) -> Answer:
    """The answer of a process; one without points that says why, where it failed."""
    answer = Path(request.answer)
    answer.unlink(missing_ok=True)
    asked = answer.with_suffix(".request.json")
    request.write(asked)
    environment = os.environ | {name: str(cores) for name in THREADS} | {"XLA_FLAGS": XLA}
    allowed = sorted(os.sched_getaffinity(0))[-cores:]
    try:
        done = subprocess.run(
            [python, "-m", module, str(asked)], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=limit, check=False, preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(module.rpartition(".")[2], {}, "", problem=f"no result within {limit:g} s")
    except OSError as error:
        return Answer(module.rpartition(".")[2], {}, "", problem=str(error))
    if done.returncode or not answer.exists():
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return Answer(module.rpartition(".")[2], {}, "", problem=last[0])
    return Answer.read(answer)


def _curve(answer: Answer, reference: np.ndarray, sizes: np.ndarray) -> Curve:
    points = []
    for point in answer.points:
        each = errors(np.load(point.states), reference, sizes)
        worst, typical = float(each.max()), float(np.median(each))
        seconds, wall = (median(values) / point.patients for values in (point.cpu, point.wall))
        points.append(Point(point.rtol, worst, typical, seconds, wall, point.patients))
    return Curve(answer.tool, answer.versions, answer.settings, answer.setup, tuple(points), answer.problem)


def _usual(curve: Curve) -> Point:
    return next(point for point in curve.points if point.rtol == USUAL)


def _ratio(peer: Curve, ours: Curve) -> float | None:
    """The peer's time over ours at the error that the peer has at `USUAL`; None without a common error."""
    if not peer.points or not np.isfinite(_usual(peer).error):
        return None
    own = seconds_at(list(ours.points), _usual(peer).error)
    return None if own is None else _usual(peer).seconds / own


def line(result: Result) -> str:
    """One row: `name ratio target error`."""
    ratio = "-" if result.ratio is None else f"{result.ratio:.3g}"
    error = "-" if result.error is None else f"{result.error:.1e}"
    why = f"  # {result.problem}" if result.problem else ""
    return f"{result.row.name} {ratio} {result.row.target:g} {error}{why}"

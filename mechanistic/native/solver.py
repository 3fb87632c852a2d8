"""Whole solves in compiled code."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.native import driver
from mechanistic.native.build import Forward, build_forward
from mechanistic.native.call import call, compiled
from mechanistic.native.lanes import LANES
from mechanistic.native.program import Program
from mechanistic.native.shares import array, in_shares
from mechanistic.solve.method import AbstractMethod
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Status
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.shadow import wants_gradient
from mechanistic.solve.tsit5 import Tsit5

SHARE = 64 * LANES
"""Subjects that one thread takes at a time."""


@final
@dataclass(frozen=True, slots=True)
class Native(AbstractSolver):
    """A method in compiled code: a whole solve without a call of PyTorch, eight subjects side by side.

    It takes the same steps as the method itself and gives the same numbers up to rounding, whatever else is in the
    batch. Linear systems are solved without pivoting; where that fails the method itself solves the subject.

    Attributes:
        method: `Tsit5()` or `Rodas5P()`.
        threads: how many may work at once.
    """

    method: Tsit5 | Rodas5P
    threads: int = 1

    def solve(self, problem: Problem) -> Outcome:
        """See `AbstractSolver.solve`.

        Raises:
            SolveError: says why this problem cannot be solved in compiled code.
        """
        reasons = refusals(problem)
        forward = None if reasons else built(cast(RateField, problem.field))
        if forward is None:
            reasons = reasons or ["its Jacobian has too many entries"]
            raise SolveError(f"compiled code cannot solve this; use {type(self.method).__name__}() itself:", reasons)
        outcome = solve(forward, self.method, problem, self.threads)
        failed = (outcome.status == Status.MIN_STEP) | (outcome.status == Status.NOT_FINITE)
        rows = failed.nonzero().squeeze(1)
        return _mended(outcome, rows, self.method.solve(problem.select(rows))) if len(rows) else outcome


def refusals(problem: Problem) -> list[str]:
    """Why a problem cannot be solved in compiled code; empty when it can."""
    field = problem.field
    if not isinstance(field, RateField):
        return [f"`{type(field).__name__}` is not a compiled model: networks are not in compiled code yet"]
    found = []
    if field.discrete is not None:
        found.append("the model has events, delays or conditions, which are not in compiled code yet")
    if field.mass is not None:
        found.append("the model has algebraic equations or fast reactions, which are not in compiled code")
    if wants_gradient(problem):
        found.append(
            "a gradient is wanted, which compiled solves do not give yet; use `torch.no_grad()` or `.detach()`"
        )
    kind = problem.initial
    if kind.dtype != torch.float64 or kind.device.type != "cpu":
        found.append(f"it computes in float64 on the CPU, not in {kind.dtype} on {kind.device}")
    return found


def _mended(outcome: Outcome, rows: Tensor, others: Outcome) -> Outcome:
    """The outcome with some subjects taken from another one."""
    names = ("states", "status", "reached", "culprit")
    parts = {name: getattr(outcome, name).index_copy(0, rows, getattr(others, name)) for name in names}
    work = zip(outcome.statistics, others.statistics, strict=True)
    return outcome._replace(statistics=Statistics(*(a.index_add(0, rows, b) for a, b in work)), **parts)


def solve(forward: Forward, method: AbstractMethod, problem: Problem, threads: int = 1) -> Outcome:
    """Solves a batch of a smooth field, without gradients; see `AbstractSolver.solve`."""
    batch, count = problem.times.shape
    n = problem.initial.shape[1]
    given = _given(forward, problem)
    found = driver.Found(
        np.full((batch, count, n), np.nan), np.zeros(batch, np.int64), np.zeros(batch), np.zeros(batch, np.int64),
        np.zeros(batch, np.int64), np.zeros(batch, np.int64), np.full(given.stops.shape, -1), np.zeros((batch, n)),
    )  # fmt: skip
    explicit = isinstance(method, Tsit5)
    scales = problem.field.scales.detach().numpy().astype(np.float64)
    tolerance = problem.tolerance
    control = driver.Control(scales, tolerance.rtol, tolerance.atol, explicit, False, False)
    name = "tsit5" if explicit else "rodas5p"
    names = (f"{name}_step", f"{name}_take", f"{name}_dense", "slope", "probe", "turn")
    calls = driver.Calls(*(forward.address(kernel) for kernel in names))
    places = driver.Places(*(forward.workspace.places[field] for field in driver.Places._fields))

    def run(first: int, last: int) -> None:
        work = _workspace(forward, problem, method.max_steps)
        driver.advance(calls, places, control, given, found, work, first, last)

    in_shares(run, batch, SHARE, threads)
    states, status, reached, culprit, nodes, attempts = (torch.from_numpy(part) for part in found[:6])
    return Outcome(
        states, status, reached, culprit, Statistics(nodes, attempts - nodes), torch.zeros_like(status),
        (f"Native {type(method).__name__}",), states[..., :0],
    )  # fmt: skip


def _given(forward: Forward, problem: Problem) -> driver.Given:
    stops = problem.stops
    held = np.zeros((*stops.rates.shape[:2], 0))
    return driver.Given(
        array(problem.initial), _constants(forward, array(problem.parameters)), array(stops.times), array(stops.jumps),
        array(stops.rates), held, array(problem.times), array(problem.before),
    )  # fmt: skip


def _constants(forward: Forward, parameters: Any) -> Any:
    """What follows from the parameters alone, `(subject, constant)`."""
    batch, k = parameters.shape
    blocks = -(-batch // LANES)
    padded = np.ones((blocks * LANES, k))
    padded[:batch] = parameters
    wide = np.ascontiguousarray(padded.reshape(blocks, LANES, k).swapaxes(1, 2))
    results = np.empty((blocks, forward.program.constants, LANES))
    _prepare(forward.address("prepare"), wide, results)
    return np.ascontiguousarray(results.swapaxes(1, 2).reshape(blocks * LANES, -1)[:batch])


@compiled
def _prepare(address: int, parameters: Any, results: Any) -> None:
    for block in range(len(parameters)):
        call(address, (parameters[block].ctypes.data, results[block].ctypes.data))


def _workspace(forward: Forward, problem: Problem, budget: int) -> Any:
    """A workspace with what is the same for all subjects filled in."""
    work = np.zeros((forward.workspace.size, LANES))
    places = forward.workspace.places
    scales = problem.field.scales.detach().numpy()
    n = len(scales)
    absolute = problem.tolerance.atol * scales
    work[places["scale"] : places["scale"] + n] = scales[:, None]
    work[places["weight"] : places["weight"] + n] = 1 / scales[:, None]
    work[places["absolute"] : places["absolute"] + n] = absolute[:, None]
    floor = np.where(problem.field.nonnegative.numpy(), -absolute, -np.inf)
    work[places["floor"] : places["floor"] + n] = floor[:, None]
    work[places["relative"]] = problem.tolerance.rtol
    work[places["budget"]] = budget
    return work


@lru_cache(maxsize=64)
def built(field: RateField) -> Forward | None:
    """The kernels of a field; kept for those used last."""
    return build_forward(Program.of(field))

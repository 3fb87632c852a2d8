"""Whole solves in compiled code."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.compile.coupled import AbstractCoupled
from mechanistic.field import AbstractVectorField
from mechanistic.native import driver
from mechanistic.native.build import Forward, build_backward, build_forward
from mechanistic.native.call import call, compiled
from mechanistic.native.coupled import program_of
from mechanistic.native.gradient import Backward, Solve, with_gradient
from mechanistic.native.lanes import LANES
from mechanistic.native.modes import Segmented, segmented
from mechanistic.native.program import Program
from mechanistic.native.shares import array, in_shares
from mechanistic.native.watching import UNWATCHED
from mechanistic.native.weights import point_at_weights
from mechanistic.solve.auto import Auto
from mechanistic.solve.gradient import Record
from mechanistic.solve.method import AbstractMethod
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Status
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.shadow import wants_gradient
from mechanistic.solve.tsit5 import Tsit5

SHARE = 64 * LANES
"""Subjects that one thread takes at a time."""


class Known(NamedTuple):
    """A problem, and where it stops."""

    problem: Problem
    whole: Segmented


@final
@dataclass(frozen=True, slots=True)
class Compiled(AbstractSolver):
    """A method in compiled code: a whole solve without a call of PyTorch, eight subjects side by side.

    It takes the same steps as the method itself and gives the same numbers up to rounding, whatever else is in the
    batch. Linear systems are solved without pivoting; where that fails the method itself solves the subject.

    Attributes:
        method: `Tsit5()` or `Rodas5P()`.
        threads: how many may work at once.
        known: where a problem stops that is likely to come.
    """

    method: Tsit5 | Rodas5P
    threads: int = 1
    known: Known | None = None

    @property
    def name(self) -> str:
        return self.method.name

    def solve(self, problem: Problem) -> Outcome:
        """See `AbstractSolver.solve`; the problem must have no `refusals`."""
        forward = built(problem.field)
        whole = self.known.whole if self.known is not None and self.known.problem is problem else segmented(problem)
        assert forward is not None
        assert isinstance(whole, Segmented)
        return mended(solve(forward, self.method, whole, self.threads), self.method, problem)


def refusals(problem: Problem) -> list[str]:
    """Why a problem has no compiled code, or compiled code cannot solve it; empty when it can.

    Whether that takes flights, which networks have none of, is left to `segmented`.
    """
    field, discrete, kind = problem.field, problem.field.discrete, problem.initial
    found = []
    if field.mass is not None:
        found.append("the model has algebraic equations or fast reactions")
    if discrete is not None and discrete.delays:
        found.append("the model has delays")
    if kind.dtype != torch.float64 or kind.device.type != "cpu":
        found.append(f"it computes in float64 on the CPU, not in {kind.dtype} on {kind.device}")
    if found:
        return found
    program = written(field)
    if isinstance(program, str):
        return [program]
    if built(field) is None:
        return ["the Jacobian of the model has too many entries to be factored without pivoting"]
    return []


def with_methods(solver: AbstractSolver, wrap: Callable[[Tsit5 | Rodas5P], AbstractSolver]) -> AbstractSolver | str:
    """The solver with its methods wrapped, or in a sentence why there is no compiled code for it."""
    if isinstance(solver, Tsit5 | Rodas5P):
        return wrap(solver)
    if isinstance(solver, Auto):
        explicit, stiff = with_methods(solver.explicit, wrap), with_methods(solver.stiff, wrap)
        if not isinstance(explicit, str) and not isinstance(stiff, str):
            return Auto(explicit, stiff)
    return f"`{solver.name}` is not in compiled code; Tsit5(), Rodas5P() and Auto() are"


def mended(outcome: Outcome, method: AbstractMethod, problem: Problem) -> Outcome:
    """The outcome of compiled code, with the subjects whose linear systems may need pivoting solved in PyTorch."""
    if isinstance(method, Tsit5) or not bool(outcome.status.any()):
        return outcome
    failed = (outcome.status == Status.MIN_STEP) | (outcome.status == Status.NOT_FINITE)
    rows = failed.nonzero().squeeze(1)
    if not len(rows):
        return outcome
    others = method.solve(problem.select(rows))
    names = ("states", "status", "reached", "culprit")
    parts = {name: getattr(outcome, name).index_copy(0, rows, getattr(others, name)) for name in names}
    work = (a.index_add(0, rows, b) for a, b in zip(outcome.statistics, others.statistics, strict=True))
    served = outcome.method.index_fill(0, rows, 1)
    methods = (*outcome.methods, f"{others.methods[0]} in PyTorch")
    return outcome._replace(statistics=Statistics(*work), method=served, methods=methods, **parts)


class _Solved(NamedTuple):
    """What the driver was given and found, and the accepted steps where they were wanted."""

    given: driver.Given
    found: driver.Found
    steps: list[driver.Steps]


Differentiate = Callable[[Tensor, Solve], Tensor]
"""Makes the states at the output times differentiable; see `mechanistic.native.gradient.with_gradient`."""


def solve(
    forward: Forward,
    method: AbstractMethod,
    whole: Segmented,
    threads: int = 1,
    differentiate: Differentiate = with_gradient,
) -> Outcome:
    """Solves a batch of a field that is smooth between stops; see `AbstractSolver.solve`."""
    problem = whole.problem
    recording = wants_gradient(problem)
    weights = cast(AbstractCoupled, problem.field).weights() if forward.program.networks else None
    solved = _solved(forward, method, whole, threads, recording, weights)
    states, status, reached, culprit, nodes, attempts = (torch.from_numpy(part) for part in solved.found[:6])
    if recording:
        backward = built_backward(problem.field, method.name.lower())
        given = solved.given
        states = differentiate(
            states,
            Solve(
                backward,
                problem,
                as_record(solved.found, solved.steps),
                given.constants,
                given.held,
                status,
                reached,
                threads,
                weights,
            ),
        )
    return Outcome(
        states, status, reached, culprit, Statistics(nodes, attempts - nodes), torch.zeros_like(status),
        (method.name,), states[..., :0],
    )  # fmt: skip


def _solved(
    forward: Forward, method: AbstractMethod, whole: Segmented, threads: int, recording: bool, weights: Tensor | None
) -> _Solved:
    problem = whole.problem
    numbers = np.empty(0) if weights is None else array(weights)
    batch, count = problem.times.shape
    n = problem.initial.shape[1]
    given = _given(forward, whole)
    found = driver.room_for(batch, count, n, given.stops.shape[1])
    explicit = isinstance(method, Tsit5)
    scales = problem.field.scales.detach().numpy().astype(np.float64)
    tolerance = problem.tolerance
    stepwise = problem.stops.times.requires_grad and recording
    control = driver.Control(
        scales, tolerance.rtol, tolerance.atol, explicit, stepwise, recording, recording, False, UNWATCHED
    )
    name = method.name.lower()
    calls = driver.calls_of(forward.address, name)
    places = driver.places_of(forward.workspace.places)
    steps: list[driver.Steps] = []

    def run(first: int, last: int) -> None:
        work = filled_workspace(forward, problem, method.max_steps)
        point_at_weights(work, places.held + given.held.shape[2], numbers)
        made, number = driver.advance(calls, places, control, given, found, work, first, last)
        if recording:
            steps.append(made.first(number))

    in_shares(run, batch, SHARE, threads)
    return _Solved(given, found, steps)


def as_record(found: driver.Found, steps: list[driver.Steps]) -> Record:
    """The accepted steps as `mechanistic.solve.gradient` notes them."""
    steps = steps or [driver.Steps(np.empty((3, 0), np.int64), np.empty((2, 0)), np.empty((0, found.last.shape[1])))]
    index, at = (torch.from_numpy(np.concatenate([s[i] for s in steps], axis=1)) for i in (0, 1))
    x = torch.from_numpy(np.concatenate([s.x for s in steps]))
    ends = (torch.from_numpy(part) for part in (found.node_of_stop, found.nodes, found.last))
    return Record(index[0], index[1], at[0], at[1], x, index[2], *ends)


def _given(forward: Forward, whole: Segmented) -> driver.Given:
    problem, stops = whole.problem, whole.problem.stops
    constants = constants_of(forward.address("prepare"), forward.program.constants, array(problem.parameters))
    return driver.Given(
        array(problem.initial), constants, array(stops.times), array(stops.jumps),
        array(stops.rates), array(whole.modes), array(problem.times), array(problem.before), np.empty((0, 0)),
        np.empty((0, 0)),
    )  # fmt: skip


def constants_of(prepare: int, count: int, parameters: Any) -> Any:
    """What follows from the parameters alone, `(subject, constant)`; `prepare` is the address of a kernel."""
    batch, k = parameters.shape
    blocks = -(-batch // LANES)
    padded = np.ones((blocks * LANES, k))
    padded[:batch] = parameters
    wide = np.ascontiguousarray(padded.reshape(blocks, LANES, k).swapaxes(1, 2))
    results = np.empty((blocks, count, LANES))
    _prepare(prepare, wide, results)
    rows = results.swapaxes(1, 2).reshape(blocks * LANES, count)
    return np.ascontiguousarray(rows[:batch])


@compiled
def _prepare(address: int, parameters: Any, results: Any) -> None:
    for block in range(len(parameters)):
        call(address, (parameters[block].ctypes.data, results[block].ctypes.data))


def filled_workspace(forward: Forward, problem: Problem, budget: int) -> Any:
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


def written(field: AbstractVectorField) -> Program | str:
    """The program of a field, or in a sentence why there is none; kept for those used last."""
    return _written(field, _parts(field))


def built(field: AbstractVectorField) -> Forward | None:
    """The kernels of a field; kept for those used last."""
    return _built(field, _parts(field))


def built_backward(field: AbstractVectorField, method: str) -> Backward:
    """The kernels that go back through the steps of a method; kept for those used last."""
    return _built_backward(field, _parts(field), method)


def _parts(field: AbstractVectorField) -> Hashable:
    """What a program follows from: networks may be replaced within a field, and constants of theirs be loaded."""
    if isinstance(field, RateField):
        return ()
    return tuple(field.modules()), tuple((id(buffer), buffer._version) for buffer in field.buffers())


@lru_cache(maxsize=64)
def _written(field: AbstractVectorField, parts: Hashable) -> Program | str:
    if isinstance(field, RateField):
        return Program.of(field)
    if not isinstance(field, AbstractCoupled):
        return f"`{type(field).__name__}` does not say what compiled code would have to compute"
    description = field.coupled()
    return description if isinstance(description, str) else program_of(description)


@lru_cache(maxsize=64)
def _built(field: AbstractVectorField, parts: Hashable) -> Forward | None:
    return build_forward(cast(Program, _written(field, parts)))


@lru_cache(maxsize=64)
def _built_backward(field: AbstractVectorField, parts: Hashable, method: str) -> Backward:
    backward = build_backward(cast(Program, _written(field, parts)), method)
    assert backward is not None
    return backward

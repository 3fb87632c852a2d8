"""Gradients of compiled solves: recorded steps, gone back through by compiled code, as a function of autograd."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mechanistic.native.adjoint import Calls, Cotangents, Places, Solved, find_outputs, go_back, sort_steps
from mechanistic.native.lanes import LANES
from mechanistic.native.program import Program
from mechanistic.native.shares import array, in_shares
from mechanistic.native.steps import Workspace
from mechanistic.native.weights import WeightGradient
from mechanistic.solve.gradient import Record
from mechanistic.solve.problem import Problem, Status

SHARE = 8 * LANES
"""Subjects that one thread takes at a time."""


@final
@dataclass(frozen=True, slots=True)
class Backward:
    """Kernels of a model that go back through the steps of one method; see `mechanistic.native.backward`.

    Attributes:
        method: `tsit5` or `rodas5p`.
        back, prepare: addresses of `tsit5_back` or `rodas5p_back`, and of `prepare_pullback`.
        owner: what keeps the machine code in memory.
        program: what they are kernels of.
    """

    method: str
    back: int
    prepare: int
    workspace: Workspace
    owner: object
    program: Program


@final
@dataclass(frozen=True, slots=True)
class Solve:
    """A batch that was solved, and how to go back through it.

    Attributes:
        constants: what `prepare` makes of the parameters, `(subject, constant)`.
        held: modes of each segment, `(subject, segment, mode)`.
        status, reached: how each subject ended and when, `(subject,)`.
        threads: how many may work at once.
        weights: of the networks, `(weight,)`; None where there are none.
    """

    backward: Backward
    problem: Problem
    record: Record
    constants: Any
    held: Any
    status: Tensor
    reached: Tensor
    threads: int = 1
    weights: Tensor | None = None


def with_gradient(states: Tensor, solve: Solve) -> Tensor:
    """The states at the output times, `(batch, time, state)`, differentiable by all that the problem gives."""
    problem, stops = solve.problem, solve.problem.stops
    inputs = (problem.parameters, problem.initial, stops.times, stops.jumps, stops.rates)
    weights = () if solve.weights is None else (solve.weights,)
    return cast(Tensor, _Solved.apply(solve, states, *inputs, *weights))


class _Solved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Solve, states: Tensor, *inputs: Tensor) -> Tensor:
        ctx.solve = solve
        ctx.save_for_backward(*inputs)
        return states.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        found = adjoint(ctx.solve, ctx.saved_tensors, seed, moving=wanted[2])
        return (None, None, *(g if want else None for g, want in zip(found, wanted, strict=True)))


def adjoint(solve: Solve, inputs: Sequence[Tensor], seed: Tensor, moving: bool) -> tuple[Tensor, ...]:
    """Cotangents of parameters, initial states, stop times, jumps, input rates and, where it has such, weights.

    Args:
        inputs: their values.
        seed: `(batch, time, state)`.
        moving: whether that of the stop times is wanted; it is zero where it is not.
    """
    solved = as_arrays(solve, inputs, moving)
    found = Cotangents(*(np.zeros(value.shape) for value in inputs[:5]))
    learned = [WeightGradient(solve.backward.program, weights) for weights in inputs[5:]]
    seeds = array(seed)
    reading = find_outputs(solved, seeds, found.initial)

    def run(first: int, last: int) -> None:
        backward = solve.backward
        workspace = backward.workspace
        places = Places(*(workspace.places[name] for name in Places._fields))
        work = np.zeros((max(workspace.size, 1), LANES))
        kept = [part.prepare(work, places.held + solved.held.shape[2], first) for part in learned]
        calls = Calls(backward.back, backward.prepare)
        go_back(calls, places, solved, reading, seeds, found, work.ravel(), first, last)
        del kept

    in_shares(run, len(seeds), SHARE, solve.threads)
    return (*(torch.from_numpy(value) for value in found), *(part.total() for part in learned))


def as_arrays(solve: Solve, inputs: Sequence[Tensor], moving: bool) -> Solved:
    """A batch that was solved, with its inputs as for `adjoint`, for compiled loops."""
    parameters, _, stops, _, rates = (array(value) for value in inputs[:5])
    problem, record = solve.problem, solve.record
    subject, node = array(record.subject), array(record.node)
    rows, starts = sort_steps(subject, node, len(parameters))
    times = problem.times
    reached = (solve.status == Status.OK)[:, None] | (times <= solve.reached[:, None])
    return Solved(
        parameters, np.ascontiguousarray(solve.constants), np.ascontiguousarray(solve.held), stops, rates,
        array(times), array(problem.before), array(times.isfinite() & reached), rows, starts, array(record.t),
        array(record.h), array(record.x), array(record.segment), array(record.node_of_stop), bool(moving),
    )  # fmt: skip

"""Derivatives of compiled solves in given directions: for their own sake, or kept for the way back of autograd."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mechanistic.compile import RateField
from mechanistic.native.build import machine_code
from mechanistic.native.derivatives import Derivatives
from mechanistic.native.emit import Kernels
from mechanistic.native.gradient import Solve, as_arrays
from mechanistic.native.lanes import LANES
from mechanistic.native.laying import Layout
from mechanistic.native.machine import empty_engine, load
from mechanistic.native.program import Program
from mechanistic.native.sensitivity import Calls, Directions, Places, find_readings, go_forward
from mechanistic.native.shares import array, in_shares
from mechanistic.native.sparse import factorise
from mechanistic.native.sparse_ir import emit_factor, emit_solve
from mechanistic.native.tangent import emit_tangent

SHARE = 2 * LANES
"""Subjects that one thread takes at a time."""

LAID, BACK, SHOWN = 0.4, 6.0, 0.3
"""Cost of laying out a step, of a block's step backward, and of an output, where eight directions through a step are 1.
Measured for Tsit5 and Rodas5P with models of 8 to 25 states."""

MOST = 2**27
"""Numbers that are kept at most for the way back."""


@final
@dataclass(frozen=True, slots=True)
class Tangent:
    """Kernels of a model that take directions through the steps of one method; see `mechanistic.native.tangent`.

    Attributes:
        engine: keeps the machine code in memory.
    """

    derivatives: Derivatives
    layout: Layout
    engine: Any

    def calls(self, moving: bool) -> Calls:
        """Addresses of the kernels, of those that move where stops do."""
        end = "_moving" if moving else ""
        names = ("lay", "spread", f"push{end}", f"read{end}", "prepare_slopes")
        return Calls(*(int(self.engine.get_function_address(name)) for name in names))

    @property
    def places(self) -> Places:
        layout = self.layout
        laying, laid, own, scratch = (w.places for w in (layout.laying, layout.laid, layout.own, layout.scratch))
        return Places(
            **{name: laying[name] for name in ("time", "size", "x", "inputs", "constants", "held")},
            laid=layout.laid.size, slope=laid["slope"], dense=laid["dense"], own=layout.own.size,
            **{f"own_{name}": own[name] for name in ("x", "inputs", "moved", "constants")},
            scratch=layout.scratch.size, start=scratch["start"], read=scratch["dense"],
            laying=layout.laying.size,
        )  # fmt: skip


def build_tangent(program: Program, method: str) -> Tangent | None:
    """Kernels for the steps of `tsit5` or `rodas5p`; None where the Jacobian has too many entries to be factored."""
    factorisation = factorise(program.states, program.rows, program.columns)
    if factorisation is None:
        return None
    derivatives = Derivatives.of(program)
    layout = Layout.of(program, derivatives, factorisation.places, method)

    def kernels() -> Kernels:
        found = Kernels.new()
        emit_factor(found, "factor", factorisation)
        emit_solve(found, "solve", factorisation)
        emit_tangent(found, program, derivatives, factorisation, layout)
        return found

    engine = empty_engine()
    load(engine, machine_code(f"{method} tangent", program, kernels))
    return Tangent(derivatives, layout, engine)


@lru_cache(maxsize=64)
def built_tangent(field: RateField, method: str) -> Tangent:
    """The kernels of a field whose steps were recorded; kept for those used last."""
    tangent = build_tangent(Program.of(field), method)
    assert tangent is not None
    return tangent


def forward_is_cheaper(
    *, states: int, directions: int, subjects: int, outputs: int, steps: int, passes: int = 1
) -> bool:
    """Whether derivatives of a batch cost less by taking all directions forward than by going back.

    Going back costs the same for any number of directions, but each time, and eight subjects share a block. Directions
    share what is laid out of their subject's steps, and answer any number of questions afterwards.

    Args:
        states: of the model.
        directions: parameters and initial values by which derivatives are wanted.
        subjects: in the batch.
        outputs: output times of a subject.
        steps: of a subject, for instance of the last solve.
        passes: how many cotangents go back: 1 for a likelihood, the number of residuals for a Jacobian.
    """
    blocks = -(-directions // LANES)
    if subjects * outputs * states * directions > MOST:
        return False
    forward = steps * (LAID + blocks) + SHOWN * outputs * blocks
    back = passes * (BACK * steps + SHOWN * outputs) / min(max(subjects, 1), LANES)
    return forward < back


# In given directions


@final
@dataclass(frozen=True, slots=True)
class Moves:
    """Tangents of the inputs of a batch, the last axis the direction; the first axis is 1 where all subjects agree.

    Attributes:
        parameters, initial: `(subject, parameter, direction)`, `(subject, state, direction)`.
        stops: of their times, `(subject, stop, direction)`; None where none moves.
        jumps, rates: `(subject, stop, state, direction)`, `(subject, segment, state, direction)`, or None.
    """

    parameters: Tensor
    initial: Tensor
    stops: Tensor | None = None
    jumps: Tensor | None = None
    rates: Tensor | None = None


def directional(solve: Solve, inputs: Sequence[Tensor], moves: Moves, wanted: Tensor, missing: float) -> Tensor:
    """Derivatives of the states at the output times, `(subject, time, state, direction)`.

    Args:
        solve: with steps of a compiled model.
        inputs: parameters, initial states, stop times, jumps and input rates of the batch.
        moves: what they move by.
        wanted: subjects, bool `(subject,)`.
        missing: stands where there is no output, or none that is wanted.
    """
    rows = wanted[solve.record.subject].nonzero().squeeze(1)
    chosen = Solve(
        solve.backward, solve.problem, solve.record.select(rows), solve.constants, solve.held, solve.status,
        solve.reached, solve.threads,
    )  # fmt: skip
    solved = as_arrays(chosen, inputs, moves.stops is not None)
    solved = solved._replace(wanted=solved.wanted & wanted.numpy()[:, None])
    tangent = built_tangent(cast(RateField, solve.problem.field), solve.backward.method)
    directions = _directions(tangent, moves, solved.stops.shape[1], solved.x.shape[1])
    reading = find_readings(solved)
    count = moves.parameters.shape[-1]
    found = np.full((*solved.times.shape, solved.x.shape[1], count), missing)
    calls, places = tangent.calls(solved.moving), tangent.places

    def run(first: int, last: int) -> None:
        go_forward(calls, places, solved, directions, reading, found, first, last)

    in_shares(run, len(wanted), SHARE, solve.threads)
    return torch.from_numpy(found)


def _directions(tangent: Tangent, moves: Moves, stops: int, states: int) -> Directions:
    """Tangents in blocks of eight directions."""
    width = moves.parameters.shape[-1]
    padded = -(-width // LANES) * LANES

    def blocks(value: Tensor | None, *shape: int) -> Any:
        if value is None:
            return np.zeros((0, *shape, padded))
        return np.ascontiguousarray(np.pad(array(value), [*[(0, 0)] * (value.ndim - 1), (0, padded - width)]))

    pattern = tangent.derivatives.parameters
    rows, columns = (np.asarray(part, dtype=np.int64) for part in (pattern.rows, pattern.columns))
    return Directions(
        blocks(moves.parameters), blocks(moves.initial), blocks(moves.stops, stops),
        blocks(moves.jumps, stops, states), blocks(moves.rates, stops - 1, states), rows, columns,
    )  # fmt: skip


# For autograd


def with_sensitivities(states: Tensor, solve: Solve) -> Tensor:
    """The states at the output times, `(batch, time, state)`, differentiable by all that the problem gives.

    It is `mechanistic.native.gradient.with_gradient` the other way round: the first time that something goes back, all
    derivatives are taken forward and kept, and then every way back is one product of matrices.
    """
    problem, stops = solve.problem, solve.problem.stops
    inputs = (problem.parameters, problem.initial, stops.times, stops.jumps, stops.rates)
    return cast(Tensor, _Sensed.apply(solve, states, *inputs))


class _Sensed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Solve, states: Tensor, *inputs: Tensor) -> Tensor:
        ctx.solve = solve
        ctx.known = None
        ctx.save_for_backward(*inputs)
        return states.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        inputs, wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
        asked = (seed != 0).flatten(1).any(1)
        if ctx.known is None or bool((asked & ~ctx.known[0]).any()):
            asked = asked if ctx.known is None else asked | ctx.known[0]
            ctx.known = (asked, *_everything(ctx.solve, inputs, wanted, asked))
        _, slopes, columns = ctx.known
        seen = torch.where(seed == 0, 0.0, seed).flatten(1).unsqueeze(1)
        found = torch.bmm(seen, slopes.flatten(1, 2)).squeeze(1)
        grads = []
        for value, want, places in zip(inputs, wanted, columns, strict=True):
            flat = value.new_zeros(len(value), value[0].numel() if len(value) else 0)
            if want:
                flat[:, places[0]] = found[:, places[1]]
            grads.append(flat.reshape(value.shape) if want else None)
        return (None, None, *grads)


def _everything(
    solve: Solve, inputs: Sequence[Tensor], wanted: Sequence[bool], asked: Tensor
) -> tuple[Tensor, list[tuple[Tensor, slice]]]:
    """Derivatives by every input that is wanted, and for each input which of its elements have which directions."""
    tangent = built_tangent(cast(RateField, solve.problem.field), solve.backward.method)
    used = torch.tensor(sorted(set(tangent.derivatives.parameters.columns)), dtype=torch.long)
    columns: list[tuple[Tensor, slice]] = []
    count = 0
    for i, (value, want) in enumerate(zip(inputs, wanted, strict=True)):
        elements = used if i == 0 else torch.arange(value.shape[1:].numel())
        elements = elements if want else elements[:0]
        columns.append((elements, slice(count, count + len(elements))))
        count += len(elements)
    parts = []
    for i, (value, (elements, places)) in enumerate(zip(inputs, columns, strict=True)):
        unit = value.new_zeros(1, value.shape[1:].numel(), count)
        unit[0, elements, torch.arange(places.start, places.stop)] = 1.0
        parts.append(unit.reshape(1, *value.shape[1:], count) if i < 2 or wanted[i] else None)
    moves = Moves(cast(Tensor, parts[0]), cast(Tensor, parts[1]), *parts[2:])
    return directional(solve, inputs, moves, asked, 0.0), columns

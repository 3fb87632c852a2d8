"""Derivatives of compiled solves in given directions: for their own sake, or kept for the way back of autograd."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast, final

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
from mechanistic.native.machine import engine_of
from mechanistic.native.program import Program
from mechanistic.native.sensitivity import Calls, Directions, Places, find_readings, go_forward
from mechanistic.native.shares import in_shares
from mechanistic.native.sparse import factorise
from mechanistic.native.sparse_ir import emit_factor, emit_solve
from mechanistic.native.tangent import emit_tangent

SHARE = 2 * LANES
"""Subjects that one thread takes at a time."""

LAID, BACK, SHOWN = 0.45, 5.0, 0.3
"""Cost of laying out a step, of a block's step backward, and of an output, where eight directions through a step are 1.
Measured for Tsit5 and Rodas5P with models of 3 to 25 states."""

BEGINNING, ROUND = 1500.0, 8.0
"""What does not grow with the states, in the same unit for a model of one state: of a batch that goes forward, and of a
block's step backward."""

MOST = 2**27
"""Numbers that are kept at most for the way back."""


@final
@dataclass(frozen=True, slots=True)
class Tangent:
    """Kernels of a model that take directions through the steps of one method; see `mechanistic.native.tangent`.

    Attributes:
        still, moving: addresses of the kernels, where stops stay and where they move.
        engine: keeps the machine code in memory.
    """

    derivatives: Derivatives
    still: Calls
    moving: Calls
    places: Places
    engine: Any

    @classmethod
    def of(cls, derivatives: Derivatives, layout: Layout, engine: Any) -> "Tangent":
        """The kernels in an engine."""

        def calls(end: str) -> Calls:
            names = ("lay", "spread", f"push{end}", f"read{end}", "prepare_slopes")
            return Calls(*(int(engine.get_function_address(name)) for name in names))

        return cls(derivatives, calls(""), calls("_moving"), _places(layout), engine)


def _places(layout: Layout) -> Places:
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

    return Tangent.of(derivatives, layout, engine_of(machine_code(f"{method} tangent", program, kernels)))


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
    blocks = _padded(directions) // LANES
    if subjects * outputs * states * directions > MOST:
        return False
    shown = SHOWN * outputs
    forward = BEGINNING / states + subjects * (steps * (LAID + blocks) + shown * blocks)
    back = passes * max(subjects / LANES, 1.0) * (steps * (BACK + ROUND / states) + shown)
    return forward < back


# In given directions


def directions_of(
    solve: Solve, parameters: Any, initial: Any, stops: Any = None, jumps: Any = None, inputs: Any = None
) -> Directions:
    """Directions by tangents of what a problem depends on, `(subject, …, direction)`; see `Directions`.

    Their number is filled up with zeros to a multiple of eight.
    """
    width, (_, segments, states) = parameters.shape[-1], solve.problem.stops.rates.shape
    padded = _padded(width)

    def blocks(value: Any, *shape: int) -> Any:
        if value is None:
            return np.zeros((0, *shape, padded))
        if value.shape[-1] == padded:
            return np.ascontiguousarray(value)
        wide = np.zeros((*value.shape[:-1], padded))
        wide[..., :width] = value
        return wide

    return Directions(
        blocks(parameters), blocks(initial), blocks(stops, segments + 1), blocks(jumps, segments + 1, states),
        blocks(inputs, segments, states), *_tangent(solve).derivatives.parameters.arrays,
    )  # fmt: skip


def _padded(directions: int) -> int:
    return -(-directions // LANES) * LANES


def _tangent(solve: Solve) -> Tangent:
    return built_tangent(cast(RateField, solve.problem.field), solve.backward.method)


def directional(
    solve: Solve, inputs: Sequence[Tensor], directions: Directions, count: int, wanted: Any, missing: float
) -> Any:
    """Derivatives of the states at the output times, `(subject, time, state, direction)`.

    Args:
        solve: with steps of a compiled model.
        inputs: parameters, initial states, stop times, jumps and input rates of the batch.
        directions: what they move by.
        count: how many directions there are.
        wanted: subjects, bool `(subject,)`.
        missing: stands where there is no output, or none that is wanted.
    """
    chosen = solve
    if not wanted.all():
        rows = torch.from_numpy(wanted)[solve.record.subject].nonzero().squeeze(1)
        chosen = replace(solve, record=solve.record.select(rows))
    solved = as_arrays(chosen, inputs, len(directions.stops) > 0)
    solved = solved._replace(wanted=solved.wanted & wanted[:, None])
    tangent = _tangent(solve)
    reading = find_readings(solved)
    found = np.full((*solved.times.shape, solved.x.shape[1], count), missing)
    calls = tangent.moving if solved.moving else tangent.still

    def run(first: int, last: int) -> None:
        go_forward(calls, tangent.places, solved, directions, reading, found, first, last)

    in_shares(run, len(wanted), SHARE, solve.threads)
    return found


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
        asked = (seed != 0).flatten(1).any(1).numpy()
        if ctx.known is None or (asked & ~ctx.known.asked).any():
            asked = asked if ctx.known is None else asked | ctx.known.asked
            ctx.known = _everything(ctx.solve, inputs, wanted, asked)
        known = ctx.known
        seen = torch.where(seed == 0, 0.0, seed).flatten(1).unsqueeze(1)
        found = torch.bmm(seen, torch.from_numpy(known.slopes).flatten(1, 2)).squeeze(1)
        grads: list[Tensor | None] = []
        for value, want, elements, first in zip(inputs, wanted, known.elements, known.firsts, strict=True):
            if not want:
                grads.append(None)
                continue
            flat = value.new_zeros(len(value), value.shape[1:].numel())
            flat[:, elements] = found[:, first : first + len(elements)]
            grads.append(flat.reshape(value.shape))
        return (None, None, *grads)


class _Known(NamedTuple):
    """Derivatives that are kept: of the subjects `asked`, `(subject, time, state, direction)`.

    `elements` of every input have directions, from `firsts` on.
    """

    asked: Any
    slopes: Any
    elements: list[Any]
    firsts: list[int]


def _everything(solve: Solve, inputs: Sequence[Tensor], wanted: Sequence[bool], asked: Any) -> _Known:
    """Derivatives by every element of the inputs that are wanted; parameters that no rate reads have none."""
    used = np.unique(_tangent(solve).derivatives.parameters.arrays[1])
    sizes = [value.shape[1:].numel() for value in inputs]
    elements = [(used if i == 0 else np.arange(size)) if want else used[:0]
                for i, (size, want) in enumerate(zip(sizes, wanted, strict=True))]  # fmt: skip
    *firsts, count = np.cumsum([0, *map(len, elements)]).tolist()
    units: list[Any] = []
    for i, (value, size, mine, first) in enumerate(zip(inputs, sizes, elements, firsts, strict=True)):
        unit = np.zeros((1, size, _padded(count)))
        unit[0, mine, first + np.arange(len(mine))] = 1.0
        units.append(unit.reshape(1, *value.shape[1:], -1) if i < 2 or wanted[i] else None)
    slopes = directional(solve, inputs, directions_of(solve, *units), count, asked, 0.0)
    return _Known(asked, slopes, elements, firsts)

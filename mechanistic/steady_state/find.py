"""One verb: a system and parameters in, where it comes to rest out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mechanistic.arguments import common_batch, converted, filled
from mechanistic.errors import SolveError
from mechanistic.field import AbstractVectorField
from mechanistic.model import KineticModel
from mechanistic.simulate import as_field, simulate
from mechanistic.solve.engine import AbstractEngine
from mechanistic.solve.problem import AbstractSolver, Tolerance
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.steady_state.implicit import differentiable
from mechanistic.steady_state.result import RestStatus, SteadyState
from mechanistic.steady_state.search import Found, Search, Way

MAX_STEPS = 2000
"""Steps of one round of the search, beyond which a system moves for ever: close to rest steps become ever longer."""


ENTRIES_AT_ONCE = 5_000_000
"""Entries of Jacobians held at once: a larger batch is looked at in pieces."""


def steady_state(
    system: KineticModel | AbstractVectorField,
    parameters: Tensor | Mapping[str, Any] | None = None,
    *,
    initial: Tensor | Mapping[str, Any] | None = None,
    start: Any = 0.0,
    solver: AbstractSolver | None = None,
    tolerance: Tolerance | None = None,
    engine: AbstractEngine | None = None,
) -> SteadyState:
    """Where one subject or a batch comes to rest; the batch is the broadcast of the batches of all arguments.

    A simulation from the initial states decides which of several steady states it is, and Newton's method finds the
    limit to rounding. Conserved totals are those of the initial states. Gradients flow to `parameters`, `initial` and
    learnable weights of the system, by the implicit function theorem, and can be differentiated again. To
    pre-equilibrate, pass `initial=rest.states` to `simulate`.

    Args:
        system: a model, or a compiled field.
        parameters: `(*batch, parameter)`, or name → number or `(*batch,)`; nominal values for all others.
        initial: states at the start, `(*batch, state)`, or name → number or `(*batch,)`; those of the model for others.
        start: time at which the initial state holds, a number or `(*batch,)`.
        solver: of the simulation; `Rodas5P(max_steps=2000)` when None. A subject that needs more steps in one round is
            taken for one that never rests.
        tolerance: of the simulation; `Tolerance()` when None.
        engine: see `simulate`.

    Raises:
        SolveError: lists unknown names, arguments whose shapes do not fit, and delays, algebraic equations and fast
            reactions, whose rest is not found here. What has no rest has a `RestStatus`, never an exception.
    """
    field = as_field(system)
    problems = _refusals(field)
    nominal = field.nominal()
    p = filled(parameters, nominal, field.parameter_names, "parameter", problems)
    x = filled(initial, field.initial(p), field.state_names, "state", problems)
    began = converted(start, nominal)
    batch = common_batch(problems, parameters=p.shape[:-1], initial=x.shape[:-1], start=began.shape)
    if problems:
        raise SolveError("there is no search for a steady state:", problems)
    p, x = (value.expand(*batch, -1).reshape(batch.numel(), value.shape[-1]) for value in (p, x))
    began = began.detach().expand(batch).reshape(batch.numel())
    way = Way(
        Rodas5P(max_steps=MAX_STEPS) if solver is None else solver,
        Tolerance() if tolerance is None else tolerance,
        engine,
    )
    size = max(1, ENTRIES_AT_ONCE // len(field.state_names) ** 2)
    pieces = [_rows(field, *piece, way) for piece in zip(p.split(size), x.split(size), began.split(size), strict=True)]
    parts = (torch.cat(part).reshape((*batch, *part[0].shape[1:])) for part in zip(*pieces, strict=True))
    return SteadyState(field, *parts)


def _refusals(field: AbstractVectorField) -> list[str]:
    problems = []
    if field.constraints is not None:
        problems.append("the system has algebraic equations or fast reactions; simulate it for a long time instead")
    if field.discrete is not None and field.discrete.delays:
        problems.append("the system has delays; simulate it for a long time instead")
    if not field.state_names:
        problems.append("the system has no states")
    return problems


def _rows(field: AbstractVectorField, p: Tensor, x: Tensor, began: Tensor, way: Way) -> tuple[Tensor, ...]:
    """What `SteadyState` holds of some rows, in its order; each row is looked for on its own."""
    with torch.no_grad():
        search = Search(field, p.detach(), x.detach(), began, way)
        found = search.run()
        rates = search.balance(torch.arange(len(p), device=p.device)).rates(found.states)
        share = (rates.abs() / (field.scales + found.states.abs())).nan_to_num(torch.inf, torch.inf)
        residual, culprit = share.max(-1)
        rows = (found.status == RestStatus.OK).nonzero().squeeze(-1)
        balance = search.balance(rows)
    rested = (found.status == RestStatus.OK) | (found.status == RestStatus.SINGULAR)
    states = torch.where(rested.unsqueeze(-1), found.states, torch.nan)
    anchor = x
    if field.discrete is not None and bool(balance.totals.pivot.any()):
        anchor = _at_end(field, rows, found, (p, x, began), way)
    states = differentiable(balance, rows, states, p, anchor)
    elapsed = found.reached - began
    return states, p, found.status, elapsed, residual, found.growth, culprit, found.solver, found.reached


def _at_end(
    field: AbstractVectorField, rows: Tensor, found: Found, given: tuple[Tensor, Tensor, Tensor], way: Way
) -> Tensor:
    """The states from which no more mode changes, with their graph, `(row, state)`: these have the totals of the rest.

    Events and conditions change what is conserved, so that the totals have to be followed through a simulation.
    """
    p, x, began = given
    if not torch.is_grad_enabled() or not (p.requires_grad or x.requires_grad):
        return x
    solution = simulate(
        field, found.reached[rows].unsqueeze(-1), p[rows], initial=x[rows], start=began[rows],
        solver=way.solver, tolerance=way.tolerance, engine=way.engine,
    )  # fmt: skip
    return x.index_copy(0, rows, solution.states[:, -1])

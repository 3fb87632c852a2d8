"""Derivatives of a rest by the implicit function theorem."""

from typing import Any, cast, final

import torch
from torch import Tensor
from torch.func import functional_call

from mechanistic.compile import RateField
from mechanistic.steady_state.newton import Balance


def differentiable(balance: Balance, rows: Tensor, x: Tensor, p: Tensor, anchor: Tensor) -> Tensor:
    """The rests `x`, `(row, state)`, with gradients to parameters, anchors and weights of the field.

    From `f(x, p) = 0` and `w · x = w · anchor` follow `A dx = -∂f/∂p dp` in the lines of `f` and
    `w · dx = w · d anchor` in those of the totals. Gradients are NaN in other rows where something depends on them, and
    for parameters that switch on what breaks a total. They can be differentiated again.

    Args:
        balance: the equations of the rows that are determined to first order, `(known, …)`.
        rows: their places among all rows, `(known,)`.
        x: the rests of all rows.
        p: parameters with their graph, `(row, parameter)`.
        anchor: states that have the totals of the rests, with their graph, `(row, state)`.
    """
    weights = tuple(weight for weight in balance.field.parameters() if weight.requires_grad)
    if not torch.is_grad_enabled() or not any(v.requires_grad for v in (p, anchor, *weights)):
        return x
    return cast(Tensor, _Rest.apply(balance, rows, x, p, anchor, *weights))


@final
class _Rest(torch.autograd.Function):
    """The identity on the rest, with the derivatives of the theorem."""

    @staticmethod
    def forward(
        ctx: Any, balance: Balance, rows: Tensor, x: Tensor, p: Tensor, anchor: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.balance, ctx.rows = balance, rows
        rest = x.clone()
        ctx.save_for_backward(rest, p, *weights)
        return rest

    @staticmethod
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        rest, p, *weights = ctx.saved_tensors
        rows = ctx.rows
        lost = (seed != 0).any(-1).index_fill(0, rows, False)
        part = ctx.balance._replace(p=p[rows])
        pivot, x = part.totals.pivot, rest[rows]
        adjoint = torch.linalg.solve(part.matrix(x).mT, seed[rows].unsqueeze(-1)).squeeze(-1)
        by_p, by_weights = _by_parameters(part, x, torch.where(pivot, 0.0, adjoint), weights)
        by_anchor = (part.totals.weights.mT @ torch.where(pivot, adjoint, 0.0).unsqueeze(-1)).squeeze(-1)
        undefined = torch.where(lost, torch.nan, 0.0).to(seed).unsqueeze(-1)
        return (
            None,
            None,
            None,
            undefined.expand_as(p).index_add(0, rows, -by_p),
            undefined.expand_as(rest).index_add(0, rows, by_anchor),
            *(undefined.sum() - by for by in by_weights),
        )


def _by_parameters(part: Balance, x: Tensor, adjoint: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """`adjoint · ∂f` by parameters, `(row, parameter)`, and by weights."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: a rest within the graph depends on parameters itself, and that way must not be gone.
        p, *own = [_alias(value, graph) for value in (part.p, *weights)]
        at = x if graph else x.detach()
        replaced = {name: value for (name, _), value in zip(_learnable(part), own, strict=True)}
        rates = (
            functional_call(part.field, replaced, (part.t, at, p, *part.held)) if own else part._replace(p=p).rates(at)
        )
        found = torch.autograd.grad(
            rates, (p, *own), adjoint, create_graph=graph, allow_unused=True, materialize_grads=True
        )
        breaking = _switched_on(part, at.detach(), part.p.detach())
    return torch.where(breaking, torch.nan, found[0]), list(found[1:])


def _alias(value: Tensor, graph: bool) -> Tensor:
    return value.view_as(value) if graph and value.requires_grad else value.detach().requires_grad_()


def _learnable(part: Balance) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in part.field.named_parameters() if weight.requires_grad]


def _switched_on(part: Balance, x: Tensor, p: Tensor) -> Tensor:
    """Which parameters start a reaction or rule that is off and would change a total, bool `(row, parameter)`.

    Then the total holds for one value of the parameter only, and the rest has no derivative by it.
    """
    totals, field = part.totals, part.field
    if not isinstance(field, RateField) or not bool(totals.reactions.any() | totals.rules.any()):
        return torch.zeros_like(p, dtype=torch.bool)
    p = p.requires_grad_()
    flow = torch.where(totals.reactions, field.rates(part.t, x, p, *part.held), 0.0).sum()
    flow = flow + torch.where(totals.rules, field(part.t, x, p, *part.held), 0.0).sum()
    (slopes,) = torch.autograd.grad(flow, p, allow_unused=True, materialize_grads=True)
    return slopes != 0

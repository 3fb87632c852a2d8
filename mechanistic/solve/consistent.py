"""States that satisfy the algebraic equations of a system, next to states that need not."""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.solve.method import Rhs

ITERATIONS = 50
HALVINGS = 8

SETTLED = 1e-13
"""Newton steps of this size, relative to a state and its scale, are at the level of rounding."""

ACCEPTABLE = 1e-9
"""As `SETTLED`, where rounding in the equations themselves keeps Newton's method from coming closer."""


class Consistent(NamedTuple):
    """States that satisfy the algebraic equations, `(row, state)`, and where none were found, `(row,)`."""

    x: Tensor
    failed: Tensor


def consistent(rhs: Rhs, t: Tensor, x: Tensor) -> Consistent:
    """The solution `y` of `M (y - x) = 0` and `0 = F(t, y)` in the rows where the mass matrix `M` is zero.

    What the differential equations hold (an amount, or a sum of amounts that fast reactions exchange) stays as it is.
    Newton's method, the step halved while it makes the residual larger. The derivative of the result is that of the
    implicit function.
    """
    mass = rhs.field.mass
    if mass is None:
        return Consistent(x, torch.zeros_like(t, dtype=torch.bool))
    differential = (mass != 0).any(-1)
    scales = rhs.field.scales

    def residual(y: Tensor) -> Tensor:
        return torch.where(differential, (y - x) @ mass.T, rhs(t, y))

    def newton(y: Tensor, value: Tensor) -> Tensor:
        jacobian = torch.where(differential[:, None], mass, rhs.linearise(t, y).jacobian.detach())
        return torch.linalg.solve_ex(jacobian, value.unsqueeze(-1)).result.squeeze(-1)

    with torch.no_grad():
        y, value = x.detach(), residual(x.detach())
        size = value.abs().amax(-1)
        settled = torch.zeros_like(t, dtype=torch.bool)
        for _ in range(ITERATIONS):
            step = newton(y, value)
            settled = settled | (step.abs() <= SETTLED * (scales + y.abs())).all(-1) & size.isfinite()
            if bool(settled.all()):
                break
            share = torch.ones_like(t)
            for _ in range(HALVINGS):
                tried = residual(y - share[:, None] * step)
                worse = ~(tried.abs().amax(-1) <= size)
                if not bool((worse & ~settled).any()):
                    break
                share = torch.where(worse, share / 2, share)
            y = torch.where(settled[:, None], y, y - share[:, None] * step)
            value = residual(y)
            size = value.abs().amax(-1)
        failed = ~(settled | (newton(y, value).abs() <= ACCEPTABLE * (scales + y.abs())).all(-1))
    if not torch.is_grad_enabled():
        return Consistent(y, failed)
    return Consistent(y - newton(y, residual(y)), failed)

"""States that satisfy the algebraic equations of a system, next to states that need not."""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.solve.method import Rhs

ITERATIONS = 100

SETTLED = 1e-13
"""Newton steps of this size, relative to a state and its scale, are at the level of rounding."""

ACCEPTABLE = 1e-9
"""As `SETTLED`, where rounding in the equations themselves keeps Newton's method from coming closer."""

CAREFUL = 0.1
"""By which part of its size a state may change in the first step of a relaxation."""

FASTER = 2.0
"""By how much each step of a relaxation is longer than the one before."""


class Consistent(NamedTuple):
    """States that satisfy the algebraic equations, `(row, state)`, and where none were found, `(row,)`."""

    x: Tensor
    failed: Tensor


class _Equations(NamedTuple):
    """`M (y - x) = 0` and, in the rows where `M` is zero, `0 = F(t, y)`."""

    rhs: Rhs
    mass: Tensor
    differential: Tensor
    t: Tensor
    x: Tensor

    def residual(self, y: Tensor) -> Tensor:
        return torch.where(self.differential, (y - self.x) @ self.mass.T, self.rhs(self.t, y))

    def step(self, y: Tensor, value: Tensor, damping: Tensor) -> Tensor:
        """The Newton step, or that of the implicit Euler method where `damping` is one over its step size."""
        slopes = self.rhs.linearise(self.t, y).jacobian.detach()
        matrix = torch.where(self.differential[:, None], self.mass, slopes)
        matrix = matrix - torch.diag_embed(damping)
        # An equation in which nothing has any effect now leaves its state as it is.
        matrix = matrix + torch.diag_embed((matrix == 0).all(-1).to(y))
        return torch.linalg.solve_ex(matrix, value.unsqueeze(-1)).result.squeeze(-1)


def consistent(rhs: Rhs, t: Tensor, x: Tensor) -> Consistent:
    """The solution `y` of `M (y - x) = 0` and `0 = F(t, y)` in the rows where the mass matrix `M` is zero.

    What the differential equations hold (an amount, or a sum of amounts that fast reactions exchange) stays as it is.
    Fast reactions are followed to rest by implicit Euler steps that grow beyond bounds (pseudo-transient continuation;
    Kelley & Keyes 1998, doi:10.1137/S0036142996304796), so that it is the rest that they come to from `x`; algebraic
    equations are solved by Newton's method. The derivative of the result is that of the implicit function.
    """
    constraints = rhs.field.constraints
    if constraints is None:
        return Consistent(x, torch.zeros_like(t, dtype=torch.bool))
    mass, relaxing, steered = constraints
    with torch.no_grad():
        # A rate that passes through zero at this very moment says something a moment later.
        later = t + 8 * torch.finfo(t.dtype).eps * (1 + t.abs())
        exchanged = relaxing | (mass[:, relaxing] != 0).any(-1)
        t = torch.where(_without_effect(rhs, relaxing, exchanged, t, x), later, t)
        # A fast reaction that is switched off leaves states as they are; then what is slow cannot move them either.
        mute = _without_effect(rhs, steered, exchanged, t, x)
    equations = _Equations(rhs, mass, (mass != 0).any(-1), t, x)
    with torch.no_grad():
        y, failed = _relaxed(equations, relaxing, rhs.field.scales)
        failed = failed | mute
    if torch.is_grad_enabled():
        y = y - equations.step(y, equations.residual(y), torch.zeros_like(y))
    return Consistent(y, failed)


def _without_effect(rhs: Rhs, rows: Tensor, exchanged: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """Whether a fast reaction of some `rows` is switched off, so that it holds nothing in balance, `(row,)`."""
    # Also where there is more of what it exchanges, unlike a rate of higher order at rest.
    probe = torch.where(exchanged, x + CAREFUL * (rhs.field.scales + x.abs()), x)
    flat = rows
    for at in (x, probe):
        flat = flat & (rhs.linearise(t, at).jacobian[..., exchanged] == 0).all(-1) & (rhs(t, at) == 0)
    return flat.any(-1)


def _relaxed(equations: _Equations, relaxing: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    y = equations.x.detach()
    value = equations.residual(y)
    speed = torch.where(relaxing, value.abs() / (scales + y.abs()), 0.0).amax(-1, keepdim=True)
    damping = torch.where(relaxing, speed / CAREFUL, 0.0)
    none = torch.zeros_like(damping)
    settled = torch.zeros_like(equations.t, dtype=torch.bool)
    for _ in range(ITERATIONS):
        newton = equations.step(y, value, none)
        settled = settled | (newton.abs() <= SETTLED * (scales + y.abs())).all(-1)
        if bool(settled.all()):
            break
        y = torch.where(settled[:, None], y, y - equations.step(y, value, damping))
        value = equations.residual(y)
        damping = damping / FASTER
    newton = equations.step(y, value, none)
    close = (newton.abs() <= ACCEPTABLE * (scales + y.abs())).all(-1)
    return y, ~(settled | close)

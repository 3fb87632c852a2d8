"""Newton's method for the rest of a batch with given conserved totals, and how a system behaves about it."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from mechanistic.field import AbstractVectorField
from mechanistic.steady_state.totals import Totals

STEPS: Final = 20
"""From within the region of quadratic convergence five are enough."""

FAR: Final = 1e-3
"""Steps of Newton's method that change a state by less than this share of itself become ever shorter."""

TINY: Final = 1e-300


class Balance(NamedTuple):
    """The equations of a rest: `f = 0`, with the line of each pivot replaced by its total, `w · (x - anchor) = 0`.

    Attributes:
        field: the right-hand side.
        t: times, `(row,)`.
        p: parameters, `(row, parameter)`.
        held: the modes, `(row, mode)`, where there are any.
        totals: what is conserved.
        anchor: states whose totals are kept, `(row, state)`.
    """

    field: AbstractVectorField
    t: Tensor
    p: Tensor
    held: tuple[Tensor, ...]
    totals: Totals
    anchor: Tensor

    def select(self, rows: Tensor) -> "Balance":
        """That of some rows."""
        own = (self.t[rows], self.p[rows], tuple(part[rows] for part in self.held))
        return Balance(self.field, *own, self.totals.select(rows), self.anchor[rows])

    def size(self, x: Tensor) -> Tensor:
        """What changes of the states are measured by, `(row, state)`."""
        return self.field.scales + x.abs()

    def rates(self, x: Tensor) -> Tensor:
        """dx/dt, `(row, state)`."""
        return self.field(self.t, x, self.p, *self.held)

    def jacobian(self, x: Tensor) -> Tensor:
        """∂f/∂x, `(row, state, state)`."""
        return self.field.linearise(self.t, x, self.p, *self.held).jacobian

    def matrix(self, x: Tensor) -> Tensor:
        """The derivative of the equations by the states, `(row, state, state)`."""
        return torch.where(self.totals.pivot.unsqueeze(-1), self.totals.weights, self.jacobian(x))

    def excess(self, x: Tensor) -> Tensor:
        """What the equations leave over, `(row, state)`."""
        kept = (self.totals.weights @ (x - self.anchor).unsqueeze(-1)).squeeze(-1)
        return torch.where(self.totals.pivot, kept, self.rates(x))

    def step(self, x: Tensor) -> Tensor:
        """The step of Newton's method, `(row, state)`; not finite where there is none."""
        matrix, size = self.matrix(x), self.size(x)
        scaled, heights = _equilibrated(matrix, size)
        solved = torch.linalg.solve_ex(scaled, (-self.excess(x) / heights).unsqueeze(-1))
        step = solved.result.squeeze(-1) * size
        return torch.where((solved.info == 0).unsqueeze(-1), step, torch.nan)


class Polished(NamedTuple):
    """Where Newton's method led.

    Attributes:
        states: `(row, state)`; not finite where it did not converge.
        after_one: states after the first step, `(row, state)`.
        last: largest share of itself that a state changed by in the last step, `(row,)`.
    """

    states: Tensor
    after_one: Tensor
    last: Tensor


def polish(balance: Balance, x: Tensor) -> Polished:
    """Newton's method from the states, each row until it no longer comes closer; `(row, state)`."""
    eps = torch.finfo(x.dtype).eps
    states, first = x.clone(), x
    last = x.new_full(x.shape[:1], torch.inf)
    rows = torch.arange(len(x), device=x.device)
    for count in range(STEPS):
        part = balance.select(rows)
        step = part.step(states[rows])
        change = (step.abs() / part.size(states[rows])).amax(-1)
        # At rounding another step only stirs; far out the next need not be shorter.
        taken = ~(change >= last[rows]) | (last[rows] > FAR)
        rows, step, change = rows[taken], step[taken], change[taken]
        states[rows] += step
        last[rows] = change
        if count == 0:
            first = states.clone()
        rows = rows[change > 4 * eps]
        if not len(rows):
            break
    return Polished(states, first, last)


def spectrum(balance: Balance, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest real part of the eigenvalues among the changes that keep the totals, and the size of the Jacobian.

    Both are `(row,)`; -inf and 0 where everything is conserved, NaN where the Jacobian is not finite.
    """
    pivot, size = balance.totals.pivot, balance.size(x)
    unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    # What is free moves its pivots along, such that no total changes.
    along = torch.where(pivot.unsqueeze(-1), -balance.totals.weights, unit)
    reduced = balance.jacobian(x) @ along
    free = ~pivot
    reduced = torch.where(free.unsqueeze(-1) & free.unsqueeze(-2), reduced, 0.0)
    reduced = reduced * size.unsqueeze(-2) / size.unsqueeze(-1)
    norm = reduced.abs().sum(-1).amax(-1)
    finite = norm.isfinite()
    shifted = torch.where(finite[:, None, None], reduced - torch.diag_embed(pivot * (1.0 + norm).unsqueeze(-1)), 0.0)
    largest = torch.linalg.eigvals(shifted).real.amax(-1)
    largest = torch.where(free.any(-1), largest, -torch.inf)
    return torch.where(finite, largest, torch.nan), norm


def edge(norm: Tensor | float, dtype: torch.dtype) -> Tensor | float:
    """How large an eigenvalue may be that is zero up to rounding, from the size of the Jacobian."""
    return 100 * torch.finfo(dtype).eps * norm


def is_regular(balance: Balance, x: Tensor) -> Tensor:
    """Whether the equations determine the rest to first order, bool `(row,)`.

    At a fold the matrix is as large as rounding lets it come to zero, `√eps`, which a condition number does not tell
    from a stiff system. But there it changes by as much as itself within the last step of Newton's method.
    """
    eps = torch.finfo(x.dtype).eps
    size = balance.size(x)
    scaled, heights = _equilibrated(balance.matrix(x), size)
    singular = torch.linalg.svdvals(torch.where(scaled.isfinite(), scaled, 0.0))
    well = scaled.isfinite().all(-1).all(-1) & (singular[:, -1] > 50 * eps * singular[:, 0])
    beside = balance.matrix(x + balance.step(x).nan_to_num(0.0, 0.0, 0.0)) * size.unsqueeze(-2) / heights.unsqueeze(-1)
    change = torch.linalg.solve_ex(scaled, beside - scaled).result.abs().sum(-1).amax(-1)
    return well & (change < 0.1)


def _equilibrated(matrix: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix by shares of the states, each row divided by its largest entry, and these."""
    scaled = matrix * size.unsqueeze(-2)
    heights = scaled.abs().amax(-1).clamp_min(TINY)
    return scaled / heights.unsqueeze(-1), heights

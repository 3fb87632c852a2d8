"""What a system conserves on its way to rest: these totals stand in for the equations that they make redundant."""

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.conservation import left_null_space
from mechanistic.field import AbstractVectorField
from mechanistic.model import KineticModel

# Fractional parts of multiples of these are spread evenly, and no rate law vanishes there by chance.
_SPREAD: Final = (0.6180339887, 0.7548776662, 0.5698402910)

_FRACTIONS: Final = 12
"""Weights found from numbers are taken for multiples of one in this, where they are that close to it."""

_RANK: Final = 1e-10
"""Singular values below this fraction of the largest are zero up to rounding."""


class Totals(NamedTuple):
    """Conserved totals of each row, in echelon form: each belongs to one state, its pivot, which no other contains.

    Attributes:
        weights: row `i` holds the total whose pivot is state `i`, else zeros, `(row, state, state)`.
        pivot: whether a state is one, bool `(row, state)`.
        reactions: reactions that do not run, but would change a total if they did, bool `(row, reaction)`.
        rules: states whose rate rule does not move them, but which take part in a total, bool `(row, state)`.
    """

    weights: Tensor
    pivot: Tensor
    reactions: Tensor
    rules: Tensor

    def select(self, rows: Tensor) -> "Totals":
        """Those of some rows."""
        return Totals(*(part[rows] for part in self))


def totals_at(field: AbstractVectorField, t: Tensor, x: Tensor, p: Tensor, held: tuple[Tensor, ...]) -> Totals:
    """The totals that a system conserves with these parameters and held values; arguments as for `forward`, `(row, …)`.

    Of a compiled model they are exact: the left null space of the reactions that run, since one that a parameter
    switches off conserves what it would change. They run where their rate is not zero at the states or at generic ones.
    Of any other system they are found from its Jacobian and rates at generic states.
    """
    points = [x, *((field.scales + x.abs()) * (0.5 + _fraction(x.shape[-1], step).to(x)) for step in _SPREAD)]
    if isinstance(field, RateField):
        return _structural(field, t, points, p, held)
    return _numerical(field, t, points, p, held)


def _fraction(count: int, step: float) -> Tensor:
    return (torch.arange(1, count + 1, dtype=torch.float64) * step).frac()


def _structural(field: RateField, t: Tensor, points: list[Tensor], p: Tensor, held: tuple[Tensor, ...]) -> Totals:
    model = field.model
    runs = torch.stack([field.rates(t, x, p, *held) for x in points]).ne(0).any(0)
    ruled = torch.tensor([name in model.rates for name in model.state_names], device=runs.device)
    moves = torch.stack([field(t, x, p, *held) for x in points]).ne(0).any(0) & ruled
    patterns, place = torch.unique(torch.cat([runs, moves], -1), dim=0, return_inverse=True)
    found = [_of_pattern(model, tuple(pattern)) for pattern in patterns.tolist()]
    weights = points[0].new_tensor(found).reshape(len(found), *[len(model.state_names)] * 2)[place]
    pivot = weights.ne(0).any(-1)
    net = torch.tensor(model.stoichiometry().tolist(), dtype=weights.dtype, device=weights.device)
    net = net.reshape(len(model.state_names), len(model.reactions))
    breaks = (weights @ net).ne(0).any(-2)
    return Totals(weights, pivot, breaks & ~runs, weights.ne(0).any(-2) & ruled & ~moves)


@lru_cache(maxsize=64)
def _of_pattern(model: KineticModel, pattern: tuple[bool, ...]) -> list[list[float]]:
    """Totals of a model in which only some reactions and rate rules do something, `(state, state)`."""
    n, m = len(model.state_names), len(model.reactions)
    net = model.stoichiometry().tolist()
    running = [j for j in range(m) if pattern[j]]
    moving = [k for k in range(n) if pattern[m + k]]
    rows = [[*(net[i][j] for j in running), *(int(i == k) for k in moving)] for i in range(n)]
    unit = tuple(tuple(int(i == j) for j in range(n)) for i in range(n))
    return _echelon(np.array(left_null_space(rows) if running or moving else unit, dtype=float), n)


def _numerical(
    field: AbstractVectorField, t: Tensor, points: list[Tensor], p: Tensor, held: tuple[Tensor, ...]
) -> Totals:
    """What is orthogonal to every column of the Jacobian and to the rates, at all points."""
    n = points[0].shape[-1]
    size = torch.stack([field.scales + x.abs() for x in points]).amax(0)
    columns = [field.linearise(t, x, p, *held).jacobian * size.unsqueeze(-2) for x in points]
    columns += [field(t, x, p, *held).unsqueeze(-1) for x in points]
    matrices = torch.cat(columns, -1).double().cpu().numpy()
    weights = [_echelon(_left_null(matrix), n) for matrix in matrices]
    found = points[0].new_tensor(weights).reshape(len(weights), n, n)
    nothing = torch.zeros(len(weights), 0, dtype=torch.bool, device=found.device)
    return Totals(found, found.ne(0).any(-1), nothing, torch.zeros_like(found[:, 0], dtype=torch.bool))


def _left_null(matrix: np.ndarray) -> np.ndarray:
    """A basis of `w` with `w @ matrix = 0`, `(total, state)`; none where the matrix is not finite."""
    n = len(matrix)
    if not np.isfinite(matrix).all():
        return np.zeros((0, n))
    heights = np.abs(matrix).max(axis=1, initial=0.0)
    still = heights == 0
    rows = matrix[~still] / heights[~still, None]
    widths = np.abs(rows).max(axis=0, initial=0.0)
    left, singular, _ = np.linalg.svd(rows[:, widths > 0] / widths[widths > 0])
    rank = int((singular > _RANK * singular.max(initial=0.0)).sum())
    basis = np.zeros((n - rank, n))
    basis[: int(still.sum()), still] = np.eye(int(still.sum()))
    basis[int(still.sum()) :, ~still] = left[:, rank:].T / heights[~still]
    return basis / np.abs(basis).max(axis=1, initial=0.0, keepdims=True)


def _echelon(basis: np.ndarray, n: int) -> list[list[float]]:
    """The basis reduced until each pivot, the largest entry left, stands in one row alone; each in the row of it."""
    reduced = np.array(basis, dtype=float).reshape(-1, n)
    pivots: list[int] = []
    for i in range(len(reduced)):
        pivot = int(np.argmax(np.abs(reduced[i])))
        reduced[i] /= reduced[i, pivot]
        others = np.arange(len(reduced)) != i
        reduced[others] -= np.outer(reduced[others, pivot], reduced[i])
        pivots.append(pivot)
    near = np.round(reduced * _FRACTIONS) / _FRACTIONS
    reduced = np.where(np.abs(near - reduced) < 1e-8, near, reduced)
    full = np.zeros((n, n))
    full[pivots] = reduced
    return full.tolist()

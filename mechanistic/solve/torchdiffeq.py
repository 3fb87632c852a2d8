"""torchdiffeq's methods behind the same interface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
import torchdiffeq
from torch import Tensor

from mechanistic.errors import SolveError
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Status

Rate: TypeAlias = Callable[[Tensor, Tensor], Tensor]
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "tsit5")


@final
@dataclass(frozen=True, slots=True)
class TorchDiffEq(AbstractSolver):
    """An adaptive method of torchdiffeq, differentiated by autograd through its steps; for comparison.

    torchdiffeq has one clock for a batch, so every segment between two stops is mapped to the unit interval: all
    subjects then start, stop and jump together. One difficult subject makes all of them take small steps, and where it
    fails, all of them do.

    Attributes:
        method: one of `dopri5`, `dopri8`, `bosh3`, `fehlberg2`, `adaptive_heun`, `tsit5`.

    Raises:
        ValueError: for another method; those with a fixed step have no error control.
    """

    method: str = "dopri5"

    def __post_init__(self) -> None:
        if self.method not in ADAPTIVE:
            raise ValueError(
                f"{self.method!r} is not an adaptive method of torchdiffeq; choose from {', '.join(ADAPTIVE)}"
            )

    def solve(self, problem: Problem) -> Outcome:
        if problem.field.discrete is not None:
            advice = "it has events, conditions, delays or algebraic equations; use Auto()"
            raise SolveError("torchdiffeq cannot solve this system:", [advice])
        times, jumps, rates = problem.stops.times, problem.stops.jumps, problem.stops.rates
        batch, count = problem.times.shape
        out = problem.initial.new_full((batch, count, problem.initial.shape[-1]), torch.nan)
        x = problem.initial
        out = _placed(out, (problem.times == times[:, :1]) & problem.before, x.unsqueeze(1))
        x = x + jumps[:, 0]
        status = torch.zeros(batch, dtype=torch.long, device=x.device)
        out = _placed(out, (problem.times == times[:, :1]) & ~problem.before, x.unsqueeze(1))
        for segment in range(times.shape[1] - 1):
            begin, end = times[:, segment], times[:, segment + 1]
            inner = (problem.times > begin[:, None]) & (problem.times <= end[:, None])
            length = end - begin
            usable = torch.where(length > 0, length, 1.0)
            share = torch.where(inner, (problem.times.nan_to_num() - begin[:, None]) / usable[:, None], 0.0)
            fixed = share.detach()
            grid = torch.unique(torch.cat([fixed[inner], fixed.new_tensor([0.0, 1.0])]))
            rate = self._rate(problem, begin, length, rates[:, segment])
            try:
                path = self._path(problem, rate, x, grid)
            except AssertionError:  # the way in which torchdiffeq says that its step became too small
                return self._outcome(out, torch.full_like(status, int(Status.MIN_STEP)), begin.detach())
            values = path[torch.searchsorted(grid, fixed), torch.arange(batch, device=x.device)[:, None]]
            if share.requires_grad:
                # The fraction of the segment at which a fixed time is read changes with stops that move.
                slopes = torch.stack([rate(fixed[:, i], values[:, i]) for i in range(count)], dim=1)
                values = values + (share - fixed).unsqueeze(-1) * slopes
            out = _placed(out, inner, values)
            x = path[-1] + jumps[:, segment + 1]
            out = _placed(out, (problem.times == end[:, None]) & ~problem.before, x.unsqueeze(1))
        failed = ~x.isfinite().all(-1)
        status = torch.where(failed, int(Status.NOT_FINITE), status)
        return self._outcome(out, status, torch.where(failed, times[:, 0], times[:, -1]).detach())

    def _outcome(self, out: Tensor, status: Tensor, reached: Tensor) -> Outcome:
        none = torch.zeros_like(status)
        return Outcome(
            out, status, reached, none, Statistics(none, none), none, (f"torchdiffeq {self.method}",), out[..., :0]
        )

    @staticmethod
    def _rate(problem: Problem, begin: Tensor, length: Tensor, inputs: Tensor) -> Rate:
        """The right-hand side per fraction of a segment."""

        def rate(fraction: Tensor, x: Tensor) -> Tensor:
            slope: Tensor = problem.field(begin + fraction * length, x, problem.parameters)
            return length.unsqueeze(-1) * (slope + inputs)

        return rate

    def _path(self, problem: Problem, rate: Rate, x: Tensor, grid: Tensor) -> Tensor:
        """States at the fractions `grid` of a segment, `(fraction, batch, state)`."""
        scale, tolerance = problem.field.scales, problem.tolerance
        return scale * torchdiffeq.odeint(
            lambda fraction, y: rate(fraction, y * scale) / scale,
            x / scale,
            grid,
            method=self.method,
            rtol=tolerance.rtol,
            atol=tolerance.atol,
        )


def _placed(out: Tensor, where: Tensor, values: Tensor) -> Tensor:
    return torch.where(where.unsqueeze(-1), values, out)

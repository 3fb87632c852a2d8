"""torchdiffeq's methods behind the same interface."""

from dataclasses import dataclass
from typing import final

import torch
import torchdiffeq
from torch import Tensor

from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Status

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
            share = torch.where(inner, (problem.times - begin[:, None]) / length[:, None], 0.0).detach()
            grid = torch.unique(torch.cat([share[inner], share.new_tensor([0.0, 1.0])]))
            try:
                path = self._segment(problem, x, begin, length, rates[:, segment], grid)
            except AssertionError:  # the way in which torchdiffeq says that its step became too small
                return self._outcome(out, torch.full_like(status, int(Status.MIN_STEP)), begin.detach())
            place = torch.searchsorted(grid, share)
            values = path[place, torch.arange(batch, device=x.device)[:, None]]
            out = _placed(out, inner, values)
            x = path[-1] + jumps[:, segment + 1]
            out = _placed(out, (problem.times == end[:, None]) & ~problem.before, x.unsqueeze(1))
        failed = ~x.isfinite().all(-1)
        status = torch.where(failed, int(Status.NOT_FINITE), status)
        return self._outcome(out, status, torch.where(failed, times[:, 0], times[:, -1]).detach())

    def _outcome(self, out: Tensor, status: Tensor, reached: Tensor) -> Outcome:
        none = torch.zeros_like(status)
        return Outcome(out, status, reached, none, Statistics(none, none), none, (f"torchdiffeq {self.method}",))

    def _segment(
        self, problem: Problem, x: Tensor, begin: Tensor, length: Tensor, inputs: Tensor, grid: Tensor
    ) -> Tensor:
        """States at the fractions `grid` of the segment, `(fraction, batch, state)`."""
        if len(grid) == 2 and not bool((length > 0).any()):
            return torch.stack([x, x + length.unsqueeze(-1) * problem.field(begin, x, problem.parameters)])
        scale = problem.field.scales

        def rate(fraction: Tensor, y: Tensor) -> Tensor:
            slope: Tensor = problem.field(begin + fraction * length, y * scale, problem.parameters)
            return length.unsqueeze(-1) * (slope + inputs) / scale

        tolerance = problem.tolerance
        path = torchdiffeq.odeint(rate, x / scale, grid, method=self.method, rtol=tolerance.rtol, atol=tolerance.atol)
        return path * scale


def _placed(out: Tensor, where: Tensor, values: Tensor) -> Tensor:
    return torch.where(where.unsqueeze(-1), values, out)

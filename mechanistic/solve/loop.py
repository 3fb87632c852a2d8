"""The loop: every subject advances on its own clock from stop to stop; accepted steps are recorded."""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.schedule import Stops
from mechanistic.solve.control import factor, first_step, judge, smallest_step
from mechanistic.solve.gradient import Record, read_out
from mechanistic.solve.method import AbstractMethod, Rhs
from mechanistic.solve.problem import Outcome, Problem, Statistics, Status

STIFF_STEPS = 15
STIFF_BOUND = 3.25
"""Steps at the border of stability after which a system counts as stiff (Hairer & Wanner, Solving ODEs II, IV.2)."""


class _Clocks(NamedTuple):
    """Where each subject that is under way stands; all tensors have one row a subject."""

    subject: Tensor
    t: Tensor
    x: Tensor
    h: Tensor
    first: Tensor
    segment: Tensor
    nodes: Tensor
    error: Tensor
    stiff: Tensor
    undershoots: Tensor
    attempts: Tensor
    culprit: Tensor
    status: Tensor
    parameters: Tensor
    times: Tensor
    jumps: Tensor
    rates: Tensor
    stop: Tensor
    inputs: Tensor

    def select(self, rows: Tensor) -> "_Clocks":
        return _Clocks(*(value[rows] for value in self))

    def enter(self, segment: Tensor) -> "_Clocks":
        """Points to the next stop and the input rates of a segment; to those of the last one at the end."""
        last = self.rates.shape[1] - 1
        stop = self.times.gather(1, (segment + 1).clamp(max=last + 1)[:, None]).squeeze(1)
        index = segment.clamp(max=last)[:, None, None].expand(-1, 1, self.rates.shape[2])
        return self._replace(segment=segment, stop=stop, inputs=self.rates.gather(1, index).squeeze(1))


def solve_by_steps(method: AbstractMethod, problem: Problem) -> Outcome:
    """Solves a problem with a one-step method; see `AbstractSolver.solve`."""
    with torch.no_grad():
        detached = Stops(*(part.detach() for part in (problem.stops.times, problem.stops.jumps, problem.stops.rates)))
        run = _Run(method, problem, detached)
        record, clocks = run.advance()
    states = read_out(method, problem, record, clocks.status, clocks.t)
    steps = torch.bincount(record.subject, minlength=len(clocks.t))
    return Outcome(
        states,
        clocks.status,
        clocks.t,
        clocks.culprit,
        Statistics(steps, clocks.attempts - steps),
        torch.zeros_like(clocks.status),
        (type(method).__name__,),
    )


class _Run:
    """One pass over a batch without gradients."""

    def __init__(self, method: AbstractMethod, problem: Problem, stops: Stops) -> None:
        self.method = method
        self.problem = problem
        self.scales = problem.field.scales.to(problem.initial)
        nonnegative = problem.field.nonnegative.to(problem.initial.device)
        self.floor = torch.where(nonnegative, -problem.tolerance.atol * self.scales, -torch.inf)
        self.attempts = 0
        self.has_inputs = bool((stops.rates != 0).any())
        # Where a dose time carries a gradient, doses at one time keep a stop each, and each has to be stepped over.
        self.stepwise = problem.stops.times.requires_grad
        self.stops = stops
        self.pieces: list[tuple[Tensor, ...]] = []

    def advance(self) -> tuple[Record, _Clocks]:
        """Runs every subject to its end or to its failure."""
        clocks = self._start()
        index = torch.arange(self.stops.times.shape[1], device=clocks.t.device)
        node_of_stop = torch.where(index <= clocks.segment[:, None], 0, -1)
        finished: list[_Clocks] = []
        active = self._active(clocks)
        while True:
            count = int(active.sum())
            if count == 0:
                finished.append(clocks)
                break
            if count <= len(active) // 2:
                finished.append(clocks.select(~active))
                clocks, active = clocks.select(active), active[active]
            clocks = self._attempt(clocks, active, node_of_stop)
            active = self._active(clocks)
        everyone = _Clocks(*(torch.cat(parts) for parts in zip(*finished, strict=True)))
        everyone = everyone.select(torch.argsort(everyone.subject))
        return self._record(node_of_stop, everyone), everyone

    def _start(self) -> _Clocks:
        times, jumps, rates = self.stops.times, self.stops.jumps, self.stops.rates
        t = times[:, 0]
        segment = torch.zeros_like(t, dtype=torch.long) if self.stepwise else (times <= t[:, None]).sum(1) - 1
        given = torch.arange(times.shape[1], device=t.device) <= segment[:, None]
        x = self.problem.initial.detach() + (jumps * given.unsqueeze(-1)).sum(1)
        zero, none = torch.zeros_like(t), torch.zeros_like(segment)
        clocks = _Clocks(
            torch.arange(len(t), device=t.device), t, x, zero, torch.zeros_like(x), segment, none, zero + 1.0, none,
            none, none, none, none, self.problem.parameters.detach(), times, jumps, rates, t, torch.zeros_like(x),
        )  # fmt: skip
        return self._restart(clocks.enter(segment), torch.ones_like(t, dtype=torch.bool))

    def _rhs(self, clocks: _Clocks) -> Rhs:
        return Rhs(self.problem.field, clocks.parameters, clocks.inputs if self.has_inputs else None)

    def _restart(self, clocks: _Clocks, rows: Tensor) -> _Clocks:
        """Fresh slope and step size for the rows that were just moved by a jump or a change of input."""
        slope = self._rhs(clocks)(clocks.t, clocks.x)
        span = (clocks.times[:, -1] - clocks.t).clamp_min(0)
        guess = first_step(clocks.t, clocks.x, slope, self.scales, self.problem.tolerance, span)
        return clocks._replace(
            first=torch.where(rows.unsqueeze(-1), slope, clocks.first),
            h=torch.where(rows, guess, clocks.h),
            error=torch.where(rows, 1.0, clocks.error),
        )

    def _active(self, clocks: _Clocks) -> Tensor:
        last = clocks.times.shape[1] - 1
        under_way = clocks.segment < last if self.stepwise else clocks.t < clocks.times[:, -1]
        return under_way & (clocks.status == Status.OK)

    def _attempt(self, clocks: _Clocks, active: Tensor, node_of_stop: Tensor) -> _Clocks:
        method, tolerance = self.method, self.problem.tolerance
        remaining = clocks.stop - clocks.t
        # A step that would leave a sliver before the stop is stretched to it.
        arriving = clocks.h * (1 + 1e-6) >= remaining
        trial = torch.where(arriving, remaining, clocks.h)
        first = clocks.first if method.reuses_last else None
        step = method.step(self._rhs(clocks), clocks.t, clocks.x, trial, first)
        verdict = judge(clocks.x, step.x, step.error, self.scales, self.floor, clocks.undershoots, tolerance)
        accepted = verdict.accepted & active
        self.pieces.append((accepted, clocks.subject, clocks.nodes, clocks.t, trial, clocks.x, clocks.segment))
        self.attempts += 1
        kept = accepted.unsqueeze(-1)
        stopped = accepted & arriving
        moved = clocks._replace(
            t=torch.where(accepted, torch.where(arriving, clocks.stop, clocks.t + trial), clocks.t),
            x=torch.where(kept, step.x, clocks.x),
            h=trial * factor(method, verdict, clocks.error),
            first=clocks.first if step.last is None else torch.where(kept, step.last, clocks.first),
            nodes=clocks.nodes + accepted,
            error=torch.where(accepted, verdict.ratio, clocks.error),
            stiff=_count_stiff(clocks.stiff, step.stiffness, accepted),
            undershoots=(clocks.undershoots + torch.where(verdict.undershot, 2, -1)).clamp_min(0),
            attempts=clocks.attempts + active,
            culprit=torch.where(active, verdict.culprit, clocks.culprit),
        )
        if bool(stopped.any()):
            moved = self._restart(self._arrive(moved, stopped, node_of_stop), stopped)
        return self._fail(moved, verdict.ratio, active & ~stopped)

    def _arrive(self, clocks: _Clocks, stopped: Tensor, node_of_stop: Tensor) -> _Clocks:
        """Applies the jumps of the stops just reached and enters the next segment."""
        index = torch.arange(clocks.times.shape[1], device=clocks.t.device)
        reached = clocks.segment + 1 if self.stepwise else (clocks.times <= clocks.t[:, None]).sum(1) - 1
        reached = torch.where(stopped, reached, clocks.segment)
        passed = (index > clocks.segment[:, None]) & (index <= reached[:, None])
        node_of_stop[clocks.subject] = torch.where(passed, clocks.nodes[:, None], node_of_stop[clocks.subject])
        moved = clocks._replace(x=clocks.x + (clocks.jumps * passed.unsqueeze(-1)).sum(1))
        return moved.enter(reached)

    def _fail(self, clocks: _Clocks, ratio: Tensor, between: Tensor) -> _Clocks:
        """Sets the status of the rows that cannot go on, of those that stand `between` stops."""
        tiny = between & (clocks.h <= smallest_step(clocks.t))
        stiff = clocks.stiff >= STIFF_STEPS
        spent = self.attempts >= self.method.max_steps
        if not (spent or bool((tiny | stiff).any())):
            return clocks
        status = torch.where(tiny, torch.where(ratio.isfinite(), int(Status.MIN_STEP), int(Status.NOT_FINITE)), 0)
        status = torch.where((status == Status.OK) & self._active(clocks) & spent, int(Status.BUDGET), status)
        status = torch.where((status == Status.OK) & self._active(clocks) & stiff, int(Status.STIFF), status)
        return clocks._replace(status=torch.where(clocks.status == Status.OK, status, clocks.status))

    def _record(self, node_of_stop: Tensor, clocks: _Clocks) -> Record:
        nothing = torch.zeros_like(clocks.t, dtype=torch.bool)
        pieces = self.pieces or [(nothing, clocks.subject, clocks.nodes, clocks.t, clocks.t, clocks.x, clocks.segment)]
        accepted, *columns = zip(*pieces, strict=True)
        rows = torch.cat(accepted).nonzero().squeeze(1)
        subject, node, t, h, x, segment = (torch.cat(parts)[rows] for parts in columns)
        return Record(subject, node, t, h, x, segment, node_of_stop, clocks.nodes, clocks.x)


def _count_stiff(count: Tensor, stiffness: Tensor | None, accepted: Tensor) -> Tensor:
    if stiffness is None:
        return count
    change = torch.where(stiffness > STIFF_BOUND, 1, -1)
    return (count + change * accepted).clamp_min(0)

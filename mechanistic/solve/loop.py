"""The loop: every subject advances on its own clock from stop to stop; accepted steps are recorded."""

import torch
from torch import Tensor

from mechanistic.schedule import Stops
from mechanistic.solve.clocks import Clocks, Trial
from mechanistic.solve.control import factor, fastest_rate, first_step, judge, smallest_step
from mechanistic.solve.flights import AbstractFlights
from mechanistic.solve.gradient import Record, read_out
from mechanistic.solve.method import AbstractMethod, Rhs
from mechanistic.solve.problem import Outcome, Problem, Statistics, Status
from mechanistic.solve.shadow import cast_shadow, follow, judge_both, step_both, wants_gradient
from mechanistic.solve.switching import Switching

STIFF_STEPS = 15
STIFF_BOUND = 3.25
"""Steps at the border of stability after which a system counts as stiff (Hairer & Wanner, Solving ODEs II, IV.2)."""

FAR_BEYOND = 10
"""Multiple of the border beyond which one step is enough: only modes that are at rest let such a step pass. They do not
show in its error, and would blow up in its derivative."""

BRISK = 0.2
"""Part of the step size before an event with which a subject goes on after it."""

PROBED = 8
"""Every so many steps these modes are looked for, where a derivative may be asked for."""


def solve_by_steps(method: AbstractMethod, problem: Problem, flights: AbstractFlights | None = None) -> Outcome:
    """Solves a problem with a one-step method; see `AbstractSolver.solve`.

    Where there are `flights` they take the steps of the method; the problem must not be smooth then.
    """
    discrete = problem.field.discrete
    differentiated = wants_gradient(problem)
    switching = None if discrete is None else Switching(method, problem, discrete, differentiated)
    with torch.set_grad_enabled(switching is not None and differentiated):
        run = _Run(method, problem, switching, differentiated, flights)
        record, clocks = run.advance()
        outputs = None if switching is None else switching.read_end(clocks)
    if outputs is None:
        states = read_out(method, problem, record, clocks.status, clocks.t)
        outputs = states, states[..., :0]
    return Outcome(
        outputs[0],
        clocks.status,
        clocks.t.detach(),
        clocks.culprit,
        Statistics(clocks.nodes, clocks.attempts - clocks.nodes),
        torch.zeros_like(clocks.status),
        (type(method).__name__,),
        outputs[1],
    )


class _Run:
    """One pass over a batch: without gradients for a smooth system, whose steps are recorded instead."""

    def __init__(
        self, method: AbstractMethod, problem: Problem, switching: Switching | None, shadowed: bool,
        flights: AbstractFlights | None,
    ) -> None:  # fmt: skip
        self.method = method
        self.flights = flights
        self.problem = problem if switching is not None else _detached(problem)
        self.switching = switching
        self.scales = problem.field.scales.to(problem.initial)
        nonnegative = problem.field.nonnegative.to(problem.initial.device)
        self.floor = torch.where(nonnegative, -problem.tolerance.atol * self.scales, -torch.inf)
        self.attempts = 0
        self.stops = self.problem.stops
        self.shadowed = shadowed
        self.has_inputs = bool((self.stops.rates != 0).any())
        # Where a dose time carries a gradient, doses at one time keep a stop each, and each has to be stepped over.
        self.stepwise = problem.stops.times.requires_grad
        self.pieces: list[tuple[Tensor, ...]] = []

    def advance(self) -> tuple[Record, Clocks]:
        """Runs every subject to its end or to its failure."""
        clocks = self._start()
        index = torch.arange(self.stops.times.shape[1], device=clocks.t.device)
        node_of_stop = torch.where(index <= clocks.segment[:, None], 0, -1)
        finished: list[Clocks] = []
        active = self._active(clocks)
        while True:
            count = int(active.sum())
            if count == 0:
                finished.append(clocks)
                break
            if count <= len(active) // 2:
                finished.append(clocks.select(~active))
                clocks, active = clocks.select(active), active[active]
            advanced = self._attempt if self.flights is None else self._fly
            clocks = advanced(clocks, active, node_of_stop)
            active = self._active(clocks)
        everyone = Clocks(*(torch.cat(parts) for parts in zip(*finished, strict=True)))
        everyone = everyone.select(torch.argsort(everyone.subject))
        return self._record(node_of_stop, everyone), everyone

    def _start(self) -> Clocks:
        times, jumps, rates = self.stops.times, self.stops.jumps, self.stops.rates
        t, x = times[:, 0], self.problem.initial
        segment = torch.zeros_like(t, dtype=torch.long) if self.stepwise else (times <= t[:, None]).sum(1) - 1
        given = torch.arange(times.shape[1], device=t.device) <= segment[:, None]
        zero, none = torch.zeros_like(t), torch.zeros_like(segment)
        modes = 0 if self.problem.field.discrete is None else self.problem.field.discrete.modes
        clocks = Clocks(
            torch.arange(len(t), device=t.device), t, x, zero, torch.zeros_like(x), segment, none, zero + 1.0, none,
            none, none, none, none, self.problem.parameters, times, jumps, rates, t, torch.zeros_like(x),
            x.new_zeros(len(x), modes), torch.zeros_like(x) if self.shadowed else x[..., :0],
        )  # fmt: skip
        everyone = torch.ones_like(t, dtype=torch.bool)
        if self.switching is not None:
            self.switching.read_start(clocks)
        clocks = clocks._replace(x=x + (jumps * given.unsqueeze(-1)).sum(1)).enter(segment)
        if self.switching is not None:
            clocks, _ = self.switching.settle(clocks, everyone, everyone)
        return self._restart(clocks, everyone, everyone, torch.zeros_like(t))

    def _inputs(self, clocks: Clocks) -> Tensor | None:
        return clocks.inputs if self.has_inputs else None

    def _rhs(self, clocks: Clocks) -> Rhs:
        if self.switching is not None:
            return self.switching.rhs(clocks, self._inputs(clocks))
        return Rhs(self.problem.field, clocks.parameters, self._inputs(clocks))

    @torch.no_grad()
    def _restart(self, clocks: Clocks, rows: Tensor, jumped: Tensor, pace: Tensor) -> Clocks:
        """A fresh slope for rows whose right-hand side has changed, and a fresh step size for those that `jumped`.

        The step size is at least `pace`, `(row,)`.
        """
        slope = self._rhs(clocks)(clocks.t, clocks.x)
        span = (clocks.times[:, -1] - clocks.t).clamp_min(0)
        quiet = torch.where(clocks.h > 0, torch.minimum(clocks.h, span), 1e-6 * span)
        guess = first_step(clocks.t, clocks.x, slope, self.scales, self.problem.tolerance, span, quiet)
        shadow = clocks.shadow
        if self.shadowed:
            shadow = torch.where(rows.unsqueeze(-1), cast_shadow(clocks.x, self.scales), shadow)
        return clocks._replace(
            first=torch.where(rows.unsqueeze(-1), slope, clocks.first),
            shadow=shadow,
            h=torch.where(jumped, torch.maximum(guess, torch.minimum(pace, span)), clocks.h),
            error=torch.where(rows, 1.0, clocks.error),
        )

    def _active(self, clocks: Clocks) -> Tensor:
        last = clocks.times.shape[1] - 1
        under_way = clocks.segment < last if self.stepwise else clocks.t < clocks.times[:, -1]
        return under_way & (clocks.status == Status.OK)

    @torch.no_grad()
    def _try(self, clocks: Clocks, active: Tensor) -> Trial:
        """One trial step of every row."""
        method, tolerance = self.method, self.problem.tolerance
        target, h = clocks.stop, clocks.h
        if self.switching is not None:
            target, h = self.switching.target(clocks), self.switching.bound(clocks, h)
        remaining = target - clocks.t
        # A step that would leave a sliver before the stop is stretched to it.
        arriving = h * (1 + 1e-6) >= remaining
        size = torch.where(arriving, remaining, h)
        first = clocks.first if method.reuses_last else None
        rhs = self._rhs(clocks)
        pair = None
        if self.shadowed:
            pair = step_both(method, rhs, clocks.t, clocks.x, clocks.shadow, size)
        step = method.step(rhs, clocks.t, clocks.x, size, first) if pair is None else pair.step
        if step.stiffness is not None and self.shadowed and self.attempts % PROBED == 0:
            suspect = FAR_BEYOND * STIFF_BOUND / size
            rate = fastest_rate(rhs, clocks.t, clocks.x, step.stages[0], self.scales, suspect)
            step = step._replace(stiffness=torch.maximum(step.stiffness, size * rate))
        verdict = judge(clocks.x, step.x, step.error, self.scales, self.floor, clocks.undershoots, tolerance)
        shadow = clocks.shadow
        if pair is not None:
            verdict = judge_both(verdict, pair, clocks.x, shadow, self.scales, tolerance)
            shadow = follow(step.x, pair.end, self.scales)
        never = torch.zeros_like(active)
        whole, taken = torch.ones_like(size), verdict.accepted & active
        trial = Trial(target, size, arriving, step, verdict, taken, whole, never, never, shadow)
        return trial if self.switching is None else self.switching.crossing(clocks, rhs, trial)

    def _attempt(self, clocks: Clocks, active: Tensor, node_of_stop: Tensor) -> Clocks:
        trial = self._try(clocks, active)
        accepted, step, verdict = trial.accepted, trial.step, trial.verdict
        kept = accepted.unsqueeze(-1)
        self.attempts += 1
        if self.switching is None:
            self.pieces.append((accepted, clocks.subject, clocks.nodes, clocks.t, trial.h, clocks.x, clocks.segment))
            t = torch.where(accepted, torch.where(trial.arriving, clocks.stop, clocks.t + trial.h), clocks.t)
            x = torch.where(kept, step.x, clocks.x)
        else:
            t, x = self.switching.land(clocks, self._inputs(clocks), trial)
        stopped = accepted & (trial.arriving | trial.crossing)
        following = trial.h * factor(self.method, verdict, clocks.error)
        # A step that was cut short by what happens says nothing of how long the next one may be.
        following = torch.where(stopped, torch.maximum(clocks.h, following), following)
        moved = clocks._replace(
            t=t,
            x=x,
            h=torch.where(trial.again, trial.theta * trial.h, following),
            shadow=torch.where(kept, trial.shadow, clocks.shadow),
            first=clocks.first if step.last is None else torch.where(kept, step.last, clocks.first),
            nodes=clocks.nodes + accepted,
            error=torch.where(accepted, verdict.ratio, clocks.error),
            stiff=_count_stiff(clocks.stiff, step.stiffness, accepted),
            undershoots=(clocks.undershoots + torch.where(verdict.undershot, 2, -1)).clamp_min(0),
            attempts=clocks.attempts + active,
            culprit=torch.where(active, verdict.culprit, clocks.culprit),
        )
        if bool(stopped.any()):
            moved = self._arrive(moved, stopped, node_of_stop)
        return self._fail(moved, verdict.ratio, active & ~stopped)

    def _fly(self, clocks: Clocks, active: Tensor, node_of_stop: Tensor) -> Clocks:
        """Takes every row that is active to where something happens next, or to its failure."""
        assert self.flights is not None
        assert self.switching is not None
        rows = active.nonzero().squeeze(1)
        everyone = len(rows) == len(active)
        mine = clocks if everyone else clocks.select(rows)
        flown = self.flights.fly(mine, self.switching.target(mine))
        self.switching.pass_outputs(flown.place, flown.states)
        moved, stopped = flown.clocks, flown.stopped
        if not everyone:
            moved = clocks.merge(rows, moved)
            stopped = torch.zeros_like(active).index_put((rows,), stopped)
        if bool(stopped.any()):
            moved = self._arrive(moved, stopped, node_of_stop)
        return self._exhaust(moved, moved.attempts >= self.method.max_steps)

    def _arrive(self, clocks: Clocks, stopped: Tensor, node_of_stop: Tensor) -> Clocks:
        """Lets happen what happens where the rows have stopped: first doses, then events."""
        given = stopped & (clocks.t >= clocks.stop)
        if bool(given.any()):
            clocks = self._give(clocks, given, node_of_stop)
        if self.switching is None:
            return self._restart(clocks, stopped, stopped, torch.zeros_like(clocks.t))
        clocks, jumped = self.switching.settle(clocks, stopped, given)
        # An event seldom changes the pace of a system by much; where it does, the step is rejected.
        pace = torch.where(jumped & ~given, BRISK * clocks.h, 0.0)
        return self._restart(clocks, stopped, jumped, pace)

    def _give(self, clocks: Clocks, given: Tensor, node_of_stop: Tensor) -> Clocks:
        """Applies the jumps of the stops just reached and enters the next segment."""
        index = torch.arange(clocks.times.shape[1], device=clocks.t.device)
        reached = clocks.segment + 1 if self.stepwise else (clocks.times <= clocks.t[:, None]).sum(1) - 1
        reached = torch.where(given, reached, clocks.segment)
        passed = (index > clocks.segment[:, None]) & (index <= reached[:, None])
        node_of_stop[clocks.subject] = torch.where(passed, clocks.nodes[:, None], node_of_stop[clocks.subject])
        moved = clocks._replace(x=clocks.x + (clocks.jumps * passed.unsqueeze(-1)).sum(1))
        return moved.enter(reached)

    @torch.no_grad()
    def _fail(self, clocks: Clocks, ratio: Tensor, between: Tensor) -> Clocks:
        """Sets the status of the rows that cannot go on, of those that stand `between` stops."""
        tiny = between & (clocks.h <= smallest_step(clocks.t))
        if bool(tiny.any()):
            status = torch.where(ratio.isfinite(), int(Status.MIN_STEP), int(Status.NOT_FINITE))
            clocks = clocks._replace(status=torch.where(tiny & (clocks.status == Status.OK), status, clocks.status))
        return self._exhaust(clocks, torch.full_like(tiny, self.attempts >= self.method.max_steps))

    def _exhaust(self, clocks: Clocks, spent: Tensor) -> Clocks:
        """Sets the status of the rows that have `spent` their budget or turn out to be stiff."""
        stiff = clocks.stiff >= STIFF_STEPS
        if not bool((spent | stiff).any()):
            return clocks
        status = torch.where(spent, int(Status.BUDGET), torch.where(stiff, int(Status.STIFF), clocks.status))
        return clocks._replace(status=torch.where(self._active(clocks), status, clocks.status))

    def _record(self, node_of_stop: Tensor, clocks: Clocks) -> Record:
        nothing = torch.zeros_like(clocks.t, dtype=torch.bool)
        pieces = self.pieces or [(nothing, clocks.subject, clocks.nodes, clocks.t, clocks.t, clocks.x, clocks.segment)]
        accepted, *columns = zip(*pieces, strict=True)
        rows = torch.cat(accepted).nonzero().squeeze(1)
        subject, node, t, h, x, segment = (torch.cat(parts)[rows] for parts in columns)
        return Record(subject, node, t, h, x, segment, node_of_stop, clocks.nodes, clocks.x)


def _detached(problem: Problem) -> Problem:
    stops = Stops(*(part.detach() for part in (problem.stops.times, problem.stops.jumps, problem.stops.rates)))
    return problem._replace(parameters=problem.parameters.detach(), initial=problem.initial.detach(), stops=stops)


def _count_stiff(count: Tensor, stiffness: Tensor | None, accepted: Tensor) -> Tensor:
    if stiffness is None:
        return count
    change = torch.where(stiffness > STIFF_BOUND, 1, -1)
    change = torch.where(stiffness > FAR_BEYOND * STIFF_BOUND, STIFF_STEPS, change)
    return (count + change * accepted).clamp_min(0)

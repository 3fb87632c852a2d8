"""Systems that are not smooth, under way: crossings, events, delays, and the outputs between them.

Here nothing is recorded to be differentiated later. Where a gradient is wanted every accepted step is taken once more
with a graph; the moment of a crossing is the root of its surface along the step, and is differentiated as such, which
is the saltation term of a jump.
"""

import warnings
from typing import NamedTuple, final

import torch
from torch import Tensor

from mechanistic.field import AbstractDiscrete
from mechanistic.solve.agenda import Agenda, Moment, Settled
from mechanistic.solve.clocks import Clocks, Trial
from mechanistic.solve.consistent import Consistent, consistent
from mechanistic.solve.control import smallest_step
from mechanistic.solve.crossing import Crossing, Path, first_crossing
from mechanistic.solve.history import History, Lookup, Unwatched
from mechanistic.solve.method import AbstractMethod, Delayed, Rhs
from mechanistic.solve.problem import Problem, Status

WELL_PLACED = (0.02, 0.9)
"""A crossing at a fraction between these is looked for again by a step that ends there: dense output is less accurate
in the middle of a step than at its ends."""

BEYOND = 1.02
"""How far such a step reaches, relative to where the crossing is expected."""

EXACT = 0.1
"""A step whose error is a smaller part of the tolerance has dense output that is right all along; both have order 4."""

WORTHWHILE = 10
"""How long such a step must be, in smallest steps: a shorter one is no more accurate, and would look like a failure."""

STANDSTILL = 100
"""How often conditions may change one after the other while time stands still."""

EVER_FASTER, ACCUMULATED = 12, 1e-9
"""So many events, each sooner than the one before, the last after this relative time, accumulate (Zeno's paradox)."""


class _Read(NamedTuple):
    """Outputs read within some steps: their places in the flattened outputs, states and delayed values."""

    place: Tensor
    states: Tensor
    delayed: Tensor


def next_alarm(discrete: AbstractDiscrete, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
    """When time alone next changes a mode, `(row,)`; infinite where it does not. `held` are the values held now."""
    clock = discrete.clock(t, x, p, held)
    alarm = torch.where(clock > t[:, None], clock, torch.inf).nan_to_num(torch.inf).amin(-1)
    with torch.no_grad():
        # Where the condition is strict, or rounding has moved the moment, it holds a little later.
        at = torch.where(alarm.isfinite(), alarm, t)
        modes = discrete.mode(at, x, p, held[:, : discrete.delays])
        early = ((modes == held[:, discrete.delays :]) | ~discrete.timed).all(-1)
        spacing = 2 * torch.finfo(at.dtype).eps * at.abs()
    return torch.where(early, alarm + spacing, alarm)


@final
class Switching:
    """What a batch with modes, events or delays needs beside its clocks.

    Attributes:
        graph: whether a gradient is wanted.
    """

    def __init__(self, method: AbstractMethod, problem: Problem, discrete: AbstractDiscrete, graph: bool) -> None:
        self._method, self._problem, self._discrete = method, problem, discrete
        self.graph = graph
        subjects = len(problem.initial)
        start = problem.stops.times[:, 0].detach()
        self._agenda = Agenda(discrete, subjects, problem.initial.detach()) if discrete.events else None
        self._history = History(method, discrete, start, problem.initial) if discrete.delays else None
        self._settled_at = torch.full_like(start, -torch.inf)
        self._idle = torch.zeros(subjects, dtype=torch.long, device=start.device)
        self._jumped_at, self._gap = torch.full_like(start, -torch.inf), torch.full_like(start, torch.inf)
        self._faster = torch.zeros_like(self._idle)
        self._accumulated = torch.zeros_like(self._idle, dtype=torch.bool)
        self._read: list[_Read] = []

    def rhs(self, clocks: Clocks, inputs: Tensor | None) -> Rhs:
        """The right-hand side for steps that start where the clocks stand."""
        delayed: Delayed | None = self._lookup(clocks.subject, clocks.t, clocks.parameters)
        if delayed is not None and not any(self._discrete.watched):
            delayed = Unwatched(self._discrete.delays)
        return Rhs(self._problem.field, clocks.parameters, inputs, clocks.modes, delayed)

    def _lookup(self, subject: Tensor, begin: Tensor, p: Tensor) -> Lookup | None:
        return None if self._history is None else Lookup(self._history, subject, begin.detach(), p)

    def _delayed(self, clocks: Clocks) -> Tensor:
        lookup = self._lookup(clocks.subject, clocks.t, clocks.parameters)
        return clocks.x[..., :0] if lookup is None else lookup(clocks.t, clocks.x)

    # Where to go

    def target(self, clocks: Clocks) -> Tensor:
        """The next moment at which something is known to happen, `(row,)`."""
        stops = [clocks.stop]
        if self._agenda is not None:
            stops.append(self._agenda.due(clocks.subject))
        if self._discrete.modes:
            stops.append(self._alarm(clocks))
        if self._history is not None:
            stops.append(self._history.next_echo(clocks.subject, clocks.t))
        return torch.stack(stops).amin(0)

    def _alarm(self, clocks: Clocks) -> Tensor:
        """When time alone next changes a mode, `(row,)`."""
        held = torch.cat([self._delayed(clocks), clocks.modes], dim=-1)
        return next_alarm(self._discrete, clocks.t, clocks.x, clocks.parameters, held)

    def bound(self, clocks: Clocks, h: Tensor) -> Tensor:
        """Step sizes that do not reach beyond the shortest lag, `(row,)`."""
        if self._history is None or not any(self._discrete.watched):
            return h
        p = clocks.parameters
        return torch.minimum(h, self._history.shortest(clocks.subject, clocks.t, clocks.x, p))

    def crossing(self, clocks: Clocks, rhs: Rhs, trial: Trial) -> Trial:
        """The trial, shortened to its first crossing, or sent back to end there."""
        rows = trial.accepted.nonzero().squeeze(1)
        if not self._discrete.modes or not len(rows):
            return trial
        path = Path.of(self._method, rhs, clocks.t, trial.h, clocks.x, trial.step).select(rows)
        found, theta = first_crossing(path, trial.arriving[rows])
        again = found & (theta > WELL_PLACED[0]) & (theta < WELL_PLACED[1])
        again = again & (theta * path.h > WORTHWHILE * smallest_step(path.t)) & (trial.verdict.ratio[rows] > EXACT)
        taken = Crossing(found & ~again, torch.where(again, BEYOND * theta, theta))
        return trial._replace(
            accepted=trial.accepted.index_put((rows,), ~again),
            theta=trial.theta.index_put((rows,), taken.theta),
            crossing=trial.crossing.index_put((rows,), taken.found),
            again=trial.again.index_put((rows,), again),
        )

    # Getting there

    def land(self, clocks: Clocks, inputs: Tensor | None, trial: Trial) -> tuple[Tensor, Tensor]:
        """Times and states at the end of the accepted steps, `(row,)` and `(row, state)`; reads outputs on the way."""
        rows = trial.accepted.nonzero().squeeze(1)
        if not len(rows):
            return clocks.t, clocks.x
        mine = clocks.select(rows)
        rhs = self.rhs(clocks, inputs)
        short = trial.theta[rows] < 1
        arriving = trial.arriving[rows] & ~short
        target = trial.target[rows]
        if self.graph:
            target = self.target(mine)
            h = torch.where(arriving, target - mine.t, trial.h[rows])
            rhs = rhs.select(rows)
            path = Path.of(self._method, rhs, mine.t, h, mine.x, self._method.step(rhs, mine.t, mine.x, h))
            theta = self._differentiable(path, trial.theta[rows], trial.crossing[rows] & ~arriving)
        else:
            path = Path.of(self._method, rhs, clocks.t, trial.h, clocks.x, trial.step).select(rows)
            theta = trial.theta[rows]
        ends = torch.where(arriving, target, mine.t + theta * path.h)
        states = path.end
        if bool(short.any()):
            cut = self._method.interpolate(theta, path.x, path.end, path.h, path.stages)
            states = torch.where(short[:, None], cut, path.end)
        if self._history is not None:
            self._history.record(mine.subject, path.t, path.h, path.x, path.end, path.stages)
        self._read_within(path, mine.subject, ends.detach())
        return clocks.t.index_put((rows,), ends), clocks.x.index_put((rows,), states)

    def _differentiable(self, path: Path, theta: Tensor, crossing: Tensor) -> Tensor:
        """Fractions whose derivative is that of the root of the surface that is crossed."""
        if not bool(crossing.any()):
            return theta
        rows = crossing.nonzero().squeeze(1)
        cut, at = path.select(rows), theta[rows]
        with torch.no_grad():
            held = cut.rhs.modes
            assert held is not None
            which = (cut.modes(at) != held).to(torch.int8).argmax(-1, keepdim=True)
        free = at.detach().requires_grad_()
        speed = torch.autograd.grad(cut.surfaces(free).gather(1, which).sum(), free)[0]
        value = cut.surfaces(at).gather(1, which).squeeze(1)
        return theta.index_put((rows,), at - (value - value.detach()) / speed)

    # What happens there

    def settle(self, clocks: Clocks, rows: Tensor, given: Tensor) -> tuple[Clocks, Tensor]:
        """Clocks after the events of the `rows` that have arrived somewhere, and which of them were moved, `(row,)`.

        Some of them were `given` something there, or start there, `(row,)`.
        """
        index = rows.nonzero().squeeze(1)
        mine = clocks.select(index)
        moment = Moment(mine.subject, mine.t, mine.x, mine.parameters, self._delayed(mine))
        fixed = self._consistent(moment)
        settled = Settled(fixed.x, torch.zeros_like(fixed.failed), torch.zeros_like(fixed.failed), fixed.failed)
        if self._agenda is not None:
            settled = self._agenda.settle(moment._replace(x=fixed.x), self._consistent)
        mine = mine._replace(x=settled.x)
        jumped = settled.jumped | given[index]
        status = torch.where(settled.failed, int(Status.EVENTS), mine.status)
        status = torch.where(settled.astray | fixed.failed, int(Status.INCONSISTENT), status)
        with torch.no_grad():
            modes = self._discrete.mode(mine.t, mine.x, mine.parameters, self._delayed(mine))
            changed = (modes != mine.modes).any(-1)
            status = torch.where(self._stuck(mine, settled.jumped) & (status == Status.OK), int(Status.EVENTS), status)
        if self._history is not None:
            self._history.listen(mine.subject, jumped | changed, mine.t, mine.x, mine.parameters)
        moved = clocks._replace(
            x=clocks.x.index_put((index,), mine.x),
            modes=clocks.modes.index_put((index,), modes),
            status=clocks.status.index_put((index,), status),
        )
        return moved, torch.zeros_like(rows).index_put((index,), jumped)

    def _consistent(self, moment: Moment) -> Consistent:
        """The states moved to where the algebraic equations hold, with the modes as they are there."""
        lookup = self._lookup(moment.subject, moment.t, moment.p)
        unlocked = moment.x.new_zeros(len(moment.t), 0)
        rhs = Rhs(self._problem.field, moment.p, None, unlocked, lookup)
        return consistent(rhs, moment.t, moment.x)

    def _stuck(self, mine: Clocks, jumped: Tensor) -> Tensor:
        """Whether time stands still while conditions change, `(row,)`; notes events that come ever faster."""
        t, subject = mine.t.detach(), mine.subject
        still = t - self._settled_at[subject] <= 1e-14 * (1 + t.abs())
        idle = torch.where(still, self._idle[subject] + 1, 0)
        gap = t - self._jumped_at[subject]
        faster = torch.where(gap < self._gap[subject], self._faster[subject] + 1, 0)
        self._idle[subject], self._settled_at[subject] = idle, t
        for kept, fresh in ((self._faster, faster), (self._gap, gap), (self._jumped_at, t)):
            kept[subject] = torch.where(jumped, fresh, kept[subject])
        self._accumulated[subject] |= jumped & (faster > EVER_FASTER) & (gap < ACCUMULATED * (1 + t.abs()))
        return idle > STANDSTILL

    # What is seen

    def _read_within(self, path: Path, subject: Tensor, ends: Tensor) -> None:
        """Reads the outputs from the start of each step up to its end, where something may still happen."""
        times, before = self._problem.times[subject], self._problem.before[subject]
        begin, end = path.t.detach()[:, None], ends[:, None]
        inside = torch.where(before, (times > begin) & (times <= end), (times >= begin) & (times < end))
        row, column = inside.nonzero(as_tuple=True)
        if not len(row):
            return
        mine = path.select(row)
        at = times[row, column]
        states = mine.state((at - mine.t) / mine.h)
        place = subject[row] * times.shape[1] + column
        lookup = self._lookup(subject[row], mine.t, mine.rhs.parameters)
        self._read.append(_Read(place, states, states[..., :0] if lookup is None else lookup(at, states)))

    def _read_at(self, clocks: Clocks, wanted: Tensor) -> None:
        row, column = wanted.nonzero(as_tuple=True)
        mine = clocks.select(row)
        self._read.append(_Read(mine.subject * wanted.shape[1] + column, mine.x, self._delayed(mine)))

    def pass_outputs(self, place: Tensor, states: Tensor) -> None:
        """Notes outputs that were read elsewhere: their places in the flattened outputs, and states."""
        self._read.append(_Read(place, states, states[..., :0]))

    def read_start(self, clocks: Clocks) -> None:
        """Reads the outputs that show the state before anything is given at the start."""
        times, before = self._problem.times, self._problem.before
        self._read_at(clocks, before & (times == clocks.t.detach()[:, None]))

    def read_end(self, clocks: Clocks) -> tuple[Tensor, Tensor]:
        """States and delayed values at all outputs, `(batch, time, …)`; the clocks of all subjects have stopped."""
        if bool(self._accumulated.any()):
            first = int(self._accumulated.nonzero()[0, 0])
            warnings.warn(
                f"events of {int(self._accumulated.sum())} of {len(self._accumulated)} subjects come ever faster and"
                f" accumulate, in row {first} near t = {float(self._jumped_at[first]):.6g}; once they are closer than"
                " times can tell apart, the simulation goes on without them",
                RuntimeWarning,
                stacklevel=2,
            )
        times, before = self._problem.times, self._problem.before
        done = (clocks.status == Status.OK)[:, None]
        self._read_at(clocks, done & ~before & (times >= clocks.t.detach()[:, None]))
        place = torch.cat([read.place for read in self._read])
        found = []
        for part in ("states", "delayed"):
            values = torch.cat([getattr(read, part) for read in self._read])
            out = values.new_full((times.numel(), values.shape[-1]), torch.nan).index_put((place,), values)
            found.append(out.reshape(*times.shape, -1))
        return found[0], found[1]

"""What has been: the dense output of the steps so far, from which delayed values are taken."""

from typing import NamedTuple, final

import torch
from torch import Tensor

from mechanistic.field import AbstractDiscrete
from mechanistic.solve.method import AbstractMethod

ECHOES = 5
"""How often a kink is followed from lag to lag: each time it is one derivative smoother, at last beyond the order."""

ROUNDING = 1e-12
"""Relative distance in time within which two moments count as one when looking back."""


class _Piece(NamedTuple):
    """Steps that were taken at once; `row` is the place of each subject among them, `(subject,)`."""

    row: Tensor
    t: Tensor
    h: Tensor
    x: Tensor
    end: Tensor
    stages: Tensor


@final
class Lookup(NamedTuple):
    """Delayed values of some subjects within steps that start at `begin`."""

    history: "History"
    subject: Tensor
    begin: Tensor
    parameters: Tensor

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self.history.values(self.subject, self.begin, t, x, self.parameters)

    def select(self, rows: Tensor) -> "Lookup":
        return Lookup(self.history, self.subject[rows], self.begin[rows], self.parameters[rows])


@final
class Unwatched(NamedTuple):
    """Stands for delayed values that nothing uses within a step."""

    width: int

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.width)

    def select(self, rows: Tensor) -> "Unwatched":
        return self


@final
class History:
    """The steps of a batch so far; delayed values of any of its subjects.

    Before the start everything is as it was at the start. A value exactly at a jump is that before the jump, unless the
    step that asks for it begins there.
    """

    def __init__(self, method: AbstractMethod, discrete: AbstractDiscrete, start: Tensor, initial: Tensor) -> None:
        self._method = method
        self._discrete = discrete
        self._start, self._initial = start, initial
        self._pieces: list[_Piece] = []
        subjects = len(start)
        self._begins = start.new_full((subjects, 16), torch.inf)
        self._which = torch.full((subjects, 16), -1, dtype=torch.long, device=start.device)
        self._count = torch.zeros(subjects, dtype=torch.long, device=start.device)
        self._echoes = start.new_full((subjects, 0), torch.inf)
        self._levels = torch.zeros(subjects, 0, dtype=torch.long, device=start.device)

    def record(self, subject: Tensor, t: Tensor, h: Tensor, x: Tensor, end: Tensor, stages: Tensor) -> None:
        """Adds one step of some subjects: from `(t, x)` with size `h`, stages `(stage, row, state)`."""
        row = torch.full_like(self._count, -1)
        row[subject] = torch.arange(len(subject), device=subject.device)
        self._pieces.append(_Piece(row, t, h, x, end, stages))
        place = self._count[subject]
        if int(place.max()) >= self._begins.shape[1]:
            self._begins = torch.cat([self._begins, torch.full_like(self._begins, torch.inf)], dim=1)
            self._which = torch.cat([self._which, torch.full_like(self._which, -1)], dim=1)
        self._begins[subject, place] = t.detach()
        self._which[subject, place] = len(self._pieces) - 1
        self._count[subject] += 1

    def values(self, subject: Tensor, begin: Tensor, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """Delayed values, `(row, delay)`, at `(t, x)` within steps that start at `begin`."""
        return self._values(subject, begin, t, x, p, self._discrete.delays)

    def shortest(self, subject: Tensor, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """The shortest of the lags now, which bounds a step, `(row,)`."""
        lags = self._lags(subject, t, x, p)
        return torch.where(lags > 0, lags, torch.inf).amin(-1)

    def next_echo(self, subject: Tensor, t: Tensor) -> Tensor:
        """When a kink of the past next comes back, `(row,)`."""
        if not self._echoes.shape[1]:
            return torch.full_like(t, torch.inf)
        echoes = self._echoes[subject]
        return torch.where(echoes > t[:, None], echoes, torch.inf).amin(-1)

    def listen(self, subject: Tensor, fresh: Tensor, t: Tensor, x: Tensor, p: Tensor) -> None:
        """Notes when kinks at `t` come back to the right-hand side: a `fresh` jump, and the echoes that arrive."""
        level = torch.where(fresh, 0, ECHOES)
        if self._echoes.shape[1]:
            near = (self._echoes[subject] - t[:, None]).abs() <= ROUNDING * (1 + t.abs())[:, None]
            level = torch.minimum(level, torch.where(near, self._levels[subject], ECHOES).amin(-1))
        lags = self._lags(subject, t, x, p)
        driving = torch.tensor(self._discrete.driving, device=t.device)
        wanted = (level < ECHOES)[:, None] & (lags > 0) & driving
        if not bool(wanted.any()):
            return
        times = self._start.new_full((len(self._start), lags.shape[1]), torch.inf)
        times[subject] = torch.where(wanted, t[:, None] + lags, torch.inf)
        levels = torch.full_like(times, ECHOES, dtype=torch.long)
        levels[subject] = (level + 1)[:, None].expand_as(lags)
        kept = (self._echoes >= t.min()).any(0) & self._echoes.isfinite().any(0)
        self._echoes = torch.cat([self._echoes[:, kept], times], dim=1)
        self._levels = torch.cat([self._levels[:, kept], levels], dim=1)

    def _lags(self, subject: Tensor, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        held = self._values(subject, t.detach(), t, x, p, self._discrete.delays)
        lags = [self._discrete.lag(j, t, x, p, held) for j in range(self._discrete.delays)]
        return torch.stack(lags, dim=-1)

    def _values(self, subject: Tensor, begin: Tensor, t: Tensor, x: Tensor, p: Tensor, count: int) -> Tensor:
        found: list[Tensor] = []
        for index in range(count):
            held = torch.stack(found, dim=-1) if found else x[..., :0]
            lag = self._discrete.lag(index, t, x, p, held)
            since = begin - lag.detach()
            # A step that begins where the past begins looks into it; one that ends there does not yet.
            inside = since >= self._start[subject] - ROUNDING * (1 + since.abs())
            then = torch.where(inside, t - lag, torch.maximum(t - lag, self._start[subject]))
            state = torch.where((lag <= 0).unsqueeze(-1), x, self._state(subject, since, then, inside))
            # What is to come is not known. A lag of zero may have been rounded.
            ahead = lag < -ROUNDING * (1 + t.abs())
            state = torch.where(ahead.unsqueeze(-1), torch.nan, state)
            nested = self._discrete.nested[index]
            before = self._values(subject, since, then, state, p, index) if nested else held
            found.append(self._discrete.past(index, then, state, p, before))
        return torch.stack(found, dim=-1) if found else x[..., :0]

    def _state(self, subject: Tensor, begin: Tensor, then: Tensor, inside: Tensor) -> Tensor:
        """The state at `then`; right of a jump from `begin` on, left of it where `then` arrives at one."""
        moment = then.detach()
        result = self._initial[subject]
        past = (inside | (moment > self._start[subject])) & (self._count[subject] > 0)
        if not bool(past.any()):
            return result
        slack = ROUNDING * (1 + moment.abs())
        begins = self._begins[subject]
        left = torch.searchsorted(begins, (moment - slack)[:, None], right=True)
        right = torch.searchsorted(begins, (begin + slack)[:, None], right=True)
        last = (self._count[subject] - 1).clamp_min(0)
        place = torch.minimum((torch.maximum(left, right).squeeze(1) - 1).clamp_min(0), last)
        which = torch.where(past, self._which[subject, place], -1)
        for index in torch.unique(which[past]).tolist():
            rows = (which == index).nonzero().squeeze(1)
            result = result.index_put((rows,), self._interpolated(self._pieces[index], subject[rows], then[rows]))
        return result

    def _interpolated(self, piece: _Piece, subject: Tensor, then: Tensor) -> Tensor:
        row = piece.row[subject]
        theta = (then - piece.t[row]) / piece.h[row]
        return self._method.interpolate(theta, piece.x[row], piece.end[row], piece.h[row], piece.stages[:, row])

"""The event queue: which triggers hold, what has been triggered and not yet executed, and its execution."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor

from mechanistic.field import AbstractDiscrete
from mechanistic.solve.consistent import Consistent

LIMIT = 1_000
"""Most executions at one moment, after which events are taken to follow each other without end."""


class Moment(NamedTuple):
    """Some subjects, each at its own time.

    Attributes:
        subject: index of each, `(row,)`.
        t: `(row,)`.
        x: `(row, state)`.
        p: `(row, parameter)`.
        held: delayed values, `(row, delay)`.
    """

    subject: Tensor
    t: Tensor
    x: Tensor
    p: Tensor
    held: Tensor

    def select(self, rows: Tensor) -> "Moment":
        """Some of the rows."""
        return Moment(*(value[rows] for value in self))


class Settled(NamedTuple):
    """What came of the events at a moment.

    Attributes:
        x: states after them, `(row, state)`.
        jumped: whether an event was executed, `(row,)`.
        failed: whether they would never end, or a delay is negative or undefined, `(row,)`.
        astray: whether no state that satisfies the algebraic equations was found after one, `(row,)`.
    """

    x: Tensor
    jumped: Tensor
    failed: Tensor
    astray: Tensor


Repair = Callable[[Moment], Consistent]


@final
class Agenda:
    """Events of a batch: SBML Level 3 Version 2, section 4.11.

    Of the events due at one moment the one with the highest priority is executed first; among equals the lot decides,
    as the standard wants it. After each, all triggers are looked at again.
    """

    def __init__(self, discrete: AbstractDiscrete, subjects: int, like: Tensor) -> None:
        self._discrete = discrete
        self._on = discrete.initially.to(like.device).expand(subjects, -1).clone()
        # One column for every time that something was triggered, its row infinite where it was not.
        self._due = like.new_full((subjects, 0), torch.inf)
        self._values = like.new_zeros(subjects, 0, len(discrete.owner))
        self._executed = torch.zeros(subjects, dtype=torch.long, device=like.device)
        self._event = torch.zeros(0, dtype=torch.long, device=like.device)
        slots = torch.full((discrete.events, like.shape[-1]), -1, dtype=torch.long)
        slots[discrete.owner.cpu(), discrete.target.cpu()] = torch.arange(len(discrete.owner))
        self._slots = slots.to(like.device)

    def due(self, subject: Tensor) -> Tensor:
        """When something is executed next, `(row,)`; infinite where nothing is waiting."""
        due = self._due[subject]
        return due.amin(-1) if due.shape[1] else due.new_full((len(subject),), torch.inf)

    def settle(self, moment: Moment, repaired: Repair) -> Settled:
        """Looks at the triggers and executes what is due until nothing is left; jumps are `repaired`."""
        x = moment.x
        jumped = torch.zeros_like(moment.t, dtype=torch.bool)
        failed, astray = torch.zeros_like(jumped), torch.zeros_like(jumped)
        rows = torch.arange(len(moment.t), device=x.device)
        for _ in range(LIMIT):
            now = moment.select(rows)._replace(x=x[rows])
            failed = failed.index_put((rows,), self._look(now))
            ready = self._ready(now)
            some = ready.any(-1) & ~failed[rows] & ~astray[rows]
            if not bool(some.any()):
                return Settled(x, jumped, failed, astray)
            rows, now, ready = rows[some], now.select(some), ready[some]
            fixed = repaired(now._replace(x=self._execute(now, ready)))
            x = x.index_put((rows,), fixed.x)
            astray = astray.index_put((rows,), fixed.failed)
            jumped[rows] = True
        failed[rows] = True
        return Settled(x, jumped, failed, astray)

    def _look(self, now: Moment) -> Tensor:
        """Compares the triggers with what they were; whether a delay has no meaning, `(row,)`."""
        with torch.no_grad():
            on = self._discrete.trigger(now.t, now.x, now.p, now.held)
            before = self._on[now.subject]
            rising, falling = on & ~before, before & ~on & ~self._discrete.persistent
            self._on[now.subject] = on
        if bool(falling.any()) and len(self._event):
            called_off = torch.zeros_like(self._due, dtype=torch.bool)
            called_off[now.subject] = falling[:, self._event]
            self._due = torch.where(called_off, torch.inf, self._due)
        wrong = torch.zeros_like(now.t, dtype=torch.bool)
        if bool(rising.any()):
            wait = self._discrete.wait(now.t, now.x, now.p, now.held)
            wrong = (rising & ~(wait >= 0)).any(-1)
            self._add(now, rising, torch.where(rising, wait, 0.0))
        return wrong

    def _add(self, now: Moment, rising: Tensor, wait: Tensor) -> None:
        events = rising.any(0).nonzero().squeeze(1)
        due = torch.where(rising, now.t[:, None] + wait, torch.inf)[:, events]
        column = self._due.new_full((len(self._due), len(events)), torch.inf)
        column = column.index_put((now.subject,), due)
        assigned = self._discrete.assigned(now.t, now.x, now.p, now.held)
        values = self._values.new_zeros(len(self._due), len(events), assigned.shape[-1])
        values = values.index_put((now.subject,), assigned[:, None].expand(-1, len(events), -1))
        kept = self._due.isfinite().any(0)
        self._due = torch.cat([self._due[:, kept], column], dim=1)
        self._values = torch.cat([self._values[:, kept], values], dim=1)
        self._event = torch.cat([self._event[kept], events])

    def _lots(self, subject: Tensor) -> Tensor:
        """A pseudo-random number for each column, `(row, column)`, from the number of executions and the event alone.

        So the choice among equals is fair, repeatable, and the same for a subject in any batch.
        """
        # The finaliser of SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195), in 32 bits.
        state = self._executed[subject][:, None] * 0x9E3779B9 + (self._event + 1) * 0x85EBCA6B
        for multiplier in (0x7FEB352D, 0x846CA68B):
            state = state & 0xFFFFFFFF
            state = ((state ^ (state >> 16)) * multiplier) & 0xFFFFFFFF
        return state ^ (state >> 16)

    def _ready(self, now: Moment) -> Tensor:
        # Moments that differ by rounding are one moment.
        slack = 8 * torch.finfo(now.t.dtype).eps * now.t.abs()
        return self._due[now.subject] <= (now.t + slack).detach()[:, None]

    def _execute(self, now: Moment, ready: Tensor) -> Tensor:
        """The states after the event that goes first, `(row, state)`."""
        with torch.no_grad():
            priority = self._discrete.priority(now.t, now.x, now.p, now.held)[:, self._event]
            highest = torch.where(ready, priority, -torch.inf).amax(-1, keepdim=True)
            lot = self._lots(now.subject)
            slot = torch.where(ready & (priority >= highest), lot, -1).argmax(-1)
            self._executed[now.subject] += 1
        event = self._event[slot]
        done = torch.zeros_like(self._due, dtype=torch.bool)
        done[now.subject, slot] = True
        values = self._values[now.subject, slot]
        at_trigger = self._discrete.values_at_trigger[event][:, None]
        if not bool(at_trigger.all()):
            fresh = self._discrete.assigned(now.t, now.x, now.p, now.held)
            values = torch.where(at_trigger, values, fresh)
        self._due = torch.where(done, torch.inf, self._due)
        source = self._slots[event]
        if not values.shape[-1]:
            return now.x
        return torch.where(source >= 0, values.gather(1, source.clamp_min(0)), now.x)

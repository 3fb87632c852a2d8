"""Modes that time alone changes: the moments of change are stops, and between two stops the modes are constants."""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.field import AbstractDiscrete
from mechanistic.schedule import Stops
from mechanistic.solve.problem import Problem
from mechanistic.solve.switching import next_alarm

MOST = 10_000
"""Moments of change that one subject may have."""


class Segmented(NamedTuple):
    """A problem that stops wherever a mode changes, and the modes of each segment, `(subject, segment, mode)`."""

    problem: Problem
    modes: Tensor


def segmented(problem: Problem) -> Segmented | str:
    """The problem of a field whose modes follow from the time, or why it is none.

    The moments are differentiable by parameters and initial states.
    """
    discrete = problem.field.discrete
    if discrete is None:
        modes = problem.initial.new_zeros(*problem.stops.rates.shape[:2], 0)
        return Segmented(problem, modes)
    if discrete.events or discrete.delays:
        return "the model has events or delays"
    if not bool(discrete.timed.all()):
        return "the model has conditions that a state may change"
    if _infused(problem, discrete):
        return "the model has conditions that an infusion moves"
    moments = _moments(problem, discrete)
    if moments is None:
        return f"conditions change more than {MOST:,} times"
    whole = problem._replace(stops=_joined(problem.stops, moments) if moments.shape[1] else problem.stops)
    times, jumps = whole.stops.times.detach(), whole.stops.jumps.detach()
    x = (problem.initial.detach()[:, None] + jumps.cumsum(1))[:, :-1]
    p = problem.parameters.detach()[:, None].expand(*x.shape[:2], -1)
    return Segmented(whole, discrete.mode(times[:, :-1], x, p, x[..., :0]).detach())


def _infused(problem: Problem, discrete: AbstractDiscrete) -> bool:
    """Whether modes or their clocks read a state that an infusion moves."""
    infused = (problem.stops.rates != 0).any(1)
    if not bool(infused.any()):
        return False
    with torch.no_grad():
        t, x, p = problem.stops.times[:, 0], problem.initial, problem.parameters
        seen = []
        for state in (x, torch.where(infused, x + 1.0 + x.abs(), x)):
            modes = discrete.mode(t, state, p, x[..., :0])
            seen.append(torch.cat([modes, discrete.clock(t, state, p, modes)], -1))
    return not torch.equal(seen[0].nan_to_num(), seen[1].nan_to_num())


def _moments(problem: Problem, discrete: AbstractDiscrete) -> Tensor | None:
    """When modes change, `(subject, moment)`, padded with the ends; None where this is too often."""
    times, jumps, p = problem.stops.times, problem.stops.jumps, problem.parameters
    end = times[:, -1]
    t, x = times[:, 0], problem.initial
    given = times.detach() <= t.detach()[:, None]
    x = x + (jumps * given.unsqueeze(-1)).sum(1)
    found = []
    while bool((t < end).any()):
        modes = discrete.mode(t.detach(), x.detach(), p.detach(), x[..., :0]).detach()
        alarm = torch.minimum(next_alarm(discrete, t, x, p, modes), end)
        # A dose may move what conditions compare the time with.
        stop = torch.where(given, torch.inf, times).amin(1)
        sooner = alarm < stop
        if bool(sooner.any()):
            found.append(torch.where(sooner, alarm, end))
        if len(found) > MOST:
            return None
        t = torch.minimum(torch.where(sooner, alarm, stop), end)
        now = (times.detach() <= t.detach()[:, None]) & ~given
        x = x + (jumps * now.unsqueeze(-1)).sum(1)
        given = given | now
    return torch.stack(found, 1) if found else end[:, None][:, :0]


def _joined(stops: Stops, moments: Tensor) -> Stops:
    """Stops with others among them, at which nothing is given."""
    times = torch.cat([stops.times, moments], 1)
    order = times.detach().argsort(dim=1, stable=True)
    mine = order < stops.times.shape[1]
    jumps = torch.cat([stops.jumps, stops.jumps.new_zeros(*moments.shape, stops.jumps.shape[2])], 1)
    segment = (mine.long().cumsum(1) - 1).clamp(0, stops.rates.shape[1] - 1)[:, :-1]
    wide = order.unsqueeze(-1).expand(-1, -1, jumps.shape[2])
    rates = stops.rates.gather(1, segment.unsqueeze(-1).expand(-1, -1, jumps.shape[2]))
    return Stops(times.gather(1, order), jumps.gather(1, wide), rates)

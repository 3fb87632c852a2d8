"""Where a step crosses a surface: the first moment at which a mode is not what the step took it for."""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from mechanistic.field import AbstractDiscrete
from mechanistic.solve.method import AbstractMethod, Rhs, Step

SAMPLES = (0.25, 0.5, 0.75, 1.0)
"""Fractions of a step at which the modes are looked at."""

ITERATIONS = 100


@final
class Path(NamedTuple):
    """The dense output of some steps, and what their modes are computed from.

    Attributes:
        method, discrete: what was stepped with, and what is looked for.
        rhs: of these rows.
        t, h: start and size, `(row,)`.
        x, end: states, `(row, state)`.
        stages: `(stage, row, state)`.
    """

    method: AbstractMethod
    discrete: AbstractDiscrete
    rhs: Rhs
    t: Tensor
    h: Tensor
    x: Tensor
    end: Tensor
    stages: Tensor

    @classmethod
    def of(cls, method: AbstractMethod, rhs: Rhs, t: Tensor, h: Tensor, x: Tensor, step: Step) -> "Path":
        """The path of a step."""
        discrete = rhs.field.discrete
        assert discrete is not None
        return cls(method, discrete, rhs, t, h, x, step.x, torch.stack(step.stages))

    def select(self, rows: Tensor) -> "Path":
        """Some of the steps."""
        return self._replace(
            rhs=self.rhs.select(rows),
            t=self.t[rows],
            h=self.h[rows],
            x=self.x[rows],
            end=self.end[rows],
            stages=self.stages[:, rows],
        )

    def state(self, theta: Tensor) -> Tensor:
        """States at the fractions `theta`, `(row, state)`."""
        inner = self.method.interpolate(theta, self.x, self.end, self.h, self.stages)
        return torch.where((theta >= 1).unsqueeze(-1), self.end, inner)

    def modes(self, theta: Tensor) -> Tensor:
        """Modes at the fractions `theta`, `(row, mode)`."""
        return self.discrete.mode(*self._at(theta))

    def surfaces(self, theta: Tensor) -> Tensor:
        """Surfaces at the fractions `theta`, `(row, mode)`."""
        return self.discrete.surface(*self._at(theta))

    def both(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Modes and surfaces at the fractions `theta`, each `(row, mode)`."""
        at = self._at(theta)
        return self.discrete.mode(*at), self.discrete.surface(*at)

    def _at(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t, x = self.t + theta * self.h, self.state(theta)
        return t, x, self.rhs.parameters, self.rhs.delayed_at(t, x)


class Crossing(NamedTuple):
    """The first crossing of each step.

    Attributes:
        found: whether there is one, `(row,)`.
        theta: the fraction of the step right after it, `(row,)`; 1 where there is none.
    """

    found: Tensor
    theta: Tensor


def first_crossing(path: Path, arriving: Tensor) -> Crossing:
    """Finds the first change of a mode along each step, to within the spacing of floating-point times.

    Steps that are `arriving` where the clock says that something changes need no search where only their end differs.
    """
    modes = path.rhs.modes
    assert modes is not None
    low, high = torch.zeros_like(path.t), torch.ones_like(path.t)
    found = torch.zeros_like(path.t, dtype=torch.bool)
    # What time alone changes is changed between two looks only where the clock has been asked. What starts on a surface
    # may leave it for a moment only.
    shares = SAMPLES[-1:] if bool(path.discrete.timed.all()) else SAMPLES
    samples = [4 * _finest(path), *(torch.full_like(path.t, share) for share in shares)]
    for at, changed in zip(samples, _changed(path, samples), strict=True):
        high = torch.where(changed & ~found, at, high)
        found = found | changed
        low = torch.where(found, low, at)
    search, at_end = found, found & arriving & (high == 1.0)
    if bool(at_end.any()):
        search = found & ~(at_end & (path.modes(1 - 4 * _finest(path)) == modes).all(-1))
    rows = search.nonzero().squeeze(1)
    if len(rows):
        high = high.index_put((rows,), _refined(path.select(rows), low[rows], high[rows]))
    return Crossing(found, high)


def _changed(path: Path, samples: Sequence[Tensor]) -> Tensor:
    """Whether modes have changed at some fractions of the steps, `(sample, row)`; all looked at in one batch."""
    count = len(path.t)
    several = path.select(torch.arange(count, device=path.t.device).repeat(len(samples)))
    assert several.rhs.modes is not None
    return (several.modes(torch.cat(list(samples))) != several.rhs.modes).any(-1).reshape(len(samples), count)


def _refined(path: Path, low: Tensor, high: Tensor) -> Tensor:
    """The end of a bracket around each change that is as narrow as times can tell apart.

    Secants that aim a little beyond or short of the root, so that both ends close in, and every third time a bisection.
    """
    modes = path.rhs.modes
    assert modes is not None
    finest = _finest(path)
    at_end, above = path.both(high)
    changed, level = at_end != modes, _levels(path, modes, at_end)
    below, above = path.surfaces(low) - level, above - level
    for iteration in range(ITERATIONS):
        # A row that is done rests, so that it does not depend on the others.
        wide = high - low > 4 * finest
        if not bool(wide.any()):
            break
        middle = (low + high) / 2
        if iteration % 3 < 2:
            share = below / (below - above)
            aimed = torch.where(changed & share.isfinite(), share, torch.inf).amin(-1)
            # Ever larger, for roots that rounding has displaced.
            nudge = finest * 2.0 ** (iteration // 3) * (1 if iteration % 3 == 0 else -1)
            guess = low + aimed.clamp(0, 1) * (high - low) + nudge
            middle = torch.where(aimed.isfinite() & (guess > low) & (guess < high), guess, middle)
        now, surfaces = path.both(middle)
        differs = (now != modes).any(-1)
        same = ~differs & wide
        differs = differs & wide
        if bool(differs.any()):
            level = torch.where(differs[:, None], _levels(path, modes, now), level)
            changed = torch.where(differs[:, None], now != modes, changed)
        high, low = torch.where(differs, middle, high), torch.where(same, middle, low)
        above = torch.where(differs[:, None], surfaces - level, above)
        below = torch.where(same[:, None], surfaces - level, below)
    return high


def _finest(path: Path) -> Tensor:
    """Fractions of a step that differ by less are the same moment, `(row,)`."""
    return 2 * torch.finfo(path.t.dtype).eps * torch.maximum(torch.ones_like(path.t), path.t.abs() / path.h)


def _levels(path: Path, before: Tensor, after: Tensor) -> Tensor:
    """What each surface crosses: zero, or the whole number between two values of a floor or a ceiling."""
    step = path.discrete.step
    between = torch.where(step > 0, torch.maximum(before, after), torch.minimum(before, after))
    return torch.where(step == 0, 0.0, between)

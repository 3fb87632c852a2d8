"""Whether a subject that was simulated for a while has come to rest."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from mechanistic.field import AbstractVectorField
from mechanistic.solve.problem import Tolerance
from mechanistic.steady_state.newton import Balance, Polished, edge, is_regular, polish, spectrum
from mechanistic.steady_state.result import RestStatus

UNDECIDED: Final = -1

CLOSE: Final = 1e-2
"""Newton's method is believed over this distance, in shares of the states: farther away there may be other rests."""

FLOOR: Final = 1e-3
"""States are as good as zero below this multiple of their scale."""

LINEAR: Final = 0.25
"""The first step of Newton's method leads to within this share of the distance, where the system is nearly linear."""

PATIENT: Final = 1e4
"""A rest that is not regular is approached slowly: it is looked for after this multiple of the typical time scale."""

ESCAPED: Final = 40.0
"""A disturbance the size of rounding has grown to the size of the states after this many time constants."""


class Judged(NamedTuple):
    """What is known of each row.

    Attributes:
        status: `RestStatus`, or `UNDECIDED` while it should be simulated further, `(row,)`.
        states: the rest, or the states as they are, `(row, state)`.
        growth: see `SteadyState`; NaN while undecided, `(row,)`.
    """

    status: Tensor
    states: Tensor
    growth: Tensor


def judge(balance: Balance, x: Tensor, elapsed: Tensor, patient: Tensor, tolerance: Tolerance) -> Judged:
    """Looks at states after a simulation.

    A rest is accepted where Newton's method leads a short way from the states, within the reach of the linear regime,
    to something stable on the manifold of the totals, with the same modes and triggers.

    Args:
        balance: the equations at the time of the states, with the modes of the states.
        x: `(row, state)`; finite.
        elapsed: how long they were simulated, `(row,)`.
        patient: whether a rest that is not regular may be looked for, bool `(row,)`.
        tolerance: of the simulation.
    """
    status = torch.full_like(elapsed, UNDECIDED, dtype=torch.long)
    growth = torch.full_like(elapsed, torch.nan)
    linear = balance.field.linearise(balance.t, x, balance.p, *balance.held)
    timed = (linear.time_derivative != 0).any(-1)
    ahead = _switches_ahead(balance, x)
    near, states = torch.zeros_like(timed), x.clone()
    short = (_is_short(balance, x) & ~timed & ~ahead).nonzero().squeeze(-1)
    if len(short):
        part = balance.select(short)
        found = polish(part, x[short])
        near[short] = _is_near(part, x[short], found)
        states[near] = found.states[near[short]]
    size = balance.size(x) - balance.field.scales
    allowed = tolerance.rtol * size + tolerance.atol * balance.field.scales
    still = (balance.rates(x).abs() * elapsed.unsqueeze(-1) <= allowed).all(-1) & ~timed & ~ahead
    rows = (near | still).nonzero().squeeze(-1)
    if len(rows):
        part, at = balance.select(rows), states[rows]
        real, norm = spectrum(part, at)
        zero = edge(norm, x.dtype)
        growth[rows] = real
        stable = near[rows] & (real < -zero)
        regular = stable & is_regular(part, at)
        escaping = still[rows] & (real > zero) & (real * elapsed[rows] > ESCAPED)
        resting = still[rows] & ~(real > zero) & patient[rows]
        decided = torch.full_like(rows, UNDECIDED)
        decided[escaping] = RestStatus.UNSTABLE
        decided[resting | (stable & still[rows] & patient[rows])] = RestStatus.SINGULAR
        decided[regular] = RestStatus.OK
        status[rows] = decided
        singular = rows[decided == RestStatus.SINGULAR]
        states[singular] = torch.where(stable[decided == RestStatus.SINGULAR, None], states[singular], x[singular])
    status[timed] = RestStatus.TIME
    return Judged(status, states, growth)


def _is_short(balance: Balance, x: Tensor) -> Tensor:
    """Whether Newton's method may end close by, from its first step, bool `(row,)`."""
    step = balance.step(x)
    size = torch.maximum(x.abs(), (x + step).abs()) + FLOOR * balance.field.scales
    return (step.abs() <= 2 * CLOSE * size).all(-1)


def _is_near(balance: Balance, x: Tensor, found: Polished) -> Tensor:
    """Whether Newton's method found a rest that a short way and nothing else lies before, bool `(row,)`."""
    field, y = balance.field, found.states
    size = torch.maximum(x.abs(), y.abs()) + FLOOR * field.scales
    away = ((x - y).abs() / size).amax(-1)
    left = ((found.after_one - y).abs() / size).amax(-1)
    eps = torch.finfo(x.dtype).eps
    near = y.isfinite().all(-1) & (found.last <= eps**0.5) & (away <= CLOSE)
    near &= left <= LINEAR * away + eps**0.5
    near &= (~field.nonnegative | (y >= -1e-9 * field.scales)).all(-1)
    discrete = field.discrete
    if discrete is not None:
        y = torch.where(near.unsqueeze(-1), y, x)
        none = x[..., :0]
        same = discrete.mode(balance.t, y, balance.p, none) == discrete.mode(balance.t, x, balance.p, none)
        triggers = [discrete.trigger(balance.t, at, balance.p, torch.cat([none, *balance.held], -1)) for at in (x, y)]
        near &= same.all(-1) & (triggers[0] == triggers[1]).all(-1)
    return near


def _switches_ahead(balance: Balance, x: Tensor) -> Tensor:
    """Whether time alone will change a mode, bool `(row,)`."""
    discrete = balance.field.discrete
    if discrete is None or not discrete.modes:
        return torch.zeros_like(balance.t, dtype=torch.bool)
    clock = discrete.clock(balance.t, x, balance.p, torch.cat(balance.held, -1))
    return (clock.isfinite() & (clock > balance.t.unsqueeze(-1))).any(-1)


def modes(field: AbstractVectorField, t: Tensor, x: Tensor, p: Tensor) -> tuple[Tensor, ...]:
    """The modes as they are at the states, `(row, mode)`, where there are any."""
    discrete = field.discrete
    return (discrete.mode(t, x, p, x[..., :0]),) if discrete is not None and discrete.modes else ()

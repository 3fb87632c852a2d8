"""How long a model has to be simulated to see what it does, from its own time scales."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import sympy
import torch
from sympy import Basic
from sympy.core.relational import Relational
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.model import KineticModel, symbol, time

SLOW_TIMES = 10.0
"""Length of the horizon in slowest time scales."""

SPREAD = 1e3
"""Modes slower than the median by more than this do not stretch the horizon: they hardly move in it."""

NOTHING = 1e-9
"""Eigenvalues below this fraction of the largest are zero up to rounding."""

AFTER_SWITCH = 1.5
"""The horizon is at least this multiple of the last time at which the model switches by itself."""

UNKNOWN = 10.0
"""The horizon of a model in which nothing moves."""


class Horizon(NamedTuple):
    """A time to simulate to.

    Attributes:
        end: the time.
        reason: why that, in words.
    """

    end: float
    reason: str


def choose_horizon(model: KineticModel, field: RateField) -> Horizon:
    """Ten times the slowest time scale at the start, and past every time at which the model switches by itself.

    Time scales are those of the Jacobian's eigenvalues, or `scale / |dx/dt|` where these are all zero or not finite.
    """
    rates = _rates(field)
    if not rates.size:
        end, reason = UNKNOWN, "nothing moves at the start"
    else:
        slowest = max(float(rates.min()), float(np.median(rates)) / SPREAD)
        end, reason = SLOW_TIMES / slowest, f"{SLOW_TIMES:g} times the slowest time scale at the start"
    last = max(switch_times(model), default=0.0)
    if end < AFTER_SWITCH * last:
        end, reason = AFTER_SWITCH * last, f"past the last time at which the model switches, {last:g}"
    return Horizon(rounded_up(end), reason)


def output_times(end: float) -> np.ndarray:
    """Times to compare at, `(time,)`: close to the start on a logarithmic scale, then evenly."""
    return np.unique(np.concatenate([[0.0], np.geomspace(1e-5 * end, end, 21), np.linspace(0.0, end, 41)]))


def switch_times(model: KineticModel) -> list[float]:
    """Positive times at which a condition of the model changes by time alone, at the nominal parameters."""
    nominal = {symbol(name): sympy.Float(value) for name, value in model.nominal().items() if math.isfinite(value)}
    found = {_switch(relation.lhs - relation.rhs, nominal) for relation in _relations(model)}
    return sorted(at for at in found if at is not None and 0 < at < math.inf)


def _relations(model: KineticModel) -> Iterator[Relational]:
    for expression in model.expressions().values():
        if time in expression.free_symbols:
            yield from (atom for atom in expression.atoms(Relational) if time in atom.free_symbols)


def _switch(difference: Basic, nominal: dict[Basic, Basic]) -> float | None:
    """Where `difference` is zero, if it is linear in time and holds no other unknown."""
    known = difference.xreplace(nominal)
    if known.free_symbols != {time}:
        return None
    slope, offset = known.diff(time), known.xreplace({time: sympy.S.Zero})
    if not (slope.is_number and slope.is_real and slope.is_zero is False and offset.is_real):
        return None
    return float(-offset / slope)


def _rates(field: RateField) -> np.ndarray:
    """Inverse time scales at the start, without those that are zero."""
    with torch.no_grad():
        p = field.nominal()
        x, t = field.initial(p), p.new_zeros(())
        held = _held(field, t, x, p)
        jacobian = field.linearise(t, x, p, *held).jacobian.numpy()
        speed = (field(t, x, p, *held).abs() / field.scales).numpy()
    sizes = np.abs(np.linalg.eigvals(jacobian)) if np.isfinite(jacobian).all() and jacobian.size else np.zeros(0)
    sizes = sizes[sizes > NOTHING * sizes.max(initial=0.0)]
    return sizes if sizes.size else speed[np.isfinite(speed) & (speed > 0)]


def _held(field: RateField, t: Tensor, x: Tensor, p: Tensor) -> tuple[Tensor, ...]:
    """The delayed values at the start, where everything was as it is then; nothing for a model without delays."""
    discrete = field.discrete
    if discrete is None or not discrete.delays:
        return ()
    held = x.new_zeros(discrete.delays)
    for index in range(discrete.delays):
        held = held.index_copy(0, torch.tensor([index]), discrete.past(index, t, x, p, held).reshape(1))
    return (held,)


def rounded_up(value: float) -> float:
    """The value rounded up to two digits."""
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / power * (1 - 1e-12)) * power:.6g}")

"""Exact solutions of the models of this library that have one; numpy only, so that they check a solver from outside.

Times are hours, days or whatever the parameters are written in; arrays of any shape are taken element by element, and
every function returns arrays of the shape of `times`. Amounts are zero before the dose and include it from its time on.
"""

from collections.abc import Callable, Iterable
from math import factorial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Kernel: TypeAlias = Callable[[float], Floats]


def _relative_growth(z: Floats) -> Floats:
    """`(1 - exp(-z)) / z`, exact through z = 0; loses no digit when two rate constants nearly agree."""
    safe = np.where(z == 0.0, 1.0, z)
    return np.where(z == 0.0, 1.0, -np.expm1(-safe) / safe)


def _bolus(times: Floats, dose: float) -> Kernel:
    """The response of a compartment with rate constant `k` to a bolus: `dose exp(-k t)`."""
    given = times >= 0.0
    after = np.where(given, times, 0.0)
    return lambda k: np.where(given, dose * np.exp(-k * after), 0.0)


def _infusion(times: Floats, dose: float, duration: float) -> Kernel:
    """The response to `dose` at a constant rate over `duration`."""
    running = np.clip(times, 0.0, duration)
    since = np.clip(times - duration, 0.0, None)
    return lambda k: dose / duration * running * _relative_growth(k * running) * np.exp(-k * since)


def _absorption(times: Floats, dose: float, absorption: float) -> Kernel:
    """The response to `dose` that arrives by first-order absorption."""
    after = np.clip(times, 0.0, None)
    return lambda k: dose * absorption * after * np.exp(-k * after) * _relative_growth((absorption - k) * after)


def superpose(response: Callable[[Floats], Floats], times: ArrayLike, dose_times: Iterable[float]) -> Floats:
    """The response of a linear model to equal doses at `dose_times`: the sum of shifted single-dose responses."""
    at = np.asarray(times, dtype=float)
    return np.sum([response(at - moment) for moment in dose_times], axis=0)


def one_compartment_bolus(times: ArrayLike, *, dose: float, clearance: float, volume: float) -> Floats:
    """Amount in the central compartment after an intravenous bolus: `dose exp(-CL/V t)`."""
    return _bolus(np.asarray(times, dtype=float), dose)(clearance / volume)


def one_compartment_infusion(
    times: ArrayLike, *, dose: float, duration: float, clearance: float, volume: float
) -> Floats:
    """Amount in the central compartment during and after an infusion of `dose` over `duration`."""
    return _infusion(np.asarray(times, dtype=float), dose, duration)(clearance / volume)


def one_compartment_oral(
    times: ArrayLike, *, dose: float, absorption: float, clearance: float, volume: float
) -> Floats:
    """Amount in the central compartment after an oral dose (the Bateman function); any `absorption`, also CL/V."""
    return _absorption(np.asarray(times, dtype=float), dose, absorption)(clearance / volume)


def _two_compartments(
    kernel: Kernel, clearance: float, volume: float, exchange: float, peripheral_volume: float
) -> tuple[Floats, Floats]:
    out, there, back = clearance / volume, exchange / volume, exchange / peripheral_volume
    total = out + there + back
    fast = 0.5 * (total + np.sqrt(total**2 - 4.0 * out * back))
    slow = out * back / fast  # the product of the roots is exact; their difference would cancel
    quick, late = kernel(fast), kernel(slow)
    central = ((fast - back) * quick + (back - slow) * late) / (fast - slow)
    peripheral = there * (late - quick) / (fast - slow)
    return central, peripheral


def two_compartment_bolus(
    times: ArrayLike, *, dose: float, clearance: float, volume: float, exchange: float, peripheral_volume: float
) -> tuple[Floats, Floats]:
    """Amounts in the central and the peripheral compartment after an intravenous bolus."""
    kernel = _bolus(np.asarray(times, dtype=float), dose)
    return _two_compartments(kernel, clearance, volume, exchange, peripheral_volume)


def two_compartment_infusion(
    times: ArrayLike,
    *,
    dose: float,
    duration: float,
    clearance: float,
    volume: float,
    exchange: float,
    peripheral_volume: float,
) -> tuple[Floats, Floats]:
    """Amounts in the central and the peripheral compartment during and after an infusion over `duration`."""
    kernel = _infusion(np.asarray(times, dtype=float), dose, duration)
    return _two_compartments(kernel, clearance, volume, exchange, peripheral_volume)


def two_compartment_oral(
    times: ArrayLike,
    *,
    dose: float,
    absorption: float,
    clearance: float,
    volume: float,
    exchange: float,
    peripheral_volume: float,
) -> tuple[Floats, Floats]:
    """Amounts in the central and the peripheral compartment after an oral dose."""
    kernel = _absorption(np.asarray(times, dtype=float), dose, absorption)
    return _two_compartments(kernel, clearance, volume, exchange, peripheral_volume)


def _lambert_of_exponential(u: Floats) -> Floats:
    """`W(exp(u))`, the solution of `w + log(w) = u`, without forming `exp(u)`; Newton's iteration in `log(w)`."""
    # For large u start at log(u), for small at u: on either side Newton in y = log(w) converges in a few steps.
    y = np.where(u > 1.0, np.log(np.maximum(u, 1.0)), u)
    for _ in range(20):
        w = np.exp(y)
        y = y - (w + y - u) / (w + 1.0)
    return np.exp(y)


def michaelis_menten_bolus(
    times: ArrayLike, *, dose: float, maximal_rate: float, half_saturation: float, volume: float
) -> Floats:
    """Amount in the central compartment after a bolus with saturable elimination.

    `A = K W(A0/K exp((A0 - Vmax t)/K))` with `K = Km V` and Lambert's W (Schnell & Mendoza 1997, J Theor Biol 187:207,
    doi:10.1006/jtbi.1997.0425).
    """
    at = np.asarray(times, dtype=float)
    half = half_saturation * volume
    level = half * _lambert_of_exponential(np.log(dose / half) + (dose - maximal_rate * at) / half)
    return np.where(at >= 0.0, level, 0.0)


def last_transit(times: ArrayLike, *, dose: float, rate: float, compartments: int) -> Floats:
    """Amount in the last of a chain of `compartments`, dosed at the first: `dose (k t)^n exp(-k t) / n!`.

    `n = compartments - 1` transfers precede the last one (Savic et al. 2007, J Pharmacokinet Pharmacodyn 34:711,
    doi:10.1007/s10928-007-9066-0).
    """
    at = np.asarray(times, dtype=float)
    reached = rate * np.clip(at, 0.0, None)
    transfers = compartments - 1
    return np.where(at >= 0.0, dose * reached**transfers * np.exp(-reached) / factorial(transfers), 0.0)


def biphasic_virus(times: ArrayLike, *, start: float, clearance: float, loss: float) -> Floats:
    """Total virus after a perfect protease inhibitor, from the steady state (Perelson et al. 1996).

    `start` in virions per mL; `clearance` of virions and `loss` of infected cells per unit of time.
    """
    at = np.asarray(times, dtype=float)
    gap = clearance - loss
    virions, cells = np.exp(-clearance * at), np.exp(-loss * at)
    produced = clearance / gap * (cells - virions) - loss * at * virions
    return start * (virions + clearance / gap * produced)


def logistic(times: ArrayLike, *, start: float, rate: float, capacity: float) -> Floats:
    """Logistic growth: `K / (1 + (K/x0 - 1) exp(-r t))`."""
    at = np.asarray(times, dtype=float)
    return capacity / (1.0 + (capacity / start - 1.0) * np.exp(-rate * at))


def gompertz(times: ArrayLike, *, start: float, rate: float, capacity: float) -> Floats:
    """Gompertz growth `dx/dt = r x log(K/x)`: `K exp(log(x0/K) exp(-r t))`."""
    at = np.asarray(times, dtype=float)
    return capacity * np.exp(np.log(start / capacity) * np.exp(-rate * at))


def claret_tumour(
    times: ArrayLike, *, start: float, growth: float, kill: float, exposure: float, resistance: float
) -> Floats:
    """Tumour size under constant daily exposure with exponential loss of effect (Claret et al. 2009)."""
    at = np.asarray(times, dtype=float)
    return start * np.exp(growth * at - kill * exposure * at * _relative_growth(resistance * at))

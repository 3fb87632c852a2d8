"""Checks of what the model does: the simulation, its totals, its lowest values, stiffness and steady state."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from mechanistic.conservation import conserved_totals
from mechanistic.solve.problem import Status
from mechanistic.validation.case import Case
from mechanistic.validation.report import Check, Verdict

ROUNDING = 1e-9
"""Linear invariants are kept by the solvers up to rounding; more than this of the total is more than rounding."""

BELOW = 1e-6
"""A state this far below zero, in multiples of its size, is negative by more than the tolerance of the solver."""

STIFF = 1e3
"""Ratio of time scales from which explicit methods waste steps."""

LOOKED_AT = 9
"""Times at which eigenvalues are computed."""

SETTLED = 1e-3
"""A state that would change by less than this fraction of itself over another horizon has settled."""

NEAR_SETTLED = 0.1
"""Below this fraction, Newton's method is tried from the end of the simulation."""

NEWTON_STEPS = 30
CONVERGED = 1e-9
ZERO = 1e-9
"""Eigenvalues smaller than this multiple of the largest are zero up to rounding."""


def simulation(case: Case) -> Check:
    """Whether the default solver reaches the horizon."""
    solution = case.solution
    steps, rejected = int(solution.statistics.steps), int(solution.statistics.rejected)
    numbers = {"steps": steps, "rejected": rejected, "horizon": case.horizon.end}
    if not bool(solution.succeeded):
        advice = Status(int(solution.status)).advice
        where = solution.field.state_names[int(solution.culprit)]
        sentence = f"It stops at t = {case.time(float(solution.reached))} in state `{where}`: {advice}."
        return Check("simulation", Verdict.WRONG, sentence, numbers)
    method = solution.methods[int(solution.method)]
    sentence = f"Reaches t = {case.time(case.horizon.end)} ({case.horizon.reason}) with {method} in {steps} steps."
    return Check("simulation", Verdict.GOOD, sentence, numbers)


def drift(case: Case) -> Check:
    """How far the conserved totals drift in the simulation."""
    name = "totals over time"
    found = [total for total in conserved_totals(case.model) if len(total.weights) > 1]
    if not found:
        return Check(name, Verdict.OPEN, "There is no conserved total to follow.")
    states = case.solved.states.detach().numpy()
    index = {state: i for i, state in enumerate(case.model.state_names)}
    scales = case.field.scales.numpy()
    drifts = {}
    for total in found:
        places = [index[state] for state in total.weights]
        weights = np.array([float(weight) for weight in total.weights.values()])
        followed = states[:, places] @ weights
        size = np.abs(weights * states[0, places]).sum() or np.abs(weights * scales[places]).sum()
        drifts[total.name] = float(np.abs(followed - followed[0]).max() / size)
    worst = max(drifts, key=lambda total: drifts[total])
    value = drifts[worst]
    verdict = Verdict.GOOD if value <= ROUNDING else Verdict.LOOK if value <= BELOW else Verdict.WRONG
    sentence = f"Largest relative drift of {len(found)} totals: {value:.1e} (`{worst}`)."
    return Check(name, verdict, sentence, {"drift": value, "totals": len(found)})


def lowest(case: Case) -> Check:
    """The lowest value of any state that has no meaning below zero."""
    name = "lowest value"
    solution = case.solved
    names = [s.name for s in case.model.states if s.nonnegative]
    if not names:
        return Check(name, Verdict.OPEN, "No state has to stay above zero.")
    places = [case.model.state_names.index(state) for state in names]
    states = solution.states.detach().numpy()[:, places]
    sizes = np.maximum(np.abs(states).max(axis=0), case.field.scales.numpy()[places])
    relative = states / sizes
    at, which = np.unravel_index(int(np.argmin(relative)), relative.shape)
    value, share = float(states[at, which]), float(relative[at, which])
    where = f"`{names[which]}` = {value:.3g} at {case.time(float(case.times[at]))}"
    numbers = {"lowest": share, "negative states": int((relative.min(axis=0) < -BELOW).sum())}
    if share < -BELOW:
        sentence = f"{numbers['negative states']} of {len(names)} states go below zero, first of all {where}."
        return Check(name, Verdict.WRONG, sentence, numbers)
    within = "" if share >= 0 else ", within the tolerance of the solver"
    return Check(name, Verdict.GOOD, f"No state goes below zero; the lowest is {where}{within}.", numbers)


def stiffness(case: Case) -> Check:
    """Ratio of the time scales along the trajectory."""
    name = "stiffness"
    if not case.is_ordinary:
        return Check(name, Verdict.OPEN, _NOT_ORDINARY)
    solution = case.solved
    chosen = np.unique(np.linspace(0, len(case.times) - 1, LOOKED_AT).astype(int))
    jacobians = _jacobians(case, solution.times[chosen], solution.states.detach()[chosen])
    finite = np.isfinite(jacobians).all(axis=(1, 2))
    if not finite.any() or not jacobians.shape[1]:
        return Check(name, Verdict.OPEN, "The Jacobian is not finite along the trajectory.")
    values = np.linalg.eigvals(jacobians[finite])
    sizes = np.abs(values)
    largest = float(sizes.max())
    if largest == 0:
        return Check(name, Verdict.GOOD, "The rates do not depend on the states.", {"ratio": 1.0, "steps of size": 0.0})
    slowest = [row[row > ZERO * row.max()].min() for row in sizes if row.max() > 0]
    ratio = max(float(row.max()) / float(slow) for row, slow in zip(sizes[sizes.max(1) > 0], slowest, strict=True))
    product = largest * case.horizon.end
    method = solution.methods[int(solution.method)]
    sentence = (
        f"Time scales differ by a factor of {ratio:.1e}, and |λ|max · horizon = {product:.1e}: "
        f"{'stiff' if min(ratio, product) > STIFF else 'not stiff'}; Auto chose {method}."
    )
    numbers = {"ratio": ratio, "largest eigenvalue times horizon": product}
    return Check(name, Verdict.GOOD, sentence, numbers)


_NOT_ORDINARY = "Not judged for delays, fast reactions and algebraic equations: dx/dt alone does not tell it."


def steady_state(case: Case) -> Check:
    """Whether the simulation approaches a steady state, and whether that is stable."""
    name = "steady state"
    if not case.is_ordinary:
        return Check(name, Verdict.OPEN, _NOT_ORDINARY)
    solution = case.solved
    rest = _Rest(case)
    end = solution.states.detach()[-1].numpy()
    if not end.size:
        return Check(name, Verdict.OPEN, "There is no state.")
    shares = rest.shares(end)
    moving = int(np.argmax(shares))
    state, share = case.model.state_names[moving], float(shares[moving])
    numbers = {"residual at the horizon": share}
    if not share <= NEAR_SETTLED:
        change = f"{share:.2g} times its size in another horizon"
        sentence = f"None by then: at its rate at the horizon, `{state}` would change by {change}."
        return Check(name, Verdict.OPEN, sentence, numbers)
    polished = rest.newton(end)
    left = f"the simulation is within {share:.1e} of one (`{state}`)"
    if polished is None:
        sentence = f"Not found: {left}, but Newton's method does not converge from there."
        return Check(name, Verdict.OPEN, sentence, numbers)
    residual = float(rest.shares(polished).max())
    growth = rest.growth(polished)
    numbers |= {"residual": residual, "largest real part": growth}
    settled = "Approached" if share <= SETTLED else "Near, and still approached"
    kind, verdict = _stability(growth, rest.fastest(polished))
    sentence = f"{settled}: {left}; Newton's method brings that to {residual:.0e}; {kind}."
    return Check(name, verdict, sentence, numbers)


def _stability(growth: float, fastest: float) -> tuple[str, Verdict]:
    if np.isnan(growth):
        return "every mode is conserved", Verdict.GOOD
    if abs(growth) <= ZERO * fastest:
        return "neither stable nor unstable: it is one of a continuum", Verdict.GOOD
    value = f"largest real part of the eigenvalues {growth:.2g}"
    return (f"stable: {value}", Verdict.GOOD) if growth < 0 else (f"not stable: {value}", Verdict.LOOK)


class _Totals(NamedTuple):
    weights: np.ndarray
    values: np.ndarray


class _Rest:
    """The equations of a steady state at the horizon, in multiples of each state's size."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._end = case.horizon.end
        self._scales = case.field.scales.numpy()
        index = {state: i for i, state in enumerate(case.model.state_names)}
        # Between events, what they change is conserved like the rest.
        found = conserved_totals(replace(case.model, events=()))
        self._weights = np.zeros((len(found), len(index)))
        for row, total in enumerate(found):
            for state, weight in total.weights.items():
                self._weights[row, index[state]] = float(weight)

    def rates(self, x: np.ndarray) -> np.ndarray:
        """dx/dt at the horizon, `(state,)`."""
        p = self._case.solved.parameters.detach()
        with torch.no_grad():
            return self._case.field(p.new_tensor(self._end), torch.as_tensor(x), p).numpy()

    def shares(self, x: np.ndarray) -> np.ndarray:
        """How much of itself each state would change by in another horizon, `(state,)`."""
        return np.nan_to_num(np.abs(self.rates(x)) * self._end / (self._scales + np.abs(x)), nan=np.inf)

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """∂f/∂x at the horizon, `(state, state)`."""
        return _jacobians(self._case, torch.tensor([self._end]).double(), torch.as_tensor(x)[None])[0]

    def newton(self, x: np.ndarray) -> np.ndarray | None:
        """A steady state close to `x` with the same conserved totals; None when the search does not converge."""
        totals = _Totals(self._weights, self._weights @ x)
        for _ in range(NEWTON_STEPS):
            size = self._scales + np.abs(x)
            rows = self._end / size
            jacobian = self.jacobian(x)
            if not np.isfinite(jacobian).all():
                return None
            heights = np.abs(totals.weights) @ size
            matrix = np.concatenate([jacobian * rows[:, None], totals.weights / heights[:, None]]) * size
            wrong = np.concatenate([self.rates(x) * rows, (totals.weights @ x - totals.values) / heights])
            step = np.linalg.lstsq(matrix, -wrong, rcond=None)[0] * size
            x = x + step
            if not np.isfinite(x).all():
                return None
            if np.abs(step / size).max() < CONVERGED:
                return x if self.shares(x).max() < SETTLED else None
        return None

    def growth(self, x: np.ndarray) -> float:
        """The largest real part of the eigenvalues, without a zero for each conserved total; NaN when none is left."""
        values = np.linalg.eigvals(self.jacobian(x))
        left = sorted(values, key=abs)[len(self._weights) :]
        return float(max((value.real for value in left), default=np.nan))

    def fastest(self, x: np.ndarray) -> float:
        """The largest size of an eigenvalue."""
        return float(np.abs(np.linalg.eigvals(self.jacobian(x))).max(initial=0.0))


def _jacobians(case: Case, times: torch.Tensor, states: torch.Tensor) -> np.ndarray:
    """∂f/∂x at some times, `(time, state, state)`."""
    p = case.solved.parameters.detach().expand(len(states), -1)
    with torch.no_grad():
        return case.field.linearise(times, states, p).jacobian.numpy()

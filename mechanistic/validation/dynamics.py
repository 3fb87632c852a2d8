"""Checks of what the model does: the simulation, its totals, its lowest values, stiffness and steady state."""

import numpy as np
import torch

from mechanistic.conservation import conserved_totals
from mechanistic.solve.problem import Status
from mechanistic.steady_state.judgement import modes
from mechanistic.steady_state.newton import Balance, edge, polish, spectrum
from mechanistic.steady_state.totals import totals_at
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
    end = case.solved.states.detach()[-1:]
    if not end.numel():
        return Check(name, Verdict.OPEN, "There is no state.")
    balance = _balance(case, end)
    shares = _shares(case, balance, end)
    moving = int(shares.argmax())
    state, share = case.model.state_names[moving], float(shares[moving])
    numbers = {"residual at the horizon": share}
    if not share <= NEAR_SETTLED:
        change = f"{share:.2g} times its size in another horizon"
        sentence = f"None by then: at its rate at the horizon, `{state}` would change by {change}."
        return Check(name, Verdict.OPEN, sentence, numbers)
    with torch.no_grad():
        polished = polish(balance, end)
        residual = float(_shares(case, balance, polished.states).max())
        found = bool(polished.states.isfinite().all()) and float(polished.last) < CONVERGED and residual < SETTLED
        largest, norm = (float(part) for part in spectrum(balance, polished.states if found else end))
    left = f"the simulation is within {share:.1e} of one (`{state}`)"
    settled = "Approached" if share <= SETTLED else "Near, and still approached"
    if not found and not abs(largest) <= ZERO * norm:
        sentence = f"Not found: {left}, but Newton's method does not converge from there."
        return Check(name, Verdict.OPEN, sentence, numbers)
    if not found:
        # Newton's method cannot choose one of a continuum.
        sentence = f"{settled}: {left}; {CONTINUUM}."
        return Check(name, Verdict.GOOD, sentence, numbers | {"largest real part": largest})
    numbers |= {"residual": residual, "largest real part": largest}
    kind, verdict = _stability(largest, norm)
    sentence = f"{settled}: {left}; Newton's method brings that to {residual:.0e}; {kind}."
    return Check(name, verdict, sentence, numbers)


CONTINUUM = "neither stable nor unstable: it is one of a continuum"


def _stability(growth: float, norm: float) -> tuple[str, Verdict]:
    if growth == -np.inf:
        return "every mode is conserved", Verdict.GOOD
    if abs(growth) <= edge(norm, torch.float64):
        return CONTINUUM, Verdict.GOOD
    value = f"largest real part of the eigenvalues {growth:.2g}"
    return (f"stable: {value}", Verdict.GOOD) if growth < 0 else (f"not stable: {value}", Verdict.LOOK)


def _balance(case: Case, x: torch.Tensor) -> Balance:
    """The equations of rest at the horizon for the totals of a state, `(1, state)`; time and conditions held."""
    p = case.solved.parameters.detach()[None]
    t = p.new_tensor([case.horizon.end])
    with torch.no_grad():
        held = modes(case.field, t, x, p)
        return Balance(case.field, t, p, held, totals_at(case.field, t, x, p, held), x)


def _shares(case: Case, balance: Balance, x: torch.Tensor) -> torch.Tensor:
    """How much of itself each state would change by in another horizon, `(state,)`."""
    with torch.no_grad():
        return (balance.rates(x).abs() * case.horizon.end / balance.size(x))[0].nan_to_num(torch.inf, torch.inf)


def _jacobians(case: Case, times: torch.Tensor, states: torch.Tensor) -> np.ndarray:
    """∂f/∂x at some times, `(time, state, state)`."""
    p = case.solved.parameters.detach().expand(len(states), -1)
    with torch.no_grad():
        return case.field.linearise(times, states, p).jacobian.numpy()

"""The check of gradients: automatic differentiation against central differences."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.errors import SolveError
from mechanistic.simulate import simulate
from mechanistic.solve.auto import Auto
from mechanistic.solve.problem import AbstractSolver, Tolerance
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.tsit5 import Tsit5
from mechanistic.validation.case import Case
from mechanistic.validation.report import Check, Verdict
from mechanistic.validation.structure import listed

STEPS = (1e-3, 2e-4)
"""Relative steps of the differences; together they give a value of fourth order, and how far it can be trusted."""

TIGHT = Tolerance(1e-8, 1e-11)
"""The noise of the simulations, divided by the smaller step, is then about 1e-4."""

ACCEPTED = 1e-3
"""Largest relative error of a gradient that is right; below it lie the errors of the differences."""

DOUBT = 3.0
"""A gradient is wrong when it is off by more than this multiple of what the differences are off by themselves."""

SMALL = 1e-3
"""Sensitivities below this fraction of the largest are compared with it: the differences have no digits for them."""

ROOM = 20_000
"""States × parameters that are simulated one by one; beyond it the parameters that matter most stand for all."""

Mixture = Callable[[Tensor], Tensor]


def gradients(case: Case) -> Check:
    """The gradient of a mixture of states at two times with respect to all parameters."""
    name = "gradients"
    model, nominal = case.model, case.field.nominal()
    mixture = _mixture(case, Auto(Tsit5(max_steps=2_000), Rodas5P(max_steps=100_000)))
    if not len(model.parameters) or not len(model.states):
        return Check(name, Verdict.OPEN, "There is no parameter to differentiate by.")
    slope = _slope(mixture, nominal)
    if not bool(slope.isfinite().all()):
        broken = [n for n, finite in zip(model.parameter_names, slope.isfinite().tolist(), strict=True) if not finite]
        again = _slope(_mixture(case, Rodas5P(max_steps=100_000)), nominal)
        through = "; with Rodas5P() it is one" if bool(again.isfinite().all()) else ""
        sentence = f"With the default solver the gradient is not a number for {listed(broken)}{through}."
        return Check(name, Verdict.WRONG, sentence, {"error": torch.inf})
    relative = (slope * nominal).nan_to_num(0.0).detach()
    moved = _chosen(relative, nominal, len(model.states))
    if not moved:
        return Check(name, Verdict.OPEN, "Every parameter is zero.")
    differences = _differences(mixture, nominal, moved)
    largest = float(relative.abs().max())
    if largest == 0 and not bool(differences.values.any()):
        return Check(name, Verdict.OPEN, "No state depends on a parameter.")
    return _judged(case, relative, moved, differences)


def _slope(mixture: Mixture, nominal: Tensor) -> Tensor:
    leaf = nominal.clone().requires_grad_()
    (slope,) = torch.autograd.grad(mixture(leaf), leaf, allow_unused=True, materialize_grads=True)
    return slope


def _mixture(case: Case, method: AbstractSolver) -> Mixture:
    """States at two times, mixed with weights of either sign and of no symmetry, so that nothing cancels."""
    model, times = case.model, [case.horizon.end / 10, case.horizon.end]
    sizes = torch.maximum(case.solved.states.detach().abs().amax(0), case.field.scales)
    weights = torch.cos(1 + torch.arange(len(times) * len(sizes), dtype=sizes.dtype)).reshape(len(times), -1)

    def mixture(parameters: Tensor) -> Tensor:
        found = simulate(model, times, parameters, solver=method, tolerance=TIGHT).check()
        return (found.states / sizes * weights).sum((-1, -2))

    return mixture


class _Differences(NamedTuple):
    """Change of the mixture per relative change of each parameter that was moved, and how far that is uncertain."""

    values: Tensor
    doubt: Tensor


def _judged(case: Case, relative: Tensor, moved: Sequence[int], differences: _Differences) -> Check:
    found = relative[list(moved)]
    size = torch.maximum(found.abs(), SMALL * relative.abs().max()).clamp_min(torch.finfo(found.dtype).tiny)
    errors = (found - differences.values).abs() / size
    excess = errors - ACCEPTED - DOUBT * differences.doubt / size
    worst = int((excess if bool((excess > 0).any()) else errors).argmax())
    error, doubt = float(errors[worst]), float((differences.doubt / size)[worst])
    close = Verdict.WRONG if float(excess[worst]) > 0 else Verdict.LOOK
    verdict = Verdict.GOOD if error <= ACCEPTED else close
    uncertain = f"; the differences are uncertain by {doubt:.0e} themselves" if verdict is Verdict.LOOK else ""
    nominal = case.field.nominal()
    zero = int((nominal == 0).sum())
    left_out = f" ({zero} that are zero left out)" if zero else ""
    number = f"{len(moved)} of {len(nominal)}" if len(moved) + zero < len(nominal) else f"{len(moved)}"
    sentence = (
        f"Largest relative error against central differences by {number} parameters{left_out}: {error:.1e} "
        f"(`{case.model.parameter_names[moved[worst]]}`: {float(found[worst]):.4g} and "
        f"{float(differences.values[worst]):.4g} per relative change){uncertain}."
    )
    return Check("gradients", verdict, sentence, {"error": error, "parameters": len(moved), "doubt": doubt})


def _chosen(relative: Tensor, nominal: Tensor, states: int) -> list[int]:
    """Indices of the parameters to move, those that matter most when there are too many."""
    order = relative.abs().argsort(descending=True).tolist()
    usable = [i for i in order if float(nominal[i]) != 0 and bool(nominal[i].isfinite())]
    return sorted(usable[: max(4, ROOM // (2 * len(STEPS) * states))])


def _differences(mixture: Mixture, nominal: Tensor, moved: Sequence[int]) -> _Differences:
    """Central differences with two steps, `(len(moved),)` each, extrapolated to a step of zero."""
    unit = torch.zeros(len(moved), len(nominal), dtype=nominal.dtype)
    unit[torch.arange(len(moved)), list(moved)] = nominal[list(moved)]
    rows = torch.cat([nominal + sign * step * unit for step in STEPS for sign in (1, -1)])
    try:
        with torch.no_grad():
            up, down, nearer_up, nearer_down = mixture(rows).reshape(4, -1)
    except SolveError as error:
        headline = (
            f"simulations at parameters changed by {100 * STEPS[0]:g} % do not reach the horizon, the first of them:"
        )
        raise SolveError(headline, error.problems[:1]) from None
    far, near = (up - down) / (2 * STEPS[0]), (nearer_up - nearer_down) / (2 * STEPS[1])
    order = (STEPS[0] / STEPS[1]) ** 2
    return _Differences((order * near - far) / (order - 1), (far - near).abs())

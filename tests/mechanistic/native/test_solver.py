"""Compiled solves: the steps and numbers of the methods themselves, whatever else is in the batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Piecewise, floor

from mechanistic import (
    KineticModel,
    Parameter,
    RateField,
    Reaction,
    Rodas5P,
    Schedule,
    SolveError,
    State,
    Status,
    Tolerance,
    TorchDiffEq,
    Tsit5,
    delay,
    library,
    simulate,
    symbol,
    time,
)
from mechanistic.native import Native
from mechanistic.solve.engine import Torch

S = symbol
METHODS = [Tsit5(), Rodas5P()]


def spread(field: RateField, rows: int, width: float = 0.3) -> torch.Tensor:
    """Parameters around the nominal ones, one row a subject."""
    noise = torch.randn(rows, len(field.parameter_names), generator=torch.Generator().manual_seed(1))
    return field.nominal() * torch.exp(width * noise.double())


def schedule() -> Schedule:
    return Schedule.repeat("gut", amount=100.0, every=12.0, count=4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 8, 21])
def test_steps_and_numbers_are_those_of_the_method(method: Tsit5 | Rodas5P, rows: int):
    field = RateField(library.two_compartment_oral())
    parameters = spread(field, rows)
    times = torch.linspace(0, 60, 41).double()
    before = (times % 24) == 0
    mine, other = (
        simulate(field, times, parameters, schedule(), solver=method, before=before, engine=engine)
        for engine in (Native(), Torch())
    )
    assert torch.equal(mine.statistics.steps, other.statistics.steps)
    assert torch.equal(mine.status, other.status)
    # An estimate of an error is a small difference, rounded in another order, and with it the size of the next step.
    # What that changes is a small part of the tolerance, 1e-6.
    torch.testing.assert_close(mine.states, other.states, rtol=1e-8, atol=1e-8)


def test_a_stiff_pathway_agrees_with_the_pivoting_method():
    field = RateField(library.huang_ferrell_mapk())
    parameters = spread(field, 5, 0.1)
    times = torch.linspace(0, 100, 26).double()
    mine, other = (simulate(field, times, parameters, solver=Rodas5P(), engine=e) for e in (Native(), Torch()))
    assert torch.equal(mine.statistics.steps, other.statistics.steps)
    torch.testing.assert_close(mine.states, other.states, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_rates_that_depend_on_time(method: Tsit5 | Rodas5P):
    """dx/dt = cos t - k (x - sin t) has the solution sin t from x = 0."""
    import sympy

    rate = sympy.cos(time) - S("k") * (S("x") - sympy.sin(time))
    model = KineticModel("forced", (State("x", 0, nonnegative=False),), (Parameter("k", 3.0),), rates={"x": rate})
    times = torch.linspace(0, 6, 31).double()
    solution = simulate(model, times, solver=method, engine=Native(), tolerance=Tolerance(1e-10, 1e-12))
    # Ten times the tolerance of a step: some hundred steps, whose errors decay.
    torch.testing.assert_close(solution.states[:, 0], times.sin(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_infusions_and_padded_times(method: Tsit5 | Rodas5P):
    """A state that nothing else moves holds what was infused."""
    decay = Reaction("loss", {"x": -1}, S("k") * S("x"))
    model = KineticModel("infused", (State("x", 0),), (Parameter("k", 0.5),), (decay,))
    doses = Schedule.infusion("x", amount=6.0, duration=3.0, time=1.0)
    times = torch.tensor([[0.0, 1.0, 2.5, 4.0, 7.0], [0.5, 2.0, 4.0, math.nan, math.nan]]).double()
    solution = simulate(model, times, schedule=doses, solver=method, engine=Native(), tolerance=Tolerance(1e-10, 1e-12))
    on = (times - 1).clamp(0, 3)
    expected = 2 / 0.5 * (1 - torch.exp(-0.5 * on)) * torch.exp(-0.5 * (times - 4).clamp_min(0))
    torch.testing.assert_close(solution.states[..., 0], expected, rtol=1e-8, atol=1e-10, equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(chosen=st.lists(st.integers(0, 18), min_size=1, max_size=19), threads=st.sampled_from([1, 2]))
def test_a_subject_has_the_same_bits_in_any_batch(chosen: list[int], threads: int):
    field = RateField(library.two_compartment_oral())
    everyone = spread(field, 19)
    times = torch.linspace(0, 30, 7).double()

    def states(parameters: torch.Tensor) -> torch.Tensor:
        return simulate(field, times, parameters, schedule(), solver=Tsit5(), engine=Native(threads)).states

    assert torch.equal(states(everyone[chosen]), states(everyone)[chosen])


def test_failures_are_those_of_the_method():
    """dx/dt = x² from 1 reaches infinity at 1; and a budget runs out."""
    grow = KineticModel("grow", (State("x", 1),), (Parameter("k", 1.0),), rates={"x": S("k") * S("x") ** 2})
    times = torch.tensor([0.5, 0.9, 2.0]).double()
    for method in METHODS:
        mine, other = (simulate(grow, times, solver=method, engine=engine) for engine in (Native(), Torch()))
        assert int(mine.status) == int(other.status) != Status.OK
        assert bool(mine.states[-1].isnan().all())
        torch.testing.assert_close(mine.states[0, 0], torch.tensor(2.0).double(), rtol=1e-4, atol=0)
    short = simulate(
        library.two_compartment_oral(), times, schedule=schedule(), solver=Tsit5(max_steps=2), engine=Native()
    )
    assert int(short.status) == Status.BUDGET
    stiff = simulate(library.robertson(), torch.tensor([0.0, 1e4]).double(), solver=Tsit5(), engine=Native())
    assert int(stiff.status) == Status.STIFF


def test_a_singular_pivot_without_pivoting_gives_no_wrong_number():
    """x'' = -x has zeros on the diagonal of its Jacobian: factors exist for any step, and the solution is a cosine."""
    states = (State("x", 1, nonnegative=False), State("v", 0, nonnegative=False))
    model = KineticModel("swing", states, rates={"x": S("v"), "v": -S("x")})
    times = torch.linspace(0, 10, 21).double()
    solution = simulate(model, times, solver=Rodas5P(), engine=Native(), tolerance=Tolerance(1e-9, 1e-9))
    torch.testing.assert_close(solution.states[:, 0], times.cos(), rtol=0, atol=1e-7)


def refused(system: object, **given: object) -> str:
    with pytest.raises(SolveError) as found:
        simulate(system, [1.0], engine=Native(), **given)
    return str(found.value)


def test_what_is_not_compiled_is_refused_with_its_reason_or_left_to_pytorch():
    model = KineticModel("delayed", (State("x", 1),), rates={"x": -delay(S("x"), 1)})
    assert "delays" in refused(model)
    assert "TorchDiffEq" in refused(library.two_compartment_oral(), solver=TorchDiffEq())
    assert "delays" in simulate(model, [1.0]).engine
    assert simulate(library.two_compartment_oral(), [1.0]).engine == "compiled code"


TIMED = {
    "switched off": (Piecewise((S("a"), time < S("T")), (0, True)), lambda t, at: t.clamp(max=at)),
    "after": (Piecewise((S("a"), time > S("T")), (0, True)), lambda t, at: (t - at).clamp(min=0)),
    "a window": (
        Piecewise((S("a"), (time >= S("T")) & (time < 2 * S("T"))), (0, True)),
        lambda t, at: (t - at).clamp(min=0) - (t - 2 * at).clamp(min=0),
    ),
    "a stair": (
        S("a") * floor(time / S("T")),
        lambda t, at: at * (k := (t / at).floor().detach()) * (k - 1) / 2 + k * (t - k * at),
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", TIMED)
def test_conditions_on_time_alone_are_stops_and_their_moments_have_derivatives(case: str, method: Tsit5 | Rodas5P):
    """dx/dt = a g(t, T) has x = a ∫ g in closed form, with its derivative by a and T; doses come on top."""
    rate, integral = TIMED[case]
    model = KineticModel("timed", (State("x", 0),), (Parameter("a", 2.0), Parameter("T", 1.3)), rates={"x": rate})
    times = torch.linspace(0, 4.0, 23).double()
    values = torch.tensor([[2.0, 1.3], [1.5, 0.7], [1.0, 9.0]]).double()
    doses = Schedule.bolus("x", 3.0, 1.3)
    found, expected = [], []
    for result, solve in (
        (found, lambda p: simulate(model, times, p, doses, solver=method, engine=Native()).states[..., 0]),
        (expected, lambda p: p[:, :1] * integral(times, p[:, 1:]) + 3.0 * (times >= 1.3)),
    ):
        p = values.clone().requires_grad_()
        states = solve(p)
        result += [states.detach(), *torch.autograd.grad((states * times.cos()).sum(), p)]
    # The methods are exact for polynomials; the moments are moved by two units in the last place.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_conditions_of_a_state_that_a_dose_moves():
    """dx/dt = 1 while t < s; a dose moves s before that."""
    rates = {"x": Piecewise((1, time < S("s")), (0, True))}
    model = KineticModel("moved", (State("x", 0), State("s", 1.0)), rates=rates)
    times = torch.tensor([0.5, 1.5, 4.0]).double()
    found = simulate(model, times, schedule=Schedule.bolus("s", 1.0, 0.5), solver=Tsit5(), engine=Native())
    torch.testing.assert_close(found.states[:, 0], torch.tensor([0.5, 1.5, 2.0]).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("moving", [False, True])
def test_gradients_are_those_of_the_method(method: Tsit5 | Rodas5P, moving: bool):
    field = RateField(library.two_compartment_oral())
    times = torch.linspace(0, 30, 7).double()
    found = []
    for engine in (Native(), Torch()):
        parameters, amount = spread(field, 3).requires_grad_(), torch.tensor(100.0).double().requires_grad_()
        at = torch.tensor(2.0).double().requires_grad_(moving)
        doses = Schedule.bolus("gut", amount, at) + Schedule.infusion("central", amount, 3.0, 9.0)
        out = simulate(field, times, parameters, doses, solver=method, engine=engine)
        leaves = (parameters, amount, at) if moving else (parameters, amount)
        found.append(torch.autograd.grad((out.states * torch.arange(7).double()[:, None]).sum(), leaves))
    # Both differentiate the numbers returned by the same steps, chosen with the same shadows.
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)


def test_the_error_of_derivatives_chooses_the_steps_of_pytorch():
    """A pathway that starts at rest: without its shadow a subject would take other steps."""
    field = RateField(library.huang_ferrell_mapk())
    parameters, times = spread(field, 9, 0.1), torch.linspace(0, 100, 11).double()
    runs = [
        simulate(field, times, parameters.clone().requires_grad_(wanted), solver=Rodas5P(), engine=engine)
        for wanted, engine in ((True, Native()), (True, Torch()), (False, Native()))
    ]
    assert torch.equal(runs[0].statistics.steps, runs[1].statistics.steps)
    assert not torch.equal(runs[0].statistics.steps, runs[2].statistics.steps)

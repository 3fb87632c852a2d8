"""What has no rest, or none that is stable, gets a status and never a number."""

import pytest
import sympy
import torch

import mechanistic as mech
from mechanistic import Event, KineticModel, Parameter, Reaction, RestStatus, State, symbol
from tests.mechanistic.steady_state.models import CENTRE, ISOMERS, SWITCH, A, X


def refused(rest, *statuses):
    assert rest.status in statuses, rest
    assert rest.states.isnan().all()
    with pytest.raises(mech.SolveError, match="have no steady state") as failure:
        rest.check()
    return str(failure.value)


@pytest.mark.parametrize("make", [mech.library.lotka_volterra, mech.library.repressilator, mech.library.van_der_pol])
def test_an_oscillator_does_not_rest(make):
    message = refused(mech.steady_state(make()), RestStatus.MOVING)
    assert "oscillates" in message
    assert "state `" in message


def test_an_unstable_rest_is_not_accepted():
    rest = mech.steady_state(SWITCH, initial={"X": 0.4})
    assert "not stable" in refused(rest, RestStatus.UNSTABLE)
    assert rest.growth > 0


def test_the_centre_of_an_oscillator_attracts_nothing():
    # Lotka-Volterra with all rates 1 stands still in (1, 1), and orbits it from everywhere else.
    p = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    rest = mech.steady_state(CENTRE, p)
    assert rest.status == RestStatus.SINGULAR
    torch.testing.assert_close(rest.states, torch.ones(2, dtype=torch.float64))
    (slope,) = torch.autograd.grad(rest.states.sum(), p)
    assert slope.isnan().all()


@pytest.mark.parametrize("rate", [1.0, A, A**2], ids=["linear", "exponential", "in finite time"])
def test_growth_without_bound_does_not_rest(rate):
    model = KineticModel("growth", [State("A", 1.0)], reactions=[Reaction("more", "-> A", rate)])
    refused(mech.steady_state(model), RestStatus.MOVING, RestStatus.FAILED)


def test_what_depends_on_time_has_no_rest():
    model = KineticModel(
        "driven", [State("A", 1.0)], reactions=[Reaction("in", "-> A", mech.time), Reaction("out", "A ->", A)]
    )
    assert "depend on time" in refused(mech.steady_state(model), RestStatus.TIME)


def test_what_switches_for_ever_has_no_rest():
    daily = sympy.Piecewise((1, sympy.Mod(mech.time, 24) < 12), (0, True))
    model = KineticModel(
        "daily", [State("A", 1.0)], reactions=[Reaction("in", "-> A", daily), Reaction("out", "A ->", A)]
    )
    refused(mech.steady_state(model), RestStatus.TIME, RestStatus.MOVING)


def test_a_stimulus_that_ends_is_waited_for():
    pulse = 1 + sympy.Piecewise((5, mech.time < 300), (0, True))
    model = KineticModel(
        "pulse", [State("A", 1.0)], reactions=[Reaction("in", "-> A", pulse), Reaction("out", "A ->", A)]
    )
    rest = mech.steady_state(model).check()
    assert rest.time > 300
    torch.testing.assert_close(rest.states, torch.ones(1, dtype=torch.float64))


def test_an_event_that_is_still_to_come_is_waited_for():
    model = KineticModel(
        "late", ISOMERS.states, ISOMERS.parameters, ISOMERS.reactions,
        events=[Event("add", A < 0.5, {"A": A + 1}, delay=500)],
    )  # fmt: skip
    rest = mech.steady_state(model).check()
    assert rest.time > 500
    # The value at the trigger, 0.5 + 1, is given to A when it has come to 0.375; B is at 1.125.
    torch.testing.assert_close(rest.states.sum(), torch.tensor(2.625).double(), rtol=1e-9, atol=0.0)


def test_a_continuum_of_rests_is_told_from_one():
    """An epidemic ends with any number of susceptibles; where it ends depends on all of its course."""
    beta, gamma, s, i = (symbol(name) for name in ("beta", "gamma", "S", "I"))
    model = KineticModel(
        "SIR",
        [State("S", 0.99), State("I", 0.01), State("R", 0.0, scale=1.0)],
        [Parameter("beta", 2.0), Parameter("gamma", 1.0)],
        [Reaction("infect", "S + I -> 2 I", beta * s * i), Reaction("recover", "I -> R", gamma * i)],
    )
    rest = mech.steady_state(model, tolerance=mech.Tolerance(1e-9, 1e-12))
    assert rest.status == RestStatus.SINGULAR
    left = rest.states[0]
    # The final size: log(S/S0) = β/γ (S - S0 - I0)
    torch.testing.assert_close((left / 0.99).log(), 2.0 * (left - 1.0), rtol=1e-6, atol=0.0)


def test_delays_and_algebraic_equations_are_refused():
    late = mech.delay(A, 1.0)
    model = KineticModel("late", [State("A", 1.0)], reactions=[Reaction("out", "A ->", late)])
    with pytest.raises(mech.SolveError, match="delays"):
        mech.steady_state(model)
    fast = KineticModel("fast", ISOMERS.states, ISOMERS.parameters, [
        Reaction("swap", "A -> B", A - symbol("B"), fast=True)])  # fmt: skip
    with pytest.raises(mech.SolveError, match="fast reactions"):
        mech.steady_state(fast)


def test_a_subject_that_fails_is_named():
    rest = mech.steady_state(SWITCH, initial={"X": [0.1, 0.4]})
    with pytest.raises(mech.SolveError, match="subject 'late'"):
        rest.check(subjects=["early", "late"])


def test_states_that_are_not_finite_have_no_rest():
    refused(mech.steady_state(SWITCH, initial={"X": float("nan")}), RestStatus.FAILED)
    root = KineticModel("root", [State("X", -1.0, nonnegative=False)], rates={"X": X**0.5})
    refused(mech.steady_state(root), RestStatus.FAILED)

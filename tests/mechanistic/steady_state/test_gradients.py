"""Derivatives of rests against finite differences, closed forms and long simulations."""

import pytest
import torch

import mechanistic as mech
from mechanistic import KineticModel, Parameter, Reaction, RestStatus, State, symbol
from tests.mechanistic.steady_state.models import FOLD, GOLDBETER_KOSHLAND, INFUSION, ISOMERS, RESET, SWITCH


def rest_of(model):
    return lambda p, x: mech.steady_state(model, p, initial=x).states


def arguments(model, rows=1):
    field = mech.RateField(model)
    p = field.nominal() * torch.linspace(1.0, 1.2, rows, dtype=torch.float64)[:, None]
    return p.clone().requires_grad_(), field.initial(p).add(0.01).detach().requires_grad_()


@pytest.mark.parametrize("model", [ISOMERS, INFUSION, GOLDBETER_KOSHLAND], ids=lambda m: m.name)
def test_first_and_second_derivatives_agree_with_finite_differences(model):
    rest, given = rest_of(model), arguments(model, rows=2)
    assert torch.autograd.gradcheck(rest, given, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(rest, given, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_the_gradient_is_that_of_the_closed_form():
    p = torch.tensor([0.3, 0.1], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    states = mech.steady_state(ISOMERS, p, initial=x).states
    by_p, by_x = torch.autograd.grad(states[0], (p, x))
    # A = total · b / (f + b)
    torch.testing.assert_close(by_p, torch.tensor([-1.5 * 0.1 / 0.16, 1.5 * 0.3 / 0.16]).double())
    torch.testing.assert_close(by_x, torch.tensor([0.25, 0.25]).double())


def test_the_gradient_is_that_of_a_long_simulation():
    model = mech.library.huang_ferrell_mapk()
    p = mech.RateField(model).nominal().requires_grad_()
    weights = torch.cos(torch.arange(len(model.states)).double())
    rest = mech.steady_state(model, p).check()
    simulated = mech.simulate(model, [400.0], p, tolerance=mech.Tolerance(1e-9, 1e-12)).states[-1]
    (implicit,) = torch.autograd.grad(rest.states @ weights, p)
    (explicit,) = torch.autograd.grad(simulated @ weights, p)
    # The slowest mode has decayed to exp(-28) by then; the rest is the tolerance of the simulation.
    assert ((implicit - explicit) * p).abs().max() < 1e-6 * (explicit * p).abs().max()


def test_parameters_of_initial_values_have_gradients_through_the_totals():
    total = symbol("total")
    model = KineticModel(
        "parametric start",
        [State("A", total), State("B", 0.0, scale=1.0)],
        [*ISOMERS.parameters, Parameter("total", 2.0)],
        ISOMERS.reactions,
    )
    p = mech.RateField(model).nominal().requires_grad_()
    (slope,) = torch.autograd.grad(mech.steady_state(model, p).states[1], p)
    torch.testing.assert_close(slope[2], torch.tensor(0.75).double())


def test_a_subject_without_rest_leaves_the_gradients_of_others_alone():
    p = torch.tensor([[-1.0], [1.0], [-4.0]], dtype=torch.float64, requires_grad=True)
    rest = mech.steady_state(FOLD, p)
    assert rest.status.tolist() == [RestStatus.OK, rest.status[1], RestStatus.OK]
    assert rest.status[1] in (RestStatus.MOVING, RestStatus.FAILED)
    (slope,) = torch.autograd.grad(rest.states[rest.succeeded].sum(), p)
    # x = -sqrt(-m)
    torch.testing.assert_close(slope, torch.tensor([[0.5], [0.0], [0.25]]).double())
    (everything,) = torch.autograd.grad(mech.steady_state(FOLD, p).states.sum(), p)
    assert everything.isnan().tolist() == [[False], [True], [False]]


def test_a_fold_has_a_status_and_no_gradient():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    rest = mech.steady_state(FOLD, p)
    assert rest.status == RestStatus.SINGULAR
    # It is approached as 1/t, and the search goes on until that is below the tolerance.
    assert abs(rest.states.item()) < 1e-5
    (slope,) = torch.autograd.grad(rest.states.sum(), p)
    assert slope.isnan().all()
    with pytest.raises(mech.SolveError, match="not determined to first order"):
        rest.check()
    assert mech.steady_state(FOLD).check().status == RestStatus.SINGULAR


def test_a_parameter_that_would_break_a_total_has_no_gradient():
    leak = Reaction("leak", "-> A", symbol("leak"))
    model = KineticModel(
        "leaking", ISOMERS.states, [*ISOMERS.parameters, Parameter("leak", 0.0)], [*ISOMERS.reactions, leak]
    )
    p = mech.RateField(model).nominal().requires_grad_()
    (slope,) = torch.autograd.grad(mech.steady_state(model, p).states[0], p)
    assert slope.isnan().tolist() == [False, False, True]


def test_an_event_that_changes_a_total_is_followed():
    p = torch.tensor([0.3, 0.1], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    # At A = 0.6 half of it goes: what is left of the total 1 is 0.7, and A ends below the threshold.
    # Accuracy is that of the moment of the event.
    states = mech.steady_state(RESET, p, initial=x, tolerance=mech.Tolerance(1e-9, 1e-12)).states
    torch.testing.assert_close(states, torch.tensor([0.175, 0.525]).double(), rtol=1e-6, atol=0.0)
    by_p, by_x = torch.autograd.grad(states[0], (p, x))
    expected = torch.tensor([-0.7 * 0.1 / 0.16, 0.7 * 0.3 / 0.16]).double()
    torch.testing.assert_close(by_p, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_x, torch.tensor([0.25, 0.25]).double(), rtol=1e-6, atol=1e-6)


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    p = mech.RateField(SWITCH).nominal().requires_grad_()
    with torch.no_grad():
        assert not mech.steady_state(SWITCH, p).states.requires_grad
    assert not mech.steady_state(SWITCH).states.requires_grad
    assert mech.steady_state(SWITCH, p).states.requires_grad

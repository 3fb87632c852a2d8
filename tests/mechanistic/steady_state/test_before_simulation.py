"""Pre-equilibration: a simulation that starts where the system rests without the stimulus."""

import torch

import mechanistic as mech
from mechanistic import KineticModel, Parameter, Reaction, State, symbol
from tests.mechanistic.steady_state.models import INFUSION, ISOMERS, PRODUCTION, RESET, SWITCH


def close(found, expected, **tolerance):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), **tolerance)


def test_a_simulation_from_rest_stays_there():
    for model in (PRODUCTION, ISOMERS, INFUSION, SWITCH):
        rest = mech.steady_state(model).check()
        solution = mech.simulate(model, [0.0, 10.0, 1000.0], initial=rest.states).check()
        close(solution.states, rest.states.expand(3, -1), rtol=1e-12, atol=1e-15)


def test_a_step_from_rest_is_the_closed_form():
    rest = mech.steady_state(PRODUCTION, {"k": [3.0, 1.0]}).check()
    times = torch.tensor([0.0, 0.5, 2.0, 8.0], dtype=torch.float64)
    solution = mech.simulate(PRODUCTION, times, {"k": 5.0}, initial=rest.states)
    start = torch.tensor([6.0, 2.0], dtype=torch.float64)[:, None]
    close(solution.states[..., 0], 10.0 + (start - 10.0) * (-0.5 * times).exp(), rtol=1e-5, atol=0.0)


def test_gradients_flow_through_rest_and_simulation():
    d = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rest = mech.steady_state(PRODUCTION, {"d": d})
    end = mech.simulate(PRODUCTION, [2.0], {"d": d, "k": 5.0}, initial=rest.states).states[0, 0]
    (slope,) = torch.autograd.grad(end, d)
    exact = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(5.0 / exact + (3.0 / exact - 5.0 / exact) * (-2.0 * exact).exp(), exact)
    close(slope, expected, rtol=1e-5, atol=0.0)


def test_doses_are_given_to_a_system_at_rest():
    doses = mech.Schedule.bolus("A", 2.0, time=1.0)
    rest = mech.steady_state(PRODUCTION)
    solution = mech.simulate(PRODUCTION, [0.5, 1.0, 3.0], schedule=doses, initial=rest.states)
    close(solution.states[:, 0], [6.0, 8.0, 6.0 + 2.0 * torch.exp(torch.tensor(-1.0)).item()], rtol=1e-6, atol=0.0)


def test_states_can_be_replaced_after_rest():
    rest = mech.steady_state(ISOMERS)
    close(mech.simulate(ISOMERS, [0.0], initial=rest.with_states(A=2.0)).states[0], [2.0, 1.125])


def test_rest_of_a_model_with_events_starts_a_simulation_in_which_they_are_armed():
    rest = mech.steady_state(RESET).check()
    # At rest the condition A < 0.6 holds, so that it does not become true at the start; a dose arms it again.
    still = mech.simulate(RESET, [0.0, 100.0], initial=rest.states)
    close(still.states[1], rest.states, rtol=1e-9, atol=0.0)
    dosed = mech.simulate(RESET, [200.0], schedule=mech.Schedule.bolus("A", 1.0, time=5.0), initial=rest.states)
    # From A = 1.175 it falls past the threshold, where 0.3 is taken once more.
    close(dosed.states[0].sum(), rest.states.sum() + 0.7, rtol=1e-6, atol=0.0)


def test_a_subject_without_rest_has_no_trajectory():
    rest = mech.steady_state(SWITCH, initial={"X": [0.1, 0.4]})
    solution = mech.simulate(SWITCH, [1.0], initial=rest.states)
    assert solution.succeeded.tolist() == [True, False]


def test_a_stimulated_cascade_starts_from_its_resting_activity():
    stimulus, made, lost = (symbol(name) for name in ("stimulus", "made", "lost"))
    model = KineticModel(
        "receptor",
        [State("R", 0.0, scale=1.0), State("Rp", 0.0, scale=1.0)],
        [Parameter("stimulus", 0.0), Parameter("made", 2.0), Parameter("lost", 0.1)],
        [
            Reaction("make", "-> R", made),
            Reaction("lose", "R ->", lost * symbol("R")),
            Reaction("activate", "R -> Rp", stimulus * symbol("R")),
            Reaction("degrade", "Rp ->", 3 * lost * symbol("Rp")),
        ],
    )
    rest = mech.steady_state(model, {"made": [2.0, 4.0]}).check()
    close(rest.states, [[20.0, 0.0], [40.0, 0.0]], rtol=1e-13, atol=1e-15)
    after = mech.steady_state(model, {"made": [2.0, 4.0], "stimulus": 0.4}, initial=rest.states).check()
    simulated = mech.simulate(model, [300.0], {"made": [2.0, 4.0], "stimulus": 0.4}, initial=rest.states)
    close(simulated.states[:, 0], after.states, rtol=1e-5, atol=0.0)

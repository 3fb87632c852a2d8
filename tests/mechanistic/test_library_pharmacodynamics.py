"""Responses, blood cells, tumours, glucose: steady states, published figures and closed forms."""

import numpy as np
import pytest
import torch

from mechanistic import library
from mechanistic.library import closed_form

# Asked of the solver for what is compared with an exact number.
FINE = {"rtol": 1e-9, "atol": 1e-12}


def solve(model, times, parameters=None, schedule=None, initial=None, **tolerance):
    from mechanistic.simulate import simulate
    from mechanistic.solve import Tolerance

    solution = simulate(model, times, parameters, schedule, initial=initial, tolerance=Tolerance(**(tolerance or FINE)))
    solution.check()
    return {name: x.numpy() for name, x in zip(model.state_names, solution.states.unbind(-1), strict=True)}


def test_warfarin_rests_without_drug_and_settles_under_an_infusion():
    from mechanistic.schedule import Schedule

    model = library.warfarin_pkpd()
    resting = solve(model, [0.0, 500.0])
    assert resting["PCA"] == pytest.approx(100.0, rel=1e-9)
    # 1 mg/h for a thousand hours is 28 half-lives of the drug: C = rate / CL = 5 mg/L, settled to 2^-28.
    treated = solve(model, [0.0, 1000.0], schedule=Schedule.infusion("central", 1000.0, duration=1000.0))
    assert treated["central"][-1] == pytest.approx(5.0 * 10.0, rel=1e-7)
    assert treated["PCA"][-1] == pytest.approx(100.0 * (1.0 - 5.0 / 6.5), rel=1e-6)


def test_warfarin_stays_above_the_bound_of_its_highest_concentration():
    from mechanistic.schedule import Schedule

    times = np.linspace(0.0, 240.0, 241)
    got = solve(library.warfarin_pkpd(), times, schedule=Schedule.bolus("gut", 100.0))
    highest = got["central"].max() / 10.0
    assert times[got["central"].argmax()] == pytest.approx(4.0, abs=1.0)  # the peak lies between 2 and 6 h
    assert got["PCA"].min() > 100.0 * 1.5 / (1.5 + highest)
    assert got["PCA"].min() < 50.0
    assert 24.0 < times[got["PCA"].argmin()] < 72.0


def test_stimulated_loss_settles_and_has_later_nadirs_for_larger_doses():
    from mechanistic.schedule import Schedule

    model = library.turnover_stimulated_loss()
    # 3 mg/h against ke = 0.3/h: C = 3 / (0.3 * 10) = 1 mg/L = SC50; settled to exp(-60).
    constant = solve(model, [0.0, 200.0], schedule=Schedule.infusion("central", 600.0, duration=200.0))
    assert constant["response"][-1] == pytest.approx(30.0 / (1.0 + 2.0 * 0.5), rel=1e-7)
    times = np.linspace(0.0, 40.0, 401)
    doses = torch.tensor([30.0, 100.0, 300.0], dtype=torch.float64)
    response = solve(model, times, schedule=Schedule.bolus("central", doses))["response"]
    nadirs, depths = times[response.argmin(-1)], response.min(-1)
    assert (np.diff(nadirs) > 0.5).all()
    assert (np.diff(depths) < 0.0).all()


def test_neutrophils_rest_at_their_baseline():
    got = solve(library.friberg_neutropenia(), [0.0, 1000.0])
    for cells in ("proliferating", "transit1", "transit2", "transit3", "circulating"):
        assert got[cells][-1] == pytest.approx(5.05, rel=1e-9)


def test_docetaxel_nadir_and_overshoot():
    """100 mg/m2: a nadir in the second week near 1e9/L, then an overshoot (Friberg 2002, figure 4)."""
    from mechanistic.schedule import Schedule

    times = np.linspace(0.0, 24.0 * 60.0, 721)
    dose = Schedule.infusion("central", 180.0, duration=1.0)
    got = solve(library.friberg_neutropenia(), times, schedule=dose, rtol=1e-6, atol=1e-9)
    cells, days = got["circulating"], times / 24.0
    assert 7.0 <= days[cells.argmin()] <= 9.0
    assert 0.5 < cells.min() < 1.0
    assert 1.15 < cells.max() / 5.05 < 1.35
    assert 17.0 < days[cells.argmax()] < 23.0
    # The feedback is damped: at two months the oscillation has died down to a few percent.
    assert abs(cells[-1] / 5.05 - 1.0) < 0.05


def test_untreated_tumour_grows_exponentially_then_linearly():
    model = library.simeoni_tumour()
    times = np.array([0.0, 4.0, 8.0, 30.0, 32.0])
    weight = solve(model, times)["cycling"]
    # Up to half of lambda1/lambda0 the correction to the exponential is 2^-20 / 20.
    assert weight[:3] == pytest.approx(0.055 * np.exp(0.273 * times[:3]), rel=1e-6)
    # At six times the switch it is 6^-20 / 20.
    assert (weight[4] - weight[3]) / 2.0 == pytest.approx(0.814, rel=1e-7)


def test_a_constant_concentration_changes_the_exponent_by_its_potency():
    """At steady concentration C the cycling cells of a small tumour grow with lambda0 - k2 C."""
    from mechanistic.schedule import Schedule

    model = library.simeoni_tumour()
    # 800 ng/mL held by an infusion that balances the elimination from a body at its own steady state.
    amount = 0.8 * 0.81
    held = {"drug": amount, "peripheral": amount * 0.144 / 2.0112}
    infusion = Schedule.infusion("drug", 20.832 * amount * 20.0, duration=20.0)
    got = solve(model, [0.0, 10.0, 20.0], schedule=infusion, initial=held)
    slope = np.log(got["cycling"][2] / got["cycling"][1]) / 10.0
    assert slope == pytest.approx(0.273 - 0.000629 * 800.0, rel=1e-6)
    assert slope < 0.0  # above the threshold lambda0/k2 = 434 ng/mL


def test_fading_kill_follows_its_closed_form():
    times = np.linspace(0.0, 100.0, 101)
    got = solve(library.claret_tumour(), times)["size"]
    given = {"start": 80.0, "growth": 0.02, "kill": 0.025, "exposure": 3.0, "resistance": 0.05}
    # Tenfold the tolerance, over a hundred weeks.
    assert got == pytest.approx(closed_form.claret_tumour(times, **given), rel=1e-8)
    fine = np.linspace(26.0, 27.0, 1001)
    nadir = fine[closed_form.claret_tumour(fine, **given).argmin()]
    assert nadir == pytest.approx(np.log(0.075 / 0.02) / 0.05, abs=2e-3)


def test_remote_insulin_is_a_difference_of_exponentials_and_glucose_returns():
    times = np.linspace(0.0, 180.0, 91)
    got = solve(library.bergman_glucose(), times)
    action = 4.92e-6 * (364.8 - 7.0) * (np.exp(-0.0123 * times) - np.exp(-0.2659 * times)) / (0.2659 - 0.0123)
    assert np.abs(got["remote"] - action).max() < 1e-8 * action.max()
    assert got["insulin"] == pytest.approx(7.0 + (364.8 - 7.0) * np.exp(-0.2659 * times), rel=1e-7)
    # exp(-0.0123 * 1500) = 1e-8 of the remote action is left.
    late = solve(library.bergman_glucose(), [0.0, 1500.0])
    assert late["glucose"][-1] / 1.7 == pytest.approx(90.0, rel=1e-6)


@pytest.mark.parametrize(("name", "law"), [("organoid_logistic", "logistic"), ("organoid_gompertz", "gompertz")])
def test_untreated_organoids_follow_their_growth_law(name, law):
    times = np.linspace(0.0, 20.0, 41)
    got = solve(getattr(library, name)(), times)["cells"]
    expected = getattr(closed_form, law)(times, start=500.0, rate=0.5, capacity=20000.0)
    assert got == pytest.approx(expected, rel=1e-7)


def test_a_constant_drug_sets_the_size_of_a_logistic_organoid():
    """cells = capacity (1 - kill/growth); 0.05 nmol in 0.1 mL is 0.5 umol/L and kills 0.24 per day."""
    got = solve(library.organoid_logistic(), [0.0, 150.0], {"decay": 0.0}, initial={"drug": 0.05})
    # The approach has the rate growth - kill = 0.26 per day: exp(-39) is left.
    assert got["cells"][-1] == pytest.approx(20000.0 * (1.0 - 0.24 / 0.5), rel=1e-7)
    dying = solve(library.organoid_logistic(), [0.0, 100.0], {"decay": 0.0}, initial={"drug": 1.0})
    assert dying["cells"][-1] < 1e-6

"""Pharmacokinetic models against their closed forms."""

import numpy as np
import pytest

from mechanistic import library
from mechanistic.library import closed_form

# The solver is asked for 1e-10; two orders are left for what local errors add up to over a day.
REQUIRED = 1e-8
TIMES = np.linspace(0.0, 48.0, 49)
BODY = {"clearance": 5.0, "volume": 20.0, "exchange": 10.0, "peripheral_volume": 50.0}


def solve(model, times, schedule, **parameters):
    from mechanistic.simulate import simulate
    from mechanistic.solve import Tolerance

    solution = simulate(model, times, parameters or None, schedule, tolerance=Tolerance(rtol=1e-10, atol=1e-13))
    solution.check()
    return dict(zip(model.state_names, solution.states.unbind(-1), strict=True))


def deviation(got, expected):
    """Largest relative error where the amount is at least a millionth of its maximum."""
    got, expected = np.asarray(got), np.asarray(expected)
    seen = np.abs(expected) >= 1e-6 * np.abs(expected).max()
    return np.max(np.abs(got - expected)[seen] / np.abs(expected)[seen])


def test_one_compartment_bolus_infusion_and_repeats():
    from mechanistic.schedule import Schedule

    model = library.one_compartment_iv()
    body = {"clearance": 2.81, "volume": 32.0}
    got = solve(model, TIMES, Schedule.bolus("central", 320.0))["central"]
    assert deviation(got, closed_form.one_compartment_bolus(TIMES, dose=320.0, **body)) < REQUIRED
    got = solve(model, TIMES, Schedule.infusion("central", 320.0, duration=1.5, time=2.25))["central"]
    expected = closed_form.one_compartment_infusion(TIMES - 2.25, dose=320.0, duration=1.5, **body)
    assert deviation(got, expected) < REQUIRED
    got = solve(model, TIMES, Schedule.repeat("central", 100.0, every=6.5, count=5, duration=0.5))["central"]
    expected = closed_form.superpose(
        lambda t: closed_form.one_compartment_infusion(t, dose=100.0, duration=0.5, **body), TIMES, 6.5 * np.arange(5)
    )
    assert deviation(got, expected) < REQUIRED


def test_one_compartment_oral_single_and_repeated():
    from mechanistic.schedule import Schedule

    model = library.one_compartment_oral()

    def single(times):
        return closed_form.one_compartment_oral(times, dose=320.0, absorption=1.57, clearance=2.81, volume=32.0)

    assert deviation(solve(model, TIMES, Schedule.bolus("gut", 320.0))["central"], single(TIMES)) < REQUIRED
    got = solve(model, TIMES, Schedule.repeat("gut", 320.0, every=12.0, count=3))["central"]
    assert deviation(got, closed_form.superpose(single, TIMES, [0.0, 12.0, 24.0])) < REQUIRED


def test_absorption_as_fast_as_elimination_is_the_limit_of_the_bateman_function():
    """For ka = CL/V the amount is dose k t exp(-k t); the textbook quotient is 0/0 there."""
    from mechanistic.schedule import Schedule

    expected = 100.0 * 0.25 * TIMES * np.exp(-0.25 * TIMES)
    given = {"clearance": 5.0, "volume": 20.0}
    assert deviation(closed_form.one_compartment_oral(TIMES, dose=100.0, absorption=0.25, **given), expected) < 1e-14
    model = library.one_compartment_oral()
    got = solve(model, TIMES, Schedule.bolus("gut", 100.0), ka=0.25, CL=5.0, V=20.0)["central"]
    assert deviation(got, expected) < REQUIRED


@pytest.mark.parametrize("route", ["bolus", "infusion", "oral"])
def test_two_compartments(route):
    from mechanistic.schedule import Schedule

    doses = [0.0, 8.0, 16.0]
    if route == "bolus":
        model, schedule = library.two_compartment_iv(), Schedule.repeat("central", 100.0, every=8.0, count=3)
        single = lambda t: closed_form.two_compartment_bolus(t, dose=100.0, **BODY)  # noqa: E731
    elif route == "infusion":
        model, schedule = library.two_compartment_iv(), Schedule.repeat("central", 100.0, 8.0, 3, duration=2.0)
        single = lambda t: closed_form.two_compartment_infusion(t, dose=100.0, duration=2.0, **BODY)  # noqa: E731
    else:
        model, schedule = library.two_compartment_oral(), Schedule.repeat("gut", 100.0, every=8.0, count=3)
        single = lambda t: closed_form.two_compartment_oral(t, dose=100.0, absorption=1.0, **BODY)  # noqa: E731
    got = solve(model, TIMES, schedule)
    for i, state in enumerate(("central", "peripheral")):
        expected = closed_form.superpose(lambda t, i=i: single(t)[i], TIMES, doses)
        assert deviation(got[state], expected) < REQUIRED


def test_michaelis_menten_elimination_by_the_lambert_function():
    from mechanistic.schedule import Schedule

    times = np.linspace(0.0, 6.0, 25)
    got = solve(library.michaelis_menten_elimination(), times, Schedule.bolus("central", 1000.0))["central"]
    given = {"maximal_rate": 490.0, "half_saturation": 4.0, "volume": 45.5}
    assert deviation(got, closed_form.michaelis_menten_bolus(times, dose=1000.0, **given)) < REQUIRED
    # Far above saturation the decline is the line -Vmax t, up to the share K / A of it.
    early = closed_form.michaelis_menten_bolus([0.0, 1.0], dose=1e6, **given)
    assert early[1] - early[0] == pytest.approx(-490.0, rel=2e-4)
    # The solution of w + log(w) = u holds in a range in which exp(u) overflows.
    assert closed_form.michaelis_menten_bolus([0.0], dose=1e9, **given) == pytest.approx(1e9, rel=1e-12)


def test_the_last_transit_compartment_is_a_gamma_density():
    from mechanistic.schedule import Schedule

    times = np.linspace(0.0, 6.0, 61)
    got = solve(library.transit_absorption(compartments=6), times, Schedule.bolus("transit1", 100.0))
    expected = closed_form.last_transit(times, dose=100.0, rate=6.0, compartments=6)
    assert deviation(got["transit6"], expected) < REQUIRED
    # The flux out of the chain is the dose times a density with mean MTT = 1 h; the trapezoidal rule is exact to the
    # order of the tail, exp(-36), on so smooth a function.
    late = np.linspace(0.0, 12.0, 2401)
    flux = 6.0 * closed_form.last_transit(late, dose=1.0, rate=6.0, compartments=6)
    assert np.trapezoid(flux, late) == pytest.approx(1.0, abs=1e-9)
    assert np.trapezoid(late * flux, late) == pytest.approx(1.0, abs=1e-9)


def test_the_closed_forms_agree_in_their_limits():
    """An infusion tends to a bolus, and a fast absorption to a bolus, linearly in the duration; areas are dose/CL."""
    at = np.linspace(1.0, 24.0, 24)
    bolus = closed_form.two_compartment_bolus(at, dose=100.0, **BODY)
    quick = closed_form.two_compartment_infusion(at, dose=100.0, duration=1e-7, **BODY)
    sharp = closed_form.two_compartment_oral(at, dose=100.0, absorption=1e8, **BODY)
    for i in range(2):
        assert deviation(quick[i], bolus[i]) < 1e-6
        assert deviation(sharp[i], bolus[i]) < 1e-6
    fine = np.linspace(0.0, 400.0, 400001)
    central, _ = closed_form.two_compartment_oral(fine, dose=100.0, absorption=1.0, **BODY)
    # Trapezoidal rule with steps of 1e-3 h against rate constants up to 1/h.
    assert np.trapezoid(central, fine) * 5.0 / 20.0 == pytest.approx(100.0, rel=1e-6)


def test_nothing_is_there_before_the_dose():
    early = np.array([-3.0, -1e-9])
    assert not closed_form.one_compartment_bolus(early, dose=1.0, clearance=1.0, volume=1.0).any()
    assert not closed_form.last_transit(early, dose=1.0, rate=1.0, compartments=1).any()
    assert not closed_form.two_compartment_oral(early, dose=1.0, absorption=1.0, **BODY)[0].any()
    assert closed_form.one_compartment_bolus(0.0, dose=1.0, clearance=1.0, volume=1.0) == 1.0

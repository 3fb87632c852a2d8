"""Infection, signalling, oscillators and stiff benchmarks: published values, invariants and limit cycles."""

import numpy as np
import pytest
import torch

from mechanistic import library
from mechanistic.conservation import conserved_totals
from mechanistic.library import closed_form


def solve(model, times, parameters=None, initial=None, rtol=1e-7, atol=1e-10):
    """States by name, `(*batch, time)`."""
    from mechanistic.simulate import simulate
    from mechanistic.solve import Tolerance

    solution = simulate(model, times, parameters, initial=initial, tolerance=Tolerance(rtol=rtol, atol=atol))
    solution.check()
    return {name: x.numpy() for name, x in zip(model.state_names, solution.states.unbind(-1), strict=True)}


def assert_totals_are_kept(model, states, relative=1e-8):
    """Every method of the solver keeps linear invariants; what is left is the rounding of stiff linear systems."""
    for total in conserved_totals(model):
        course = sum(float(weight) * states[name] for name, weight in total.weights.items())
        assert course == pytest.approx(course[..., :1] * np.ones_like(course), rel=relative)


def test_virus_declines_in_two_phases():
    times = np.linspace(0.0, 12.0, 49)
    got = solve(library.perelson_hiv(), times, rtol=1e-9, atol=1e-12)
    expected = closed_form.biphasic_virus(times, start=1.86e6, clearance=2.06, loss=0.53)
    assert got["infectious"] + got["noninfectious"] == pytest.approx(expected, rel=1e-7)
    late = closed_form.biphasic_virus([20.0, 21.0], start=1.86e6, clearance=2.06, loss=0.53)
    # After 20 days the first phase has shrunk by exp(-30) against the second.
    assert np.log(late[0] / late[1]) == pytest.approx(0.53, rel=1e-9)


def test_influenza_ends_where_the_final_size_relation_says():
    times = np.linspace(0.0, 30.0, 301)
    got = solve(library.baccam_influenza(), times)
    reproduction = 0.012 * 2.7e-5 * 4e8 / (3.0 * 4.0)
    left = got["target"][-1] / 4e8
    assert reproduction == pytest.approx(10.8)
    assert -np.log(left) == pytest.approx(reproduction * (1.0 - left) + 2.7e-5 * 0.093 / 3.0, rel=1e-5)
    assert 2.0 < times[got["virus"].argmax()] < 3.0


def test_stat5_matches_the_simulation_of_the_benchmark_collection():
    """Values of the simulated data of the PEtab problem, which carry twelve digits."""
    from mechanistic.simulate import simulate
    from mechanistic.solve import Tolerance

    model = library.boehm_stat5()
    times = [0.0, 2.5, 10.0, 60.0, 240.0]
    solution = simulate(model, times, tolerance=Tolerance(rtol=1e-8, atol=1e-11))
    observed = solution.observe()[:, list(model.observables).index("pSTAT5A_rel")].numpy()
    # The collection's own solver ran with about 1e-8; its numbers are trusted to 1e-6.
    assert observed[1:] == pytest.approx([75.1549671358, 90.6694732203, 86.5228969273, 17.1453510648], rel=1e-6)
    assert_totals_are_kept(model, dict(zip(model.state_names, solution.states.numpy().T, strict=True)))


def test_mapk_cascade_is_as_steep_as_published():
    """Hill exponents by 81^(1/n) = EC90/EC10: 4.9 for MAPK, 1.7 for MAPKK, 1.0 for MAPKKK (Huang & Ferrell 1996)."""
    model = library.huang_ferrell_mapk()
    stimulus = np.unique(np.concatenate([np.logspace(-7.0, -1.0, 61), np.logspace(-6.0, -4.8, 49)]))
    # 3000 min is twenty times the slowest relaxation seen at the smallest stimulus.
    states = solve(model, [0.0, 3000.0], {"E1_total": torch.tensor(stimulus)}, rtol=1e-6, atol=1e-9)
    assert_totals_are_kept(model, states)
    for species, exponent in (("Kpp", 4.9), ("KKpp", 1.7), ("KKKp", 1.0)):
        share = states[species][:, -1] / states[species][:, -1].max()
        low, high = np.interp([0.1, 0.9], share, np.log(stimulus))
        # The paper gives one decimal.
        assert np.log(81.0) / (high - low) == pytest.approx(exponent, abs=0.05)


# Periods found once by a fifth-order Radau method at tolerance 1e-11 (scipy), except that of van der Pol, which is
# published (6.663286859); times are multiples of them after a transient, so that the state must return to itself.
CYCLES = {
    "p53_mdm2": (40.0, 6.8194069, 1e-4),
    "kholodenko_mapk": (10000.0, 1299.7703, 1e-4),
    "van_der_pol": (20.0, 6.663286859, 1e-4),
}


@pytest.mark.parametrize("name", CYCLES)
def test_limit_cycles_close_after_one_period(name):
    start, period, accuracy = CYCLES[name]
    model = getattr(library, name)()
    states = solve(model, [0.0, start, start + period / 2.0, start + period], rtol=1e-6, atol=1e-8)
    table = np.array(list(states.values()))
    # Phase errors of both ends nearly cancel; what is left is the error of one period, magnified by the flow.
    assert table[:, 3] == pytest.approx(table[:, 1], rel=accuracy, abs=accuracy * table.max())
    assert np.abs(table[:, 2] - table[:, 1]).max() > 0.1 * np.abs(table).max()
    assert_totals_are_kept(model, states)


def test_the_repressilator_is_one_wave_on_three_genes():
    """The ring has a symmetry of order three: a third of a period later each protein is where another one was."""
    period = 125.35416
    times = np.concatenate([[0.0], 1500.0 + period / 3.0 * np.arange(4)])
    states = solve(library.repressilator(), times, rtol=1e-6, atol=1e-8)
    table = np.array([states[name][1:] for name in "XYZ"])
    # Phase errors of a thirtieth of the tolerance a minute over 1500 min, times the steepest slope of the wave.
    assert table[:, 1] == pytest.approx(np.roll(table[:, 0], -1), rel=1e-3)
    assert table[:, 2] == pytest.approx(np.roll(table[:, 0], -2), rel=1e-3)
    assert table[:, 3] == pytest.approx(table[:, 0], rel=1e-3)
    assert table[:, 0].max() > 5.0 * table[:, 0].min()


def test_nuclear_nfkb_spikes_and_returns():
    """One period from a point on the cycle (found as above); the spike stays below one, the total."""
    start = {"nuclear": 0.1, "messenger": 0.011744750233906316, "inhibitor": 0.0018873009341950045}
    times = np.concatenate([np.linspace(0.0, 2.0, 81), [2.08110784]])
    states = solve(library.krishna_nfkb(), times, initial=start, rtol=1e-6, atol=1e-8)
    for name, value in start.items():
        # The export constant of 954 magnifies phase errors of 1e-6 to this.
        assert states[name][-1] == pytest.approx(value, rel=1e-2)
    nuclear = states["nuclear"]
    assert 0.5 < nuclear.max() < 1.0
    assert np.median(nuclear) < 0.1 * nuclear.max()  # spiky: low most of the time


def test_prey_and_predators_keep_their_first_integral():
    from mechanistic.simulate import simulate
    from mechanistic.solve import Tolerance

    model = library.lotka_volterra()
    solution = simulate(model, np.linspace(0.0, 50.0, 101), tolerance=Tolerance(rtol=1e-9, atol=1e-12))
    integral = solution.observe()[:, 0].numpy()
    assert integral == pytest.approx(integral[0], rel=1e-6)


def test_robertson_against_its_published_solution():
    """Hairer & Wanner, Test Set for IVP Solvers: the end value at 1e11; earlier values by Radau at 1e-11 (scipy)."""
    model = library.robertson()
    states = solve(model, [0.0, 0.4, 40.0, 1e11], rtol=1e-8, atol=1e-14)
    assert states["A"][1:] == pytest.approx([0.985172114, 0.715827069, 0.2083340149701255e-7], rel=1e-6)
    assert states["B"][1:] == pytest.approx([3.38639538e-5, 9.18553476e-6, 0.8333360770334713e-13], rel=1e-6)
    assert_totals_are_kept(model, states)


def test_hires_against_its_published_solution():
    """Test Set for IVP Solvers, problem HIRES, at t = 321.8122."""
    published = [
        0.7371312573325668e-3,
        0.1442485726316185e-3,
        0.5888729740967575e-4,
        0.1175651343283149e-2,
        0.2386356198831331e-2,
        0.6238968252742796e-2,
        0.2849998395185769e-2,
        0.2850001604814231e-2,
    ]
    model = library.hires()
    states = solve(model, [0.0, 321.8122], rtol=1e-7, atol=1e-9)
    assert [course[-1] for course in states.values()] == pytest.approx(published, rel=1e-5)
    assert_totals_are_kept(model, states)

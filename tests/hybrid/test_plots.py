"""What the pictures of fits show, read back from the drawn artists."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex

import mechanistic as mech
import neural
from hybrid import (
    Additive,
    Cohort,
    Combined,
    FitOptions,
    FluxResidual,
    HybridField,
    LogNormal,
    ParameterSpace,
    Population,
    Simulator,
    fit,
    plots,
)
from mechanistic.plots import COLOURS

FLUX = "residual central ->"


@pytest.fixture(autouse=True)
def _without_a_screen():
    pyplot.switch_backend("agg")


def table(subjects=5, seed=1):
    """Two boluses, at 0 and 12 h; concentration and amount in turn; one concentration is 0."""
    noise = np.random.default_rng(seed)
    rows = []
    for subject in range(subjects):
        clearance, volume = 2.8 * np.exp(noise.normal(0, 0.3)), 32.0 * np.exp(noise.normal(0, 0.2))
        rows += [{"id": f"P{subject}", "time": t, "amt": 320.0, "evid": 1, "dv": ".", "dvid": "cp"} for t in (0, 12)]
        for time in (1.0, 6.0, 14.0, 24.0):
            amount = sum(320.0 * np.exp(-clearance / volume * (time - t)) for t in (0, 12) if time >= t)
            values = {"cp": amount / volume + noise.normal(0, 0.3), "amount": amount + noise.normal(0, 5)}
            rows += [
                {"id": f"P{subject}", "time": time, "amt": 0, "evid": 0, "dv": value, "dvid": channel}
                for channel, value in values.items()
            ]
    rows[2]["dv"] = 0.0
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    order = np.lexsort((columns["time"], columns["id"]))
    return {name: [cells[i] for i in order] for name, cells in columns.items()}


@pytest.fixture(scope="module")
def cohort():
    return Cohort.from_table(table(), doses_to="central", channels=("cp", "amount"))


@pytest.fixture(scope="module")
def mechanism(cohort):
    """A fit that was hardly begun: pictures do not need a good one."""
    field = mech.RateField(mech.library.one_compartment_iv())
    return _begun(field, cohort)


@pytest.fixture(scope="module")
def hybrid(cohort):
    model = mech.library.one_compartment_iv()
    residual = FluxResidual(model, neural.mlp((4,)), extra=["central ->"])
    return _begun(HybridField(mech.RateField(model), residual), cohort)


def _begun(field, cohort):
    space = ParameterSpace(field, CL=LogNormal(1.0, 0.5), V=LogNormal(3.5, 0.5))
    noise = {"cp": Combined(0.3, 0.05), "amount": Additive(6.0)}
    simulator = Simulator(field, Population(space, {"CL": 0.3, "V": 0.2}), noise, {"cp": "cp", "amount": "central"})
    options = FitOptions(adam_steps=1, rounds=1, round_steps=1)
    return fit(simulator, cohort, held_out=cohort.select([0]), options=options, progress=False)


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def points(axes):
    """Coordinates of the circles."""
    (line,) = [line for line in axes.lines if line.get_marker() == "o"]
    return np.array(line.get_data())


def test_predictions_stand_under_their_observations(mechanism, cohort):
    figure = plots.observed_against_predicted(mechanism)
    assert len(figure.axes) == 8
    seen = cohort.observed & (cohort.channel == 1)
    population, individual = figure.axes[4:6]
    # The same predictions out of batches of other sizes: equal up to rounding.
    close = {"rtol": 1e-12, "atol": 0}
    assert np.allclose(points(population), [mechanism.population_prediction(cohort)[seen], cohort.dv[seen]], **close)
    assert np.allclose(points(individual), [mechanism.individual_prediction(cohort)[seen], cohort.dv[seen]], **close)
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if line.get_marker() != "o"]
        assert np.array_equal(*line.get_data())
        assert axes.get_xlim() == axes.get_ylim()


def test_logarithmic_axes_say_how_many_values_they_leave_out(mechanism, cohort):
    axes = plots.observed_against_predicted(mechanism).axes[2]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    seen = cohort.observed & (cohort.channel == 0)
    assert points(axes).shape[1] == int(seen.sum()) - 1
    assert axes.get_title(loc="left") == "cp (1 not positive)"


def test_channels_without_positive_values_have_no_logarithmic_axes(mechanism, cohort):
    negative = replace(cohort, dv=-cohort.dv.abs())
    assert len(plots.observed_against_predicted(mechanism, negative).axes) == 4


def test_individual_curves_pass_through_the_individual_predictions(mechanism, cohort):
    figure = plots.individual_fits(mechanism)
    predicted = mechanism.individual_prediction(cohort)
    for subject in range(len(cohort)):
        axes = visible(figure)[_place(subject)]
        (curve,) = [line for line in axes.lines if to_hex(line.get_color()) == COLOURS[0].lower()]
        mine = cohort.channel[subject] == 0
        # Piecewise linear between 200 points an eighth of an hour apart, of a decline of 9 % an hour: h² k² / 8 = 2e-5;
        # the two simulations themselves agree to their tolerance of 1e-5.
        drawn = np.interp(cohort.times[subject, mine], *curve.get_data())
        assert np.allclose(drawn, predicted[subject, mine], rtol=1e-4)
        assert np.array_equal(points(axes), [cohort.times[subject, mine], cohort.dv[subject, mine]])


def _place(subject):
    """Index of the subject's first panel among the visible ones: four subjects a row, two rows of panels each."""
    row, column = divmod(subject, 4)
    return row * 8 + column


def test_curves_jump_at_a_bolus_and_doses_are_marked(mechanism, cohort):
    axes = visible(plots.individual_fits(mechanism, cohort.select([0])))[1]
    assert axes.get_ylabel() == "amount (mg)"
    (curve,) = [line for line in axes.lines if to_hex(line.get_color()) == COLOURS[0].lower()]
    times, amounts = map(np.asarray, curve.get_data())
    for dose in (0.0, 12.0):
        before, *_, after = amounts[times == dose]
        # The two values at the time of the dose differ by the dose itself, to the rounding of a sum.
        assert after - before == pytest.approx(320.0, rel=1e-12)
    assert [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "^"] == [0.0, 12.0]


def test_an_infusion_is_a_bar(mechanism):
    cells = table(1) | {"dur": [2.0 if evid else 0.0 for evid in table(1)["evid"]]}
    infused = Cohort.from_table(cells, doses_to="central", channels=("cp", "amount"))
    axes = visible(plots.individual_fits(mechanism, infused))[0]
    bars = [line for line in axes.lines if line.get_linewidth() == 4]
    assert [list(bar.get_xdata()) for bar in bars] == [[0.0, 2.0], [12.0, 14.0]]


def test_a_picture_says_how_many_subjects_it_leaves_out(mechanism):
    figure = plots.individual_fits(mechanism, limit=2)
    assert [axes.get_title(loc="left") for axes in visible(figure)] == ["P0", "P1", "", ""]
    assert figure.get_suptitle() == "the first 2 of 5 subjects"
    with pytest.raises(ValueError, match="at least one subject"):
        plots.individual_fits(mechanism, limit=0)


def test_the_learned_flux_is_that_of_the_field(hybrid, cohort):
    weights = torch.Generator().manual_seed(1)
    changed = hybrid.simulator.with_field(hybrid.simulator.field)
    with torch.no_grad():
        for weight in changed.field.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=weights, dtype=weight.dtype))
    figure = plots.residual_flux(replace(hybrid, simulator=changed), cohort, truth=lambda central: 0.01 * central)
    over_time, over_amount = visible(figure)
    assert over_time.get_ylabel() == "flux (mg/h)"
    assert over_amount.get_xlabel() == "central (mg)"
    learned, true = (
        [line for line in over_amount.lines if to_hex(line.get_color()) == colour.lower() and line.get_zorder() == 2]
        for colour in (COLOURS[0], COLOURS[6])
    )
    assert len(learned) == len(true) == len(cohort)
    for line, truth in zip(learned, true, strict=True):
        amount, flux = map(np.asarray, line.get_data())
        states = torch.from_numpy(amount)[:, None]
        expected = changed.field.residual(torch.zeros(len(states)), states, changed.field.nominal()[None])[:, 0]
        assert np.ptp(flux) > 0
        # The network runs on a batch of another shape: equal up to the order of a few sums.
        assert np.allclose(flux, expected.detach(), rtol=1e-10, atol=1e-14, equal_nan=True)
        assert np.array_equal(truth.get_ydata(), 0.01 * amount, equal_nan=True)


def test_a_true_curve_stands_where_the_state_is_the_axis(hybrid):
    curve = (np.array([0.0, 300.0]), np.array([0.0, 3.0]))
    over_time, over_amount = visible(plots.residual_flux(hybrid, truth={FLUX: curve}))
    black = [line for line in over_amount.lines if to_hex(line.get_color()) == COLOURS[6]]
    assert np.array_equal(black[0].get_data(), curve)
    assert not [line for line in over_time.lines if to_hex(line.get_color()) == COLOURS[6]]


def test_learned_fluxes_that_are_not_there_are_refused(mechanism, hybrid):
    with pytest.raises(TypeError, match="no learned flux"):
        plots.residual_flux(mechanism)
    with pytest.raises(ValueError, match="`residual centrel ->` \\(did you mean `residual central ->`"):
        plots.residual_flux(hybrid, truth={"residual centrel ->": np.abs})


def test_observations_stand_on_the_bands(mechanism, cohort):
    patients = mechanism.population.sample(20)
    schedule = mech.Schedule.repeat("central", 320.0, every=12.0, count=2)
    virtual = mechanism.simulator.simulate(patients, schedule, np.linspace(0, 24, 25), seed=1)
    seen = cohort.observed & (cohort.channel == 0)
    for variable in ("cp", "cp_measured"):
        (axes,) = plots.population_bands(virtual, variable, observed=cohort).axes
        assert np.array_equal(points(axes), [cohort.times[seen], cohort.dv[seen]])
    (axes,) = plots.population_bands(virtual, "central", (0.1, 0.5, 0.9), observed=([1.0], [250.0])).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["10–90 %", "median", "observed"]
    with pytest.raises(ValueError, match="no channel of the cohort is `central`"):
        plots.population_bands(virtual, "central", observed=cohort)


def test_the_history_shows_every_update_and_the_held_out_score(mechanism):
    objective, score = plots.history(mechanism).axes
    assert np.array_equal(objective.lines[0].get_ydata(), [row.objective for row in mechanism.history])
    assert np.array_equal(score.lines[0].get_ydata(), [row.held_out for row in mechanism.history])
    unscored = tuple(row._replace(held_out=np.nan) for row in mechanism.history)
    assert len(plots.history(replace(mechanism, history=unscored)).axes) == 1
    with pytest.raises(ValueError, match="interrupted before its first update"):
        plots.history(replace(mechanism, history=()))


def test_residuals_are_those_of_the_fit(mechanism):
    figure = plots.residuals(mechanism)
    expected = mechanism.data["posterior_predictive"]["residual"].values[0, 0]
    of_channel = mechanism.data["constant_data"]["channel"].values
    for row, name in enumerate(("cp", "amount")):
        mine = expected[(of_channel == name) & ~np.isnan(expected)]
        over_time, over_prediction, quantiles = figure.axes[3 * row : 3 * row + 3]
        assert np.array_equal(points(over_time)[1], mine)
        assert np.array_equal(points(over_prediction)[1], mine)
        normal, ordered = points(quantiles)
        assert np.array_equal(ordered, np.sort(mine))
        assert np.allclose(normal, -normal[::-1])


def test_figures_are_not_kept_alive(mechanism, hybrid):
    plots.observed_against_predicted(mechanism)
    plots.individual_fits(mechanism, limit=1)
    plots.residual_flux(hybrid)
    plots.history(mechanism)
    plots.residuals(mechanism)
    assert pyplot.get_fignums() == []

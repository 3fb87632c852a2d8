"""What a fit says of itself: tables, labelled arrays, comparison, learned fluxes."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from hybrid.coupling import FluxResidual
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.fit import fit
from hybrid.noise import Additive, Combined
from hybrid.parameters import LogNormal, ParameterSpace
from hybrid.population import Population
from hybrid.results import Fit, FitOptions, compare, residual_flux, rmse
from hybrid.simulator import Simulator
from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.solve import Tsit5
from neural.networks import mlp
from tests.hybrid.problems import ONE, cohort, observed, randomise

FEW = FitOptions(adam_steps=2, refresh=2, rounds=1, round_steps=2)


def simulator(learned: bool = True) -> Simulator:
    known = RateField(ONE)
    field = HybridField(known, FluxResidual(ONE, mlp((4,)), extra=["central ->"])) if learned else known
    space = ParameterSpace(field, CL=LogNormal.about(4.0, 0.5), V=LogNormal.about(30.0, 0.5))
    return Simulator(field, Population(space, {"CL": 0.3, "V": 0.2}), Combined(0.1, 0.1), "cp", solver=Tsit5())


@pytest.fixture(scope="module")
def subjects() -> Cohort:
    return observed(simulator(), cohort(5, (1.0, 4.0, 9.0)))


@pytest.fixture(scope="module")
def fits(subjects: Cohort) -> dict[str, Fit]:
    return {
        name: fit(simulator(learned), subjects, held_out=0.4, options=FEW, progress=False)
        for name, learned in (("hybrid", True), ("mechanism", False))
    }


def test_the_tree_has_the_groups_of_inference_data(fits):
    data = fits["hybrid"].data
    own = {"observed_data", "constant_data", "posterior_predictive", "log_likelihood"}
    assert set(data.children) == {"posterior", "sample_stats", *own, *(f"{name}_held_out" for name in own)}
    posterior = data["posterior"]
    assert posterior["CL"].dims == ("chain", "draw")
    assert posterior["eta"].dims == ("chain", "draw", "subject", "effect")
    assert list(posterior["effect"].values) == ["CL", "V"]
    assert list(posterior["noise"].values) == ["dv.additive", "dv.proportional"]
    assert posterior["omega"].squeeze().values == pytest.approx(fits["hybrid"].unknowns.values.log_sd.exp().tolist())
    assert data["posterior_predictive"]["dv"].dims == ("chain", "draw", "subject", "sample")
    assert data["observed_data"]["dv"].dims == ("subject", "sample")
    assert list(data["observed_data_held_out"]["subject"].values) == list(fits["hybrid"].held_out.ids)
    assert list(data["sample_stats"]["phase"].values) == [row.phase for row in fits["hybrid"].history]
    assert data.attrs["finished"] == 1


def test_the_numbers_of_the_tree_are_those_of_the_methods(fits):
    found = fits["hybrid"]
    data, train = found.data, found.cohort
    predictive = data["posterior_predictive"]
    # The search predicts a subject in a larger batch, where sums round differently.
    assert np.allclose(predictive["dv"][0, 0], found.individual_prediction(train), rtol=1e-10)
    assert np.array_equal(predictive["population"][0, 0], found.population_prediction(train))
    assert np.array_equal(data["log_likelihood"]["subject_marginal"], found.score(train))
    modes = found.modes(train)
    pointwise = data["log_likelihood"]["dv"].sum(("chain", "draw", "sample"))
    # The same sum in another order.
    assert np.allclose(pointwise, modes.terms.likelihood, rtol=1e-13)


def test_the_tree_survives_netcdf(fits, tmp_path):
    data = fits["hybrid"].data
    data.to_netcdf(tmp_path / "fit.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "fit.nc", engine="h5netcdf") as back:
        assert set(back.children) == set(data.children)
        for name, group in data.children.items():
            xr.testing.assert_equal(back[name].to_dataset().load(), group.to_dataset())
        assert back.attrs == data.attrs


def test_what_was_not_observed_is_missing_in_the_tree(subjects):
    gaps = replace(subjects, observed=subjects.observed & (torch.arange(3) > 0))
    found = fit(simulator(), gaps, held_out=0, options=FitOptions(adam_steps=0, rounds=0), progress=False)
    assert bool(found.data["observed_data"]["dv"][:, 0].isnull().all())
    assert not bool(found.data["observed_data"]["dv"][:, 1:].isnull().any())
    assert bool(found.data["posterior_predictive"]["dv"][..., 0].isnull().all())


def test_fits_are_compared_on_subjects_that_they_have_not_seen(fits):
    table = compare(fits)
    assert list(table.index) == ["hybrid", "mechanism"]
    # CL and V, two SDs of effects and two of the noise; weights of 1 → 4 → 1.
    assert list(table["unknowns"]) == [6 + 13, 6]
    for name, found in fits.items():
        row = table.loc[name]
        left = found.held_out
        assert row["−2LL"] == found.row.minus_two_log_likelihood
        assert row["log p(y) a subject"] == pytest.approx(float(found.score(left).mean()), rel=1e-12)
        by_hand = math.sqrt(float(((found.population_prediction(left) - left.dv) ** 2).mean()))
        assert row["RMSE population"] == pytest.approx(by_hand, rel=1e-12)
    other = compare(fits, fits["hybrid"].cohort)
    assert other.loc["hybrid", "RMSE individual"] == pytest.approx(
        rmse(fits["hybrid"].individual_prediction(fits["hybrid"].cohort), fits["hybrid"].cohort)
    )


def test_learned_fluxes_are_those_of_the_field_on_the_fitted_trajectories(fits):
    start = simulator()
    randomise(start.field, 0.5)
    found = fit(start, fits["hybrid"].cohort, held_out=0, options=FEW, progress=False)
    times = [0.5, 2.0, 8.0]
    data = residual_flux(found, found.cohort, times)
    assert data["flux"].dims == ("subject", "time", "reaction")
    assert list(data["reaction"].values) == ["residual central ->"]
    field = found.simulator.field
    p = found.individual_parameters(found.cohort)
    states = torch.from_numpy(data["central"].values)[..., None]
    expected = field.residual(torch.tensor(times).expand(len(p), -1), states, p[:, None].expand(-1, 3, -1))
    assert np.allclose(data["flux"], expected.detach(), rtol=1e-13)
    assert float(np.abs(data["flux"]).max()) > 0
    with pytest.raises(TypeError, match="no learned flux"):
        residual_flux(fits["mechanism"], found.cohort, times)
    with pytest.raises(SolveError, match="come before `start`"):
        residual_flux(found, found.cohort, [-0.5, 2.0])


def test_a_fit_shows_its_numbers_as_text_and_html(fits):
    found = fits["hybrid"]
    table = found.table()
    assert list(table.index) == ["CL", "V", "dv.additive", "dv.proportional"]
    assert table.loc["dv.additive", "value"] == pytest.approx(found.noise["dv.additive"])
    text = repr(found)
    assert "finished" in text
    assert f"{found.row.minus_two_log_likelihood:.3f}" in text
    assert "held-out" in text
    html = found._repr_html_()
    assert html.startswith("<p>Fit (finished")
    assert html.count("<table") == 1
    assert "held-out" not in repr(fit(simulator(), found.cohort, held_out=0, options=FEW, progress=False))


def test_the_fitted_population_makes_virtual_subjects(fits):
    population = fits["hybrid"].population
    patients = population.sample(4, seed=1)
    assert patients.parameters.shape == (4, len(fits["hybrid"].simulator.field.parameter_names))
    pd.testing.assert_frame_equal(population.table(), population.population.table(population.values))
    assert "CL" in repr(population)
    assert "<table" in population._repr_html_()
    # At no random effect, the typical subject.
    space = population.population.space
    typical = space.full(population.values.typical)
    u = population.population.individual(population.values, torch.zeros(1, 2, dtype=torch.float64))
    assert torch.allclose(space.full(u)[0], typical, rtol=1e-14)


def test_root_mean_square_counts_what_was_observed():
    subjects = cohort(1, (1.0, 2.0, 3.0))
    f = torch.tensor([[3.0, 100.0, 4.0]], dtype=torch.float64)
    seen = torch.tensor([[True, False, True]])
    assert rmse(f, replace(subjects, observed=seen)) == pytest.approx(math.sqrt(12.5))


def test_additive_noise_has_residuals_of_order_one(subjects):
    made = simulator(False)
    quiet = Simulator(made.field, made.population, Additive(0.2), "cp", solver=Tsit5())
    found = fit(quiet, subjects, held_out=0, options=FitOptions(adam_steps=0, rounds=0), progress=False)
    residual = found.data["posterior_predictive"]["residual"][0, 0]
    by_hand = (found.data["observed_data"]["dv"] - found.data["posterior_predictive"]["dv"][0, 0]) / 0.2
    assert np.allclose(residual, by_hand, rtol=1e-12)

"""From a population and a cohort to predictions, and what does not fit together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.coupling import FluxResidual
from hybrid.covariates import Power
from hybrid.field import HybridField
from hybrid.noise import Additive, LogNormalNoise, NoiseError, Proportional
from hybrid.parameters import LogNormal, ParameterSpace
from hybrid.population import Population
from hybrid.simulator import Simulator, SimulatorError
from mechanistic.compile import RateField
from mechanistic.schedule import Schedule
from mechanistic.solve import Tolerance
from neural.networks import mlp
from tests.hybrid.problems import ONE, STAT5, cohort, drawn, randomise

SPACE = ParameterSpace(RateField(ONE), CL=LogNormal.about(5.0, 0.3), V=LogNormal.about(30.0, 0.3))
POPULATION = Population(SPACE, {"CL": 0.3}, {"CL": Power("wt", 70.0, 0.75)})
TIGHT = Tolerance(1e-9, 1e-11)


def simulator() -> Simulator:
    return Simulator(RateField(ONE), POPULATION, Additive(0.1), "cp", tolerance=TIGHT)


def test_predictions_follow_the_closed_form_with_covariates_and_effects():
    subjects = cohort(3, (1.0, 4.0, 10.0), wt=(50.0, 70.0, 90.0))
    made = simulator()
    eta = drawn((3, 1), 1)
    parameters = made.parameters(POPULATION.start(), eta, subjects)
    cl = 5.0 * (0.3 * eta[:, 0]).exp() * (subjects.covariates[:, 0] / 70.0) ** 0.75
    assert torch.allclose(parameters, torch.stack([cl, torch.full_like(cl, 30.0)], -1), rtol=1e-14)
    expected = 100.0 / 30.0 * (-cl[:, None] / 30.0 * subjects.times).exp()
    # The solver's tolerance, accumulated over some ten steps.
    assert torch.allclose(made.predict(parameters, subjects), expected, rtol=1e-7)


def test_each_record_is_compared_with_what_its_channel_measures():
    made = Simulator(RateField(ONE), SPACE, {"plasma": Additive(0.1), "amount": Additive(1.0)},
                     {"plasma": "cp", "amount": "central"}, tolerance=TIGHT)  # fmt: skip
    # The cohort's channels may stand in another order than the simulator's, or be fewer.
    subjects = cohort(2, (1.0, 4.0), channels=("amount", "plasma"))
    subjects = replace(subjects, channel=torch.tensor([[0, 1], [1, 0]]))
    f = made.predict(SPACE.nominal.expand(2, -1), subjects)
    amount = 100.0 * (-SPACE.nominal[0] / SPACE.nominal[1] * subjects.times).exp()
    expected = torch.where(subjects.channel == 0, amount, amount / SPACE.nominal[1])
    assert torch.allclose(f, expected, rtol=1e-7)
    assert made.noise_of(subjects).channels == ("amount", "plasma")


def test_covariates_of_a_network_are_put_into_their_columns():
    field = HybridField(
        RateField(ONE), FluxResidual(ONE, mlp((3,)), extra=["central ->"], inputs=["wt"]), covariates={"wt": 70.0}
    )
    randomise(field, 1.0)
    space = ParameterSpace(field, CL=LogNormal.about(5.0, 0.3))
    made = Simulator(field, space, Additive(0.1), "cp")
    subjects = cohort(2, (1.0, 4.0), wt=(50.0, 90.0))
    parameters = made.parameters(made.population.start(), torch.zeros(2, 0, dtype=torch.float64), subjects)
    assert parameters[:, -1].tolist() == [50.0, 90.0]
    f = made.predict(parameters, subjects)
    assert bool((f[0] != f[1]).all())
    with pytest.raises(SimulatorError, match="the network needs the covariate `wt`"):
        made.check(cohort(2, (1.0, 4.0)))


def test_virtual_patients_are_simulated_with_labels_and_measured_with_a_seed():
    made = simulator()
    patients = POPULATION.sample(3, {"wt": [60.0, 80.0]}, seed=1)
    times = [0.0, 1.0, 5.0]
    data = made.simulate(patients, Schedule.bolus("central", 100.0), times, seed=4)
    assert data["cp"].dims == ("subject", "time")
    assert list(data["subject"].values) == ["1", "2", "3"]
    cl, v = patients.parameters.unbind(-1)
    expected = 100.0 / v[:, None] * (-(cl / v)[:, None] * torch.tensor(times)).exp()
    assert np.allclose(data["cp"], expected, rtol=1e-7)
    again = made.simulate(patients, Schedule.bolus("central", 100.0), times, seed=4)
    assert np.array_equal(data["dv_measured"], again["dv_measured"])
    assert not np.array_equal(data["dv_measured"], data["cp"])
    assert "dv_measured" not in made.simulate(patients, None, times)


def test_one_name_or_none_is_enough_where_there_is_one_channel():
    assert Simulator(RateField(ONE), SPACE, Additive(1.0)).measures == {"dv": "cp"}
    assert Simulator(RateField(ONE), SPACE, Additive(1.0), "central").measures == {"dv": "central"}
    assert Simulator(RateField(ONE), SPACE, {"cp": Additive(1.0)}).measures == {"cp": "cp"}
    assert "dv measures cp" in repr(Simulator(RateField(ONE), SPACE, Additive(1.0)))


def test_parts_that_do_not_fit_are_refused_with_every_problem():
    with pytest.raises(SimulatorError) as caught:
        Simulator(RateField(STAT5), SPACE, Additive(1.0), {"a": "pSTAT5A_re", "b": "pApA"})
    assert len(caught.value.problems) == 2
    assert "did you mean `pSTAT5A_rel`" in str(caught.value)
    assert "the population was made for another system" in str(caught.value)
    with pytest.raises(SimulatorError, match="which is unknown"):
        Simulator(RateField(STAT5), ParameterSpace(RateField(STAT5)), Additive(1.0))
    with pytest.raises(NoiseError, match="`b` has no noise model"):
        Simulator(RateField(ONE), SPACE, {"a": Additive(1.0)}, {"a": "cp", "b": "central"})


def test_cohorts_that_do_not_fit_are_refused_with_every_problem():
    made = simulator()
    made.check(cohort(2, (1.0,), wt=(50.0, 60.0)))
    with pytest.raises(SimulatorError) as caught:
        made.check(cohort(2, (1.0,), target="centrl", channels=("cp",)))
    text = str(caught.value)
    assert "nothing measures the channel `cp`" in text
    assert "doses go to `centrl`, which is not a state (did you mean `central`?)" in text
    assert "`wt` is not among the covariates" in text
    logarithmic = Simulator(RateField(ONE), SPACE, LogNormalNoise(0.1), "cp")
    with pytest.raises(NoiseError, match="`dv` is 0, which LogNormalNoise cannot produce"):
        logarithmic.check(cohort(1, (1.0,)))


def test_another_field_takes_the_place_of_the_first():
    made = Simulator(RateField(ONE), SPACE, Proportional(0.2), "cp", tolerance=TIGHT)
    other = RateField(ONE)
    changed = made.with_field(other)
    assert changed.field is other
    assert (changed.population, changed.solver, changed.tolerance) == (made.population, made.solver, TIGHT)

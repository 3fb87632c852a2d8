"""Populations: random effects, covariates and virtual patients, against closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from hybrid.covariates import Category, Linear, Power
from hybrid.data import Cohort
from hybrid.parameters import LogitNormal, LogNormal, Normal, ParameterError, ParameterSpace
from hybrid.population import Population, PopulationValues
from mechanistic.model import KineticModel, Parameter, State
from tests.shared import shared_file

MODEL = KineticModel("m", (State("A"),), tuple(Parameter(n, 1.0) for n in ("ka", "CL", "V", "F", "E0", "kout")))
SPACE = ParameterSpace(
    MODEL,
    ka=LogNormal(0.0, 0.5),
    CL=LogNormal(-2.0, 0.5),
    V=LogNormal(2.1, 0.3),
    F=LogitNormal(0.0, 1.0),
    E0=Normal(100.0, 10.0),
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def population(correlated: bool = False) -> Population:
    return Population(
        SPACE,
        between={"ka": 0.5, "CL": 0.3, "F": 0.2},
        covariates={
            "CL": [Power("wt", 70.0, 0.75), Category("sex", ("male", "female"), (0.1,))],
            "V": Power("wt", 70.0, 1.0, estimated=True),
            "E0": Linear("age", 40.0, slope=0.5),
        },
        correlated=correlated,
    )


def test_names_start_and_the_way_to_a_vector_and_back() -> None:
    made = population(correlated=True)
    values = made.start()
    assert made.effect_names == ("ka", "CL", "F")
    assert made.covariate_names == ("wt", "sex", "age")
    assert made.coefficient_names == ("CL.sex.female", "V.wt.exponent", "E0.age.slope")
    assert values.coefficients.tolist() == [0.1, 1.0, 0.5]
    assert values.log_sd.exp().tolist() == pytest.approx([0.5, 0.3, 0.2])
    vector = torch.arange(len(values.flatten()), dtype=torch.float64)
    assert torch.equal(made.unflatten(vector).flatten(), vector)
    assert made.unflatten(vector).correlation.shape == (3,)


def test_covariates_act_as_written() -> None:
    made = population()
    values = made.start()
    covariates = torch.tensor([[70.0, 0.0, 40.0], [35.0, 1.0, 60.0]], dtype=torch.float64)
    natural = SPACE.to_natural(made.individual(values, torch.zeros(2, 3, dtype=torch.float64), covariates))
    typical = SPACE.to_natural(values.typical)
    # The reference subject is the typical one; the other follows the power laws, the factor and the line.
    torch.testing.assert_close(natural[0], typical, rtol=1e-14, atol=0)
    factors = (natural[1] / typical).tolist()
    assert factors[1] == pytest.approx(0.5**0.75 * math.exp(0.1), rel=1e-13)
    assert factors[2] == pytest.approx(0.5, rel=1e-13)
    assert natural[1, 4].item() == pytest.approx(110.0)
    assert (factors[0], factors[3]) == pytest.approx((1.0, 1.0))


def test_random_effects_reach_their_own_parameters() -> None:
    made = population()
    shift = made.individual(made.start(), tensor(1.0, 2.0, -1.0), tensor(70.0, 0.0, 40.0)) - made.start().typical
    assert shift.tolist() == pytest.approx([0.5, 0.6, 0.0, -0.2, 0.0])


@given(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3))
def test_any_numbers_give_a_correlation_matrix(partial: list[float]) -> None:
    made = population(correlated=True)
    start = made.start()
    values = PopulationValues(start.typical, start.log_sd, start.coefficients, tensor(*partial))
    covariance = made.covariance(values)
    torch.testing.assert_close(covariance.diagonal(), start.log_sd.exp().square(), rtol=1e-12, atol=0)
    assert bool(torch.linalg.eigvalsh(covariance).min() > 0)
    matrix = made.correlations(values)
    # The first partial correlation is the correlation itself.
    assert matrix.loc["ka", "CL"] == pytest.approx(math.tanh(partial[0]), abs=1e-14)
    assert np.abs(matrix.to_numpy()).max() <= 1 + 1e-12


def test_without_correlation_the_covariance_is_diagonal() -> None:
    made = population()
    assert torch.equal(made.covariance(made.start()), torch.diag(made.start().log_sd.exp().square()))
    assert made.correlations(made.start()).to_numpy().tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("correlated", [False, True])
def test_gradients_are_those_of_finite_differences(correlated: bool) -> None:
    made = population(correlated)
    generator = torch.Generator().manual_seed(0)
    vector = made.start().flatten() + 0.1 * torch.randn(len(made.start().flatten()), generator=generator).double()
    eta = torch.randn(2, 3, generator=generator).double()
    covariates = torch.tensor([[60.0, 0.0, 30.0], [80.0, 1.0, 50.0]], dtype=torch.float64)

    def individual(vector: Tensor, eta: Tensor, covariates: Tensor) -> Tensor:
        return made.individual(made.unflatten(vector), eta, covariates)

    assert gradcheck(individual, [value.requires_grad_() for value in (vector, eta, covariates)], atol=1e-7)


def test_the_density_of_standardised_effects_is_normal() -> None:
    eta = tensor(0.5, -1.0, 2.0).expand(4, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(eta).sum(dim=-1)
    torch.testing.assert_close(population().log_prob_eta(population().start(), eta), expected)


def test_virtual_patients_have_the_population_s_moments() -> None:
    made = Population(SPACE, {"CL": 0.4, "V": 0.3}, correlated=True)
    start = made.start()
    values = PopulationValues(start.typical, start.log_sd, start.coefficients, tensor(0.8))
    n = 20_000
    patients = made.sample(n, values=values)
    logs = patients.parameters[:, 1:3].log()
    # Standard errors at this n: 0.7 % of an SD, and less than 0.007 of a correlation; four of them are allowed.
    assert logs.std(dim=0).tolist() == pytest.approx([0.4, 0.3], rel=0.02)
    assert logs.mean(dim=0).tolist() == pytest.approx([-2.0, 2.1], abs=4 * 0.4 / math.sqrt(n))
    assert float(torch.corrcoef(logs.T)[0, 1]) == pytest.approx(math.tanh(0.8), abs=0.02)
    cv = patients.parameters[:, 1].std() / patients.parameters[:, 1].mean()
    assert made.table(values).loc["CL", "CV %"] == pytest.approx(100 * float(cv), rel=0.05)
    assert made.table(values).loc["CL", "CV %"] == pytest.approx(100 * math.sqrt(math.exp(0.16) - 1))
    # What is not estimated, or has no random effect, is the same for all.
    assert patients.parameters[:, [0, 5]].std(dim=0).tolist() == [0.0, 0.0]


def test_sampling_is_reproducible_and_the_first_patients_stay() -> None:
    made = population()
    table = {"wt": [50.0, 60.0, 90.0], "sex": ["male", "female", "male"], "age": [20, 30, 70]}
    few, many = made.sample(5, table, seed=3), made.sample(50, table, seed=3)
    assert torch.equal(few.parameters, many.parameters[:5])
    assert torch.equal(few.covariates, many.covariates[:5])
    assert not torch.equal(few.parameters, made.sample(5, table, seed=4).parameters)


def test_covariates_are_resampled_by_rows() -> None:
    table = pd.DataFrame({"ID": [1, 2, 3], "wt": [50.0, 60.0, 90.0], "sex": ["f", "m", "m"], "age": [20.0, 30.0, 70.0]})
    made = Population(SPACE, ["ka"], {"CL": Power("wt", 70.0, 0.75)})
    patients = made.sample(200, table)
    assert patients.covariate_names == ("wt", "sex", "age")
    assert {tuple(row) for row in patients.covariates.tolist()} == {(50, 0, 20), (60, 1, 30), (90, 1, 70)}
    # A row turns up 200 / 3 times, give or take 4 standard deviations.
    assert (patients.covariates[:, 0] == 50).sum().item() == pytest.approx(200 / 3, abs=4 * math.sqrt(200 * 2 / 9))
    typical = SPACE.to_natural(made.start().typical)[1]
    expected = typical * (patients.covariates[:, 0] / 70) ** 0.75
    torch.testing.assert_close(patients.parameters[:, 1], expected, rtol=1e-12, atol=0)


def test_categories_are_matched_by_name() -> None:
    rows = {
        "id": [1, 2],
        "time": [0.0, 0.0],
        "dv": [1.0, 2.0],
        "wt": [70, 70],
        "sex": ["male", "female"],
        "age": [40, 40],
    }
    cohort = Cohort.from_table(rows, covariates=["age", "sex", "wt"])
    # The cohort sorts (female, male); the population's reference comes first (male, female).
    assert population().covariate_values(cohort).tolist() == [[70, 0, 40], [70, 1, 40]]


def test_covariates_that_do_not_fit_are_named() -> None:
    rows = {"id": [1], "time": [0.0], "dv": [1.0], "wtt": [70], "sex": [1], "age": ["old"]}
    with pytest.raises(ParameterError) as error:
        population().covariate_values(Cohort.from_table(rows, covariates=["wtt", "sex", "age"]))
    assert len(error.value.problems) == 3
    assert "`wt` is not among the covariates (did you mean `wtt`?)" in str(error.value)
    with pytest.raises(ParameterError, match="not among the covariates"):
        population().sample(3)
    with pytest.raises(ParameterError, match="got none"):
        population().individual(population().start(), tensor(0, 0, 0))
    with pytest.raises(ParameterError) as error:
        population().sample(3, {"id": [1, 1], "wt": [None, 70.0]})
    assert len(error.value.problems) == 2
    made = Population(SPACE, covariates={"CL": Power("wt", 70.0, 0.75)})
    with pytest.raises(ParameterError, match="`wt` is not positive for subject 1, as"):
        made.sample(1, {"wt": [0.0]})
    with pytest.raises(ParameterError, match="no covariate"):
        made.sample(1, {"id": [1]})


def test_every_contradiction_is_listed_at_once() -> None:
    with pytest.raises(ParameterError) as error:
        Population(
            SPACE,
            {"kaa": 0.3, "kout": 0.3, "CL": -1.0},
            {
                "VV": Power("wt", 70.0, 1.0),
                "E0": Power("wt", 70.0, 1.0),
                "V": [Power("wt", -1.0, 1.0), "wt", Category("sex", ("m", "f"))],  # type: ignore[list-item]
                "CL": Category("sex", ("f", "m")),
            },
        )
    assert len(error.value.problems) == 8
    assert "`kaa` has a random effect but is not a parameter (did you mean `ka`?)" in str(error.value)
    assert "`kout` has a random effect but is fixed" in str(error.value)
    with pytest.raises(ParameterError, match="two or more different levels"):
        Category("sex", ("male",))


def test_a_population_without_differences_is_its_typical_subject() -> None:
    made = Population(SPACE)
    patients = made.sample(3)
    assert patients.parameters.shape == (3, 6)
    assert torch.equal(patients.parameters[0], SPACE.full(SPACE.start()))
    assert made.individual(made.start(), torch.zeros(4, 0, dtype=torch.float64)).shape == (4, 5)


def test_tables_and_labelled_arrays() -> None:
    text = repr(population())
    assert "5 parameters, 3 independent random effects" in text
    assert "CL: Power(covariate='wt', reference=70.0, exponent=0.75, estimated=False)" in text
    assert math.isnan(population().table().loc["F", "CV %"])
    assert "<table" in population()._repr_html_()
    patients = Population(SPACE, "ka").sample(10)
    assert "ka: " in repr(patients)
    assert dict(patients.dataset().sizes) == {"subject": 10, "parameter": 6, "effect": 1, "covariate": 0}


def test_warfarin_patients_keep_the_link_of_weight_and_sex() -> None:
    cohort = Cohort.from_table(shared_file("real_data/warfarin.csv"), doses_to="gut", covariates=["wt", "age", "sex"])
    patients = population().sample(500, cohort, seed=1)
    observed = {tuple(row) for row in cohort.covariates.tolist()}
    assert {tuple(row) for row in patients.covariates.tolist()} <= observed
    assert patients.categories["sex"] == ("female", "male")

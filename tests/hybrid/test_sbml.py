"""The mechanism of a hybrid as a file for others: valid by itself, with fitted values, with what drives marked."""

from dataclasses import replace

import libsbml
import numpy as np
import pytest
import roadrunner
import torch
from numpy.testing import assert_allclose

import hybrid
from hybrid.coupling import CouplingError, FluxResidual, ParameterCurve, ParameterDrive
from hybrid.field import HybridField
from hybrid.parameters import Fixed, LogNormal, ParameterSpace
from hybrid.population import Population
from hybrid.results import Fit, FitOptions
from hybrid.simulator import Simulator
from mechanistic.compile import RateField
from mechanistic.sbml import read_driven, read_sbml
from mechanistic.simulate import simulate
from mechanistic.solve import Tolerance
from neural.networks import mlp
from tests.hybrid.problems import TWO, cohort, observed, randomise

NET = mlp((3,))


def driven_field() -> HybridField:
    field = HybridField(
        RateField(TWO),
        FluxResidual(TWO, NET, extra=["central ->"]),
        ParameterDrive(TWO, "CL", NET, inputs=["central", "time", "wt"]),
        ParameterCurve(TWO, "Q", [0.0, 9.0], [5.0, 7.0]),
        covariates={"wt": 70.0},
    )
    randomise(field, 0.3)
    return field


def fitted() -> Fit:
    """A fit that was stopped before its first step, moved away from where it started."""
    field = driven_field()
    space = ParameterSpace(field, V=LogNormal.about(20.0, 0.3), CL=LogNormal.about(3.0, 0.3), V2=Fixed(100 / 3))
    simulator = Simulator(field, Population(space, {"CL": 0.3}), hybrid.Combined(0.1, 0.1), "cp")
    subjects = observed(simulator, cohort(4, (1.0, 4.0), wt=(50.0, 60.0, 80.0, 90.0)))
    result = hybrid.fit(simulator, subjects, options=FitOptions(adam_steps=0, rounds=0), progress=False)
    natural = torch.tensor([1 / 0.07, 2 / 3], dtype=torch.float64)
    values = replace(result.unknowns.values, typical=space.to_unconstrained(natural))
    return replace(result, unknowns=replace(result.unknowns, values=values))


@pytest.mark.parametrize("source", [RateField(TWO), driven_field()], ids=lambda field: type(field).__name__)
def test_a_field_is_written_as_its_mechanism(source, tmp_path):
    text = hybrid.write_sbml(source, tmp_path / "model.xml")
    assert read_sbml(tmp_path / "model.xml") == read_sbml(text) == TWO


def test_what_drives_is_named():
    text = hybrid.write_sbml(driven_field())
    assert read_driven(text) == {"CL": "a network of central, time, wt", "Q": "a measured curve"}
    assert read_driven(hybrid.write_sbml(RateField(TWO))) == {}


def test_a_fit_is_written_with_its_typical_values():
    found = read_sbml(hybrid.write_sbml(fitted()))
    assert_allclose(found.nominal()["V"], 1 / 0.07, rtol=1e-14)
    assert_allclose(found.nominal()["CL"], 2.0 / 3.0, rtol=1e-14)
    assert found.nominal()["V2"] == 100 / 3
    assert found.with_values(**TWO.nominal()) == TWO


def test_the_file_of_a_fit_is_valid_and_others_solve_the_mechanism_from_it():
    text = hybrid.write_sbml(fitted())
    document = libsbml.readSBMLFromString(text)
    document.setConsistencyChecks(libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, False)
    assert document.checkConsistency() == 0
    runner = roadrunner.RoadRunner(text)
    runner.integrator.setValue("relative_tolerance", 1e-10)
    runner["init(central)"] = 100.0
    runner.reset()
    found = np.asarray(runner.simulate(0.0, 24.0, 25, ["central", "peripheral"]))
    times = torch.linspace(0.0, 24.0, 25, dtype=torch.float64)
    fit_values = {"V": 1 / 0.07, "CL": 2 / 3, "V2": 100 / 3}
    expected = simulate(TWO.with_initial(central=100.0), times, fit_values, tolerance=Tolerance(1e-10, 1e-12))
    assert_allclose(found, expected.states.numpy(), rtol=1e-7)


def test_a_field_without_symbols_is_refused():
    class Other(torch.nn.Module):
        pass

    with pytest.raises(CouplingError, match="Other"):
        hybrid.write_sbml(Other())

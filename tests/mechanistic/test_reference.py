"""The comparison with libRoadRunner."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("roadrunner")

from mechanistic import library, reference
from mechanistic.errors import InvalidSBML, SolveError
from mechanistic.model import Event, KineticModel, Parameter, Reaction, State, delay, symbol
from mechanistic.model import time as now
from mechanistic.sbml import read_sbml
from tests.shared import shared_file

TIMES = np.linspace(0.0, 10.0, 6)
K, A, V = symbol("k"), symbol("A"), symbol("V")
DECAY = KineticModel(
    "decay",
    [State("A", 8.0, "nmol"), State("lambda", 0.0)],
    [Parameter("k", 0.5), Parameter("V", 4.0)],
    [Reaction("r1.elimination", "A -> lambda", K * A)],
    observables={"[A]": A / V},
    time_unit="h",
)


def test_the_reference_has_the_closed_form():
    data = reference.simulate(DECAY, TIMES)
    exact = 8 * np.exp(-0.5 * TIMES)
    # CVODE at a relative tolerance of 1e-10 is good to about a hundred times that.
    np.testing.assert_allclose(data["A"], exact, rtol=1e-8)
    np.testing.assert_allclose(data["[A]"], exact / 4, rtol=1e-8)
    np.testing.assert_allclose(data["lambda"], 8 - exact, rtol=1e-8, atol=1e-12)
    assert data["A"].dims == ("time",)
    assert data["A"].attrs == {"units": "nmol"}
    assert data["time"].attrs == {"units": "h"}


def test_times_may_start_late_and_repeat():
    data = reference.simulate(DECAY, [2.0, 2.0, 5.0])
    np.testing.assert_allclose(data["A"], 8 * np.exp(-0.5 * np.array([2.0, 2.0, 5.0])), rtol=1e-8)


def test_a_state_called_time_is_compared_and_has_no_labels():
    clock = KineticModel("clock", [State("time", 0.0)], rates={"time": 2})
    assert reference.check(clock, TIMES).agrees
    with pytest.raises(SolveError, match="`time`"):
        reference.simulate(clock, TIMES)


@pytest.mark.parametrize("times", [[1.0, 0.5], [-1.0, 0.0], [0.0, np.nan], [[0.0, 1.0]]])
def test_times_that_cannot_be_simulated_are_refused(times):
    with pytest.raises(SolveError):
        reference.simulate(DECAY, times)


def test_a_model_agrees_with_itself_at_other_parameters():
    report = reference.check(DECAY, TIMES, parameters={"k": 0.1})
    assert report.agrees
    found = report.table.set_index("quantity")
    assert found.loc["A", "reference"] == pytest.approx(8 * np.exp(-0.1 * found.loc["A", "time"]), rel=1e-8)


def test_a_disagreement_is_found_and_shown():
    other = DECAY.with_values(k=0.500001)
    ours, theirs = reference.simulate(DECAY, TIMES)["A"].values, reference.simulate(other, TIMES)["A"].values
    row, scale, _ = reference._compared("A", "written", TIMES, [ours], theirs, (None, 1e-12))
    report = reference.ReferenceReport("decay", 1e-9, (row,), (scale,))
    # d/dk of 8 exp(-kt) is -8 t exp(-kt); over (8 + r) it is largest near t = 2, and the grid has t = 2.
    assert not report.agrees
    assert report.worst.time == 2.0
    assert report.worst.error == pytest.approx(1e-6 * 2 * 8 * np.exp(-1) / (8 + 8 * np.exp(-1)), rel=1e-3)
    assert "does not agree" in str(report)
    assert "<table>" in report._repr_html_()


def test_values_that_are_not_numbers_never_agree():
    found = reference._compared("A", "written", TIMES, [TIMES * np.nan], TIMES, (None, 1e-12))
    assert found.row.error == np.inf


@pytest.mark.parametrize("name", ["boehm_stat5", "repressilator", "robertson"])
def test_models_of_the_library_agree(name):
    report = reference.check(getattr(library, name)(), np.linspace(0.0, 50.0, 6))
    assert report.agrees, report


PATHWAYS = [
    "Bertozzi_PNAS2020",
    "Boehm_JProteomeRes2014",
    "Fujita_SciSignal2010",
    "Raia_CancerResearch2011",
    "Sneyd_PNAS2002",
]


@pytest.mark.parametrize("name", PATHWAYS)
def test_published_pathways_agree_with_the_file_as_it_stands(name):
    folder = shared_file(f"benchmark_models/{name}")
    path = next(folder.glob("model*.xml"))
    model = read_sbml(path)
    report = reference.check(model, np.linspace(0.0, 60.0, 5), source=path)
    assert report.agrees, report
    assert {row.against for row in report.rows} == {"written", "source"}
    assert {row.quantity for row in report.rows if row.against == "source"} >= set(model.state_names)


def test_the_file_as_it_stands_shows_a_model_that_was_changed():
    path = shared_file("benchmark_models/Boehm_JProteomeRes2014/model_Boehm_JProteomeRes2014.xml")
    model = read_sbml(path)
    changed = model.with_values(k_phos=model.nominal()["k_phos"] * 1.01)
    report = reference.check(changed, TIMES, source=path)
    assert not report.agrees
    assert report.worst.against == "source"


def test_parameters_and_source_exclude_each_other():
    with pytest.raises(SolveError):
        reference.check(DECAY, TIMES, parameters={"k": 1.0}, source="<sbml/>")


def test_a_source_that_is_not_valid_never_reaches_the_reference():
    text = '<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2"/>'
    with pytest.raises(InvalidSBML):
        reference.check(DECAY, TIMES, source=text)


def test_what_the_reference_cannot_integrate_is_said():
    blows_up = KineticModel("m", [State("A", 1.0)], rates={"A": A**2})
    with pytest.raises(SolveError, match="libRoadRunner"):
        reference.simulate(blows_up, [0.0, 2.0])


DOSING = KineticModel(
    "dosing",
    [State("A", 1.0), State("B", 0.0), State("count", 0.0, nonnegative=False)],
    [Parameter("k", 0.5), Parameter("amount", 3.0)],
    [Reaction("decay", "A -> B", K * A)],
    events=(
        Event("dose", now >= 5, {"A": A + symbol("amount")}),
        Event("late", symbol("B") > 2, {"A": A / 2, "count": symbol("count") + 1}, delay=1.0),
    ),
    observables={"all": A + symbol("B")},
)


def test_events_agree_also_at_the_moment_of_a_jump():
    # The dose is given at an output time, where the one value and the other are both right.
    report = reference.check(DOSING, [0.0, 2.5, 5.0, 5.5, 7.0, 10.0])
    assert report.agrees, report
    assert {row.quantity for row in report.rows} == {"A", "B", "count", "all"}
    assert dict(report.profile).keys() == {0.0, 2.5, 5.0, 5.5, 7.0, 10.0}


def test_a_dose_that_comes_too_late_is_found():
    late = replace(DOSING, events=(replace(DOSING.events[0], trigger=now >= 5.001), DOSING.events[1]))
    clock = np.array([0.0, 5.0005, 6.0])
    ours, theirs = (reference.values_here(model, clock, tolerance=1e-6) for model in (DOSING, late))
    report = reference.compare(DOSING, clock, ours, {"written": theirs[0]}, 1e-6)
    assert not report.agrees
    assert report.worst.time == 5.0005


def test_what_the_reference_does_not_know_is_said_in_a_sentence():
    lagged = KineticModel("m", [State("A", 1.0)], [Parameter("k", 0.5)], rates={"A": -K * delay(A, 2)})
    with pytest.raises(SolveError, match="delay") as error:
        reference.check(lagged, TIMES)
    assert not any("rrllvm" in problem or "void" in problem for problem in error.value.problems)

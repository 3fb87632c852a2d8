"""Solving: closed forms, references, outputs at doses, how simulations end, conserved totals, labelled results."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sympy import Piecewise, exp, log, sqrt, symbols
from torch import Tensor

import mechanistic as mech
from mechanistic import Schedule, Status, Tolerance, simulate
from mechanistic.library import closed_form
from mechanistic.model import KineticModel, Parameter, Reaction, State, time

pytestmark = pytest.mark.usefixtures("both_engines")
SOLVERS = (mech.Tsit5(), mech.Rodas5P(), mech.Auto())
by_name = {"argvalues": SOLVERS, "ids": lambda s: type(s).__name__}
TIGHT = Tolerance(1e-10, 1e-13)
HOURS = np.linspace(0.0, 30.0, 41)

ONE = {"clearance": 2.81, "volume": 32.0}
TWO = {"clearance": 5.0, "volume": 20.0, "exchange": 10.0, "peripheral_volume": 50.0}
EVERY_EIGHT = (0.0, 8.0, 16.0)


def linear_cases() -> dict[str, tuple[KineticModel, Schedule, dict[str, np.ndarray]]]:
    """Models, doses and the exact amounts that they lead to."""
    library = mech.library

    def repeated(response: Callable[..., Any], **values: float) -> Any:
        return np.asarray([
            closed_form.superpose(lambda t, i=i: np.atleast_2d(response(t, **values))[i], HOURS, EVERY_EIGHT)
            for i in range(np.atleast_2d(response(HOURS, **values)).shape[0])
        ])  # fmt: skip

    central, peripheral = closed_form.two_compartment_infusion(HOURS, dose=100.0, duration=3.0, **TWO)
    bolus = closed_form.two_compartment_bolus(HOURS, dose=100.0, **TWO)
    oral = repeated(closed_form.two_compartment_oral, dose=100.0, absorption=1.0, **TWO)
    mixed = closed_form.one_compartment_bolus(HOURS - 5, dose=50.0, **ONE) + closed_form.one_compartment_infusion(
        HOURS - 4, dose=200.0, duration=6.0, **ONE
    )
    return {
        "one, bolus": (
            library.one_compartment_iv(),
            Schedule.bolus("central", 100.0),
            {"central": closed_form.one_compartment_bolus(HOURS, dose=100.0, **ONE)},
        ),
        "one, bolus during an infusion": (
            library.one_compartment_iv(),
            Schedule.bolus("central", 50.0, 5.0) + Schedule.infusion("central", 200.0, 6.0, 4.0),
            {"central": mixed},
        ),
        "one, three infusions": (
            library.one_compartment_iv(),
            Schedule.repeat("central", 100.0, 8.0, 3, duration=2.5),
            {"central": repeated(closed_form.one_compartment_infusion, dose=100.0, duration=2.5, **ONE)[0]},
        ),
        "one, three oral doses": (
            library.one_compartment_oral(),
            Schedule.repeat("gut", 100.0, 8.0, 3),
            {"central": repeated(closed_form.one_compartment_oral, dose=100.0, absorption=1.57, **ONE)[0]},
        ),
        "two, bolus": (
            library.two_compartment_iv(),
            Schedule.bolus("central", 100.0),
            {"central": bolus[0], "peripheral": bolus[1]},
        ),
        "two, infusion": (
            library.two_compartment_iv(),
            Schedule.infusion("central", 100.0, 3.0),
            {"central": central, "peripheral": peripheral},
        ),
        "two, three oral doses": (
            library.two_compartment_oral(),
            Schedule.repeat("gut", 100.0, 8.0, 3),
            {"central": oral[0], "peripheral": oral[1]},
        ),
    }


LINEAR = linear_cases()


@pytest.mark.parametrize("solver", **by_name)
@pytest.mark.parametrize("case", LINEAR)
def test_linear_models_agree_with_their_closed_forms(case: str, solver: Any) -> None:
    model, schedule, exact = LINEAR[case]
    result = simulate(model, HOURS, schedule=schedule, solver=solver, tolerance=TIGHT).check().dataset()
    for name, amounts in exact.items():
        # Errors of steps at 1e-10 add up over some hundred steps; below 1e-6 mg the absolute tolerance rules.
        np.testing.assert_allclose(result[name], amounts, rtol=1e-8, atol=1e-14 if amounts.min() == 0 else 0)


@pytest.mark.parametrize("solver", **by_name)
def test_the_tolerance_is_what_it_says(solver: Any) -> None:
    model, schedule, exact = LINEAR["two, three oral doses"]
    errors = []
    for rtol in (1e-4, 1e-6, 1e-8):
        result = simulate(model, HOURS, schedule=schedule, solver=solver, tolerance=Tolerance(rtol, rtol * 1e-3))
        gap = np.abs(result.check().dataset()["central"] - exact["central"]) / (1e-3 + exact["central"])
        errors.append(float(gap.max()))
        assert errors[-1] < 10 * rtol
    assert errors[0] > errors[1] > errors[2]


def test_robertson_agrees_with_published_values() -> None:
    # Test Set for IVP Solvers, problem ROBER, at t = 1e11; Hairer & Wanner II, section IV.10.
    times = [0.0, 40.0, 1e11]
    states = simulate(mech.library.robertson(), times, tolerance=Tolerance(1e-8, 1e-12)).check().states
    assert states[1, :2].tolist() == pytest.approx([0.7158271, 9.1855e-6], rel=1e-5)
    assert states[2].tolist() == pytest.approx(
        [0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050], rel=1e-7
    )


@pytest.mark.parametrize(("name", "end"), [("robertson", 1e4), ("huang_ferrell_mapk", 20.0)])
def test_stiff_and_large_models_agree_with_roadrunner(name: str, end: float) -> None:
    pytest.importorskip("roadrunner")
    report = mech.reference.check(getattr(mech.library, name)(), np.linspace(0.0, end, 21), tolerance=1e-6)
    assert report.agrees, report


def decay() -> KineticModel:
    x, y, k = symbols("x y k")
    return KineticModel(
        "decay",
        (State("x", 4.0, unit="mg", scale=1.0), State("y", unit="mg", scale=1.0)),
        (Parameter("k", 0.5, "1/h"),),
        (Reaction("move", "x -> y", k * x),),
        observables={"sum": x + y},
        time_unit="h",
    )


@pytest.mark.parametrize("solver", [*SOLVERS, mech.TorchDiffEq()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("moving", [False, True])
def test_outputs_at_doses_show_the_state_after_or_before(solver: Any, moving: bool) -> None:
    when = torch.tensor([0.0, 2.0, 2.0, 5.0], dtype=torch.float64, requires_grad=moving)
    amounts = torch.tensor([1.0, 2.0, 3.0, 10.0]).double()
    doses = Schedule(("x",), torch.zeros(4, dtype=torch.long), when, amounts, torch.zeros_like(amounts))
    times = [0.0, 0.0, 2.0, 2.0, 2.0, 5.0, 5.0]
    before = [True, False, True, False, False, True, False]
    out = simulate(decay(), times, schedule=doses, before=before, solver=solver, tolerance=TIGHT).check().states[:, 0]
    two = 5 * np.exp(-1.0)
    five = (two + 5) * np.exp(-1.5)
    expected = [4.0, 5.0, two, two + 5, two + 5, five, five + 10]
    assert out.tolist() == pytest.approx(expected, rel=1e-8)
    plain = simulate(decay(), times, schedule=doses, solver=solver, tolerance=TIGHT).check().states[:, 0]
    assert plain.tolist() == pytest.approx([5.0, 5.0, two + 5, two + 5, two + 5, five + 10, five + 10], rel=1e-8)


@pytest.mark.parametrize("solver", **by_name)
def test_simulations_of_no_length(solver: Any) -> None:
    dose = Schedule.bolus("x", 1.0)
    only_start = simulate(decay(), [0.0], schedule=dose, solver=solver).check()
    assert only_start.states.tolist() == [[5.0, 0.0]]
    assert simulate(decay(), [0.0, 0.0], schedule=dose, before=[True, False], solver=solver).states[:, 0].tolist() == [
        4,
        5,
    ]
    nothing = simulate(decay(), [], schedule=dose, solver=solver).check()
    assert nothing.states.shape == (0, 2)
    assert nothing.observe().shape == (0, 1)
    padded = simulate(decay(), [[torch.nan] * 2, [0.0, 1.0]], solver=solver).check()
    assert padded.states[0].isnan().all()
    assert padded.states[1].isfinite().all()
    none = simulate(decay(), torch.zeros(0, 3), solver=solver)
    assert none.states.shape == (0, 3, 2)
    late = simulate(decay(), [3.0, 4.0], start=3.0, schedule=Schedule.infusion("x", 6.0, 2.0, 3.0), solver=solver)
    assert late.states[0, 0].item() == 4.0
    assert late.states[1, 0].item() == pytest.approx(4 * np.exp(-0.5) + 3 * (1 - np.exp(-0.5)) / 0.5, rel=1e-6)


def test_a_model_without_states_has_observables() -> None:
    model = KineticModel("rules", (), (Parameter("k", 2.0),), observables={"line": symbols("k") * time})
    out = simulate(model, [0.0, 1.0, 3.0]).check()
    assert out.observe()[:, 0].tolist() == [0.0, 2.0, 6.0]
    assert out.dataset()["line"].values.tolist() == [0.0, 2.0, 6.0]
    assert repr(out) == "Solution(one subject, 3 times, {'OK': 1}, {'no states': 1}, 0 steps, no engine)"


def test_a_later_start_shifts_an_autonomous_model() -> None:
    shifted = simulate(decay(), [7.0, 9.0], start=torch.tensor([5.0, 6.0]))
    assert shifted.states[:, :, 0].flatten().tolist() == pytest.approx(
        [4 * np.exp(-0.5 * d) for d in (2.0, 4.0, 1.0, 3.0)], rel=1e-6
    )


def one_state(rate: Any, initial: float = 1.0, nonnegative: bool = False) -> KineticModel:
    return KineticModel(
        "one",
        (State("x", symbols("x0"), scale=1.0, nonnegative=nonnegative),),
        (Parameter("x0", initial),),
        rates={"x": rate},
        time_unit="h",
    )


x = symbols("x")
starts = {"x0": torch.tensor([0.1, 1.0, 0.2], dtype=torch.float64)}


@pytest.mark.parametrize("solver", **by_name)
def test_a_solution_that_blows_up_ends_there_and_disturbs_no_other(solver: Any) -> None:
    # x' = x² from x0 is x0 / (1 - x0 t): infinite at 1/x0.
    out = simulate(one_state(x**2), [0.5, 0.9, 1.5, 4.0], starts, solver=solver, tolerance=Tolerance(1e-8, 1e-11))
    assert [Status(s) for s in out.status.tolist()] == [Status.OK, Status.MIN_STEP, Status.OK]
    assert out.reached[1].item() == pytest.approx(1.0, rel=1e-6)
    assert out.states[1, :, 0].isfinite().tolist() == [True, True, False, False]
    for row, x0 in enumerate((0.1, 1.0, 0.2)):
        valid = out.states[row, :, 0].isfinite()
        t = out.times[row][valid]
        torch.testing.assert_close(out.states[row, :, 0][valid], x0 / (1 - x0 * t), rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", **by_name)
def test_rates_that_stop_being_numbers_are_reported(solver: Any) -> None:
    # x' = log(x) - 1 falls through zero in finite time, where the logarithm ends.
    rate = log(x) - 1
    out = simulate(one_state(rate), [0.1, 50.0], {"x0": torch.tensor([1.0, 20.0, -1.0])}, solver=solver)
    assert [Status(s) for s in out.status.tolist()] == [Status.NOT_FINITE, Status.OK, Status.NOT_FINITE]
    assert out.states[0, 0].isfinite().all()
    assert out.states[2].isnan().all()
    assert out.reached[2].item() == 0.0


@pytest.mark.parametrize(
    "solver", [mech.Tsit5(max_steps=40), mech.Rodas5P(max_steps=40)], ids=lambda s: type(s).__name__
)
def test_the_budget_of_steps_is_kept(solver: Any) -> None:
    model = mech.library.lotka_volterra()
    out = simulate(model, [[1.0, 2.0, torch.nan], [1.0, 2.0, 50.0]], solver=solver)
    assert [Status(s) for s in out.status.tolist()] == [Status.OK, Status.BUDGET]
    assert int((out.statistics.steps + out.statistics.rejected)[1]) == 40
    assert out.states[1, :2].isfinite().all()
    assert out.states[1, 2].isnan().all()
    torch.testing.assert_close(out.states[0, :2], out.states[1, :2], rtol=1e-5, atol=0)


def test_tsit5_stops_at_stiffness_and_auto_goes_on() -> None:
    library = mech.library
    stiff = {"robertson": 40.0, "hires": 300.0, "huang_ferrell_mapk": 300.0}
    for name, end in stiff.items():
        model = getattr(library, name)()
        explicit = simulate(model, [end], solver=mech.Tsit5())
        assert Status(int(explicit.status)) == Status.STIFF, name
        assert int(explicit.statistics.steps) < 1500, name
        auto = simulate(model, [end]).check()
        assert auto.methods[int(auto.method)] == "Rodas5P"
    oscillator = library.van_der_pol().with_values(mu=1000.0)
    assert Status(int(simulate(oscillator, [500.0], solver=mech.Tsit5()).status)) == Status.STIFF
    assert simulate(oscillator, [500.0]).check().method.item() == 1


@pytest.mark.parametrize(
    ("name", "end", "schedule"),
    [
        ("two_compartment_oral", 200.0, Schedule.repeat("gut", 100.0, 24.0, 7)),
        ("one_compartment_iv", 500.0, Schedule.infusion("central", 100.0, 3.0)),
        ("lotka_volterra", 60.0, None),
        ("repressilator", 300.0, None),
        ("warfarin_pkpd", 144.0, Schedule.bolus("gut", 100.0)),
        ("friberg_neutropenia", 500.0, None),
        ("perelson_hiv", 10.0, None),
        ("transit_absorption", 30.0, Schedule.bolus("transit1", 100.0)),
    ],
)
def test_models_that_are_not_stiff_are_not_called_stiff(name: str, end: float, schedule: Schedule | None) -> None:
    out = simulate(getattr(mech.library, name)(), [end], schedule=schedule).check()
    assert out.methods[int(out.method)] == "Tsit5"


def test_the_error_names_subjects_times_states_and_advice() -> None:
    out = simulate(one_state(x**2), [4.0], {"x0": torch.tensor([0.1, 1.0])}, solver=mech.Tsit5())
    expected = r"1 of 2 simulations did not reach the end:\n  - subject '17': stopped at t = 1 h in state `x`: the step"
    with pytest.raises(mech.SolveError, match=expected):
        out.check(subjects=["16", "17"])
    single = simulate(one_state(x**2), [4.0], solver=mech.Tsit5())
    with pytest.raises(mech.SolveError, match="the simulation: stopped at"):
        single.check()
    many = simulate(one_state(x**2), [4.0], {"x0": torch.ones(50)}, solver=mech.Tsit5(max_steps=5))
    with pytest.raises(mech.SolveError, match="… and 30 more subjects") as caught:
        many.check()
    assert "the budget of steps was used up" in str(caught.value)


def test_a_solution_that_truly_crosses_zero_is_let_through() -> None:
    out = simulate(one_state(-1 + 0 * x, nonnegative=True), [0.5, 2.0, 3.0])
    assert out.check().states[:, 0].tolist() == pytest.approx([0.5, -1.0, -2.0], rel=1e-12)
    fall = simulate(one_state(-sqrt(1 + x**2), nonnegative=True), [0.5, 2.0], solver=mech.Rodas5P()).check()
    assert fall.states[:, 0].tolist() == pytest.approx(
        np.sinh(np.arcsinh(1.0) - np.array([0.5, 2.0])).tolist(), rel=1e-5
    )


TOTALS = [n for n in mech.library.__all__ if n != "closed_form" and mech.conserved_totals(getattr(mech.library, n)())]


@pytest.mark.parametrize("solver", **by_name)
@pytest.mark.parametrize("name", TOTALS)
def test_conserved_totals_are_kept_and_amounts_stay_above_zero(name: str, solver: Any) -> None:
    model = getattr(mech.library, name)()
    end = {"robertson": 1e4, "repressilator": 300.0}.get(name, 60.0)
    # Tsit5 stops early where the model is stiff; what it returns until then keeps the totals as well.
    out = simulate(model, [0.0, *np.geomspace(end * 1e-6, end, 31)], solver=solver)
    assert isinstance(solver, mech.Tsit5) or out.check()
    out = replace(out, states=out.states[out.states.isfinite().all(-1)])
    assert len(out.states) > 3
    for total in mech.conserved_totals(model):
        weights = torch.tensor([float(total.weights.get(n, 0)) for n in model.state_names]).double()
        values = out.states @ weights
        # A linear invariant is kept by every one-step method; what is left is rounding.
        assert ((values - values[0]).abs().max() / values[0].abs()) < 1e-10
    floor = -1e-9 * out.field.scales
    assert (out.states >= floor)[:, out.field.nonnegative].all()


def test_a_switch_in_time_and_a_piecewise_are_integrated() -> None:
    pulse = Piecewise((3, (time > 1) & (time < 2)), (0, True))
    out = simulate(one_state(pulse - x), [1.0, 2.0, 4.0], solver=mech.Tsit5(), tolerance=Tolerance(1e-8, 1e-10)).check()
    at_two = np.exp(-2) + 3 * (1 - np.exp(-1))
    assert out.states[:, 0].tolist() == pytest.approx([np.exp(-1), at_two, at_two * np.exp(-2)], rel=1e-6)


def test_torchdiffeq_agrees_with_tsit5_with_doses() -> None:
    model = mech.library.two_compartment_oral()
    doses = Schedule.repeat("gut", torch.tensor([100.0, 50.0]).double(), 8.0, 3) + Schedule.infusion(
        "central", 10.0, 2.0, 3.0
    )
    times = torch.tensor([[0.5, 3.0, 4.0, 9.0, 16.0, 20.0], [0.0, 8.0, 11.0, 24.0, torch.nan, torch.nan]]).double()
    ours = simulate(model, times, schedule=doses, solver=mech.Tsit5(), tolerance=TIGHT).check()
    theirs = simulate(
        model, times, schedule=doses, solver=mech.TorchDiffEq("dopri5"), tolerance=Tolerance(1e-8, 1e-10)
    ).check()
    torch.testing.assert_close(ours.states, theirs.states, rtol=1e-6, atol=1e-7, equal_nan=True)
    with pytest.raises(ValueError, match="'rk4' is not an adaptive method"):
        mech.TorchDiffEq("rk4")


def test_a_failure_of_torchdiffeq_is_a_status() -> None:
    out = simulate(one_state(x**2), [0.5, 4.0], {"x0": torch.tensor([1.0, 0.1])}, solver=mech.TorchDiffEq())
    assert [Status(s) for s in out.status.tolist()] == [Status.MIN_STEP, Status.MIN_STEP]
    assert out.states.isnan().all()


def test_results_are_labelled() -> None:
    out = simulate(decay(), [0.0, 1.0, 2.0], {"k": torch.tensor([0.1, 0.2, 0.4])}).check()
    data = out.dataset(subjects=["a", "b", "c"])
    assert dict(data.sizes) == {"subject": 3, "time": 3}
    assert list(data.data_vars) == ["x", "y", "sum", "status"]
    assert data["x"].attrs["units"] == "mg"
    assert data["time"].attrs["units"] == "h"
    assert data["x"].sel(subject="b", time=1.0).item() == pytest.approx(4 * np.exp(-0.2), rel=1e-6)
    assert data["status"].values.tolist() == [0, 0, 0]
    assert "sum" not in out.dataset(observables=False)
    np.testing.assert_allclose(data["sum"], 4.0, rtol=1e-12)
    single = simulate(decay(), [0.0, 1.0]).dataset()
    assert dict(single.sizes) == {"time": 2}
    assert single["status"].item() == 0
    ragged = simulate(decay(), [[0.0, 1.0, 2.0], [0.5, 0.7, torch.nan]]).dataset()
    assert dict(ragged.sizes) == {"subject": 2, "sample": 3}
    assert ragged["time"].dims == ("subject", "sample")
    assert np.isnan(ragged["x"].values[1, 2])
    deep = simulate(decay(), [0.0, 1.0], {"k": torch.full((2, 3), 0.1)})
    assert deep.states.shape == (2, 3, 2, 2)
    assert dict(deep.dataset().sizes) == {"subject": 6, "time": 2}


def test_results_survive_a_file(tmp_path: Path) -> None:
    for times in ([0.0, 1.0, 2.0], [[0.0, 1.0, 2.0], [0.5, 0.7, torch.nan]]):
        data = simulate(decay(), times, {"k": torch.tensor([0.1, 0.2])}).dataset(subjects=["a", "b"])
        data.to_netcdf(tmp_path / "out.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as back:
            xr.testing.assert_identical(data, back.load())


def test_the_repr_says_what_happened() -> None:
    out = simulate(one_state(x**2), [4.0], {"x0": torch.tensor([0.1, 1.0])}, solver=mech.Tsit5())
    counts = r"\{'OK': 1, 'MIN_STEP': 1\}, \{'Tsit5': 2\}, \d+ steps"
    pattern = rf"Solution\(2 subjects, 1 times, {counts}, (compiled code|PyTorch)\)"
    assert re.fullmatch(pattern, repr(out))
    assert repr(simulate(decay(), [1.0])).startswith("Solution(one subject, 1 times, {'OK': 1}, {'Tsit5': 1}")


def test_observables_follow_the_states() -> None:
    out = simulate(decay(), [[0.0, 1.0], [2.0, torch.nan]])
    seen = out.observe()
    assert seen.shape == (2, 2, 1)
    assert seen[1, 1].isnan().all()
    torch.testing.assert_close(seen[..., 0].nan_to_num(), out.states.sum(-1).nan_to_num())


def test_arguments_that_do_not_fit_are_listed_together() -> None:
    with pytest.raises(mech.SolveError, match=r"`kk` is not a parameter \(did you mean `k`\?\)"):
        simulate(decay(), [1.0], {"kk": 1.0})
    with pytest.raises(mech.SolveError, match="`z` is not a state"):
        simulate(decay(), [1.0], initial={"z": 1.0})
    with pytest.raises(mech.SolveError, match=r"parameters have the shape \(3,\), expected `\(\*batch, 1\)`: k"):
        simulate(decay(), [1.0], torch.ones(3))
    with pytest.raises(mech.SolveError, match="batches do not fit each other"):
        simulate(decay(), torch.ones(2, 1), torch.ones(3, 1))
    with pytest.raises(mech.SolveError, match="a single number"):
        simulate(decay(), 1.0)
    with pytest.raises(mech.SolveError, match="go backwards"):
        simulate(decay(), [2.0, 1.0])
    with pytest.raises(mech.SolveError, match="NaN between numbers"):
        simulate(decay(), [2.0, torch.nan, 1.0])
    with pytest.raises(mech.SolveError, match="must be finite"):
        simulate(decay(), [2.0, torch.inf])
    with pytest.raises(mech.SolveError, match="come before `start`"):
        simulate(decay(), [2.0], start=3.0)
    with pytest.raises(mech.ScheduleError, match="`z` is not a state"):
        simulate(decay(), [2.0], schedule=Schedule.bolus("z", 1.0))
    for wrong in ({"rtol": 0.0}, {"atol": -1.0}, {"rtol": float("nan")}):
        with pytest.raises(ValueError, match="tolerances must be positive"):
            Tolerance(**wrong)


def test_parameters_and_initial_states_by_name_or_as_tensors() -> None:
    k = torch.tensor([0.1, 0.2], dtype=torch.float64)
    named = simulate(decay(), [1.0], {"k": k}, initial={"x": torch.tensor([1.0, 2.0])})
    whole = simulate(decay(), [1.0], k[:, None], initial=torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double())
    assert torch.equal(named.states, whole.states)
    assert named.parameters.tolist() == [[0.1], [0.2]]


def test_single_precision_follows_the_field_and_other_precisions_are_refused() -> None:
    field = mech.RateField(decay())
    loose = Tolerance(1e-4, 1e-6)
    doses = Schedule.infusion("x", 2.0, 1.0, 1.0)
    double = simulate(field, [0.5, 1.0, 3.0], torch.tensor([0.5], dtype=torch.float32), doses)
    assert double.states.dtype == torch.float64
    for solver in SOLVERS:
        single = simulate(
            mech.RateField(decay()).float(), [0.5, 1.0, 3.0], schedule=doses, tolerance=loose, solver=solver
        )
        assert single.check().states.dtype == torch.float32
        torch.testing.assert_close(single.states.double(), double.states, rtol=1e-3, atol=1e-4)
    with pytest.raises(mech.SolveError, match=r"computes in torch\.float16"):
        simulate(mech.RateField(decay()).half(), [1.0])


def test_explicit_time_in_a_rate_is_the_time_of_the_subject() -> None:
    out = simulate(one_state(-time * x), [1.0, 2.0], start=torch.tensor([0.0, 1.0])).check()
    expected = [[np.exp(-0.5), np.exp(-2.0)], [1.0, np.exp(-1.5)]]
    np.testing.assert_allclose(out.states[..., 0], expected, rtol=1e-5)


def test_an_exponential_is_integrated_over_many_decades() -> None:
    out = simulate(one_state(exp(-x)), [1.0, 1e3, 1e8]).check()
    t: Tensor = out.times
    torch.testing.assert_close(out.states[:, 0], torch.log(t + np.e), rtol=1e-5, atol=0)


def test_a_state_called_like_a_coordinate_keeps_its_values_beside_it():
    model = KineticModel("clock", (State("time"),), reactions=(Reaction("tick", "-> time", 2),))
    data = simulate(model, [0.0, 1.5]).dataset()
    assert data["time"].values.tolist() == [0.0, 1.5]
    # A constant rate is integrated without error; the tolerance is rounding.
    assert data["time_"].values[-1] == pytest.approx(3.0, rel=1e-14)


def test_a_prepared_simulation_gives_what_simulate_gives() -> None:
    """Batches of times, doses and parameters broadcast as they do in one call; gradients reach amounts every time."""
    times = torch.tensor([[0.0, 1.0, 3.0], [0.5, 2.0, torch.nan]]).double()[:, None]
    amount = torch.tensor([1.0, 2.0]).double()[:, None, None].requires_grad_()
    rate = torch.tensor([0.1, 0.5, 0.9]).double().requires_grad_()
    doses = Schedule.bolus("x", amount, 0.7)
    call = mech.prepare(decay(), times, doses)
    for _ in range(2):
        mine, other = call({"k": rate}), simulate(decay(), times, {"k": rate}, doses)
        assert mine.states.shape == (2, 3, 3, 2)
        torch.testing.assert_close(mine.states, other.states, rtol=0, atol=0, equal_nan=True)
        parts = [torch.autograd.grad(s.states.nansum(), (rate, amount)) for s in (mine, other)]
        torch.testing.assert_close(parts[0], parts[1], rtol=0, atol=0)


def test_what_does_not_fit_a_prepared_simulation_is_named_when_it_is_known() -> None:
    with pytest.raises(mech.SolveError, match="go backwards"):
        mech.prepare(decay(), [1.0, 0.5])
    call = mech.prepare(decay(), [[0.0], [1.0]])
    with pytest.raises(mech.SolveError, match="`kk` is not a parameter") as found:
        call({"kk": 1.0}, initial={"nothing": 1.0})
    assert "`nothing` is not a state" in str(found.value)
    with pytest.raises(mech.SolveError, match="batches do not fit"):
        call({"k": [1.0, 2.0, 3.0]})

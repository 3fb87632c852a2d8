"""Fitting: the truth within its errors, early stopping, interrupts, resumption, failures."""

import copy
import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

import hybrid
from hybrid.coupling import FluxResidual
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.fit import _Descent, fit
from hybrid.noise import Additive, Combined, LogNormalNoise
from hybrid.parameters import LogNormal, ParameterSpace, Uniform
from hybrid.population import Population
from hybrid.results import Fit, FitOptions, HistoryRow
from hybrid.simulator import Simulator, SimulatorError
from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.solve import Tsit5
from neural.networks import mlp
from tests.hybrid.problems import ONE, cohort, observed

FEW = FitOptions(adam_steps=5, refresh=2, rounds=2, round_steps=2, tolerance=1e-9, patience=10)


def mechanism(cl: float = 5.0, effects: bool = True) -> Simulator:
    field = RateField(ONE)
    space = ParameterSpace(field, CL=LogNormal.about(cl, 0.5), V=LogNormal.about(30.0, 0.5))
    return Simulator(field, Population(space, {"CL": 0.3} if effects else {}), Additive(0.1), "cp", solver=Tsit5())


def coupled() -> Simulator:
    field = HybridField(RateField(ONE), FluxResidual(ONE, mlp((4,)), extra=["central ->"]))
    space = ParameterSpace(field, CL=LogNormal.about(4.0, 0.5))
    return Simulator(field, Population(space, {"CL": 0.3}), Combined(0.1, 0.1), "cp", solver=Tsit5())


@pytest.fixture(scope="module")
def subjects() -> Cohort:
    return observed(mechanism(), cohort(6, (1.0, 4.0, 9.0)))


@pytest.fixture(scope="module")
def whole(subjects: Cohort) -> Fit:
    return fit(coupled(), subjects, held_out=0.34, options=FEW, progress=False)


def stopped_after(updates: int, subjects: Cohort, **changes: Any) -> Fit:
    seen: list[HistoryRow] = []

    def watch(row: HistoryRow) -> None:
        seen.append(row)
        if len(seen) == updates:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"held_out": 0.34, "options": FEW, "progress": False} | changes
    return fit(coupled(), subjects, watch=watch, **arguments)


def assert_same(one: Fit, other: Fit) -> None:
    assert one.history == other.history
    assert one.finished == other.finished
    for name, value in one.checkpoint.tensors.items():
        # Nothing but the same operations on the same numbers.
        assert torch.allclose(other.checkpoint.tensors[name], value, rtol=1e-12, atol=1e-12), name
    for a, b in zip(one.simulator.field.parameters(), other.simulator.field.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_the_truth_is_recovered_within_its_standard_errors():
    truth = mechanism()
    data = observed(truth, cohort(24, (0.5, 2.0, 6.0, 12.0)), seed=3)
    start = mechanism(cl=8.0)
    options = FitOptions(adam_steps=40, refresh=20, rounds=4, round_steps=10, learning_rate=0.05)
    found = fit(start, data, held_out=0, options=options, progress=False)
    assert found.finished
    values = found.unknowns.values
    cl, v = start.population.space.to_natural(values.typical).tolist()
    # With 24 subjects: SE of log CL about 0.3 / √24 = 0.061, of log ω about 1 / √48 = 0.14, of the log noise SD about
    # 1 / √(2 · 72) = 0.08. V is common to 96 records of about 10 % noise: below 0.03. Three of each.
    assert abs(math.log(cl / 5.0)) < 3 * 0.061
    assert abs(math.log(v / 30.0)) < 3 * 0.03
    assert abs(float(values.log_sd[0]) - math.log(0.3)) < 3 * 0.14
    assert abs(math.log(found.noise["dv.sd"] / 0.1)) < 3 * 0.08
    assert found.history[-1].objective < found.history[0].objective
    assert math.isnan(found.history[0].held_out)


def test_a_learned_flux_lowers_what_the_wrong_mechanism_leaves():
    data = observed(mechanism(effects=False), cohort(6, (1.0, 4.0, 9.0, 15.0)), seed=1)
    # The mechanism knows an eighth of the clearance; the flux has to find the rest.
    known = ONE.with_values(CL=0.6, V=30.0)
    field = HybridField(RateField(known), FluxResidual(known, mlp((4,)), extra=["central ->"], scale=10.0))
    simulator = Simulator(field, ParameterSpace(field), Additive(0.1), "cp", solver=Tsit5())
    options = FitOptions(adam_steps=60, weight_rate=0.05, rounds=2, round_steps=20, weight_decay=1e-3)
    found = fit(simulator, data, held_out=0, options=options, progress=False)
    error = hybrid.rmse(found.population_prediction(data), data)
    # Down to the noise, an SD of 0.1, from more than ten times that; a third more leaves room for the penalty.
    assert error < 0.13
    assert hybrid.rmse(simulator.predict(field.nominal().expand(6, -1), data).detach(), data) > 1.0


def test_the_given_simulator_is_left_as_it_was(subjects):
    given = coupled()
    before = copy.deepcopy(given.field.state_dict())
    found = fit(given, subjects, held_out=0, options=FEW, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in given.field.state_dict().items())
    assert all(weight.grad is None for weight in given.field.parameters())
    assert found.simulator.field is not given.field
    trained = found.simulator.field.state_dict()
    assert any(not torch.equal(value, trained[name]) for name, value in before.items())


def test_every_step_of_adam_is_judged(whole):
    assert [(row.phase, row.step) for row in whole.history] == [
        *(("adam", step) for step in (0, 2, 4, 5)),
        *(("lbfgs", step) for step in (0, 1, 2)),
    ]


@pytest.mark.parametrize("updates", [1, 3, 4, 5, 6])
def test_an_interrupted_fit_goes_on_to_the_same_result(updates, subjects, whole):
    part = stopped_after(updates, subjects)
    assert not part.finished
    assert part.history == whole.history[:updates]
    assert "interrupted; pass it as `resume`" in repr(part)
    # Options are those of the interrupted fit.
    assert_same(whole, fit(coupled(), subjects, held_out=0.34, resume=part, progress=False))


def test_an_interrupt_within_a_step_loses_no_more_than_that_step(subjects, whole, monkeypatch):
    # The package's own name `hybrid.fit` is the function.
    module = sys.modules["hybrid.fit"]
    original, calls = module.evaluate, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "evaluate", interrupted)
    part = fit(coupled(), subjects, held_out=0.34, options=FEW, progress=False)
    monkeypatch.undo()
    assert not part.finished
    assert_same(whole, fit(coupled(), subjects, held_out=0.34, resume=part, progress=False))


@pytest.mark.parametrize("updates", [2, 6])
def test_a_saved_interrupted_fit_goes_on_to_the_same_result(updates, subjects, whole, tmp_path):
    stopped_after(updates, subjects).save(tmp_path / "fit")
    part = hybrid.load(tmp_path / "fit")
    assert not part.finished
    assert_same(whole, fit(part.simulator, subjects, held_out=0.34, resume=part, progress=False))


def test_a_finished_fit_has_nothing_to_go_on_with(subjects, whole):
    assert_same(whole, fit(coupled(), subjects, held_out=0.34, resume=whole, progress=False))


def test_another_fit_cannot_be_resumed(subjects, whole):
    with pytest.raises(SimulatorError) as caught:
        fit(coupled(), subjects, held_out=0.5, resume=whole, progress=False)
    assert len(caught.value.problems) == 2
    with pytest.raises(SimulatorError, match="unknowns, this simulator and cohort"):
        fit(mechanism(), subjects, held_out=0.34, resume=whole, progress=False)


def test_the_best_held_out_score_decides_and_nothing_else_of_these_subjects(subjects, whole):
    train, left = whole.cohort, whole.held_out
    options = replace(FEW, patience=1)
    again = fit(coupled(), train, held_out=left, options=FEW, progress=False)
    assert again.history == whole.history
    other = replace(left, dv=left.dv * 3)
    moved = fit(coupled(), train, held_out=other, options=FEW, progress=False)
    # The path of a phase does not depend on them, only their score and where the path is left.
    adam = [row for row in whole.history if row.phase == "adam"]
    assert [row.objective for row in moved.history[: len(adam)]] == [row.objective for row in adam]
    assert moved.history[0].held_out != whole.history[0].held_out
    assert whole.row == max(whole.history, key=lambda row: row.held_out)
    # The estimates are those of that update: its −2LL comes out of them again.
    modes = whole.modes(train)
    # Two steps of the search leave the effects this close to their modes.
    assert float(-2 * modes.terms.marginal.sum()) == pytest.approx(whole.row.minus_two_log_likelihood, abs=0.05)
    impatient = fit(coupled(), train, held_out=other, options=options, progress=False)
    assert len(impatient.history) <= len(moved.history)


def test_a_fit_starts_from_another_whatever_its_priors(subjects):
    first = fit(mechanism(), subjects, held_out=0, options=FEW, progress=False)
    natural = first.simulator.population.space.to_natural(first.unknowns.values.typical)
    field = RateField(ONE)
    space = ParameterSpace(field, V=LogNormal.about(10.0, 0.5), CL=Uniform(0.1, 50.0))
    second = Simulator(field, Population(space, {"CL": 0.3}), Additive(0.1), "cp", solver=Tsit5())
    taken = _Descent(second, subjects, None, FEW, None)._take_over(first)
    # V and CL have changed places; the logit and back round in the last places.
    assert torch.allclose(space.to_natural(taken.values.typical), natural.flip(0), rtol=1e-12)
    assert torch.equal(taken.log_sd, first.unknowns.log_sd)
    assert torch.equal(taken.eta, first.unknowns.eta)
    nothing = FitOptions(adam_steps=0, rounds=0)
    found = fit(second, subjects, held_out=0, start=first, options=nothing, progress=False)
    assert found.finished
    assert len(found.history) == 1
    assert found.noise == pytest.approx(first.noise)


def test_weights_are_taken_over_too(subjects, whole):
    nothing = FitOptions(adam_steps=0, rounds=0)
    found = fit(coupled(), subjects, held_out=0.34, start=whole, options=nothing, progress=False)
    for a, b in zip(found.simulator.field.parameters(), whole.simulator.field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_simulations_that_fail_are_named(subjects):
    field = RateField(ONE)
    stiff = Simulator(
        field, ParameterSpace(field, CL=LogNormal.about(5.0, 0.5)), Additive(0.1), "cp", solver=Tsit5(max_steps=2)
    )
    with pytest.raises(SolveError, match=r"subject 's0': stopped at t = .* the budget of steps was used up"):
        fit(stiff, subjects, held_out=0, progress=False)


def test_a_likelihood_of_zero_is_named(subjects):
    logarithmic = Simulator(
        RateField(ONE), ParameterSpace(RateField(ONE), CL=LogNormal.about(5.0, 0.5)), LogNormalNoise(0.1), "cp"
    )
    # Without a dose the simulation is 0, which has no logarithm.
    nothing = replace(cohort(3, (1.0, 2.0), dose=None), dv=torch.ones(3, 2, dtype=torch.float64))
    with pytest.raises(SolveError, match="the likelihood is zero or not finite"):
        fit(logarithmic, nothing, held_out=0, options=FEW, progress=False)


def test_a_cohort_that_does_not_fit_is_refused_before_anything_else(subjects):
    with pytest.raises(SimulatorError, match="nothing measures the channel `cp`"):
        fit(mechanism(), replace(subjects, channels=("cp",)), progress=False)
    with pytest.raises(SimulatorError, match="nothing measures the channel `cp`"):
        fit(mechanism(), subjects, held_out=replace(subjects, channels=("cp",)), progress=False)


def test_the_progress_bar_shows_numbers(subjects, capsys):
    fit(mechanism(), subjects, held_out=0.34, options=FEW, progress=True)
    shown = capsys.readouterr().err
    for part in ("objective=", "|gradient|=", "−2LL=", "held-out=", "step"):
        assert part in shown
    fit(mechanism(), subjects, held_out=0, options=FitOptions(adam_steps=1, rounds=0), progress=False)
    assert capsys.readouterr().err == ""


def test_steps_that_cannot_be_simulated_are_taken_back(subjects):
    # A rate this large throws Adam far out; it has to come back instead of ending in an error.
    wild = FitOptions(adam_steps=6, refresh=3, rounds=0, learning_rate=8.0, patience=99)
    made = mechanism()
    limited = Simulator(made.field, made.population, made.noise, made.measures, solver=Tsit5(max_steps=100))
    found = fit(limited, subjects, held_out=0, options=wild, progress=False)
    assert found.finished
    assert found.checkpoint.numbers["rate"] < 1
    assert all(math.isfinite(row.objective) for row in found.history)

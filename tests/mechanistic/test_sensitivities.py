"""Sensitivities: closed forms, the chain through initial values and doses, labels, information, and refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sympy import Piecewise, exp
from torch import Tensor

import mechanistic as mech
from mechanistic import Event, KineticModel, Parameter, Schedule, SolveError, State, symbol, time
from mechanistic.sensitivities import sensitivities

SOLVERS = {"argvalues": [mech.Tsit5(), mech.Rodas5P(), mech.Auto()], "ids": ["Tsit5", "Rodas5P", "Auto"]}
TIGHT = mech.Tolerance(1e-9, 1e-12)


def decay() -> KineticModel:
    """x = s² e^(-kt), observed as x and as log-like k x²."""
    x, k, s = symbol("x"), symbol("k"), symbol("s")
    return KineticModel(
        "decay",
        (State("x", s**2, scale=1.0),),
        (Parameter("k", 0.5), Parameter("s", 3.0)),
        rates={"x": -k * x},
        observables={"signal": x, "bent": k * x**2 + time},
    )


def close(found: Tensor, expected: Any) -> None:
    """The error of the solution at this tolerance, some times larger in its derivatives."""
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", **SOLVERS)
def test_decay_has_the_derivatives_of_its_closed_form(solver: Any) -> None:
    t = np.array([0.0, 0.7, 3.0])
    k = torch.tensor([0.5, 1.2], dtype=torch.float64)
    found = sensitivities(decay(), t, {"k": k}, by=["s", "k", "x"], solver=solver, tolerance=TIGHT)
    e = torch.exp(-k[:, None] * torch.tensor(t))
    x = 9 * e
    expected = torch.stack([6 * e, -torch.tensor(t) * x, e], -1)
    close(found.states[:, :, 0], expected)
    close(found.solution.states[..., 0], x)
    observed = found.observe()
    close(observed[:, :, 0], expected)
    own = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64) * (x**2)[..., None]
    close(observed[:, :, 1], 2 * (k[:, None] * x)[..., None] * expected + own)


@pytest.mark.parametrize("solver", **SOLVERS)
def test_doses_have_the_derivatives_of_their_closed_form(solver: Any) -> None:
    doses = Schedule.bolus("x", 2.0, 1.0) + Schedule.infusion("x", 3.0, 0.5, 2.0)
    by = ["amount[0]", "time[0]", "amount[1]", "duration[1]", "time[1]"]
    found = sensitivities(decay(), [4.0], None, doses, by=by, initial={"x": 0.0}, solver=solver, tolerance=TIGHT)
    k, bolus = 0.5, 2.0 * math.exp(-0.5 * 3.0)
    rate, ended, begun = 3.0 / 0.5, math.exp(-k * 1.5), math.exp(-k * 2.0)
    infused = rate / k * (ended - begun)
    expected = [bolus / 2.0, k * bolus, infused / 3.0, -infused / 0.5 + rate * ended, rate * (ended - begun)]
    close(found.states[0, 0], expected)


def test_an_output_before_a_dose_does_not_depend_on_it() -> None:
    before = torch.tensor([True, False])
    found = sensitivities(decay(), [1.0, 1.0], None, Schedule.bolus("x", 2.0, 1.0), before=before, by=["amount[0]"])
    close(found.states[:, 0, 0], [0.0, 1.0])


def test_a_rate_that_time_switches_has_the_derivative_of_its_moment() -> None:
    k, tau = symbol("k"), symbol("tau")
    model = KineticModel(
        "switched", (State("x", 0.0, scale=1.0),), (Parameter("k", 2.0), Parameter("tau", 1.5)),
        rates={"x": Piecewise((k, time < tau), (0, True))},
    )  # fmt: skip
    found = sensitivities(model, [1.0, 3.0], by=["k", "tau"], solver=mech.Tsit5())
    close(found.states[:, 0], [[1.0, 0.0], [1.5, 2.0]])


def test_stiff_subjects_of_a_batch_have_those_of_the_stiff_method() -> None:
    model = mech.library.robertson()
    values = {"k2": torch.tensor([3e7, 1e2], dtype=torch.float64)}
    both = sensitivities(model, [1.0, 40.0], values, tolerance=TIGHT)
    stiff = sensitivities(model, [1.0, 40.0], values, solver=mech.Rodas5P(), tolerance=TIGHT)
    assert {both.solution.methods[i] for i in both.solution.method.tolist()} == {"Tsit5", "Rodas5P"}
    assert torch.equal(both.states[0], stiff.states[0])
    assert (both.states[1] - stiff.states[1]).abs().max() <= 1e-6 * stiff.states[1].abs().max()
    # What is conserved does not depend on rates.
    assert both.states.sum(-2).abs().max() <= 1e-9 * both.states.abs().max()


def test_a_failed_subject_and_padded_rows_have_none() -> None:
    x, k = symbol("x"), symbol("k")
    model = KineticModel(
        "blow-up", (State("x", 1, scale=1.0, nonnegative=False),), (Parameter("k", 1.0),), rates={"x": k * x**2}
    )
    times = torch.tensor([[0.5, 2.0], [0.5, 2.0], [0.5, torch.nan]], dtype=torch.float64)
    found = sensitivities(model, times, {"k": torch.tensor([0.1, 1.0, 0.1])}, solver=mech.Rodas5P())
    assert found.states.isfinite().squeeze().tolist() == [[True, True], [False, False], [True, False]]
    assert (found.solution.status != 0).tolist() == [False, True, False]


def test_the_information_is_that_of_a_line() -> None:
    a, b = symbol("a"), symbol("b")
    model = KineticModel(
        "line", (State("x", a, scale=1.0),), (Parameter("a", 1.0), Parameter("b", 2.0)), rates={"x": b},
        observables={"y": symbol("x"), "unseen": exp(symbol("x"))},
    )  # fmt: skip
    t = torch.tensor([[0.0, 1.0, 2.0], [1.0, 4.0, torch.nan]], dtype=torch.float64)
    found = sensitivities(model, t, by=["a", "b"])
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    close(found.fisher_information({"y": 0.5}), rows.T @ rows / 0.25)
    with pytest.raises(SolveError, match="`z` is not a observable"):
        found.fisher_information({"z": 0.5})
    with pytest.raises(SolveError, match="`y` is not positive"):
        found.fisher_information({"y": 0.0})


def test_the_dataset_has_a_label_for_every_direction() -> None:
    found = sensitivities(decay(), [0.5, 2.0], {"k": [0.5, 0.6]}, by=["s", "k"])
    data = found.dataset(subjects=["a", "b"])
    assert data["x"].dims == ("subject", "time", "direction")
    assert list(data.data_vars) == ["x", "signal", "bent", "status"]
    assert float(data["bent"].sel(subject="b", direction="s", time=2.0)) == float(found.observe()[1, 1, 1, 0])
    single = sensitivities(decay(), [0.5, 2.0]).dataset(observables=False)
    assert single["x"].dims == ("time", "direction")
    assert single["direction"].values.tolist() == ["k", "s"]


def test_a_subject_has_the_same_derivatives_in_any_batch_bit_for_bit() -> None:
    k = torch.linspace(0.1, 2.0, 30, dtype=torch.float64)
    together = sensitivities(decay(), [0.5, 2.0], {"k": k}, threads=2).states
    for row in (0, 13, 29):
        assert torch.equal(sensitivities(decay(), [0.5, 2.0], {"k": k[row]}).states, together[row])


def test_what_is_unknown_is_listed_at_once() -> None:
    with pytest.raises(SolveError) as caught:
        sensitivities(decay(), [1.0], by=["kk", "amount[0]", "s", "s"], schedule=None)
    assert len(caught.value.problems) == 3
    assert "did you mean `k`" in caught.value.problems[0]
    with pytest.raises(SolveError, match="`by` names nothing"):
        sensitivities(decay(), [1.0], by=[])


def test_what_has_events_is_left_to_autograd() -> None:
    x, k = symbol("x"), symbol("k")
    model = KineticModel("refilled", (State("x", 1.0),), (Parameter("k", 1.0),), rates={"x": -k * x},
                         events=(Event("refill", x < 0.5, {"x": x + 1}),))  # fmt: skip
    with pytest.raises(SolveError, match=r"use `simulate` and `torch.autograd`(.|\n)*events"):
        sensitivities(model, [1.0])
    with pytest.raises(SolveError, match=r"`TorchDiffEq` is not in compiled code"):
        sensitivities(decay(), [1.0], solver=mech.TorchDiffEq())

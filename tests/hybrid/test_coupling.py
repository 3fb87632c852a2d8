"""What the couplings promise for every network: conserved totals, positivity, supports; and where they refuse."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hybrid.coupling import CouplingError, FluxResidual, ParameterCurve, ParameterDrive
from hybrid.field import HybridField
from hybrid.parameters import Exp, Logit
from mechanistic.compile import RateField
from mechanistic.conservation import ConservedTotal, conserved_totals
from mechanistic.model import KineticModel, Parameter, Reaction, State, symbol
from mechanistic.schedule import Schedule
from mechanistic.simulate import simulate
from mechanistic.solve import Auto, Rodas5P, Tolerance, Tsit5
from neural.networks import mlp
from tests.hybrid.problems import MAPK, ONE, STAT5, drawn, randomise, some_states

SMALL = mlp((6,))
SIZES = (0.3, 30.0, 1e6)
FLUXES: dict[str, tuple[KineticModel, dict[str, Any]]] = {
    "MAPK": (MAPK, {"along": ["v1", "v7"], "extra": ["MKK -> MKK_PP", "MAPK_P -> MAPK_PP"]}),
    "STAT5": (
        STAT5,
        {"along": ["import_AA"], "extra": ["nucpApB -> STAT5A + STAT5B", "2 STAT5B -> pBpB"], "scale": 1.0},
    ),
}


def weights_of(totals: tuple[ConservedTotal, ...], model: KineticModel) -> Tensor:
    rows = [[float(total.weights.get(state, 0)) for state in model.state_names] for total in totals]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", FLUXES)
@given(size=st.sampled_from(SIZES), seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_learned_fluxes_lie_behind_their_stoichiometry_and_never_consume_what_is_not_there(name, size, seed):
    model, fluxes = FLUXES[name]
    residual = FluxResidual(model, SMALL, **fluxes)
    randomise(residual, size, seed)
    x = some_states(RateField(model), 20, seed)
    added = residual(x[:, [model.state_names.index(n) for n in residual.inputs]], x).detach()
    # Exactly: the gate is 0 / (0 + half) there.
    assert bool((added[x == 0] >= 0).all())
    kept = weights_of(residual.surviving, model)
    assert len(kept) == len(conserved_totals(model))
    # Of the terms that cancel, a rounding error each.
    assert bool(((added @ kept.T).abs() <= 1e-14 * (added.abs() @ kept.abs().T)).all())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FLUXES)
def test_trajectories_keep_totals_and_stay_above_zero_whatever_the_weights(name, size):
    model, fluxes = FLUXES[name]
    hybrid = HybridField(RateField(model), FluxResidual(model, SMALL, **fluxes))
    randomise(hybrid, size, seed=1)
    x = some_states(hybrid, 4, seed=2)
    end, target, dose = (600.0, "MKKK", 25.0) if name == "MAPK" else (240.0, "STAT5A", 25.0)
    times = torch.cat(
        [torch.logspace(-6, math.log10(end / 3), 20, dtype=torch.float64)[:-1], torch.linspace(end / 3, end, 20)]
    )
    tolerance = Tolerance(1e-6, 1e-9)
    # Networks this large switch a flux at once; a budget bounds the time, and what was reached is judged.
    solver = Auto(Tsit5(max_steps=200), Rodas5P(max_steps=200))
    doses = Schedule.bolus(target, dose, end / 3)
    with torch.no_grad():
        found = simulate(hybrid, times, None, doses, initial=x, solver=solver, tolerance=tolerance)
    states = found.states
    reached = states.isfinite().all(-1)
    assert int(reached.sum()) >= 20
    kept = weights_of(hybrid.residuals[0].surviving, model)
    expected = x @ kept.T
    given_later = (times >= end / 3)[:, None] * (dose * kept[:, model.state_names.index(target)])
    expected = expected[:, None] + given_later
    size_of_total = torch.maximum(expected, hybrid.scales @ kept.T)
    # A Runge-Kutta or Rosenbrock step keeps a linear invariant to rounding: of the totals, and of everything that the
    # fluxes, at most what the last layer can say, have moved until then; that only counts for the largest weights.
    network = hybrid.residuals[0].network
    per_flux = (network.weight1.abs().sum(-1) + network.bias1.abs()).detach() * network.output_scale
    rounding = torch.finfo(torch.float64).eps * per_flux.sum() * times[:, None] * kept.amax(-1)
    assert size > 100 or bool((rounding < 1e-10 * size_of_total).all())
    allowed = 1e-10 * size_of_total + rounding
    assert bool(((states @ kept.T - expected).abs() <= allowed)[reached].all())
    assert bool((states >= -tolerance.atol * hybrid.scales)[reached].all())


def test_a_gate_closes_the_direction_that_consumes_and_leaves_the_other_open():
    residual = FluxResidual(ONE, mlp(()), extra=["central ->"], scale=2.0)
    with torch.no_grad():
        residual.network.bias0.fill_(1.0)
    x = torch.tensor([[0.0], [5.0], [50.0]], dtype=torch.float64)
    half = 0.05 * RateField(ONE).scales
    expected = -2.0 * x / (x + half)
    assert torch.allclose(residual(x, x), expected, rtol=1e-15, atol=0)
    with torch.no_grad():
        residual.network.bias0.fill_(-1.0)
    # Production is not gated: nothing is consumed.
    assert torch.equal(residual(x, x), torch.full_like(x, 2.0))


def test_totals_that_extra_fluxes_give_up_are_reported():
    leaking = FluxResidual(MAPK, SMALL, extra=["MKKK_P ->", "MKK -> MAPK"])
    assert {str(total) for total in leaking.given_up} == {str(total) for total in conserved_totals(MAPK)}
    # MKK and MAPK exchange: neither total survives, but their sum does.
    (together,) = leaking.surviving
    assert set(together.weights) == {"MKK", "MKK_P", "MKK_PP", "MAPK", "MAPK_P", "MAPK_PP"}
    for total in leaking.given_up:
        assert str(total) in repr(leaking)
    assert "given up" in repr(leaking)
    assert str(together) in repr(leaking)
    kept = FluxResidual(MAPK, SMALL, along=["v1"])
    assert not kept.given_up
    assert "given up" not in repr(kept)
    assert "no learned flux takes MKKK, MKKK_P below zero" in repr(kept)
    # What is said is true of the numbers too.
    randomise(leaking, 1.0)
    x = some_states(RateField(MAPK), 10)
    added = leaking(x[:, [MAPK.state_names.index(n) for n in leaking.inputs]], x).detach()
    assert float((added @ weights_of(leaking.surviving, MAPK).T).abs().max()) <= 1e-13 * float(added.abs().max())
    assert bool(((added @ weights_of(leaking.given_up, MAPK).T).abs().amax(0) > 1e-3 * added.abs().max()).all())


def test_a_flux_is_as_large_as_what_its_states_turn_over_unless_told():
    # Elimination CL/V · central at a central amount of its scale.
    expected = ONE.nominal()["CL"] / ONE.nominal()["V"] * 100.0
    assert FluxResidual(ONE, SMALL, extra=["central ->"]).scale == pytest.approx((expected,))
    assert FluxResidual(ONE, SMALL, extra=["central ->"], scale=3.0).scale == (3.0,)
    assert FluxResidual(MAPK, SMALL, along=["v1", "v2"], scale=[1.0, 2.0]).scale == (1.0, 2.0)


@given(parameter=st.floats(1e-3, 1e3), limit=st.floats(0.1, 5.0), size=st.sampled_from(SIZES), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_driven_positive_parameter_stays_within_its_limit(parameter, limit, size, seed):
    drive = ParameterDrive(ONE, "CL", SMALL, inputs=["central", "time"], limit=limit)
    randomise(drive, size, seed)
    p = torch.tensor([[parameter, 30.0]], dtype=torch.float64).expand(50, 2)
    assert ONE.parameter_names == ("CL", "V")
    with torch.no_grad():
        ratio = (drive(100 * drawn((50, 2), seed), p) / parameter).log()
    # The logarithm and its inverse round to a few units in the last place.
    assert float(ratio.abs().max()) <= limit * (1 + 1e-14) + 1e-14


@given(seed=st.integers(0, 99), size=st.sampled_from(SIZES))
@settings(max_examples=20)
def test_a_driven_parameter_stays_in_the_support_of_its_bijection(seed, size):
    drive = ParameterDrive(ONE, "CL", SMALL, inputs=["central"], bijection=Logit(1.0, 4.0), limit=3.0)
    randomise(drive, size, seed)
    p = torch.tensor([[2.0, 30.0]], dtype=torch.float64).expand(50, 2)
    with torch.no_grad():
        value = drive(100 * drawn((50, 1), seed), p)
    assert bool(((value > 1.0) & (value < 4.0)).all())
    assert "CL" in drive.statement()
    assert "Logit" in drive.statement()


def test_a_drive_reaches_its_limit_as_its_formula_says():
    drive = ParameterDrive(ONE, "CL", mlp(()), inputs=["central"], limit=2.0, bijection=Exp())
    p = torch.tensor([[3.0, 30.0]], dtype=torch.float64)
    for raw in (-1e3, -1.0, 0.5, 1e3):
        with torch.no_grad():
            drive.network.bias0.fill_(raw)
            expected = 3.0 * math.exp(2.0 * math.tanh(raw / 2.0))
            assert float(drive(p.new_zeros(1, 1), p)) == pytest.approx(expected, rel=1e-14)


def test_a_curve_passes_its_points_is_linear_between_them_and_constant_outside():
    times, values = [0.0, 1.0, 4.0], [2.0, 6.0, 0.5]
    curve = ParameterCurve(ONE, "CL", times, values)

    def at(*moments: float) -> list[float]:
        t = torch.tensor(moments, dtype=torch.float64)[:, None]
        return curve(t, torch.zeros(len(moments), 2, dtype=torch.float64)).tolist()

    assert at(*times) == values
    assert at(0.25, 2.5) == [3.0, 3.25]
    assert at(-5.0, 9.0) == [2.0, 0.5]


def test_descriptions_are_plain_and_rebuild_the_same_coupling():
    residual = FluxResidual(MAPK, SMALL, along=["v1"], extra=["MKK ->"], inputs=["MKKK", "time"], seed=3)
    config = residual.to_config()
    parts = {name: value for name, value in config.items() if name not in ("kind", "network")}
    again = FluxResidual(MAPK, SMALL, **parts)
    assert again.to_config() == config
    assert all(torch.equal(a, b) for a, b in zip(residual.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (lambda: FluxResidual(MAPK, SMALL), ["no flux is named"]),
        (
            lambda: FluxResidual(MAPK, SMALL, along=["v11"], extra=["MKKKK ->"]),
            ["`v11` is not a reaction", "`MKKKK` is not a state"],
        ),
        (
            lambda: FluxResidual(MAPK, SMALL, along=["v1"], scale=[1.0, 2.0], half_saturation=0.0, inputs=[]),
            ["`half_saturation` is 0.0", "no inputs", "`scale` is [1.0, 2.0]"],
        ),
        (lambda: FluxResidual(MAPK, SMALL, along=["v1"], scale=-1.0), ["`scale` is -1.0"]),
        (
            lambda: ParameterDrive(ONE, "Cl", SMALL, inputs=[], limit=0.0),
            ["`limit` is 0.0", "no inputs", "`Cl` is not a parameter"],
        ),
        (lambda: ParameterCurve(ONE, "Cl", [0.0, 1.0], [1.0, 2.0]), ["`Cl` is not a parameter"]),
        (lambda: ParameterCurve(ONE, "CL", [0.0], [1.0]), ["two or more points"]),
        (lambda: ParameterCurve(ONE, "CL", [1.0, 0.0], [1.0, 1.0]), ["increasing"]),
        (lambda: ParameterCurve(ONE, "CL", [0.0, 1.0], [1.0, math.nan]), ["finite"]),
    ],
)
def test_what_does_not_fit_is_refused_with_every_problem(make, problems):
    with pytest.raises(CouplingError) as caught:
        make()
    assert len(caught.value.problems) == len(problems)
    for expected, found in zip(problems, caught.value.problems, strict=True):
        assert expected in found


def test_a_flux_into_a_state_with_a_rate_rule_is_refused():
    ruled = KineticModel("m", (State("A"), State("B")), (Parameter("k", 1.0),), (), {"B": symbol("k")})
    with pytest.raises(CouplingError, match="`B` is moved by a rate rule"):
        FluxResidual(ruled, SMALL, extra=["A -> B"])


def test_catalysts_cancel_and_fractions_stay_exact():
    made = KineticModel("m", (State("A", 1), State("E", 1)), (), (Reaction("r", "A ->", 0),))
    residual = FluxResidual(made, SMALL, extra=["A + E -> E + 1/2 A"])
    assert residual.net[:, 0].tolist() == [-0.5, 0.0]
    assert residual.inputs == ("A",)


def test_fluxes_that_could_have_no_effect_are_refused_together():
    a, b = symbol("A"), symbol("B")
    states = [State("A", 1.0), State("B", 1.0), State("held", 1.0)]
    quick = Reaction("quick", "A -> B", a - b, fast=True)
    model = KineticModel("m", states, reactions=[quick], algebraic={"held": symbol("held") ** 3 - a})
    with pytest.raises(CouplingError) as caught:
        FluxResidual(model, SMALL, extra=["A ->", "held ->"], along=["quick"])
    assert len(caught.value.problems) == 2
    assert "`quick` is always at equilibrium" in caught.value.problems[0]
    assert "`held` follows an algebraic equation" in caught.value.problems[1]

"""Forward sensitivities of compiled code: against the adjoint over the same steps, the torch engine and differences."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast, final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mechanistic as mech
from mechanistic import Schedule, simulate
from mechanistic.model import KineticModel, Parameter, State, symbol
from mechanistic.native import directional as module
from mechanistic.native import tangent
from mechanistic.native.directional import (
    build_tangent,
    directional,
    directions_of,
    forward_is_cheaper,
    with_sensitivities,
)
from mechanistic.native.gradient import Solve, with_gradient
from mechanistic.native.machine import object_code
from mechanistic.native.modes import Segmented, segmented
from mechanistic.native.solver import built, solve
from mechanistic.solve.engine import AbstractEngine, Solved, Torch
from mechanistic.solve.problem import AbstractSolver, Problem
from tests.mechanistic.native.test_adjoint import METHODS, dosed, driven, leaves
from tests.mechanistic.test_gradients import TIGHT, Inputs, agrees, likelihood, oral_inputs, robertson_inputs

Derive = Callable[[Tensor, Solve], Tensor]


@final
@dataclass(frozen=True, eq=False)
class Recording(AbstractEngine):
    """Compiled code with derivatives of some kind; keeps what it solved."""

    derive: Derive
    kept: list[Solve] = field(default_factory=list)

    def solve(self, solver: AbstractSolver, problem: Problem) -> Solved:
        forward, whole = built(cast(mech.RateField, problem.field)), segmented(problem)
        assert forward is not None
        assert isinstance(whole, Segmented)

        def keep(states: Tensor, solved: Solve) -> Tensor:
            self.kept.append(solved)
            return self.derive(states, solved)

        return Solved(solve(forward, cast(Any, solver), whole, 1, keep), "a test")


def gradients(call: Callable[[Inputs, AbstractEngine], Any], values: Inputs, engine: AbstractEngine) -> list[Tensor]:
    """Derivatives of randomly weighted outputs by all inputs that have one."""
    wanted = [value for value in values.values() if value.requires_grad]
    states = call(values, engine).states
    seed = torch.randn(states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return list(torch.autograd.grad(torch.where(states.isfinite(), states * seed, 0.0).sum(), wanted))


def same(call: Callable[[Inputs, AbstractEngine], Any], values: Inputs, rtol: float = 1e-12) -> None:
    """Forward and backward are of the same numbers; the torch engine's step sizes differ by rounding."""
    forward = gradients(call, values, Recording(with_sensitivities))
    for mine, back, slow in zip(
        forward,
        gradients(call, values, Recording(with_gradient)),
        gradients(call, values, Torch()),
        strict=True,
    ):
        assert (mine - back).abs().max() <= rtol * back.abs().max()
        assert (mine - slow).abs().max() <= 1e4 * rtol * slow.abs().max()


def dosed_by(solver: Any, model: Any) -> Callable[[Inputs, AbstractEngine], Any]:
    rate = mech.RateField(model)
    return lambda values, engine: dosed(values, rate, solver, engine)


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("solver", **METHODS)
def test_a_dosed_model_has_the_gradients_of_the_adjoint(solver: Any, moving: bool) -> None:
    same(dosed_by(solver, mech.library.two_compartment_oral()), leaves(moving))


@pytest.mark.parametrize("solver", **METHODS)
def test_rates_that_depend_on_time_have_the_gradients_of_the_adjoint(solver: Any) -> None:
    def tensor(*rows: Any) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64, requires_grad=True)

    values = {k: v for k, v in leaves(True).items() if k in ("time", "duration", "begin")} | {
        "parameters": tensor([0.8, 2.3, 0.5], [1.1, 1.7, 0.1]),
        "initial": tensor([1.0, 0.2], [0.5, 0.6]),
        "amount": tensor([0.5, 0.3], [0.2, 0.4]),
        "infused": tensor([0.6], [0.3]),
    }
    same(dosed_by(solver, driven()), values)


def test_a_stiff_dosed_model_has_the_gradients_of_the_adjoint() -> None:
    rate = mech.RateField(mech.library.robertson())

    def call(values: Inputs, engine: AbstractEngine) -> Any:
        doses = Schedule.bolus("A", values["amount"], values["time"])
        doses = doses + Schedule.infusion("B", values["infused"], values["duration"], values["begin"])
        return simulate(rate, [0.1, 3.0, 10.0, 50.0], values["parameters"], doses, initial=values["initial"],
                        solver=mech.Rodas5P(), engine=engine)  # fmt: skip

    # Rates that differ by nine powers of ten cancel, which costs digits in either direction.
    same(call, {name: value.clone().requires_grad_() for name, value in robertson_inputs().items()}, rtol=1e-10)


@pytest.mark.parametrize("solver", **METHODS)
def test_what_is_written_out_and_what_is_looped_over_agree(monkeypatch: pytest.MonkeyPatch, solver: Any) -> None:
    call, values = dosed_by(solver, mech.library.two_compartment_oral()), leaves(True)
    expected = gradients(call, values, Recording(with_sensitivities))
    monkeypatch.setattr(tangent, "WRITTEN_OUT", 0)
    monkeypatch.setattr(tangent, "STRETCH", 3)
    monkeypatch.setattr(module, "machine_code", lambda label, program, emit: object_code(emit()))
    monkeypatch.setattr(module, "built_tangent", lambda rate, method: build_tangent(module.Program.of(rate), method))
    for mine, other in zip(expected, gradients(call, values, Recording(with_sensitivities)), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("solver", **METHODS)
def test_the_gradient_is_that_of_finite_differences(solver: Any) -> None:
    rate = mech.RateField(mech.library.two_compartment_oral())

    def value(values: Inputs) -> Tensor:
        doses = Schedule.bolus("gut", values["amount"], values["time"])
        doses = doses + Schedule.infusion("central", values["infused"], values["duration"], values["begin"])
        out = simulate(rate, [0.7, 2.0, 5.5, 12.0], values["parameters"], doses, initial=values["initial"],
                       solver=solver, tolerance=TIGHT, engine=Recording(with_sensitivities))  # fmt: skip
        return likelihood(out.states, rate.scales)

    agrees(value, {name: value[0] for name, value in oral_inputs().items()})


def population(solver: Any, rows: slice) -> Any:
    """Derivatives of some of 40 subjects by all parameters."""
    rate = mech.RateField(mech.library.two_compartment_oral())
    factors = torch.exp(0.3 * torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    parameters = (rate.nominal() * factors)[rows].requires_grad_()
    doses = Schedule.bolus("gut", 100.0, torch.tensor([[0.0, 12.0]], dtype=torch.float64))
    engine = Recording(with_sensitivities)
    simulate(rate, [1.0, 5.0, 12.0, 20.0], parameters, doses, solver=solver, engine=engine)
    (found,) = engine.kept
    stops = found.problem.stops
    inputs = (parameters.detach(), found.problem.initial, stops.times, stops.jumps, stops.rates)
    directions = directions_of(found, np.eye(5)[None], np.zeros((1, 3, 5)))
    return directional(found, inputs, directions, 5, np.ones(len(parameters), dtype=bool), np.nan)


@pytest.mark.parametrize("solver", **METHODS)
def test_a_subject_has_the_same_derivatives_in_any_batch_bit_for_bit(solver: Any) -> None:
    together = population(solver, slice(None))
    for row in (0, 17, 39):
        alone = population(solver, slice(row, row + 1))
        assert np.array_equal(alone[0], together[row])


def test_going_back_again_takes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = mech.RateField(mech.library.two_compartment_oral())
    parameters = rate.nominal()[None].clone().requires_grad_()
    states = simulate(rate, [1.0, 5.0], parameters, initial={"gut": 1.0}, solver=mech.Tsit5(),
                      engine=Recording(with_sensitivities)).states  # fmt: skip
    calls = []
    real = module.go_forward
    monkeypatch.setattr(module, "go_forward", lambda *arguments: calls.append(real(*arguments)))
    rows = [torch.autograd.grad(value, parameters, retain_graph=True)[0][0] for value in states.flatten()]
    assert len(calls) == 1
    # Amounts follow from ka, CL/V, Q/V and Q/V2 alone.
    assert torch.linalg.matrix_rank(torch.stack(rows)) == 4


def test_a_rate_that_no_state_enters_gives_a_straight_line() -> None:
    k = symbol("k")
    model = KineticModel("supply", (State("x", 1.0, scale=1.0),), (Parameter("k", 2.0),), rates={"x": k**2})
    parameters = torch.tensor([[2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    for solver in METHODS["argvalues"]:
        states = simulate(model, [0.5, 4.0], parameters, solver=solver, engine=Recording(with_sensitivities)).states
        (found,) = torch.autograd.grad(states.sum(), parameters)
        torch.testing.assert_close(found, 2 * parameters.detach() * 4.5, rtol=1e-12, atol=0)


def test_a_subject_that_is_not_asked_for_costs_nothing_and_has_no_derivative() -> None:
    rate = mech.RateField(mech.library.robertson())
    parameters = rate.nominal().repeat(3, 1).requires_grad_()
    engine = Recording(with_sensitivities)
    states = simulate(rate, [1.0, 40.0], parameters, solver=mech.Rodas5P(), engine=engine).states
    (found,) = torch.autograd.grad(states[1].sum(), parameters, retain_graph=True)
    assert (found[[0, 2]] == 0).all()
    (all_found,) = torch.autograd.grad(states.square().sum(), parameters, retain_graph=True)
    assert torch.equal(all_found[0], all_found[2])
    assert (all_found != 0).all()


counts = st.integers(1, 200)


@given(counts, counts, counts, counts, counts, counts)
def test_forward_pays_for_few_directions_and_for_many_questions(
    states: int, directions: int, subjects: int, outputs: int, steps: int, passes: int
) -> None:
    def cheaper(directions: int, passes: int) -> bool:
        return forward_is_cheaper(states=states, directions=directions, subjects=subjects, outputs=outputs,
                                  steps=steps, passes=passes)  # fmt: skip

    if cheaper(directions, passes):
        assert cheaper(1, passes)
        assert cheaper(directions, passes + 100)


def test_examples_of_what_is_cheaper() -> None:
    def cheaper(directions: int, subjects: int, passes: int = 1) -> bool:
        return forward_is_cheaper(states=9, directions=directions, subjects=subjects, outputs=16, steps=80,
                                  passes=passes)  # fmt: skip

    assert cheaper(9, subjects=1)
    assert not cheaper(19, subjects=6)
    assert cheaper(19, subjects=6, passes=100)
    assert not cheaper(1000, subjects=1)

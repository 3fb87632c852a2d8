"""The compiled adjoint: against that of the torch engine over the same steps, and against finite differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sympy import Max, Piecewise, exp, sin
from torch import Tensor

import mechanistic as mech
from mechanistic import Schedule, Tolerance, prepared, simulate
from mechanistic.model import KineticModel, Parameter, State, symbol, time
from mechanistic.native.build import build_backward
from mechanistic.native.gradient import Backward, Solve, adjoint, with_gradient
from mechanistic.native.program import Program
from mechanistic.solve import gradient, loop
from mechanistic.solve.engine import Torch
from mechanistic.solve.problem import Problem
from tests.mechanistic.test_gradients import Inputs, agrees, likelihood, oral_inputs, robertson_inputs

TIGHT = Tolerance(1e-9, 1e-12)
TORCH = Torch()
METHODS = {"argvalues": [mech.Tsit5(), mech.Rodas5P()], "ids": ["Tsit5", "Rodas5P"]}


def built(program: Program, method: str) -> Backward:
    """Machine code of the kernels of a model."""
    backward = build_backward(program, method.lower())
    assert backward is not None
    return backward


class Run(NamedTuple):
    """A solve of the torch engine, and the same with the compiled adjoint."""

    solve: Solve
    method: Any
    states: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        problem = self.solve.problem
        stops = problem.stops
        return (problem.parameters, problem.initial, stops.times, stops.jumps, stops.rates)


def recorded(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], threads: int = 1) -> Run:
    """Runs a simulation and takes the steps that it has recorded."""
    found: list[tuple[Any, ...]] = []

    def spy(*arguments: Any) -> Tensor:
        found.append((*arguments, gradient.read_out(*arguments)))
        return found[-1][-1]  # type: ignore[no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "read_out", spy)
        patch.setattr(prepared, "DEFAULT", mech.Torch())
        call()
    method, problem, record, status, reached, states = found[-1]
    program = Program.of(problem.field)
    constants = program.prepare.run(list(problem.parameters.detach().T))
    rows = len(problem.parameters)
    table = np.stack([np.broadcast_to(np.asarray(c, dtype=float), rows) for c in constants], 1)
    held = np.zeros((rows, problem.stops.rates.shape[1], 0))
    backward = built(program, type(method).__name__)
    return Run(Solve(backward, problem, record, table, held, status, reached, threads), method, states)


def seeds(states: Tensor) -> Tensor:
    random = torch.randn(states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return torch.where(states.isfinite(), random, 0.0)


def same_gradients(run: Run) -> None:
    """Both adjoints are of the same numbers, so they differ by rounding alone."""
    seed, moving = seeds(run.states.detach()), run.inputs[2].requires_grad
    solve = run.solve
    reading = gradient._reading(solve.problem, solve.record, solve.status, solve.reached)
    context = gradient._Context(run.method, solve.problem, solve.record, reading)
    expected = gradient._adjoint(context, run.inputs, seed, (True, True, moving, True, True))
    for mine, theirs in zip(adjoint(solve, run.inputs, seed, moving), expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11 * (1 + float(theirs.abs().max())))


def dosed(values: Inputs, field: Any, solver: Any, engine: Any = TORCH) -> Any:
    """Outputs before, at and after doses, some at the start and the end, some rows padded."""
    names = field.state_names
    doses = (
        Schedule.bolus(names[0], values["amount"], values["time"])
        + Schedule.infusion(names[1], values["infused"], values["duration"], values["begin"])
    )  # fmt: skip
    times = torch.tensor([[0.0, 0.5, 0.5, 2.0, 6.0, 12.0], [1.5, 4.0, 7.7, 9.0, torch.nan, torch.nan]])
    before = torch.tensor([[True, True, False, False, True, False], [False] * 6])
    return simulate(field, times.double(), values["parameters"], doses, before=before, initial=values["initial"],
                    solver=solver, start=torch.zeros(2), tolerance=TIGHT, engine=engine)  # fmt: skip


def leaves(moving: bool) -> Inputs:
    fixed = () if moving else ("time", "duration", "begin")
    return {k: v.clone().requires_grad_(k not in fixed) for k, v in oral_inputs().items()}


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("solver", **METHODS)
def test_a_dosed_model_has_the_gradients_of_the_torch_engine(
    monkeypatch: pytest.MonkeyPatch, solver: Any, moving: bool
) -> None:
    field = mech.RateField(mech.library.two_compartment_oral())
    same_gradients(recorded(monkeypatch, lambda: dosed(leaves(moving), field, solver)))


def test_a_stiff_dosed_model_has_the_gradients_of_the_torch_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {k: v.clone().requires_grad_() for k, v in robertson_inputs().items()}
    doses = Schedule.bolus("A", values["amount"], values["time"])
    doses = doses + Schedule.infusion("B", values["infused"], values["duration"], values["begin"])
    field = mech.RateField(mech.library.robertson())
    same_gradients(
        recorded(
            monkeypatch,
            lambda: simulate(field, [0.1, 3.0, 10.0, 50.0], values["parameters"], doses, initial=values["initial"],
                             solver=mech.Rodas5P()),
        )
    )  # fmt: skip


def driven() -> KineticModel:
    """Rates that depend on time, with powers, exponentials and branches by parameters."""
    a, b, k, h, w = (symbol(name) for name in ("a", "b", "k", "h", "w"))
    uptake = k * a**h / (Max(w, 0.2) ** h + a**h)
    rates = {
        "a": exp(-w * time) * sin(time) ** 2 - uptake,
        "b": uptake - Piecewise((k * b, w > 0.3), (k**1.5 * b**2, True)) * (1 + w * time / (1 + time)),
    }
    states = (State("a", 1.0, scale=1.0), State("b", 0.2, scale=1.0))
    return KineticModel("driven", states, (Parameter("k", 0.8), Parameter("h", 2.3), Parameter("w", 0.5)), rates=rates)


@pytest.mark.parametrize("solver", **METHODS)
def test_rates_that_depend_on_time_have_the_gradients_of_the_torch_engine(
    monkeypatch: pytest.MonkeyPatch, solver: Any
) -> None:
    parameters = torch.tensor([[0.8, 2.3, 0.5], [1.1, 1.7, 0.1]], dtype=torch.float64, requires_grad=True)
    values = {k: v for k, v in leaves(True).items() if k in ("time", "duration", "begin")}
    values |= {
        "parameters": parameters,
        "initial": torch.tensor([[1.0, 0.2], [0.5, 0.6]], dtype=torch.float64, requires_grad=True),
        "amount": torch.tensor([[0.5, 0.3], [0.2, 0.4]], dtype=torch.float64, requires_grad=True),
        "infused": torch.tensor([[0.6], [0.3]], dtype=torch.float64, requires_grad=True),
    }
    field = mech.RateField(driven())
    assert field.discrete is None
    same_gradients(recorded(monkeypatch, lambda: dosed(values, field, solver)))


@pytest.mark.parametrize("solver", **METHODS)
def test_the_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch, solver: Any) -> None:
    field = mech.RateField(mech.library.two_compartment_oral())
    real = loop.read_out
    kept: dict[int, Backward] = {}

    def native(method: Any, problem: Problem, record: Any, status: Tensor, reached: Tensor) -> Tensor:
        states = real(method, problem, record, status, reached).detach()
        program = Program.of(problem.field)  # type: ignore[arg-type]
        backward = kept.setdefault(0, built(program, type(method).__name__) if not kept else kept[0])
        constants = program.prepare.run(list(problem.parameters.detach().T))
        table = np.stack([np.asarray(torch.as_tensor(c).expand(len(states))) for c in constants], 1)
        held = np.zeros((len(states), problem.stops.rates.shape[1], 0))
        return with_gradient(states, Solve(backward, problem, record, table, held, status, reached))

    monkeypatch.setattr(loop, "read_out", native)
    inputs = {k: v[0] for k, v in oral_inputs().items()}

    def value(values: Inputs) -> Tensor:
        doses = Schedule.bolus("gut", values["amount"], values["time"])
        doses = doses + Schedule.infusion("central", values["infused"], values["duration"], values["begin"])
        out = simulate(field, [0.7, 2.0, 5.5, 12.0], values["parameters"], doses, initial=values["initial"],
                       solver=solver, tolerance=TIGHT)  # fmt: skip
        return likelihood(out.states, field.scales)

    agrees(value, inputs)


@pytest.mark.parametrize("solver", **METHODS)
def test_a_subject_has_the_same_gradient_in_any_batch_bit_for_bit(monkeypatch: pytest.MonkeyPatch, solver: Any) -> None:
    field = mech.RateField(mech.library.two_compartment_oral())
    factors = torch.exp(0.3 * torch.randn(150, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    parameters = (field.nominal() * factors).requires_grad_()
    doses = Schedule.bolus("gut", 100.0, torch.tensor([[0.0, 12.0]], dtype=torch.float64))
    run = recorded(monkeypatch, lambda: simulate(field, [1.0, 5.0, 20.0], parameters, doses, solver=solver), threads=2)
    seed = seeds(run.states.detach())
    together = adjoint(run.solve, run.inputs, seed, moving=False)
    for row in (0, 77, 149):
        alone = adjoint(
            run.solve, run.inputs, torch.where(torch.arange(150)[:, None, None] == row, seed, 0.0), moving=False
        )
        for mine, theirs in zip(alone, together, strict=True):
            assert torch.equal(mine[row], theirs[row])
            assert (mine[:row] == 0).all()


def test_outputs_after_a_failure_ask_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, k = symbol("x"), symbol("k")
    model = KineticModel(
        "blow-up", (State("x", 1, scale=1.0, nonnegative=False),), (Parameter("k", 1.0),), rates={"x": k * x**2}
    )
    parameters = torch.tensor([[0.1], [1.0]], dtype=torch.float64, requires_grad=True)
    run = recorded(monkeypatch, lambda: simulate(model, [0.5, 2.0], parameters, solver=mech.Rodas5P()))
    assert (run.solve.status != 0).tolist() == [False, True]
    same_gradients(run)

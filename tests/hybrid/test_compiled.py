"""Hybrids in compiled code: the numbers of the torch engine, and what stays with that engine and why."""

import copy
from typing import Any

import pytest
import torch
from sympy import Piecewise
from torch import Tensor, nn

from hybrid.coupling import FluxResidual, ParameterDrive
from hybrid.field import HybridField
from hybrid.parameters import Exp, Identity, Logit, LogLogit
from mechanistic import Native, Rodas5P, Schedule, Tolerance, Torch, Tsit5, simulate
from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.model import KineticModel, Parameter, Reaction, State, symbol, time
from neural.networks import mlp
from tests.hybrid.problems import TWO, randomise
from tests.hybrid.test_field import KINDS, NET, REFERENCE

# Few steps: what is compared is the same numerical solution, however exact it is. Engines differ by rounding, which the
# sizes of steps hand on: their error estimates are small differences of large numbers.
LOOSE, ROUNDING = Tolerance(1e-3, 1e-6), 1e-8


def solved(field: HybridField, engine: Any, solver: Any, subjects: int = 5) -> list[Tensor]:
    """States, then the gradients of a sum of their squares by parameters, amounts and weights."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(subjects, len(field.parameter_names), generator=generator, dtype=torch.float64)
    parameters = (field.nominal() * (0.7 + 0.6 * draws) + 0.01 * draws).requires_grad_()
    amount = torch.full((subjects,), 100.0, dtype=torch.float64, requires_grad=True)
    times = 3 * torch.rand(subjects, 3, generator=generator, dtype=torch.float64).sort().values
    found = simulate(field, times, parameters, Schedule.bolus("central", amount, 0.3), solver=solver, tolerance=LOOSE,
                     engine=engine)  # fmt: skip
    inputs = (parameters, amount, *field.parameters())
    return [found.states.detach(), *torch.autograd.grad(found.states.square().mean(), inputs)]


def same(field: HybridField, solver: Any) -> None:
    randomise(field, 0.3)
    for mine, theirs in zip(solved(field, Native(), solver), solved(field, Torch(), solver), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=ROUNDING * (1e-6 + float(theirs.abs().max())))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_hybrid_has_the_values_and_gradients_of_the_torch_engine(kind: str) -> None:
    same(KINDS[kind](), Rodas5P() if kind == "everything" else Tsit5())


@pytest.mark.parametrize("bijection", [Identity(), Logit(1.0, 200.0), LogLogit(1.0, 200.0), Exp()], ids=repr)
def test_every_bijection_of_a_drive_has_the_values_and_gradients_of_the_torch_engine(bijection: Any) -> None:
    drive = ParameterDrive(TWO, "V", NET, inputs=["wt", "central"], bijection=bijection)
    same(HybridField(RateField(TWO), drive, covariates=REFERENCE), Tsit5())


def test_a_hybrid_that_starts_at_zero_is_the_mechanism_exactly_in_compiled_code_too() -> None:
    known = RateField(TWO)
    whole = HybridField(known, FluxResidual(TWO, mlp((5,)), extra=["central ->"]))
    doses = Schedule.bolus("central", 100.0, 0.0)
    one, other = (simulate(field, [1.0, 4.0], None, doses, engine=Native()).states for field in (known, whole))
    # Beside rounding: a sum with zero is exact, but compilers fuse other operations.
    torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-12)


def test_training_in_place_is_seen_and_a_copy_has_its_own_weights() -> None:
    field = KINDS["residual"]()
    randomise(field, 0.3)
    before = solved(field, Native(), Tsit5())[0]
    twin = copy.deepcopy(field)
    with torch.no_grad():
        for weight in field.parameters():
            weight.mul_(0.5)
    assert not torch.equal(before, solved(field, Native(), Tsit5())[0])
    assert torch.equal(before, solved(twin, Native(), Tsit5())[0])


def test_conditions_on_time_stay_in_compiled_code_beside_learned_fluxes_alone() -> None:
    a, k = symbol("a"), symbol("k")
    rate = Piecewise((k * a, time < 1.0), (3 * k * a, True))
    model = KineticModel(
        "switched", (State("a", 1.0, scale=1.0),), (Parameter("k", 0.8),), (Reaction("loss", "a ->", rate),)
    )
    flux = FluxResidual(model, NET, extra=["a ->"])
    drive = ParameterDrive(model, "k", NET, inputs=["a"])
    fields = [HybridField(RateField(model), coupling) for coupling in (flux, drive)]
    for field in fields:
        randomise(field, 0.3)
    tight = Tolerance(1e-9, 1e-12)
    mine, theirs = (simulate(fields[0], [0.5, 2.0], engine=e, tolerance=tight).states for e in (Native(), Torch()))
    # Steps that end at a known moment are others than those that look for it: equal to the error of the solution.
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
    assert "PyTorch" in simulate(fields[1], [0.5, 2.0], tolerance=LOOSE).engine


class Square(nn.Module):
    """A network that is no perceptron."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 * x.square().sum(-1, keepdim=True)


def test_what_is_no_perceptron_stays_with_the_torch_engine_and_says_why() -> None:
    residual = FluxResidual(TWO, mlp((5,)), extra=["central ->"])
    residual.network = Square()  # type: ignore[assignment]
    field = HybridField(RateField(TWO), residual)
    found = simulate(field, [1.0], tolerance=LOOSE)
    assert "PyTorch" in found.engine
    assert "the network `Square` is not one that `neural.mlp` describes" in found.engine
    with pytest.raises(SolveError, match="`Square`"):
        simulate(field, [1.0], engine=Native())


def test_a_network_that_is_replaced_or_rescaled_is_seen() -> None:
    field = HybridField(RateField(TWO), FluxResidual(TWO, mlp((5,)), extra=["central ->"]))
    same(field, Tsit5())
    other = HybridField(RateField(TWO), FluxResidual(TWO, mlp((3, 4)), extra=["central ->"]))
    field.residuals = other.residuals
    same(field, Tsit5())
    with torch.no_grad():
        for buffer in field.residuals.buffers():
            if buffer.is_floating_point():
                buffer.mul_(1.5)
    same(field, Tsit5())

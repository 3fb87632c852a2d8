"""Order of convergence of every method and of its dense output, measured with fixed steps."""

import math
from collections.abc import Callable

import pytest
import torch
from sympy import cos, log, sin, symbols
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.model import KineticModel, Parameter, State, time
from mechanistic.solve import Rodas5P, Tsit5
from mechanistic.solve.method import AbstractMethod, Rhs

METHODS = (Tsit5(), Rodas5P())


def nonlinear() -> RateField:
    """`a = exp(sin t²)`, `b = exp(cos t²)`: Hairer, Nørsett & Wanner, Solving ODEs I, section II.1, exercise."""
    a, b = symbols("a b")
    rates = {"a": 2 * time * a * log(b), "b": -2 * time * b * log(a)}
    return RateField(KineticModel("pair", (State("a", 1), State("b", math.e)), rates=rates))


def nonlinear_solution(t: Tensor) -> Tensor:
    return torch.stack([torch.exp(torch.sin(t**2)), torch.exp(torch.cos(t**2))], dim=-1)


def prothero_robinson() -> RateField:
    """`x = sin(t + 1/2)` whatever λ (Prothero & Robinson 1974, Math Comp 28:145, doi:10.2307/2005822)."""
    x, stiffness = symbols("x lam")
    exact = sin(time + 0.5)
    rates = {"x": -stiffness * (x - exact) + cos(time + 0.5)}
    model = KineticModel("Prothero-Robinson", (State("x", sin(0.5)),), (Parameter("lam", 1.0),), rates=rates)
    return RateField(model)


def march(
    method: AbstractMethod, field: RateField, parameters: Tensor, exact: Callable[[Tensor], Tensor], steps: int
) -> tuple[float, float, float]:
    """Largest error at the ends of the steps, inside them, and largest error estimate, over t in [0, 1]."""
    rhs = Rhs(field, parameters[None], None)
    h = torch.full((1,), 1 / steps, dtype=torch.float64)
    x = field.initial(parameters)[None]
    at_ends = inside = estimate = 0.0
    for i in range(steps):
        t = i * h
        step = method.step(rhs, t, x, h)
        for theta in (0.2, 0.5, 0.8):
            share = torch.full((1,), theta, dtype=torch.float64)
            between = method.interpolate(share, x, step.x, h, torch.stack(step.stages))
            inside = max(inside, float((between - exact(t + theta * h)).abs().max()))
        x = step.x
        at_ends = max(at_ends, float((x - exact(t + h)).abs().max()))
        estimate = max(estimate, float(step.error.abs().max()))
    return at_ends, inside, estimate


def order(coarse: tuple[float, ...], fine: tuple[float, ...]) -> tuple[float, ...]:
    """Observed orders between a run and one with twice as many steps."""
    return tuple(math.log2(first / second) for first, second in zip(coarse, fine, strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_order_on_a_problem_with_time_in_it(method: AbstractMethod) -> None:
    field = nonlinear()
    runs = [march(method, field, field.nominal(), nonlinear_solution, n) for n in (80, 160)]
    at_ends, inside, estimate = order(*runs)
    assert at_ends == pytest.approx(method.order, abs=0.2)
    # The dense output is of order 4: its error over a trajectory falls at least as h⁴.
    assert inside > 4 - 0.2
    # An embedded estimate of order q is a local error, which falls as h^(q+1).
    assert estimate == pytest.approx(method.error_order + 1, abs=0.2)


def test_order_of_the_stiff_method_where_the_problem_is_much_faster_than_the_step() -> None:
    field = prothero_robinson()

    def run(stiffness: float, steps: int) -> tuple[float, float, float]:
        lam = torch.tensor([stiffness], dtype=torch.float64)
        return march(Rodas5P(), field, lam, lambda t: torch.sin(t + 0.5)[:, None], steps)

    # Measured: order reduction to 3 at the ends of the steps, where the error is h³/λ, and 4 inside them; the embedded
    # estimate falls like the error that it estimates.
    at_ends, inside, estimate = order(run(1e6, 8), run(1e6, 16))
    assert at_ends == pytest.approx(3, abs=0.2)
    assert inside == pytest.approx(4, abs=0.2)
    assert estimate == pytest.approx(3, abs=0.2)
    assert run(1e6, 8)[0] == pytest.approx(run(1e5, 8)[0] / 10, rel=0.1)
    # A step that resolves the problem has the full order again.
    assert order(run(10.0, 40), run(10.0, 80))[0] == pytest.approx(5, abs=0.2)


def amplification(method: AbstractMethod, z: float) -> float:
    """The factor by which one step multiplies the solution of `x' = λ x`, `z = h λ`."""
    x = symbols("x")
    field = RateField(KineticModel("linear", (State("x", 1),), rates={"x": symbols("lam") * x},
                                   parameters=(Parameter("lam", 1.0),)))  # fmt: skip
    one = torch.ones(1, 1, dtype=torch.float64)
    return method.step(Rhs(field, z * one, None), 0 * one[0], one, one[0]).x.item()


def test_the_stiff_method_is_stable_everywhere_and_damps_at_infinity() -> None:
    for z in (-0.1, -1.0, -10.0, -100.0, -1e4):
        assert abs(amplification(Rodas5P(), z)) < 1
    # L-stability: the amplification falls like 1/z.
    assert abs(amplification(Rodas5P(), -1e8)) < 2e-7
    assert abs(amplification(Rodas5P(), -1e9)) < 2e-8
    assert abs(amplification(Tsit5(), -4.0)) > 1


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_amplification_agrees_with_the_exponential_at_least_to_the_order(method: AbstractMethod) -> None:
    gaps = [abs(amplification(method, -z) - math.exp(-z)) for z in (0.1, 0.05)]
    assert math.log2(gaps[0] / gaps[1]) > method.order + 1 - 0.2


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_step_is_consistent_with_its_dense_output_and_with_zero_length(method: AbstractMethod) -> None:
    field = nonlinear()
    x = torch.tensor([[1.1, 2.3], [0.7, 1.4]], dtype=torch.float64)
    t, h = torch.tensor([0.3, 0.6]).double(), torch.tensor([0.1, 0.0]).double()
    rhs = Rhs(field, field.nominal().expand(2, 0), None)
    step = method.step(rhs, t, x, h)
    stages = torch.stack(step.stages)
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    torch.testing.assert_close(method.interpolate(zero, x, step.x, h, stages), x, rtol=1e-15, atol=0)
    torch.testing.assert_close(method.interpolate(one, x, step.x, h, stages), step.x, rtol=1e-14, atol=0)
    assert step.x[1].tolist() == x[1].tolist()
    assert step.error[1].tolist() == [0.0, 0.0]
    # The derivative by the length of an empty step is the right-hand side: dose times are differentiated through it.
    empty = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(method.step(rhs, t, x, empty).x[:, 0].sum(), empty)
    torch.testing.assert_close(slope, field(t, x, rhs.parameters)[:, 0], rtol=1e-14, atol=0)

"""Gradients of a likelihood against central differences: everything that a simulation depends on, for every method."""

import math
from collections.abc import Callable
from typing import Any, cast, final

import pytest
import torch
from sympy import log, symbols
from torch import Tensor, nn

import mechanistic as mech
from mechanistic import Schedule, Tolerance, simulate
from mechanistic.model import KineticModel, Parameter, State

Inputs = dict[str, Tensor]
TIGHT, TIGHTER = Tolerance(1e-9, 1e-12), Tolerance(1e-11, 1e-14)
pytestmark = pytest.mark.usefixtures("both_engines")
SOLVERS = (mech.Tsit5(), mech.Rodas5P(), mech.Auto())
by_name = {"argvalues": SOLVERS, "ids": lambda s: type(s).__name__}


@final
class NetworkField(mech.AbstractVectorField):
    """A rate field plus a small network, enough like a hybrid to need gradients by weights."""

    def __init__(self, known: mech.RateField, size: float) -> None:
        super().__init__()
        self.known = known
        self.size = size
        generator = torch.Generator().manual_seed(3)
        n = len(known.state_names)
        self.first, self.second = nn.Linear(n, 4, dtype=torch.float64), nn.Linear(4, n, dtype=torch.float64)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.5, generator=generator)
        self.state_names, self.parameter_names = known.state_names, known.parameter_names
        self.observable_names = known.observable_names
        self.register_buffer("scales", known.scales)
        self.register_buffer("nonnegative", torch.zeros_like(known.nonnegative))

    def forward(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        unknown = self.second(torch.tanh(self.first(x / self.scales)))
        return cast(Tensor, self.known(t, x, p) + self.size * self.scales * unknown)

    def initial(self, p: Tensor) -> Tensor:
        return self.known.initial(p)

    def observe(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        return self.known.observe(t, x, p)

    def nominal(self) -> Tensor:
        return self.known.nominal()


def likelihood(states: Tensor, scales: Tensor) -> Tensor:
    """Like a log-likelihood of every state at every time, summed over all but the first axis `(copy,)`.

    Padded and failed outputs do not count.
    """
    level = torch.where(states.isfinite(), states, 0.0) / scales
    target = 0.3 + 0.2 * torch.arange(states.shape[-1])
    return -((level - target) ** 2 / (1 + level**2)).flatten(1).sum(1)


def agrees(function: Callable[[Inputs], Tensor], inputs: Inputs, rtol: float = 1e-5, step: float = 1e-3) -> None:
    """Every derivative within `rtol` of central differences, relative to the largest derivative by the same input.

    `function` maps inputs `(copy, ...)` to values `(copy,)`, so that all shifted copies are one batch. Differences are
    of the fourth order: with steps of 1e-3 their own error is about 1e-12, the tolerance of the solver over the step
    about 1e-7.
    """
    leaves = {name: value[None].requires_grad_() for name, value in inputs.items()}
    grads = torch.autograd.grad(function(leaves).sum(), list(leaves.values()))
    sizes = [value.numel() for value in inputs.values()]
    flat = torch.cat([value.reshape(-1) for value in inputs.values()])
    h = step * flat.abs().clamp_min(1e-6)
    shifts = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    copies = flat + shifts[:, None, None] * torch.diag(h)
    parts = copies.reshape(-1, len(flat)).split(sizes, dim=1)
    shaped = {
        k: part.reshape(-1, *v.shape).requires_grad_() for (k, v), part in zip(inputs.items(), parts, strict=True)
    }
    weights = torch.tensor([1.0, -8.0, 8.0, -1.0], dtype=torch.float64) / 12
    numeric = (weights[:, None] * function(shaped).detach().reshape(4, -1)).sum(0) / h
    for name, grad, expected in zip(inputs, grads, numeric.split(sizes), strict=True):
        gap = (grad.reshape(-1) - expected).abs().max()
        assert gap <= rtol * expected.abs().max(), (name, grad.reshape(-1).tolist(), expected.tolist())


def dosed_oral(values: Inputs, solver: Any, system: Any = None) -> Tensor:
    model = mech.library.two_compartment_oral() if system is None else system
    field = mech.RateField(model) if isinstance(model, KineticModel) else model
    doses = (
        Schedule.bolus("gut", values["amount"], values["time"])
        + Schedule.infusion("central", values["infused"], values["duration"], values["begin"])
    )  # fmt: skip
    times = torch.tensor([[0.7, 2.0, 5.5, 9.0, 12.0], [1.0, 4.0, 7.7, torch.nan, torch.nan]], dtype=torch.float64)
    out = simulate(field, times, values["parameters"], doses, initial=values["initial"], solver=solver, tolerance=TIGHT)
    return likelihood(out.check().states, field.scales) + out.observe().nan_to_num().square().flatten(1).sum(1)


def oral_inputs() -> Inputs:
    def tensor(*rows: Any) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    return {
        "parameters": tensor([1.0, 5.0, 20.0, 10.0, 50.0], [1.4, 4.0, 25.0, 7.0, 40.0]),
        "initial": tensor([5.0, 10.0, 2.0], [1.0, 30.0, 4.0]),
        "amount": tensor([100.0, 60.0], [50.0, 80.0]),
        "time": tensor([0.5, 6.0], [1.5, 3.3]),
        "infused": tensor([30.0], [20.0]),
        "duration": tensor([1.7], [2.4]),
        "begin": tensor([3.0], [2.1]),
    }


@pytest.mark.parametrize("solver", **by_name)
def test_everything_that_a_dosed_model_depends_on(solver: Any) -> None:
    agrees(lambda values: dosed_oral(values, solver), oral_inputs())


def test_torchdiffeq_has_the_same_gradient() -> None:
    inputs = oral_inputs()

    def grads(solver: Any) -> tuple[Tensor, ...]:
        leaves = {name: value[None].requires_grad_() for name, value in inputs.items()}
        return torch.autograd.grad(dosed_oral(leaves, solver).sum(), list(leaves.values()))

    for ours, theirs in zip(grads(mech.Tsit5()), grads(mech.TorchDiffEq()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7 * float(ours.abs().max()))


@pytest.mark.parametrize("solver", **by_name)
def test_weights_of_a_network_in_a_dosed_model(solver: Any) -> None:
    field = NetworkField(mech.RateField(mech.library.two_compartment_oral()), size=0.05)
    values = {name: value[None] for name, value in oral_inputs().items()}
    _weights_agree(field, lambda: dosed_oral(values, solver, field))


def _weights_agree(field: nn.Module, function: Callable[[], Tensor]) -> None:
    """The derivative along a random direction in the space of all weights, against central differences."""
    weights = list(field.parameters())
    grads = torch.autograd.grad(function().sum(), weights)
    generator = torch.Generator().manual_seed(1)
    along = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]

    def shifted(by: float) -> float:
        with torch.no_grad():
            for weight, direction in zip(weights, along, strict=True):
                weight.add_(by * direction)
            value = float(function().sum())
            for weight, direction in zip(weights, along, strict=True):
                weight.sub_(by * direction)
        return value

    h = 5e-3
    numeric = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h)
    exact = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True))
    assert exact == pytest.approx(numeric, rel=1e-5)


def robertson(values: Inputs, solver: Any = None, system: Any = None) -> Tensor:
    field = mech.RateField(mech.library.robertson()) if system is None else system
    doses = Schedule.bolus("A", values["amount"], values["time"]) + Schedule.infusion(
        "B", values["infused"], values["duration"], values["begin"]
    )
    out = simulate(
        field, [0.1, 3.0, 20.0, 50.0], values["parameters"], doses,
        initial=values["initial"], solver=solver, tolerance=TIGHTER if system is None else Tolerance(1e-8, 1e-11),
    )  # fmt: skip
    return likelihood(out.check().states, field.scales)


def robertson_inputs() -> Inputs:
    def tensor(*values: float) -> Tensor:
        return torch.tensor([values], dtype=torch.float64)

    return {
        "parameters": tensor(0.04, 3e7, 1e4),
        "initial": tensor(0.8, 2e-4, 0.1),
        "amount": tensor(0.3),
        "time": tensor(10.0),
        "infused": tensor(1e-3),
        "duration": tensor(4.0),
        "begin": tensor(5.0),
    }


def test_everything_that_a_stiff_dosed_model_depends_on() -> None:
    agrees(lambda values: robertson(values, mech.Rodas5P()), robertson_inputs())


def test_weights_of_a_network_in_a_stiff_model() -> None:
    field = NetworkField(mech.RateField(mech.library.robertson()), size=1e-3)
    values = {name: value[None] for name, value in robertson_inputs().items()}
    _weights_agree(field, lambda: robertson(values, None, field))


@pytest.mark.parametrize("solver", **by_name)
def test_a_dose_exactly_at_the_start(solver: Any) -> None:
    def value(inputs: Inputs) -> Tensor:
        doses = Schedule.bolus("gut", inputs["amount"])
        doses = doses + Schedule.infusion("central", inputs["infused"], inputs["duration"])
        field = mech.RateField(mech.library.two_compartment_oral())
        before = [True, False, False, False]
        out = simulate(field, [0.0, 0.0, 1.5, 4.0], inputs["parameters"], doses, before=before,
                       initial=inputs["initial"], solver=solver, tolerance=TIGHT)  # fmt: skip
        return likelihood(out.check().states, field.scales)

    inputs = {
        k: v[:1] for k, v in oral_inputs().items() if k in ("parameters", "initial", "amount", "infused", "duration")
    }
    agrees(value, inputs | {"amount": inputs["amount"][:, :1]})


@pytest.mark.parametrize("solver", **by_name)
def test_a_dose_at_the_start_has_a_one_sided_derivative_by_its_time(solver: Any) -> None:
    # x = D exp(-k (t - τ)) after a bolus at τ = start: dx/dτ = k x. For an infusion at rate R = A/d from τ on:
    # x(t) = R/k (1 - exp(-k (t - τ))) inside it, dx/dτ = -R exp(-k (t - τ)).
    k, t = 2.81 / 32.0, 2.0
    when = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    model = mech.library.one_compartment_iv()
    bolus = simulate(model, [t], schedule=Schedule.bolus("central", 100.0, when), solver=solver, tolerance=TIGHT)
    (slope,) = torch.autograd.grad(bolus.states.sum(), when)
    assert slope.item() == pytest.approx(k * bolus.states.detach().item(), rel=1e-8)
    drip = simulate(model, [t], schedule=Schedule.infusion("central", 90.0, 3.0, when), solver=solver, tolerance=TIGHT)
    (slope,) = torch.autograd.grad(drip.states.sum(), when)
    assert slope.item() == pytest.approx(-30.0 * torch.exp(torch.tensor(-k * t)).item(), rel=1e-6)


@pytest.mark.parametrize("solver", **by_name)
def test_outputs_exactly_at_a_stop_that_moves_stay_where_they_are(solver: Any) -> None:
    # Bolus D at τ = 2 onto x(2): for τ < t, x(t) = (x0 exp(-kτ) + D) exp(-k (t - τ)), whose derivative by τ is
    # k D exp(-k (t - τ)); before the jump x(t) does not depend on τ at all.
    k = 2.81 / 32.0
    model = mech.library.one_compartment_iv()
    when = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    dose = Schedule.bolus("central", 100.0, when)
    out = simulate(model, [2.0, 2.0, 3.0], schedule=dose, before=[True, False, False], initial={"central": 50.0},
                   solver=solver, tolerance=TIGHT)  # fmt: skip
    slopes = [torch.autograd.grad(x, when, retain_graph=True)[0].item() for x in out.states.reshape(-1)]
    decay = torch.exp(torch.tensor(-k)).item()
    assert slopes == pytest.approx([0.0, k * 100, k * 100 * decay], rel=1e-7, abs=1e-9)
    # The same holds at the very end of the simulation, and at the end of an infusion.
    last = simulate(model, [2.0], schedule=dose, initial={"central": 50.0}, solver=solver, tolerance=TIGHT)
    assert torch.autograd.grad(last.states.sum(), when)[0].item() == pytest.approx(k * 100, rel=1e-7)
    for times in ([3.0], [3.0, 5.0]):
        length = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        drip = simulate(
            model, times, schedule=Schedule.infusion("central", 90.0, length), solver=solver, tolerance=TIGHT
        )
        (slope,) = torch.autograd.grad(drip.states[0, 0].sum(), length)
        d = torch.tensor(3.0, dtype=torch.float64)
        x = 90 / (k * d) * (1 - torch.exp(-k * d))
        # For a duration above 3 the output lies inside the infusion: only its rate A/d depends on d, by -x/d. Below 3
        # the end moves too, which adds the input rate; this is the side that the solver takes.
        assert slope.item() == pytest.approx((-x / d + 90 / d).item(), rel=1e-6)


def test_a_batch_of_stiff_and_harmless_subjects() -> None:
    field = mech.RateField(mech.library.robertson())
    times = torch.tensor([[0.5, 3.0], [0.5, 40.0]], dtype=torch.float64)
    nominal = field.nominal()
    mild = torch.tensor([0.04, 3.0, 1.0], dtype=torch.float64)

    def value(inputs: Inputs) -> Tensor:
        out = simulate(field, times, inputs["parameters"], initial=initial, tolerance=TIGHT).check()
        assert (out.method == torch.tensor([0, 1])).all()
        assert out.methods == ("Tsit5", "Rodas5P")
        return likelihood(out.states, field.scales)

    initial = torch.tensor([[1.0, 0.1, 0.05], [0.9, 2e-4, 0.1]], dtype=torch.float64)
    agrees(value, {"parameters": torch.stack([mild, nominal])})


@pytest.mark.parametrize("solver", **by_name)
def test_failed_subjects_and_padding_leave_finite_gradients(solver: Any) -> None:
    x, k = symbols("x k")
    model = KineticModel(
        "blow-up",
        (State("x", 1, scale=1.0, nonnegative=False),),
        (Parameter("k", 1.0),),
        rates={"x": k * x**2 + 0 * log(2)},
    )
    k_values = torch.tensor([[0.1], [1.0], [1e300]], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([[1.0, 2.0, torch.nan], [0.5, 2.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    when = torch.tensor([[0.2, 2.5]] * 3, dtype=torch.float64, requires_grad=True)
    amount = torch.tensor([[0.1, 0.2]] * 3, dtype=torch.float64, requires_grad=True)
    out = simulate(model, times, k_values, Schedule.bolus("x", amount, when), solver=solver)
    assert out.status.tolist()[0] == 0
    assert 0 not in out.status.tolist()[1:]
    likelihood(out.states, out.field.scales).sum().backward()
    for leaf in (k_values, when, amount):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[2] == 0).all()
        assert (leaf.grad[0, :1] != 0).all()
    # What was given before the failure still counts; what would have come after does not.
    assert amount.grad is not None
    assert amount.grad[1, 0] != 0 or isinstance(solver, mech.Auto)
    assert amount.grad[1, 1] == 0


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    model = mech.library.one_compartment_oral()
    plain = simulate(model, [1.0])
    assert not plain.states.requires_grad
    initial = torch.tensor([10.0, 0.0], dtype=torch.float64, requires_grad=True)
    out = simulate(model, [1.0, 2.0], initial=initial)
    (first,) = torch.autograd.grad(out.states[0, 1], initial, retain_graph=True)
    (again,) = torch.autograd.grad(out.states[0, 1], initial, retain_graph=True)
    assert torch.equal(first, again)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(torch.autograd.grad(out.states.sum(), initial, create_graph=True)[0].sum(), initial)


def test_weights_that_are_changed_or_exchanged_before_backward_are_refused() -> None:
    field = NetworkField(mech.RateField(mech.library.one_compartment_oral()), size=0.1)
    out = simulate(field, [1.0], initial={"gut": 1.0})
    with torch.no_grad():
        field.first.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.states.sum().backward()
    out = simulate(field, [1.0], initial={"gut": 1.0})
    field.first = nn.Linear(2, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="exchanged between `simulate` and `backward`"):
        out.states.sum().backward()


def test_gradients_in_pieces_equal_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechanistic.solve import gradient

    def grads() -> tuple[Tensor, ...]:
        leaves = {name: value[None].requires_grad_() for name, value in oral_inputs().items()}
        return torch.autograd.grad(dosed_oral(leaves, mech.Tsit5()).sum(), list(leaves.values()))

    whole = grads()
    monkeypatch.setattr(gradient, "ROWS_AT_ONCE", 50)
    for once, pieces in zip(whole, grads(), strict=True):
        torch.testing.assert_close(once, pieces, rtol=1e-10, atol=1e-12 * float(once.abs().max()))


def test_a_hill_exponent_and_a_state_at_zero_give_finite_gradients() -> None:
    s, e, k, n = symbols("s e k n")
    model = KineticModel(
        "hill", (State("s", scale=1.0), State("e", 1, scale=1.0)), (Parameter("k", 1.0), Parameter("n", 2.5)),
        rates={"s": e, "e": -(s**n) / (k**n + s**n)},
    )  # fmt: skip
    for solver in (mech.Tsit5(), mech.Rodas5P()):

        def value(inputs: Inputs, solver: Any = solver) -> Tensor:
            out = simulate(model, [0.5, 1.5], inputs["parameters"], solver=solver, tolerance=TIGHT).check()
            return likelihood(out.states, out.field.scales)

        agrees(value, {"parameters": torch.tensor([1.0, 2.5], dtype=torch.float64)})


def test_stiff_modes_at_rest_do_not_blow_up_in_a_gradient():
    """y' = -1e6 y from rest lets an explicit method take any step, whose derivative is that of a polynomial."""
    fast, x = State("y", 0, nonnegative=False), State("x", 1)
    rates = {"y": -1_000_000 * mech.symbol("y"), "x": -mech.symbol("x")}
    model = KineticModel("rest", (fast, x), rates=rates)
    start = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    solution = simulate(model, [2.0], initial=start)
    (slope,) = torch.autograd.grad(solution.states.sum(), start)
    torch.testing.assert_close(slope, torch.tensor([0.0, math.exp(-2)], dtype=torch.float64), rtol=1e-5, atol=1e-12)
    assert solution.methods[int(solution.method)] == "Rodas5P"


def test_a_system_at_rest_has_the_derivatives_of_its_modes():
    """x' = k (c - x) from x = c stays there, so any step is right; d x(t) / d x(0) is exp(-k t) all the same."""
    k, c = mech.symbol("k"), mech.symbol("c")
    model = KineticModel(
        "rest", (State("x", 2),), (Parameter("k", 0.7), Parameter("c", 2.0)), rates={"x": k * (c - mech.symbol("x"))}
    )
    for solver in (mech.Tsit5(), mech.Rodas5P()):
        start = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
        solution = simulate(model, [5.0], initial=start, solver=solver, tolerance=Tolerance(1e-8, 1e-10))
        (slope,) = torch.autograd.grad(solution.states.sum(), start)
        # The error of a derivative is controlled in steps of ten times the tolerance.
        assert float(slope) == pytest.approx(math.exp(-3.5), abs=1e-6)

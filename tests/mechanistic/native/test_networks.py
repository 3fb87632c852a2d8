"""Networks in compiled code: against the same layers in PyTorch, for every activation and shape."""

from collections.abc import Sequence
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mechanistic as mech
from mechanistic import Native, Rodas5P, Schedule, Tolerance, Torch, Tsit5, simulate
from mechanistic.compile.coupled import ACTIVATIONS, AbstractCoupled, Coupled, Dense, activation
from mechanistic.compile.tape import TapeBuilder

TORCH = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: functional.softplus(x, threshold=40.0),
    "silu": functional.silu,
    "gelu": functional.gelu,
    "elu": functional.elu,
    "relu": functional.relu,
    "sin": torch.sin,
}
LOOSE = Tolerance(1e-3, 1e-6)
"""Few steps: what is compared is the same numerical solution, however exact it is."""

# Both engines take the same steps but for rounding, to which the size of a step answers smoothly. Its error estimate is
# a small difference of large numbers, so that sizes and what follows from them differ by more than the last places.
ROUNDING = 1e-9
"""Relative to the largest number of a kind."""


@final
class Learned(AbstractCoupled):
    """A mechanism, one parameter driven and every state pushed by networks that see everything."""

    def __init__(self, networks: Sequence[Dense], seed: int = 0) -> None:
        super().__init__()
        self.known = mech.RateField(mech.library.two_compartment_oral())
        known = self.known
        self.state_names, self.parameter_names = known.state_names, known.parameter_names
        self.observable_names = known.observable_names
        self.register_buffer("scales", known.scales, persistent=False)
        self.register_buffer("nonnegative", known.nonnegative & False, persistent=False)
        self.networks = tuple(networks)
        generator = torch.Generator().manual_seed(seed)
        count = sum(network.weights for network in networks)
        numbers = 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)
        self.numbers = nn.Parameter(numbers)
        self.description = self._described()

    def _described(self) -> Coupled:
        n, k = len(self.state_names), len(self.parameter_names)
        b = TapeBuilder(1 + n + k)
        inputs = [b.apply("mul", b.constant(0.1), 0)]
        inputs += [b.apply("div", 1 + i, b.constant(100.0)) for i in range(n)]
        inputs += [b.apply("log", 1 + n + i) for i in range(k)]
        seen = [inputs[i % len(inputs)] for network in self.networks for i in range(network.inputs)]
        outputs = sum(network.outputs for network in self.networks)
        after = TapeBuilder(1 + n + k + outputs)
        found = range(1 + n + k, 1 + n + k + outputs)
        small = [after.apply("mul", after.constant(0.3), output) for output in found]
        driven = [after.apply("mul", 1 + n, after.apply("exp", small[0])), *range(2 + n, 1 + n + k)]
        pushes = [after.total(small[i::n]) if small[i::n] else after.constant(0.0) for i in range(n)]
        learned = [after.apply("mul", push, 1 + i) for i, push in enumerate(pushes)]
        return Coupled(self.known, n, k, self.networks, b.finish(seen), after.finish(driven), after.finish(learned))

    def coupled(self) -> Coupled:
        return self.description

    def weights(self) -> Tensor:
        return self.numbers * 1.0

    def forward(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        given = [t.expand(x.shape[:-1]), *x.unbind(-1), *p.expand(*x.shape[:-1], -1).unbind(-1)]
        seen = list(self.description.seen.run(given))
        outputs: list[Tensor] = []
        start = 0
        for network in self.networks:
            mine, seen = seen[: network.inputs], seen[network.inputs :]
            end = start + network.weights
            found = through(network, self.numbers[start:end], torch.stack(mine, -1))  # type: ignore[arg-type]
            outputs += found.unbind(-1)
            start = end
        driven, learned = (
            torch.stack(
                [torch.as_tensor(v, dtype=x.dtype).expand(x.shape[:-1]) for v in tape.run([*given, *outputs])], -1
            )
            for tape in (self.description.driven, self.description.learned)
        )
        rate: Tensor = self.known(t, x, driven)
        return rate + learned

    def initial(self, p: Tensor) -> Tensor:
        return self.known.initial(p)

    def observe(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        return self.known.observe(t, x, p)

    def nominal(self) -> Tensor:
        return self.known.nominal()


def through(network: Dense, weights: Tensor, x: Tensor) -> Tensor:
    """The network in PyTorch, `(*batch, input)` to `(*batch, output)`."""
    for i, (before, after) in enumerate(zip(network.widths, network.widths[1:], strict=False)):
        matrix, bias = weights[: after * before].reshape(after, before), weights[after * before :][:after]
        weights = weights[after * (before + 1) :]
        x = functional.linear(x, matrix, bias)
        if i < len(network.widths) - 2:
            x = TORCH[network.activation](x)
    return x


def solved(field: Learned, engine: Any, solver: Any, subjects: int = 9) -> list[Tensor]:
    """States, then the gradients of a sum of their squares by parameters, amounts, initial states and weights."""
    generator = torch.Generator().manual_seed(3)
    factors = torch.exp(0.3 * torch.randn(subjects, 5, generator=generator, dtype=torch.float64))
    parameters = (field.nominal() * factors).requires_grad_()
    amount = torch.full((subjects,), 100.0, dtype=torch.float64, requires_grad=True)
    initial = torch.rand(subjects, 3, generator=generator, dtype=torch.float64).requires_grad_()
    times = 2 * torch.rand(subjects, 4, generator=generator, dtype=torch.float64).sort().values
    found = simulate(field, times, parameters, Schedule.bolus("gut", amount, 0.5), initial=initial, start=0.0,
                     solver=solver, tolerance=LOOSE, engine=engine)  # fmt: skip
    inputs = (parameters, amount, initial, *field.parameters())
    weight = torch.linspace(0.5, 1.5, found.states.numel(), dtype=torch.float64).reshape(found.states.shape)
    return [found.states.detach(), *torch.autograd.grad((found.states * weight).square().mean(), inputs)]


def same(field: Learned, solver: Any) -> None:
    for mine, theirs in zip(solved(field, Native(), solver), solved(field, Torch(), solver), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=ROUNDING * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["tanh", "softplus", "silu", "gelu", "sin", "sigmoid", "identity"])
def test_smooth_activations_have_the_values_and_gradients_of_the_torch_engine(name: str) -> None:
    # This method takes second derivatives as well.
    same(Learned([Dense((4, 6, 2), name)]), Rodas5P())


@pytest.mark.parametrize("name", ["tanh", "relu", "elu"])
def test_an_explicit_method_has_the_values_and_gradients_of_the_torch_engine(name: str) -> None:
    same(Learned([Dense((4, 6, 5, 2), name)]), Tsit5())


@pytest.mark.parametrize(
    "widths",
    [[(3, 2)], [(1, 1, 1)], [(8, 16, 9, 3)], [(2, 3, 1), (4, 9, 2), (7, 1)]],
    ids=lambda widths: " ".join("-".join(map(str, each)) for each in widths),
)
def test_every_shape_has_the_values_and_gradients_of_the_torch_engine(widths: Any) -> None:
    same(Learned([Dense(each, "tanh") for each in widths]), Rodas5P())


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("reach", [2.0, 30.0, 800.0])
def test_activations_and_their_first_two_derivatives_are_those_of_torch(name: str, reach: float) -> None:
    x = torch.linspace(-reach, reach, 2002, dtype=torch.float64, requires_grad=True)
    value = TORCH[name](x)
    slope = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
    bend = torch.autograd.grad(slope.sum(), x)[0] if slope.requires_grad else torch.zeros_like(x)
    found = activation(name).tape.run([x.detach()])
    for mine, theirs in zip(found, (value, slope, bend), strict=True):
        torch.testing.assert_close(
            torch.as_tensor(mine, dtype=x.dtype).expand_as(x), theirs.detach(), rtol=1e-13, atol=1e-14
        )


def test_gradients_by_weights_are_those_of_finite_differences() -> None:
    field = Learned([Dense((4, 5, 2), "silu")])
    exact = solved(field, Native(), Tsit5())[-1]

    def value(numbers: Tensor) -> float:
        with torch.no_grad():
            field.numbers.copy_(numbers)
        states = solved(field, Native(), Tsit5())[0]
        weight = torch.linspace(0.5, 1.5, states.numel(), dtype=torch.float64).reshape(states.shape)
        return float((states * weight).square().mean())

    start = field.numbers.detach().clone()
    for i in range(0, len(start), 7):
        step = torch.zeros_like(start)
        step[i] = 1e-4
        slope = (value(start + step) - value(start - step)) / 2e-4
        # Steps change with the weights, which the derivative leaves out: by no more than the error of the solution.
        assert abs(slope - float(exact[i])) < 1e-3 * float(exact.abs().max())


def test_the_gradient_of_the_weights_does_not_depend_on_the_number_of_threads() -> None:
    field = Learned([Dense((4, 6, 2), "tanh")])
    one, two = (solved(field, Native(threads=threads), Tsit5(), subjects=200) for threads in (1, 2))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))


def test_weights_are_read_at_every_solve() -> None:
    field = Learned([Dense((4, 6, 2), "tanh")])
    before = solved(field, Native(), Tsit5())[0]
    with torch.no_grad():
        field.numbers.mul_(0.5)
    assert not torch.allclose(before, solved(field, Native(), Tsit5())[0])
    same(field, Tsit5())


def test_a_subject_has_the_same_numbers_and_own_gradients_in_any_batch_bit_for_bit() -> None:
    field = Learned([Dense((4, 6, 2), "tanh")])
    generator = torch.Generator().manual_seed(1)
    factors = torch.exp(0.3 * torch.randn(30, 5, generator=generator, dtype=torch.float64))

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        parameters = (field.nominal() * factors[rows]).requires_grad_()
        doses = Schedule.bolus("gut", 100.0, 0.0)
        states = simulate(field, [1.0, 5.0], parameters, doses, solver=Tsit5(), engine=Native()).states
        return states.detach(), torch.autograd.grad(states.sum(), parameters)[0]

    together, alone = run(slice(None)), run(slice(13, 14))
    assert all(torch.equal(a[13:14], b) for a, b in zip(together, alone, strict=True))


def test_an_unknown_activation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"`tahn`.*`tanh`"):
        Dense((1, 1), "tahn")

"""Reverse mode on tapes: against autograd for random tapes, against forward derivatives for every operation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mechanistic.compile.reverse import pullback
from mechanistic.compile.tape import BINARY, INFIX, UNARY, Tape, TapeBuilder, differentiate

# Where both arguments are inside the domain of an operation; (0.3, 0.6) serves all but one.
INTERIOR = {"acosh": (1.7, 0.6)}
KINKS = {
    "abs": (0.0, 1.0), "sign": (0.0, 1.0), "floor": (2.0, 1.0), "ceil": (2.0, 1.0),
    "min": (0.7, 0.7), "max": (0.7, 0.7), "xlogy": (0.0, 0.0), "pow": (0.0, 2.5),
}  # fmt: skip


def values(tape: Tape, *inputs: Tensor) -> list[Tensor]:
    return [torch.as_tensor(v, dtype=torch.float64).expand(inputs[0].shape) for v in tape.run(inputs)]


def tensors(*numbers: float) -> list[Tensor]:
    return [torch.tensor(number, dtype=torch.float64) for number in numbers]


def operation_tape(operation: str) -> Tape:
    """An operation of the two inputs, as a number."""
    b = TapeBuilder(2)
    result = b.apply(operation, *((0, 1) if operation in INFIX | BINARY else (0,)))
    return b.finish([b.apply("where", result, b.constant(2.0), 1) if b.is_logical(result) else result])


def forward_slopes(tape: Tape, point: list[Tensor]) -> list[float]:
    """Derivatives of the first output by every input, by `differentiate`."""
    b = TapeBuilder(tape.slots)
    output = b.replay(tape, range(tape.slots))[tape.outputs[0]]
    slopes = [differentiate(b, output, slot) for slot in range(tape.slots)]
    return [float(v) for v in b.finish([b.constant(0.0) if s is None else s for s in slopes]).run(point)]


OPERATIONS = sorted({*INFIX, *UNARY, *BINARY} - {"not", "and", "or", "xor", "trigamma"})


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_the_derivative_of_forward_mode(operation: str) -> None:
    tape = operation_tape(operation)
    for point in [INTERIOR.get(operation, (0.3, 0.6)), *([KINKS[operation]] if operation in KINKS else [])]:
        back = pullback(tape, [0, 1]).run(tensors(*point, 1.5))
        expected = [1.5 * slope for slope in forward_slopes(tape, tensors(*point))]
        # The same products, in another order.
        assert [float(v) for v in back] == pytest.approx(expected, rel=1e-14)


def test_logic_passes_no_cotangent() -> None:
    b = TapeBuilder(2)
    different = b.apply("and", b.apply("lt", 0, 1), b.apply("not", b.apply("eq", 0, 1)))
    logic = b.apply("xor", different, b.apply("or", 0, 1))
    tape = b.finish([b.apply("where", logic, 0, b.apply("mul", 0, 1))])
    back = pullback(tape, [0, 1])
    assert back.run(tensors(2.0, 3.0, 1.0)) == [3.0, 2.0]


@st.composite
def tapes(draw: st.DrawFn) -> Tape:
    """Tapes whose values and derivatives stay moderate."""
    b = TapeBuilder(3)
    registers = [0, 1, 2, b.constant(0.7)]
    for _ in range(draw(st.integers(1, 25))):
        x, y, z = (draw(st.sampled_from(registers)) for _ in range(3))
        bounded = b.apply("tanh", x)
        positive = b.apply("add", b.constant(0.5), b.apply("square", bounded))
        registers.append(
            draw(
                st.sampled_from(
                    [
                        lambda x=x, y=y: b.apply("add", x, y),
                        lambda x=x, y=y: b.apply("sub", x, y),
                        lambda x=bounded, y=y: b.apply("mul", x, y),
                        lambda x=x, y=positive: b.apply("div", x, y),
                        lambda x=positive, y=bounded: b.apply("pow", x, y),
                        lambda x=x: b.apply("sin", x),
                        lambda x=bounded: b.apply("exp", x),
                        lambda x=positive: b.apply("log", x),
                        lambda x=x, y=y: b.apply("min", x, y),
                        lambda x=x, y=y, z=z, bounded=bounded: b.apply(
                            "where", b.apply("lt", z, y), b.apply("mul", x, bounded), y
                        ),
                    ]
                )
            )()
        )
    return b.finish(draw(st.lists(st.sampled_from(registers), min_size=1, max_size=4)))


@given(tapes(), st.integers(0, 2**32 - 1))
def test_random_tapes_have_the_gradient_of_autograd(tape: Tape, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]
    seeds = [torch.randn(5, dtype=torch.float64, generator=generator) for _ in tape.outputs]
    total = sum((s * v).sum() for s, v in zip(seeds, values(tape, *inputs), strict=True)) + 0 * sum(inputs).sum()
    expected = torch.autograd.grad(total, inputs)
    back = values(pullback(tape, [0, 1, 2]), *(v.detach() for v in inputs), *seeds)
    for mine, theirs in zip(back, expected, strict=True):
        # Sums of up to hundreds of terms in another order.
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11 * (1 + float(theirs.abs().max())))


@given(tapes(), st.integers(0, 2**32 - 1))
def test_second_derivatives_are_symmetric(tape: Tape, seed: int) -> None:
    b = TapeBuilder(3)
    gradient = b.finish([b.replay(pullback(tape, [0, 1, 2]), [0, 1, 2, *[b.constant(1.0)] * len(tape.outputs)])[o]
                         for o in pullback(tape, [0, 1, 2]).outputs])  # fmt: skip
    point = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    twice = pullback(gradient, [0, 1, 2])
    hessian = torch.stack([torch.stack(values(twice, *point, *row)) for row in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-9 * (1 + float(hessian.abs().max())))


@pytest.mark.parametrize("singular", ["log", "sqrt", "acosh"])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_singular_branch_that_is_not_taken_leaves_no_trace(singular: str, guarded: bool) -> None:
    b = TapeBuilder(2)
    positive = b.apply("lt", b.constant(0.0), 0)
    inner = b.apply("guard", positive, 0) if guarded else 0
    branch = b.apply("div", b.apply("mul", 1, b.apply(singular, inner)), inner)
    tape = b.finish([b.apply("where", positive, branch, b.apply("add", b.apply("mul", b.constant(3.0), 0), 1))])
    assert pullback(tape, [0, 1]).run(tensors(0.0, 2.0, 1.0)) == [3.0, 1.0]


def test_the_lesser_argument_of_a_maximum_may_have_an_infinite_derivative() -> None:
    b = TapeBuilder(1)
    tape = b.finish([b.apply("max", b.constant(0.0), b.apply("sqrt", 0))])
    assert pullback(tape, [0]).run(tensors(0.0, 1.0)) == [0.0]


def test_what_has_no_effect_has_the_constant_zero() -> None:
    b = TapeBuilder(3)
    back = pullback(b.finish([b.apply("floor", 0), b.apply("mul", 1, 1)]), [2, 0, 1])
    assert [type(v) for v in back.run(tensors(1.0, 2.0, 3.0, 1.0, 1.0))[:2]] == [float, float]
    assert back.run(tensors(1.0, 2.0, 3.0, 1.0, 1.0)) == [0.0, 0.0, 4.0]


def test_an_output_that_is_an_input_or_given_twice_counts_each_time() -> None:
    assert pullback(Tape(2, (), (1, 0, 1)), [0, 1]).run(tensors(5.0, 7.0, 1.0, 10.0, 100.0)) == [10.0, 101.0]


def test_the_pullback_is_as_large_as_a_few_tapes() -> None:
    b = TapeBuilder(20)
    register = 0
    for i in range(1000):
        register = b.apply("sin", b.apply("mul", register, i % 20))
    tape = b.finish([register])
    assert len(pullback(tape, range(20)).instructions) <= 4 * len(tape.instructions)


def test_the_derivative_of_digamma_is_trigamma() -> None:
    b = TapeBuilder(1)
    (slope,) = pullback(b.finish([b.apply("digamma", 0)]), [0]).run(tensors(1.0, 1.0))
    # ψ'(1) = π²/6; PyTorch's own series is good to nine digits.
    assert float(slope) == pytest.approx(math.pi**2 / 6, rel=1e-9)

"""Forward mode on tapes: against reverse mode for random tapes, and what is left out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechanistic.compile.forward import slopes
from mechanistic.compile.reverse import pullback
from mechanistic.compile.tape import Tape, TapeBuilder
from tests.mechanistic.test_reverse import INTERIOR, KINKS, OPERATIONS, operation_tape, tapes, tensors, values


def jacobian(tape: Tape) -> tuple[Tape, list[tuple[int, int]]]:
    """The tape of all derivatives that are not zero for certain, and the (output, input) of each."""
    b = TapeBuilder(tape.slots)
    place = b.replay(tape, range(tape.slots))
    found = slopes(b, [place[o] for o in tape.outputs], range(tape.slots))
    keys = [(row, slot) for row, each in enumerate(found) for slot in each]
    return b.finish([found[row][slot] for row, slot in keys]), keys


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_the_derivative_of_reverse_mode(operation: str) -> None:
    tape = operation_tape(operation)
    derivatives, keys = jacobian(tape)
    for point in [INTERIOR.get(operation, (0.3, 0.6)), *([KINKS[operation]] if operation in KINKS else [])]:
        expected = [float(v) for v in pullback(tape, [0, 1]).run(tensors(*point, 1.0))]
        found = [0.0, 0.0]
        for (_, slot), value in zip(keys, derivatives.run(tensors(*point)), strict=True):
            found[slot] = float(value)
        # A quotient is multiplied by a reciprocal, which costs a rounding.
        assert found == pytest.approx(expected, rel=1e-14)


@given(tapes(), st.integers(0, 2**32 - 1))
def test_random_tapes_have_the_derivatives_of_reverse_mode(tape: Tape, seed: int) -> None:
    point = list(torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    derivatives, keys = jacobian(tape)
    found = dict(zip(keys, values(derivatives, *point), strict=True))
    for row in range(len(tape.outputs)):
        seeds = [torch.full((5,), float(row == other), dtype=torch.float64) for other in range(len(tape.outputs))]
        for slot, theirs in enumerate(values(pullback(tape, [0, 1, 2]), *point, *seeds)):
            mine = found.get((row, slot), torch.zeros(5, dtype=torch.float64))
            # Sums of up to hundreds of terms in another order.
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11 * (1 + float(theirs.abs().max())))


def test_what_is_zero_for_certain_is_left_out() -> None:
    b = TapeBuilder(3)
    outputs = [b.apply("mul", 0, 1), b.apply("floor", 2), b.constant(4.0), 2, b.apply("sub", b.apply("neg", 1), 1)]
    assert [sorted(each) for each in slopes(b, outputs, [0, 2])] == [[0], [], [], [2], []]


@pytest.mark.parametrize("singular", ["log", "sqrt", "acosh"])
def test_a_singular_branch_that_is_not_taken_leaves_no_trace(singular: str) -> None:
    b = TapeBuilder(2)
    positive = b.apply("lt", b.constant(0.0), 0)
    branch = b.apply("div", b.apply("mul", 1, b.apply(singular, 0)), 0)
    tape = b.finish([b.apply("where", positive, branch, b.apply("add", b.apply("mul", b.constant(3.0), 0), 1))])
    derivatives, keys = jacobian(tape)
    assert keys == [(0, 0), (0, 1)]
    assert [float(v) for v in derivatives.run(tensors(0.0, 2.0))] == [3.0, 1.0]


def test_a_chain_of_sums_costs_what_its_derivatives_do() -> None:
    b = TapeBuilder(50)
    total = b.constant(0.0)
    for i in range(49):
        total = b.apply("sub", total, b.apply("mul", i, i + 1))
    (found,) = slopes(b, [total], range(50))
    assert len(found) == 50
    assert len(b.finish(list(found.values())).instructions) <= 4 * 50

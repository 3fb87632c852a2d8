"""Long tapes in parts: the same numbers, whatever the parts."""

import ctypes
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mechanistic.compile.reverse import pullback
from mechanistic.compile.tape import Tape, TapeBuilder
from mechanistic.native import emit
from mechanistic.native.build import compile_kernels
from mechanistic.native.emit import Kernels
from mechanistic.native.lanes import LANES
from mechanistic.native.stretches import cut

SLOTS = 3


@st.composite
def tapes(draw: st.DrawFn) -> Tape:
    """Tapes of smooth operations, comparisons and constants, some outputs among their inputs."""
    builder = TapeBuilder(SLOTS)
    registers = [*range(SLOTS), builder.constant(0.75)]
    logical: list[int] = []
    for _ in range(draw(st.integers(1, 60))):
        pick = st.sampled_from(registers[-12:])
        operation = draw(st.sampled_from(["add", "sub", "mul", "tanh", "square", "max", "lt", "where", "const"]))
        if operation == "const":
            registers.append(builder.constant(draw(st.sampled_from([0.0, 1.0, -0.5, 0.3]))))
        elif operation == "lt":
            logical.append(builder.apply("lt", draw(pick), draw(pick)))
        elif operation == "where":
            if logical:
                registers.append(builder.apply("where", draw(st.sampled_from(logical)), draw(pick), draw(pick)))
        elif operation in ("tanh", "square"):
            registers.append(builder.apply("tanh", builder.apply(operation, draw(pick))))
        else:
            registers.append(builder.apply("tanh", builder.apply(operation, draw(pick), draw(pick))))
    return builder.finish(draw(st.lists(st.sampled_from([*registers, *logical]), min_size=1, max_size=12)))


def run_in_parts(tape: Tape, length: int, inputs: list[Tensor]) -> list[Tensor]:
    parts, size = cut(tape, length)
    memory: list[Tensor] = [torch.full_like(inputs[0], torch.nan)] * size
    results: dict[int, Tensor] = {}
    for part in parts:
        values = [torch.as_tensor(v) for v in part.tape.run([*inputs, *(memory[i] for i in part.taken)])]
        results |= dict(zip(part.shown, values, strict=False))
        for place, value in zip(part.given, values[len(part.shown) :], strict=True):
            memory[place] = value
    return [results[i] for i in range(len(tape.outputs))]


@given(tapes(), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_parts_one_after_the_other_give_what_the_tape_gives(tape: Tape, length: int):
    # A truth value goes through memory as 0 or 1; on tensors it has to stay one.
    inputs = [torch.linspace(-1, 1.5, 7).double() * (i + 1) for i in range(SLOTS)]
    tape = tape.only([o for o in tape.outputs if not _is_logical(tape, o)] or [0])
    if any(_is_logical(part.tape, o) for part in cut(tape, length)[0] for o in part.tape.outputs):
        return
    for mine, whole in zip(run_in_parts(tape, length, inputs), tape.run(inputs), strict=True):
        torch.testing.assert_close(mine, torch.as_tensor(whole, dtype=mine.dtype), rtol=0, atol=0)


def _is_logical(tape: Tape, register: int) -> bool:
    return register >= tape.slots and tape.instructions[register - tape.slots].operation == "lt"


@given(tapes(), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_every_instruction_is_done_once_and_parts_are_not_longer_than_asked(tape: Tape, length: int):
    parts, size = cut(tape, length)
    count = {"const": 0, "other": 0}
    for part in parts:
        own = [i for i in part.tape.instructions if i.operation not in ("const", "true", "false")]
        count["other"] += len(own)
        assert len(own) <= length
        assert len(part.given) == len(set(part.given))
        assert all(0 <= place < size for place in (*part.taken, *part.given))
    needed = tape.only(tape.outputs).instructions
    assert count["other"] == sum(i.operation not in ("const", "true", "false") for i in needed)
    assert sorted(i for part in parts for i in part.shown) == list(range(len(tape.outputs)))


@pytest.mark.parametrize("increase", [False, True])
@given(tape=tapes(), length=st.integers(2, 15))
@settings(max_examples=8, deadline=None)
def test_kernels_of_long_tapes_give_what_the_tapes_give(tape: Tape, length: int, increase: bool):
    inputs = np.linspace(-1, 1, SLOTS * LANES).reshape(SLOTS, LANES)
    columns = [torch.from_numpy(row) for row in inputs]
    expected = np.stack([np.broadcast_to(np.asarray(v), LANES) for v in tape.run(columns)])
    found = {}
    for limit in (0, 10**6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(emit, "WHOLE", limit)
            patch.setattr(emit, "STRETCH", length)
            kernels = Kernels.new()
            kernels.tape("run", tape, [1, SLOTS - 1], [len(tape.outputs)], increase=increase)
        engine = compile_kernels(kernels)
        outputs = np.full(expected.shape, 2.0)
        run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(engine.get_function_address("run"))
        run(inputs[:1].ctypes.data, np.ascontiguousarray(inputs[1:]).ctypes.data, outputs.ctypes.data)
        found[limit] = outputs
    # Contraction and the native functions round differently from PyTorch.
    np.testing.assert_allclose(found[0], expected + (2.0 if increase else 0.0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found[0], found[10**6], rtol=0, atol=1e-14)


def test_a_pullback_in_parts_is_one_pass_over_the_tape():
    builder = TapeBuilder(2)
    register = 0
    for _ in range(400):
        register = builder.apply("tanh", builder.apply("add", builder.apply("mul", register, 1), 0))
    back = pullback(builder.finish([register]), [0, 1])
    parts, size = cut(back, 100)
    assert len(parts) == -(-sum(i.operation != "const" for i in back.instructions) // 100)
    # What the way back needs of the way there, and a cotangent or two.
    assert size <= 2 * 400 + 8
    for one, other in pairwise(parts):
        assert set(other.taken) <= set(range(size))
        assert one.given or not other.taken

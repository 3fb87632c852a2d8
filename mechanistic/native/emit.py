"""Kernels as LLVM vector code: one function a tape, eight subjects in the lanes of every value."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

from llvmlite import ir

from mechanistic.compile.tape import LOGICAL, Tape
from mechanistic.native.functions import Functions
from mechanistic.native.lanes import LANES

DOUBLE = ir.DoubleType()
VECTOR = ir.VectorType(DOUBLE, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
INDEX = ir.IntType(64)
POINTER = ir.PointerType()
CONTRACT = ("contract",)
"""A product and a sum may become one fused operation, which is rounded once."""

STRETCH = 1500
"""Instructions in one function: the time of the code generator grows faster than its length."""

COMPARISONS = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def vector(value: float) -> ir.Constant:
    """A number in all lanes."""
    return ir.Constant(VECTOR, [ir.Constant(DOUBLE, value)] * LANES)


@final
@dataclass(frozen=True, slots=True)
class Kernels:
    """A module under construction: adds functions to it, which may call each other by name."""

    module: ir.Module
    functions: Functions

    @classmethod
    def new(cls) -> "Kernels":
        module = ir.Module(name="kernels")
        return cls(module, Functions(module, LANES))

    @contextmanager
    def function(self, name: str, arguments: int, *, internal: bool = False) -> Iterator[tuple["Code", list[ir.Value]]]:
        """A function `void name(double* …)` whose arguments do not overlap."""
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [POINTER] * arguments), name)
        if internal:
            function.linkage = "internal"
        function.attributes.add("nounwind")
        for argument in function.args:
            argument.add_attribute("noalias")
        code = Code(ir.IRBuilder(function.append_basic_block("entry")), self.functions)
        yield code, list(function.args)
        code.builder.ret_void()

    def tape(self, name: str, tape: Tape, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """A function of as many arrays as there are sizes in `inputs` and `outputs`, which runs a tape.

        A long tape becomes several functions, each of some of the outputs, and one that calls them.
        """
        pieces = max(1, -(-len(tape.instructions) // STRETCH))
        if pieces == 1:
            with self.function(name, len(inputs) + len(outputs)) as (code, arrays):
                code.run(tape, places(arrays, inputs), places(arrays[len(inputs) :], outputs))
            return
        edges = [len(tape.outputs) * i // pieces for i in range(pieces + 1)]
        for i, (start, stop) in enumerate(pairwise(edges)):
            with self.function(f"{name}_{i}", len(inputs) + len(outputs)) as (code, arrays):
                targets = places(arrays[len(inputs) :], outputs)[start:stop]
                code.run(_needed(tape, start, stop), places(arrays, inputs), targets)
        with self.function(name, len(inputs) + len(outputs)) as (code, arrays):
            for i in range(pieces):
                code.call(f"{name}_{i}", *arrays)


def places(arrays: Sequence[ir.Value], sizes: Sequence[int]) -> list[tuple[ir.Value, int]]:
    """The elements of arrays of these sizes, one after the other, as (array, index)."""
    return [(array, i) for array, size in zip(arrays, sizes, strict=False) for i in range(size)]


def _needed(tape: Tape, start: int, stop: int) -> Tape:
    """The tape of some of the outputs; registers keep their numbers, and what is not needed is left out."""
    return Tape(tape.slots, tape.instructions, tape.outputs[start:stop])


@final
@dataclass(slots=True)
class Code:
    """Appends to one function."""

    builder: ir.IRBuilder
    functions: Functions

    def at(self, array: ir.Value, index: ir.Value | int) -> ir.Value:
        """The address of the lanes of one element."""
        if isinstance(index, int):
            if index == 0:
                return array
            return self.builder.gep(array, [ir.Constant(INDEX, index * LANES)], source_etype=DOUBLE)
        scaled = self.builder.mul(index, ir.Constant(INDEX, LANES))
        return self.builder.gep(array, [scaled], source_etype=DOUBLE)

    def load(self, array: ir.Value, index: ir.Value | int = 0) -> ir.Value:
        return self.builder.load(self.at(array, index), typ=VECTOR, align=8)

    def store(self, value: ir.Value, array: ir.Value, index: ir.Value | int = 0) -> None:
        self.builder.store(value, self.at(array, index), align=8)

    def call(self, name: str, *arguments: ir.Value) -> None:
        """Calls a function of the module."""
        self.builder.call(self.builder.module.globals[name], list(arguments))

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b, flags=CONTRACT)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fsub(a, b, flags=CONTRACT)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fmul(a, b, flags=CONTRACT)

    def combine(self, weights: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
        """The sum of values times weights, those that are zero left out."""
        total: ir.Value | None = None
        for weight, value in zip(weights, values, strict=True):
            if weight != 0:
                part = value if weight == 1 else self.mul(vector(weight), value)
                total = part if total is None else self.add(total, part)
        return vector(0.0) if total is None else total

    @contextmanager
    def loop(self, count: int) -> Iterator[ir.Value]:
        """Repeats what is appended inside for an index from 0 up to `count`."""
        b = self.builder
        if count == 0:
            # What is appended is never reached, and a block without a way in has no number of the turn.
            nowhere = b.append_basic_block("never")
            after = b.append_basic_block("after")
            b.branch(after)
            b.position_at_end(nowhere)
            yield ir.Constant(INDEX, 0)
            b.branch(after)
            b.position_at_end(after)
            return
        before = b.block
        body, after = b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(INDEX)
        index.add_incoming(ir.Constant(INDEX, 0), before)
        yield index
        following = b.add(index, ir.Constant(INDEX, 1))
        index.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, ir.Constant(INDEX, count)), body, after)
        b.position_at_end(after)

    def run(
        self, tape: Tape, inputs: Sequence[tuple[ir.Value, int]], outputs: Sequence[tuple[ir.Value, int]],
        store: Callable[[ir.Value, ir.Value, int], None] | None = None,
    ) -> None:  # fmt: skip
        """Runs a tape from arrays to arrays."""
        needed = _reachable(tape)
        registers: dict[int, ir.Value] = {}

        def read(register: int) -> ir.Value:
            if register not in registers:
                registers[register] = self.load(*inputs[register])
            return registers[register]

        for register, instruction in enumerate(tape.instructions, start=tape.slots):
            if register in needed:
                arguments = [read(a) for a in instruction.arguments]
                registers[register] = self._value(instruction.operation, arguments, instruction.value)
        for output, place in zip(tape.outputs, outputs, strict=True):
            (store or self.store)(self._number(read(output)), *place)

    def _value(self, operation: str, arguments: Sequence[ir.Value], number: float) -> ir.Value:
        b = self.builder
        if operation == "const":
            return vector(number)
        if operation in ("true", "false"):
            return ir.Constant(MASK, [ir.Constant(ir.IntType(1), int(operation == "true"))] * LANES)
        if operation in LOGICAL:
            return self._logical(operation, arguments)
        numbers = [a if a.type == MASK and i == 0 and operation in ("where", "guard") else self._number(a)
                   for i, a in enumerate(arguments)]  # fmt: skip
        if operation in ARITHMETIC:
            flags = () if operation == "div" else CONTRACT
            value: Any = getattr(b, ARITHMETIC[operation])(*numbers, flags=flags)
            return value
        if operation == "neg":
            return b.fneg(numbers[0])
        if operation == "square":
            return b.fmul(numbers[0], numbers[0], flags=CONTRACT)
        if operation == "where":
            return b.select(self._mask(numbers[0]), numbers[1], numbers[2])
        if operation == "guard":
            # Only derivatives are guarded, and these are tapes of their own.
            return numbers[1]
        return self.functions.apply(b, operation, numbers)

    def _logical(self, operation: str, arguments: Sequence[ir.Value]) -> ir.Value:
        b = self.builder
        if operation in COMPARISONS:
            first, second = (self._number(a) for a in arguments)
            if operation == "ne":
                return b.fcmp_unordered("!=", first, second)
            return b.fcmp_ordered(COMPARISONS[operation], first, second)
        masks = [self._mask(a) for a in arguments]
        if operation == "not":
            return b.not_(masks[0])
        value: Any = getattr(b, {"and": "and_", "or": "or_", "xor": "xor"}[operation])(*masks)
        return value

    def _mask(self, value: ir.Value) -> ir.Value:
        return value if value.type == MASK else self.builder.fcmp_unordered("!=", value, vector(0.0))

    def _number(self, value: ir.Value) -> ir.Value:
        return self.builder.select(value, vector(1.0), vector(0.0)) if value.type == MASK else value


def _reachable(tape: Tape) -> set[int]:
    """Registers that the outputs need."""
    needed: set[int] = set()
    pending = list(tape.outputs)
    while pending:
        register = pending.pop()
        if register not in needed:
            needed.add(register)
            if register >= tape.slots:
                pending.extend(tape.instructions[register - tape.slots].arguments)
    return needed

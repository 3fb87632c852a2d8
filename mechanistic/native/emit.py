"""Kernels as LLVM vector code: one function a tape, eight subjects in the lanes of every value."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from llvmlite import ir

from mechanistic.compile.tape import LOGICAL, Tape
from mechanistic.native.functions import Functions
from mechanistic.native.lanes import LANES
from mechanistic.native.stretches import cut

DOUBLE = ir.DoubleType()
VECTOR = ir.VectorType(DOUBLE, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
INDEX, NUMBER = ir.IntType(64), ir.IntType(32)
POINTER = ir.PointerType()
CONTRACT = ("contract",)
"""A product and a sum may become one fused operation, which is rounded once."""

WHOLE = 1000
"""Instructions up to which a tape is one function."""

STRETCH = 200
"""Instructions in a part of a longer one: the time of the code generator grows faster than the length of a function."""

STORES = 16
"""Stores of a part between two borders that the code generator moves nothing across: its time grows with their square,
and faster where they are in one array."""

COMPARISONS = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def _index(place: ir.Value | int) -> ir.Value:
    return ir.Constant(INDEX, place) if isinstance(place, int) else place


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
    def function(self, name: str, arguments: int) -> Iterator[tuple["Code", list[ir.Value]]]:
        """A function `void name(double* …)` whose arguments do not overlap."""
        function = self.declare(name, arguments)
        function.attributes.add("nounwind")
        for argument in function.args:
            argument.add_attribute("noalias")
        code = Code(ir.IRBuilder(function.append_basic_block("entry")), self.functions)
        yield code, list(function.args)
        code.builder.ret_void()

    def declare(self, name: str, arguments: int) -> ir.Function:
        """A function that the module has or that may be in another one."""
        if name not in self.module.globals:
            ir.Function(self.module, ir.FunctionType(ir.VoidType(), [POINTER] * arguments), name)
        return self.module.globals[name]

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Leaves the kernels that are not wanted to another module."""
        for function in self.module.functions:
            if function.linkage != "internal" and not wanted(function.name):
                function.blocks.clear()

    def tape(
        self, name: str, tape: Tape, inputs: Sequence[int], outputs: Sequence[int], *, increase: bool = False
    ) -> None:
        """A function of as many arrays as there are sizes in `inputs` and `outputs`, which runs a tape.

        With `increase` it adds to what the output arrays have. A long tape becomes several functions and one that calls
        them.
        """
        kept = [i for i, output in enumerate(tape.outputs) if not increase or tape.number(output) != 0]
        tape = tape.only([tape.outputs[i] for i in kept])
        count = len(inputs) + len(outputs)

        def run(code: Code, part: Tape, arrays: Sequence[ir.Value], carried: Sequence[Sequence[int]]) -> None:
            taken, shown, given = carried
            targets = places(arrays[len(inputs) : count], outputs)
            code.run(
                part,
                [*places(arrays, inputs), *((arrays[-1], i) for i in taken)],
                [*(targets[kept[i]] for i in shown), *((arrays[-1], i) for i in given)],
                increased=len(shown) if increase else 0,
                bordered=len(tape.instructions) > WHOLE,
            )

        if len(tape.instructions) <= WHOLE:
            with self.function(name, count) as (code, arrays):
                run(code, tape, arrays, ((), range(len(kept)), ()))
            return
        parts, size = cut(tape, STRETCH)
        for i, part in enumerate(parts):
            self.declare(f"{name}_{i}", count + 1).linkage = "internal"
            with self.function(f"{name}_{i}", count + 1) as (code, arrays):
                run(code, part.tape, arrays, (part.taken, part.shown, part.given))
        with self.function(name, count) as (code, arrays):
            memory = code.builder.alloca(VECTOR, size=max(size, 1))
            for i in range(len(parts)):
                code.call(f"{name}_{i}", *arrays, memory)


def places(arrays: Sequence[ir.Value], sizes: Sequence[int]) -> list[tuple[ir.Value, int]]:
    """The elements of arrays of these sizes, one after the other, as (array, index)."""
    return [(array, i) for array, size in zip(arrays, sizes, strict=False) for i in range(size)]


@final
@dataclass(slots=True)
class Span:
    """The inside of a loop: its index, and values carried from one round to the next, which the body replaces."""

    index: ir.Value
    carried: list[ir.Value]


@final
@dataclass(slots=True)
class Code:
    """Appends to one function."""

    builder: ir.IRBuilder
    functions: Functions

    def at(self, array: ir.Value, index: ir.Value | int) -> ir.Value:
        """The address of the lanes of one element."""
        return self.builder.gep(array, [_index(index)], source_etype=VECTOR)

    def load(self, array: ir.Value, index: ir.Value | int = 0) -> ir.Value:
        return self.builder.load(self.at(array, index), typ=VECTOR, align=8)

    def store(self, value: ir.Value, array: ir.Value, index: ir.Value | int = 0) -> None:
        self.builder.store(value, self.at(array, index), align=8)

    def number_at(self, array: ir.Value, index: ir.Value | int = 0) -> ir.Value:
        """The address of an element of an array of single numbers."""
        return self.builder.gep(array, [_index(index)], source_etype=DOUBLE)

    def repeated(self, array: ir.Value, index: ir.Value | int = 0) -> ir.Value:
        """An element of an array of single numbers, in all lanes."""
        return self.everywhere(self.builder.load(self.number_at(array, index), typ=DOUBLE, align=8))

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

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """`a b + c`, rounded once where the machine can."""
        return self._intrinsic("fmuladd", a, b, c)

    def magnitude(self, a: ir.Value) -> ir.Value:
        return self._intrinsic("fabs", a)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of two; what is not a number stays so."""
        return self._intrinsic("maximum", a, b)

    def _intrinsic(self, name: str, *arguments: ir.Value) -> ir.Value:
        module, full = self.builder.module, f"llvm.{name}.v{LANES}f64"
        if full not in module.globals:
            ir.Function(module, ir.FunctionType(VECTOR, [VECTOR] * len(arguments)), full)
        return self.builder.call(module.globals[full], arguments)

    def everywhere(self, number: ir.Value) -> ir.Value:
        """A number that is computed, in all lanes."""
        first = self.builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, ir.Constant(INDEX, 0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(NUMBER, LANES), [0] * LANES))

    def numbers(self, name: str, values: Sequence[int]) -> ir.Value:
        """A constant list of whole numbers; no other one of the function has the name."""
        data = bytearray(np.asarray(values, dtype=np.int32).tobytes())
        kind = ir.ArrayType(ir.IntType(8), len(data))
        constant = ir.GlobalVariable(self.builder.module, kind, f"{self.builder.function.name}.{name}")
        constant.linkage, constant.global_constant, constant.align = "private", True, 4
        constant.initializer = ir.Constant(kind, data)
        return constant

    def number(self, numbers: ir.Value, index: ir.Value | int) -> ir.Value:
        """An element of such a list."""
        address = self.builder.gep(numbers, [_index(index)], source_etype=NUMBER)
        return self.builder.zext(self.builder.load(address, align=4, typ=NUMBER), INDEX)

    @contextmanager
    def span(self, start: ir.Value | int, stop: ir.Value | int, *carried: ir.Value) -> Iterator[Span]:
        """Repeats what is appended inside for an index from `start` up to `stop`."""
        b = self.builder
        first, end = _index(start), _index(stop)
        before, body, after = b.block, b.append_basic_block("body"), b.append_basic_block("after")
        b.cbranch(b.icmp_signed("<", first, end), body, after)
        b.position_at_end(body)
        index = b.phi(INDEX)
        phis = [b.phi(VECTOR) for _ in carried]
        span = Span(index, list(phis))
        yield span
        following = b.add(index, ir.Constant(INDEX, 1))
        b.cbranch(b.icmp_signed("<", following, end), body, after)
        edges = zip((index, *phis), (first, *carried), (following, *span.carried), strict=True)
        for phi, initial, final_value in edges:
            phi.add_incoming(initial, before)
            phi.add_incoming(final_value, b.block)
        last = b.block
        b.position_at_end(after)
        for i, value in enumerate(carried):
            result = b.phi(VECTOR)
            result.add_incoming(value, before)
            result.add_incoming(span.carried[i], last)
            span.carried[i] = result

    @contextmanager
    def loop(self, count: int) -> Iterator[ir.Value]:
        """Repeats what is appended inside for an index from 0 up to `count`."""
        with self.span(0, count) as span:
            yield span.index

    def run(
        self, tape: Tape, inputs: Sequence[tuple[ir.Value, int] | ir.Value],
        outputs: Sequence[tuple[ir.Value, int]],
        store: Callable[[ir.Value, ir.Value, int], None] | None = None, increased: int = 0, bordered: bool = False,
    ) -> None:  # fmt: skip
        """Runs a tape from arrays to arrays; an input may be a value instead of (array, index).

        It adds to what the first outputs have, as many as are `increased`.
        """
        registers: dict[int, ir.Value] = {}

        def read(register: int) -> ir.Value:
            if register not in registers:
                given = inputs[register]
                registers[register] = self.load(*given) if isinstance(given, tuple) else given
            return registers[register]

        for register, instruction in enumerate(tape.instructions, start=tape.slots):
            arguments = [read(a) for a in instruction.arguments]
            registers[register] = self._value(instruction.operation, arguments, instruction.value)
        for i, (output, place) in enumerate(zip(tape.outputs, outputs, strict=True)):
            value = self._number(read(output))
            (store or self.store)(self.add(self.load(*place), value) if i < increased else value, *place)
            if bordered and i % STORES == STORES - 1:
                self.builder.fence("acq_rel", "singlethread")

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

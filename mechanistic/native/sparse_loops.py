"""Sparse LU factors as kernels that loop over constant lists of places."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
from llvmlite import ir

from mechanistic.native.emit import INDEX, POINTER, VECTOR, vector
from mechanistic.native.lanes import LANES
from mechanistic.native.sparse import Factorisation

NUMBER = ir.IntType(32)
ZERO, ONE, TINY = vector(0.0), vector(1.0), vector(float(np.finfo(float).tiny))


@final
@dataclass(slots=True)
class Span:
    """The inside of a loop: its index, and values carried from one round to the next, which the body replaces."""

    index: ir.Value
    carried: list[ir.Value]


@final
@dataclass(frozen=True, slots=True)
class Kernel:
    """Appends to a function `void name(double* …)`; element `i` of an array is the vector of its lanes."""

    builder: ir.IRBuilder
    function: ir.Function

    @classmethod
    @contextmanager
    def new(cls, module: ir.Module, name: str, arguments: Sequence[str]) -> Iterator[tuple["Kernel", list[ir.Value]]]:
        """A new function of arrays that do not overlap, and the arrays."""
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * len(arguments)), name)
        function.attributes.add("nounwind")
        for argument, label in zip(function.args, arguments, strict=True):
            argument.name = label
            argument.add_attribute("noalias")
        kernel = cls(ir.IRBuilder(function.append_basic_block("entry")), function)
        yield kernel, list(function.args)
        kernel.builder.ret_void()

    def load(self, array: ir.Value, index: ir.Value | int = 0) -> ir.Value:
        return self.builder.load(self._at(array, index), align=8, typ=VECTOR)

    def store(self, value: ir.Value, array: ir.Value, index: ir.Value | int = 0) -> None:
        self.builder.store(value, self._at(array, index), align=8)

    def _at(self, array: ir.Value, index: ir.Value | int) -> ir.Value:
        place = ir.Constant(INDEX, index) if isinstance(index, int) else index
        return self.builder.gep(array, [place], source_etype=VECTOR)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """`a b + c`, rounded once where the machine can."""
        return self._call("fmuladd", a, b, c)

    def magnitude(self, a: ir.Value) -> ir.Value:
        return self._call("fabs", a)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of two; what is not a number stays so."""
        return self._call("maximum", a, b)

    def _call(self, name: str, *arguments: ir.Value) -> ir.Value:
        module, full = self.function.module, f"llvm.{name}.v{LANES}f64"
        if full not in module.globals:
            ir.Function(module, ir.FunctionType(VECTOR, [VECTOR] * len(arguments)), full)
        return self.builder.call(module.globals[full], arguments)

    def numbers(self, name: str, values: Sequence[int]) -> ir.Value:
        """A constant list of whole numbers."""
        data = bytearray(np.asarray(values, dtype=np.int32).tobytes())
        kind = ir.ArrayType(ir.IntType(8), len(data))
        constant = ir.GlobalVariable(self.function.module, kind, f"{self.function.name}.{name}")
        constant.linkage, constant.global_constant, constant.align = "private", True, 4
        constant.initializer = ir.Constant(kind, data)
        return constant

    def number(self, numbers: ir.Value, index: ir.Value | int) -> ir.Value:
        """An element of such a list."""
        place = ir.Constant(INDEX, index) if isinstance(index, int) else index
        address = self.builder.gep(numbers, [place], source_etype=NUMBER)
        return self.builder.zext(self.builder.load(address, align=4, typ=NUMBER), INDEX)

    @contextmanager
    def span(self, start: ir.Value | int, stop: ir.Value | int, *carried: ir.Value) -> Iterator[Span]:
        """Repeats what is appended inside for an index from `start` up to `stop`."""
        b = self.builder
        first, end = (ir.Constant(INDEX, edge) if isinstance(edge, int) else edge for edge in (start, stop))
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


@final
@dataclass(frozen=True, slots=True)
class Lists:
    """The pivots of a factorisation as constant lists, one element a pivot in `columns`, one a place in `states`."""

    kernel: Kernel
    columns: tuple[ir.Value, ...]
    states: ir.Value

    @classmethod
    def of(cls, kernel: Kernel, factorisation: Factorisation) -> "Lists":
        pivots = factorisation.pivots
        ends = [(p.state, p.place, p.uppers.stop, p.lowers.stop) for p in pivots]
        columns = zip(("state", "place", "upper", "lower"), zip(*ends, strict=True), strict=True)
        states = [state for p in pivots for state in (p.state, *p.upper, *p.lower)]
        lists = tuple(kernel.numbers(name, values) for name, values in columns)
        return cls(kernel, lists, kernel.numbers("states", states))

    def pivot(self, index: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value, ir.Value]:
        """State and place of a pivot, first place of its row of U and of its column of L, and the place after these."""
        state, place, lower, stop = (self.kernel.number(column, index) for column in self.columns)
        return state, place, self.kernel.builder.add(place, ir.Constant(INDEX, 1)), lower, stop

    def state(self, place: ir.Value) -> ir.Value:
        return self.kernel.number(self.states, place)


def loop_factor(kernel: Kernel, f: Factorisation, j: ir.Value, s: ir.Value, lu: ir.Value) -> None:
    """Scatters `diag(s) - J`, then subtracts L times U, pivot by pivot."""
    b, lists = kernel.builder, Lists.of(kernel, f)
    empty, entries = kernel.numbers("empty", f.empty), kernel.numbers("entries", f.entries)
    with kernel.span(0, len(f.empty)) as each:
        kernel.store(ZERO, lu, kernel.number(empty, each.index))
    with kernel.span(0, len(f.entries)) as each:
        kernel.store(b.fneg(kernel.load(j, each.index)), lu, kernel.number(entries, each.index))
    targets = kernel.numbers("targets", [target for pivot in f.pivots for target in pivot.targets])
    starts = np.cumsum([0, *(len(pivot.targets) for pivot in f.pivots)])[:-1]
    firsts = kernel.numbers("firsts", starts.tolist())
    diagonal = kernel.load(s)
    with kernel.span(0, f.size) as each:
        place = kernel.number(lists.columns[1], each.index)
        kernel.store(b.fadd(diagonal, kernel.load(lu, place)), lu, place)
    with kernel.span(0, f.size) as each:
        _, place, upper, lower, stop = lists.pivot(each.index)
        reciprocal = b.fdiv(ONE, kernel.load(lu, place))
        kernel.store(reciprocal, lu, place)
        width, first = b.sub(lower, upper), kernel.number(firsts, each.index)
        with kernel.span(lower, stop) as below:
            multiplier = b.fmul(kernel.load(lu, below.index), reciprocal)
            kernel.store(multiplier, lu, below.index)
            negative = b.fneg(multiplier)
            row = b.sub(b.add(first, b.mul(b.sub(below.index, lower), width)), upper)
            with kernel.span(upper, lower) as right:
                target = kernel.number(targets, b.add(row, right.index))
                product = kernel.multiply_add(negative, kernel.load(lu, right.index), kernel.load(lu, target))
                kernel.store(product, lu, target)


def loop_solve(kernel: Kernel, f: Factorisation, lu: ir.Value, right: ir.Value, y: ir.Value, transposed: bool) -> None:
    """Forward by columns, backward by rows: of L and U, or of the transposes of U and L."""
    b, lists = kernel.builder, Lists.of(kernel, f)
    with kernel.span(0, f.size) as each:
        kernel.store(kernel.load(right, each.index), y, each.index)
    with kernel.span(0, f.size) as each:
        state, place, upper, lower, stop = lists.pivot(each.index)
        known = kernel.load(y, state)
        if transposed:
            known = b.fmul(known, kernel.load(lu, place))
            kernel.store(known, y, state)
        negative = b.fneg(known)
        with kernel.span(*((upper, lower) if transposed else (lower, stop))) as inner:
            other = lists.state(inner.index)
            rest = kernel.multiply_add(kernel.load(lu, inner.index), negative, kernel.load(y, other))
            kernel.store(rest, y, other)
    with kernel.span(0, f.size) as each:
        state, place, upper, lower, stop = lists.pivot(b.sub(ir.Constant(INDEX, f.size - 1), each.index))
        edges = (lower, stop) if transposed else (upper, lower)
        with kernel.span(*edges, kernel.load(y, state)) as inner:
            known = b.fneg(kernel.load(y, lists.state(inner.index)))
            inner.carried[0] = kernel.multiply_add(kernel.load(lu, inner.index), known, inner.carried[0])
        (total,) = inner.carried
        kernel.store(total if transposed else b.fmul(total, kernel.load(lu, place)), y, state)


def loop_backward_error(kernel: Kernel, f: Factorisation, arrays: Sequence[ir.Value]) -> None:
    """Row by row: what is left of the equation, and the sum of the sizes of its terms."""
    b = kernel.builder
    j, s, right, y, weights, ratio = arrays
    by_row = sorted(range(len(f.rows)), key=lambda entry: f.rows[entry])
    counts = np.bincount(np.asarray(f.rows, dtype=np.int64), minlength=f.size)
    starts = kernel.numbers("starts", [0, *np.cumsum(counts).tolist()])
    entries = kernel.numbers("entries", by_row)
    columns = kernel.numbers("columns", [f.columns[entry] for entry in by_row])
    diagonal = kernel.load(s)
    with kernel.span(0, f.size, ZERO, ZERO) as row:
        own, product = kernel.load(right, row.index), b.fmul(diagonal, kernel.load(y, row.index))
        size = b.fadd(kernel.magnitude(own), kernel.magnitude(product))
        edges = (kernel.number(starts, row.index), kernel.number(starts, b.add(row.index, ir.Constant(INDEX, 1))))
        with kernel.span(*edges, b.fsub(own, product), size) as inner:
            column = kernel.load(y, kernel.number(columns, inner.index))
            product = b.fmul(kernel.load(j, kernel.number(entries, inner.index)), column)
            rest, size = inner.carried
            inner.carried[:] = [b.fadd(rest, product), b.fadd(size, kernel.magnitude(product))]
        weight = kernel.load(weights, row.index)
        sizes = (b.fmul(kernel.magnitude(part), weight) for part in inner.carried)
        row.carried[:] = [kernel.larger(old, new) for old, new in zip(row.carried, sizes, strict=True)]
    rest, size = row.carried
    kernel.store(b.fdiv(rest, kernel.larger(size, TINY)), ratio)

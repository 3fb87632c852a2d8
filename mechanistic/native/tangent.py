"""Tangents of steps as kernels: from directional derivatives at the start of a step to those at its end.

What all directions of a step share is laid out once: the kernels `*_lay` do that for eight steps side by side, with
the derivatives of every stage as sparse lists of numbers, and `spread` puts the numbers of each step beside each other.
The kernels `*_push` then take eight directions through one step, by sparse products with these numbers alone. For
Rodas5P, with stages `k = W⁻¹ r` and `W = 1/(γh) - J`, the tangent of a stage is `W⁻¹ (ṙ + J̇ k - (1/(γh))˙ k)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from llvmlite import ir

from mechanistic.native.derivatives import Derivatives, Pattern
from mechanistic.native.emit import INDEX, STRETCH, Code, Kernels, vector
from mechanistic.native.laying import STAGES, Layout, emit_lay
from mechanistic.native.program import Program
from mechanistic.native.sparse import Factorisation
from mechanistic.native.sparse_ir import WRITTEN_OUT
from mechanistic.native.sparse_loops import Lists
from mechanistic.native.steps import rodas5p_terms
from mechanistic.solve import rodas5p, tsit5


def emit_tangent(
    kernels: Kernels, program: Program, derivatives: Derivatives, factorisation: Factorisation, layout: Layout
) -> None:
    """Adds the kernels of the method of a layout to a module that has `factor` and `solve`.

    `prepare_slopes(parameters, result)`: see `Derivatives.prepare`. `lay(laying)`: from time, size, x, inputs,
    constants and held to all the rest. `spread(laying, rows)`: the numbers laid out for each lane, `(lane, number)`.
    `push(laid, own, scratch, active)` and `push_moving`: eight directions from the start of a step to its end, in
    place; `active` says how many constants have a tangent, and which; only the second one looks at `moved`.
    `read(laid, own, scratch, active)`, `read_moving`: after that, tangents of the coefficients of θ, θ², θ³, θ⁴.
    """
    n, d, method = program.states, derivatives, layout.method
    inputs = [1, n, program.constants, program.held]
    kernels.tape("slopes", d.slopes, inputs, [n, len(d.slopes.outputs) - n])
    kernels.tape("prepare_slopes", d.prepare, [program.parameters], [len(d.parameters)])
    _emit_rows(kernels, "through", Pattern(program.rows, program.columns), n, bent=method == "rodas5p")
    stages = Copies(STAGES[method], len(d.slopes.outputs) - n, n)
    _emit_columns(kernels, "add_constants", d.by_constants, program.constants, stages)
    if method == "rodas5p":
        kernels.tape("bends", d.bends, inputs, [len(d.bends.outputs)])
        _emit_rows(kernels, "bend", d.bends_by_states, program.entries, bent=False)
        _emit_columns(kernels, "bend_constants", d.bends_by_constants, program.constants, Copies())
        _emit_shared_solve(kernels, factorisation)
    emit_lay(kernels, program, derivatives, layout)
    nodes = {"tsit5": tsit5.C, "rodas5p": rodas5p.C}[method]
    bodies = {"tsit5": (_push_tsit5, _read_tsit5), "rodas5p": (_push_rodas5p, _read_rodas5p)}[method]
    for suffix, moving in (("", False), ("_moving", True)):
        for name, body in zip(("push", "read"), bodies, strict=True):
            with kernels.function(f"{name}{suffix}", 4) as (code, bases):
                body(_Push(code, layout, program, derivatives, bases, nodes, moving))


@final
@dataclass(frozen=True, slots=True)
class Copies:
    """How many matrices of one pattern there are, and how far apart their numbers and their results are."""

    count: int = 1
    numbers: int = 0
    results: int = 0


def _emit_rows(kernels: Kernels, name: str, pattern: Pattern, rows: int, bent: bool) -> None:
    """Adds `name(numbers, x, y)`: `y += A x`, with the single numbers of A in the order of a pattern.

    With `bent` it is `name(numbers, x, y, tangents, k)` and adds `Ȧ k` as well, where `k` are single numbers.
    """
    by_row: list[list[int]] = [[] for _ in range(rows)]
    for entry, row in enumerate(pattern.rows):
        by_row[row].append(entry)
    pieces = max(1, -(-len(pattern) // STRETCH))
    count = 5 if bent else 3
    for piece in range(pieces):
        with kernels.function(name if pieces == 1 else f"{name}_{piece}", count) as (code, arrays):
            for row in range(rows * piece // pieces, rows * (piece + 1) // pieces):
                _add_row(code, pattern, row, by_row[row], arrays)
    if pieces > 1:
        with kernels.function(name, count) as (code, arrays):
            for piece in range(pieces):
                code.call(f"{name}_{piece}", *arrays)


def _add_row(code: Code, pattern: Pattern, row: int, entries: Sequence[int], arrays: Sequence[ir.Value]) -> None:
    if not entries:
        return
    total = code.load(arrays[2], row)
    for entry in entries:
        column = pattern.columns[entry]
        total = code.add(total, code.mul(code.repeated(arrays[0], entry), code.load(arrays[1], column)))
        if len(arrays) > 3:
            total = code.add(total, code.mul(code.load(arrays[3], entry), code.repeated(arrays[4], column)))
    code.store(total, arrays[2], row)


def _emit_columns(kernels: Kernels, name: str, pattern: Pattern, columns: int, copies: Copies) -> None:
    """Adds `name(numbers, x, active, y)`: `y += A x` over the active columns alone; the pattern is column by column.

    `active` says how many columns there are, and which. There may be several A, each with a y of its own: all are
    multiplied at once, since one sum after the other would wait for memory.
    """
    with kernels.function(name, 4) as (code, (numbers, x, active, y)):
        if not pattern.rows:
            return
        counts = [0] * columns
        for column in pattern.columns:
            counts[column] += 1
        starts = code.numbers("starts", list(accumulate(counts, initial=0)))
        rows, b = code.numbers("rows", pattern.rows), code.builder
        with code.span(0, _whole(code, active, 0)) as each:
            column = _whole(code, active, b.add(each.index, ir.Constant(INDEX, 1)))
            value = code.load(x, column)
            edges = (code.number(starts, column), code.number(starts, b.add(column, ir.Constant(INDEX, 1))))
            with code.span(*edges) as inner:
                row = code.number(rows, inner.index)
                for copy in range(copies.count):
                    numbers_here = code.number_at(numbers, copy * copies.numbers)
                    target = code.at(y, copy * copies.results)
                    product = code.mul(code.repeated(numbers_here, inner.index), value)
                    code.store(code.add(code.load(target, row), product), target, row)


def _whole(code: Code, array: ir.Value, index: ir.Value | int) -> ir.Value:
    place = ir.Constant(INDEX, index) if isinstance(index, int) else index
    return code.builder.load(code.builder.gep(array, [place], source_etype=INDEX), typ=INDEX, align=8)


def _emit_shared_solve(kernels: Kernels, f: Factorisation) -> None:
    """Adds `solve_shared(lu, b, y)`: as `solve`, with the same factors, single numbers, for all lanes."""
    with kernels.function("solve_shared", 3) as (code, (lu, right, y)):
        if f.places > WRITTEN_OUT:
            _loop_shared_solve(code, f, lu, right, y)
            return
        b = code.builder
        values = [code.load(right, state) for state in range(f.size)]
        for pivot in f.pivots:
            negative = b.fneg(values[pivot.state])
            for state, place in pivot.below:
                values[state] = code.multiply_add(code.repeated(lu, place), negative, values[state])
        for pivot in reversed(f.pivots):
            total = values[pivot.state]
            for state, place in pivot.right:
                total = code.multiply_add(code.repeated(lu, place), b.fneg(values[state]), total)
            values[pivot.state] = b.fmul(total, code.repeated(lu, pivot.place))
            code.store(values[pivot.state], y, pivot.state)


def _loop_shared_solve(code: Code, f: Factorisation, lu: ir.Value, right: ir.Value, y: ir.Value) -> None:
    b, lists = code.builder, Lists.of(code, f)
    with code.loop(f.size) as i:
        code.store(code.load(right, i), y, i)
    with code.loop(f.size) as i:
        state, _, _, lower, stop = lists.pivot(i)
        negative = b.fneg(code.load(y, state))
        with code.span(lower, stop) as inner:
            other = lists.state(inner.index)
            rest = code.multiply_add(code.repeated(lu, inner.index), negative, code.load(y, other))
            code.store(rest, y, other)
    with code.loop(f.size) as i:
        state, place, upper, lower, _ = lists.pivot(b.sub(ir.Constant(INDEX, f.size - 1), i))
        with code.span(upper, lower, code.load(y, state)) as inner:
            known = b.fneg(code.load(y, lists.state(inner.index)))
            inner.carried[0] = code.multiply_add(code.repeated(lu, inner.index), known, inner.carried[0])
        code.store(b.fmul(inner.carried[0], code.repeated(lu, place)), y, state)


# Eight directions of a step


@final
@dataclass(frozen=True, slots=True)
class _Push:
    """Code that takes eight directions through a step; see `emit_tangent`."""

    code: Code
    layout: Layout
    program: Program
    derivatives: Derivatives
    bases: Sequence[ir.Value]
    nodes: Sequence[float]
    moving: bool

    def laid(self, name: str, offset: int = 0) -> ir.Value:
        """The address of single numbers."""
        return self.code.number_at(self.bases[0], self.layout.laid.places[name] + offset)

    def own(self, name: str, offset: int = 0) -> ir.Value:
        return self.code.at(self.bases[1], self.layout.own.places[name] + offset)

    def scratch(self, name: str, offset: int = 0) -> ir.Value:
        return self.code.at(self.bases[2], self.layout.scratch.places[name] + offset)

    @property
    def states(self) -> int:
        return self.program.states

    def moved(self, place: int) -> ir.Value:
        """Tangent of the time, and of the size of the step."""
        return self.code.load(self.own("moved", place))

    def slopes(self, stage: int, offset: int = 0) -> ir.Value:
        """Numbers of the derivatives at a stage."""
        return self.laid("slopes", stage * (len(self.derivatives.slopes.outputs) - self.states) + offset)

    def stage(self, number: int) -> ir.Value:
        return self.scratch("stages", number * self.states)

    def tangents(self, count: int, i: ir.Value) -> list[ir.Value]:
        """Tangents of the first stages."""
        return [self.code.load(self.stage(j), i) for j in range(count)]

    def values(self, count: int, i: ir.Value) -> list[ir.Value]:
        """The first stages themselves."""
        return [self.code.repeated(self.laid("stages", j * self.states), i) for j in range(count)]

    def add_to(self, array: ir.Value, index: ir.Value | int, value: ir.Value) -> None:
        self.code.store(self.code.add(self.code.load(array, index), value), array, index)

    def drive(self) -> None:
        """Puts into every stage what inputs, constants and a time that moves add to the tangent of its rates."""
        code, n = self.code, self.states
        with code.loop(n) as i:
            value = code.load(self.own("inputs"), i)
            for j in range(len(self.nodes)):
                code.store(value, self.stage(j), i)
        code.call("add_constants", self.slopes(0, self.program.entries), self.own("constants"), self.bases[3],
                  self.stage(0))  # fmt: skip
        if not self.moving:
            return
        for j, node in enumerate(self.nodes):
            later = code.add(self.moved(0), code.mul(vector(node), self.moved(1)))
            for e, state in enumerate(self.program.timed, start=len(self.program.rows)):
                self.add_to(self.stage(j), state, code.mul(code.repeated(self.slopes(j), e), later))

    def keep_start(self) -> None:
        with self.code.loop(self.states) as i:
            self.code.store(self.code.load(self.own("x"), i), self.scratch("start"), i)


def _push_tsit5(push: _Push) -> None:
    """The tangent of the last stage, which only outputs need, is left to `read`."""
    code, n = push.code, push.states
    push.keep_start()
    push.drive()
    size = code.repeated(push.laid("size"))
    for j in range(6):
        code.call("through", push.slopes(j), push.scratch("argument") if j else push.own("x"), push.stage(j))
        target = push.scratch("argument") if j < 5 else push.own("x")
        row = tsit5.A[j + 1]
        with code.loop(n) as i:
            total = code.mul(size, code.combine(row, push.tangents(j + 1, i)))
            if push.moving:
                total = code.add(total, code.mul(push.moved(1), code.combine(row, push.values(j + 1, i))))
            code.store(code.add(code.load(push.scratch("start"), i), total), target, i)


def _read_tsit5(push: _Push) -> None:
    code, n = push.code, push.states
    size = code.repeated(push.laid("size"))
    code.call("through", push.slopes(6), push.own("x"), push.stage(6))
    with code.loop(n) as i:
        tangents, values = push.tangents(7, i), push.values(7, i) if push.moving else []
        for power in range(4):
            weights = [row[power] for row in tsit5.DENSE]
            value = code.mul(size, code.combine(weights, tangents))
            if push.moving:
                value = code.add(value, code.mul(push.moved(1), code.combine(weights, values)))
            code.store(value, push.scratch("dense", power * n), i)


def _push_rodas5p(push: _Push) -> None:
    code, n, program = push.code, push.states, push.program
    push.keep_start()
    push.drive()
    _bend(push)
    size = code.repeated(push.laid("size"))
    inverse = code.builder.fdiv(vector(1.0), size)
    for j, (row, links) in enumerate(zip(rodas5p.A, rodas5p.COUPLING, strict=True)):
        with code.loop(n) as i:
            tangents = push.tangents(j, i)
            if j:
                total = code.add(code.load(push.scratch("start"), i), code.combine(row, tangents))
                code.store(total, push.scratch("argument"), i)
            value = code.load(push.stage(j), i)
            if j:
                value = code.add(value, code.mul(inverse, code.combine(links, tangents)))
            if push.moving:
                turn = code.repeated(push.laid("turn", j * n), i)
                value = code.add(value, code.mul(push.moved(1), turn))
            code.store(value, push.scratch("right"), i)
        argument = push.scratch("argument") if j else push.own("x")
        code.call("through", push.slopes(j), argument, push.scratch("right"), push.scratch("bends"),
                  push.laid("stages", j * n))  # fmt: skip
        for e, state in enumerate(program.timed, start=len(program.rows)):
            change = code.mul(size, code.load(push.scratch("bends"), e))
            if push.moving:
                change = code.add(change, code.mul(push.moved(1), code.repeated(push.slopes(0), e)))
            push.add_to(push.scratch("right"), state, code.mul(vector(rodas5p.D[j]), change))
        code.call("solve_shared", push.laid("factors"), push.scratch("right"), push.stage(j))
    with code.loop(n) as i:
        end = code.add(code.load(push.scratch("argument"), i), code.load(push.stage(7), i))
        code.store(end, push.own("x"), i)


def _bend(push: _Push) -> None:
    """The tangent of the Jacobian, and of the derivative by time."""
    code, d = push.code, push.derivatives
    with code.loop(push.program.entries) as e:
        code.store(vector(0.0), push.scratch("bends"), e)
    code.call("bend", push.laid("bends"), push.own("x"), push.scratch("bends"))
    start = len(d.bends_by_states)
    code.call("bend_constants", push.laid("bends", start), push.own("constants"), push.bases[3],
              push.scratch("bends"))  # fmt: skip
    if push.moving:
        start += len(d.bends_by_constants)
        for place, entry in enumerate(d.bends_by_time.rows, start=start):
            slope = code.repeated(push.laid("bends"), place)
            push.add_to(push.scratch("bends"), entry, code.mul(slope, push.moved(0)))


def _read_rodas5p(push: _Push) -> None:
    code, n = push.code, push.states
    with code.loop(n) as i:
        change = code.sub(code.load(push.own("x"), i), code.load(push.scratch("start"), i))
        for power, term in enumerate(rodas5p_terms(code, change, push.tangents(8, i))):
            code.store(term, push.scratch("dense", power * n), i)

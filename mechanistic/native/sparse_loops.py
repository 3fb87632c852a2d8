"""Sparse LU factors as kernels that loop over constant lists of places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from llvmlite import ir

from mechanistic.native.emit import INDEX, Code, vector
from mechanistic.native.sparse import Factorisation

ZERO, ONE, TINY = vector(0.0), vector(1.0), vector(float(np.finfo(float).tiny))


@final
@dataclass(frozen=True, slots=True)
class Lists:
    """The pivots of a factorisation as constant lists, one element a pivot in `columns`, one a place in `states`."""

    code: Code
    columns: tuple[ir.Value, ...]
    states: ir.Value

    @classmethod
    def of(cls, code: Code, factorisation: Factorisation) -> "Lists":
        pivots = factorisation.pivots
        ends = [(p.state, p.place, p.uppers.stop, p.lowers.stop) for p in pivots]
        columns = zip(("state", "place", "upper", "lower"), zip(*ends, strict=True), strict=True)
        states = [state for p in pivots for state in (p.state, *p.upper, *p.lower)]
        lists = tuple(code.numbers(name, values) for name, values in columns)
        return cls(code, lists, code.numbers("states", states))

    def pivot(self, index: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value, ir.Value]:
        """State and place of a pivot, first place of its row of U and of its column of L, and the place after these."""
        state, place, lower, stop = (self.code.number(column, index) for column in self.columns)
        return state, place, self.code.builder.add(place, ir.Constant(INDEX, 1)), lower, stop

    def state(self, place: ir.Value) -> ir.Value:
        return self.code.number(self.states, place)


def loop_factor(code: Code, f: Factorisation, j: ir.Value, s: ir.Value, lu: ir.Value) -> None:
    """Scatters `diag(s) - J`, then subtracts L times U, pivot by pivot."""
    b, lists = code.builder, Lists.of(code, f)
    empty, entries = code.numbers("empty", f.empty), code.numbers("entries", f.entries)
    with code.span(0, len(f.empty)) as each:
        code.store(ZERO, lu, code.number(empty, each.index))
    with code.span(0, len(f.entries)) as each:
        code.store(b.fneg(code.load(j, each.index)), lu, code.number(entries, each.index))
    targets = code.numbers("targets", [target for pivot in f.pivots for target in pivot.targets])
    starts = np.cumsum([0, *(len(pivot.targets) for pivot in f.pivots)])[:-1]
    firsts = code.numbers("firsts", starts.tolist())
    diagonal = code.load(s)
    with code.span(0, f.size) as each:
        place = code.number(lists.columns[1], each.index)
        code.store(b.fadd(diagonal, code.load(lu, place)), lu, place)
    with code.span(0, f.size) as each:
        _, place, upper, lower, stop = lists.pivot(each.index)
        reciprocal = b.fdiv(ONE, code.load(lu, place))
        code.store(reciprocal, lu, place)
        width, first = b.sub(lower, upper), code.number(firsts, each.index)
        with code.span(lower, stop) as below:
            multiplier = b.fmul(code.load(lu, below.index), reciprocal)
            code.store(multiplier, lu, below.index)
            negative = b.fneg(multiplier)
            row = b.sub(b.add(first, b.mul(b.sub(below.index, lower), width)), upper)
            with code.span(upper, lower) as right:
                target = code.number(targets, b.add(row, right.index))
                product = code.multiply_add(negative, code.load(lu, right.index), code.load(lu, target))
                code.store(product, lu, target)


def loop_solve(code: Code, f: Factorisation, lu: ir.Value, right: ir.Value, y: ir.Value, transposed: bool) -> None:
    """Forward by columns, backward by rows: of L and U, or of the transposes of U and L."""
    b, lists = code.builder, Lists.of(code, f)
    with code.span(0, f.size) as each:
        code.store(code.load(right, each.index), y, each.index)
    with code.span(0, f.size) as each:
        state, place, upper, lower, stop = lists.pivot(each.index)
        known = code.load(y, state)
        if transposed:
            known = b.fmul(known, code.load(lu, place))
            code.store(known, y, state)
        negative = b.fneg(known)
        with code.span(*((upper, lower) if transposed else (lower, stop))) as inner:
            other = lists.state(inner.index)
            rest = code.multiply_add(code.load(lu, inner.index), negative, code.load(y, other))
            code.store(rest, y, other)
    with code.span(0, f.size) as each:
        state, place, upper, lower, stop = lists.pivot(b.sub(ir.Constant(INDEX, f.size - 1), each.index))
        edges = (lower, stop) if transposed else (upper, lower)
        with code.span(*edges, code.load(y, state)) as inner:
            known = b.fneg(code.load(y, lists.state(inner.index)))
            inner.carried[0] = code.multiply_add(code.load(lu, inner.index), known, inner.carried[0])
        (total,) = inner.carried
        code.store(total if transposed else b.fmul(total, code.load(lu, place)), y, state)


def loop_backward_error(code: Code, f: Factorisation, arrays: Sequence[ir.Value]) -> None:
    """Row by row: what is left of the equation, and the sum of the sizes of its terms."""
    b = code.builder
    j, s, right, y, weights, ratio = arrays
    by_row = sorted(range(len(f.rows)), key=lambda entry: f.rows[entry])
    counts = np.bincount(np.asarray(f.rows, dtype=np.int64), minlength=f.size)
    starts = code.numbers("starts", [0, *np.cumsum(counts).tolist()])
    entries = code.numbers("entries", by_row)
    columns = code.numbers("columns", [f.columns[entry] for entry in by_row])
    diagonal = code.load(s)
    with code.span(0, f.size, ZERO, ZERO) as row:
        own, product = code.load(right, row.index), b.fmul(diagonal, code.load(y, row.index))
        size = b.fadd(code.magnitude(own), code.magnitude(product))
        edges = (code.number(starts, row.index), code.number(starts, b.add(row.index, ir.Constant(INDEX, 1))))
        with code.span(*edges, b.fsub(own, product), size) as inner:
            column = code.load(y, code.number(columns, inner.index))
            product = b.fmul(code.load(j, code.number(entries, inner.index)), column)
            rest, size = inner.carried
            inner.carried[:] = [b.fadd(rest, product), b.fadd(size, code.magnitude(product))]
        weight = code.load(weights, row.index)
        sizes = (b.fmul(code.magnitude(part), weight) for part in inner.carried)
        row.carried[:] = [code.larger(old, new) for old, new in zip(row.carried, sizes, strict=True)]
    rest, size = row.carried
    code.store(b.fdiv(rest, code.larger(size, TINY)), ratio)

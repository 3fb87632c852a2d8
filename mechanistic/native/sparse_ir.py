"""Sparse LU factors as kernels: a small model's operations written out, a large one's as loops over lists of them.

Both do the same operations on every number in the same order, so that they agree bit for bit; each operation is one
on the vector of the lanes, so that no subject sees another.
"""

from llvmlite import ir

from mechanistic.native.emit import Code, Kernels
from mechanistic.native.sparse import Factorisation
from mechanistic.native.sparse_loops import ONE, ZERO, loop_backward_error, loop_factor, loop_solve

WRITTEN_OUT = 800
"""Operations up to which a kernel is written out. That is two to three times as fast as loops, but takes LLVM 0.2 s for
600 operations and 0.6 s for 1,300, against 0.01 s for loops of any length."""


def emit_factor(kernels: Kernels, name: str, factorisation: Factorisation) -> None:
    """Adds `name(j, s, lu)`: the factors of `diag(s) - J`, with the reciprocals of the pivots.

    Arrays: j `(entry, lane)`, more may follow the entries; s `(1, lane)`; lu `(place, lane)`. A pivot of zero makes the
    factors of its lane infinite or not a number.
    """
    with kernels.function(name, 3) as (code, arrays):
        write = _factor if factorisation.multiply_adds + factorisation.places <= WRITTEN_OUT else loop_factor
        write(code, factorisation, *arrays)


def emit_solve(kernels: Kernels, name: str, factorisation: Factorisation) -> None:
    """Adds `name(lu, b, y)`: y with `A y = b`, both `(state, lane)`."""
    _emit_solve(kernels, name, factorisation, transposed=False)


def emit_solve_transposed(kernels: Kernels, name: str, factorisation: Factorisation) -> None:
    """Adds `name(lu, b, y)`: y with `Aᵀ y = b`, both `(state, lane)`."""
    _emit_solve(kernels, name, factorisation, transposed=True)


def emit_backward_error(kernels: Kernels, name: str, factorisation: Factorisation) -> None:
    """Adds `name(j, s, b, y, w, ratio)`: how far y is from solving `A y = b`, as a share of what is added up.

    `ratio = maxᵢ wᵢ |A y - b|ᵢ / maxᵢ wᵢ (|A| |y| + |b|)ᵢ` with A of j and s, see Higham, Accuracy and Stability of
    Numerical Algorithms, section 7.1. It is some times 1e-16 where elimination without pivoting did no harm, and not a
    number where y is not finite.

    Arrays: j, s as in `emit_factor`; b, y `(state, lane)`; w `(state, lane)`, positive: one over the scales of the
    states, so that units do not matter; ratio `(1, lane)`.
    """
    with kernels.function(name, 6) as (code, arrays):
        loop_backward_error(code, factorisation, arrays)


def _factor(code: Code, f: Factorisation, j: ir.Value, s: ir.Value, lu: ir.Value) -> None:
    b = code.builder
    diagonal = code.load(s)
    entry_at = {place: entry for entry, place in enumerate(f.entries)}
    pivots = {pivot.place for pivot in f.pivots}
    values: dict[int, ir.Value] = {}

    def value(place: int) -> ir.Value:
        """The number at a place so far; at first that of `diag(s) - J`."""
        if place not in values:
            start = b.fneg(code.load(j, entry_at[place])) if place in entry_at else ZERO
            values[place] = b.fadd(diagonal, start) if place in pivots else start
        return values[place]

    for pivot in f.pivots:
        reciprocal = b.fdiv(ONE, value(pivot.place))
        code.store(reciprocal, lu, pivot.place)
        for place in pivot.uppers:
            code.store(value(place), lu, place)
        for row, place in enumerate(pivot.lowers):
            multiplier = b.fmul(value(place), reciprocal)
            code.store(multiplier, lu, place)
            negative = b.fneg(multiplier)
            targets = pivot.targets[row * len(pivot.upper) : (row + 1) * len(pivot.upper)]
            for upper, target in zip(pivot.uppers, targets, strict=True):
                values[target] = code.multiply_add(negative, values[upper], value(target))


def _emit_solve(kernels: Kernels, name: str, f: Factorisation, transposed: bool) -> None:
    with kernels.function(name, 3) as (code, (lu, right, y)):
        if f.places > WRITTEN_OUT:
            loop_solve(code, f, lu, right, y, transposed)
        else:
            _solve(code, f, lu, right, y, transposed)


def _solve(code: Code, f: Factorisation, lu: ir.Value, right: ir.Value, y: ir.Value, transposed: bool) -> None:
    """Forward by columns, backward by rows: of L and U, or of the transposes of U and L."""
    b = code.builder
    values = [code.load(right, state) for state in range(f.size)]
    for pivot in f.pivots:
        if transposed:
            values[pivot.state] = b.fmul(values[pivot.state], code.load(lu, pivot.place))
        entries = pivot.right if transposed else pivot.below
        negative = b.fneg(values[pivot.state])
        for state, place in entries:
            values[state] = code.multiply_add(code.load(lu, place), negative, values[state])
    for pivot in reversed(f.pivots):
        entries = pivot.below if transposed else pivot.right
        total = values[pivot.state]
        for state, place in entries:
            total = code.multiply_add(code.load(lu, place), b.fneg(values[state]), total)
        values[pivot.state] = total if transposed else b.fmul(total, code.load(lu, pivot.place))
        code.store(values[pivot.state], y, pivot.state)

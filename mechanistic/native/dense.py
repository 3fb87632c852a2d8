"""Products of dense layers with eight subjects side by side, and the sums over subjects that weights' gradients are.

A weight is the same number in all lanes: it is read once and repeated. Four rows of a matrix are gone through together,
so that a number of the argument serves four products and the sums stay in registers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Final

from llvmlite import ir

from mechanistic.native.emit import DOUBLE, INDEX, NUMBER, POINTER, VECTOR, Code, Kernels, vector
from mechanistic.native.lanes import LANES

ROWS: Final = 4
"""Rows of a matrix side by side."""

UNROLLED: Final = 4
"""Columns in one round of a loop."""

QUAD: Final = ir.VectorType(DOUBLE, 4)


def padded(columns: int) -> int:
    """Columns of a matrix of sums over subjects: whole vectors."""
    return -(-columns // LANES) * LANES


def multiply(kernels: Kernels, rows: int, columns: int, biased: bool = True) -> str:
    """The name of `y = W x` or `W x + b`, of arrays `(weights, x, y)`; the bias follows the matrix."""
    name = f"dense_{rows}x{columns}" + ("_biased" if biased else "")
    if name not in kernels.module.globals:
        with inside(kernels, name, 3) as (code, (weights, x, y)):
            bias = code.number_at(weights, rows * columns) if biased else None
            _product(code, (rows, columns), (columns, 1), weights, x, y, bias)
    return name


def multiply_transposed(kernels: Kernels, rows: int, columns: int) -> str:
    """The name of `y = Wᵀ x`, of arrays `(weights, x, y)`."""
    name = f"dense_{rows}x{columns}_transposed"
    if name not in kernels.module.globals:
        with inside(kernels, name, 3) as (code, (weights, x, y)):
            _product(code, (columns, rows), (1, columns), weights, x, y, None)
    return name


def add_outer(kernels: Kernels, rows: int, columns: int, biased: bool = True) -> str:
    """The name of `G += Σ d xᵀ` over all lanes, of arrays `(G, d, x)`.

    A row of `G` is `padded(columns)` sums, then the sum of d over subjects in eight parts, one a lane, to which nothing
    is added where there is no bias.
    """
    name = f"outer_{rows}x{columns}" + ("_biased" if biased else "")
    if name not in kernels.module.globals:
        with inside(kernels, name, 3) as (code, (sums, d, x)):
            turned = scratch(code, padded(columns))
            _transpose(code, columns, x, turned)
            for first, count, repeats in _blocks(rows):
                with code.loop(repeats) as i:
                    row = _shifted(code, i, count, first)
                    _add_outer_block(code, columns, row, count, sums, d, turned, biased)
    return name


@contextmanager
def inside(kernels: Kernels, name: str, arguments: int) -> Iterator[tuple[Code, list[ir.Value]]]:
    """A function that other functions of the module alone may call."""
    kernels.declare(name, arguments).linkage = "internal"
    with kernels.function(name, arguments) as found:
        yield found


def scratch(code: Code, count: int) -> ir.Value:
    """Room for so many vectors on the stack."""
    b = code.builder
    with b.goto_entry_block():
        # Typed by what is allocated, which llvmlite would hold against other types stored there.
        return b.inttoptr(b.ptrtoint(b.alloca(VECTOR, size=max(count, 1)), INDEX), POINTER)


def _blocks(rows: int) -> list[tuple[int, int, int]]:
    """First row, rows in a block and number of blocks: as many full blocks as there are, and the rest."""
    full = rows // ROWS
    blocks = [(0, ROWS, full)] if full else []
    return blocks + ([(full * ROWS, rows % ROWS, 1)] if rows % ROWS else [])


def _shifted(code: Code, index: ir.Value, factor: int, offset: int) -> ir.Value:
    b = code.builder
    return b.add(b.mul(index, ir.Constant(INDEX, factor)), ir.Constant(INDEX, offset))


def _product(
    code: Code, shape: tuple[int, int], strides: tuple[int, int], matrix: ir.Value, x: ir.Value, y: ir.Value,
    bias: ir.Value | None,
) -> None:  # fmt: skip
    """`y = A x`, plus a bias; `A` is `(rows, inner)`, its numbers `strides` apart."""
    rows, inner = shape
    for first, count, repeats in _blocks(rows):
        with code.loop(repeats) as i:
            row = _shifted(code, i, count, first)
            start = code.number_at(matrix, _shifted(code, row, strides[0], 0))
            sums = [vector(0.0) if bias is None else code.repeated(code.number_at(bias, row), r) for r in range(count)]
            whole = inner // UNROLLED
            with code.span(0, whole, *sums) as span:
                column = _shifted(code, span.index, UNROLLED, 0)
                for k in range(UNROLLED):
                    span.carried = _add_column(code, start, strides, x, column, k, span.carried)
            sums = span.carried
            for k in range(whole * UNROLLED, inner):
                sums = _add_column(code, start, strides, x, ir.Constant(INDEX, 0), k, sums)
            target = code.at(y, row)
            for r, value in enumerate(sums):
                code.store(value, target, r)


def _add_column(
    code: Code, start: ir.Value, strides: tuple[int, int], x: ir.Value, column: ir.Value, offset: int,
    sums: Sequence[ir.Value],
) -> list[ir.Value]:  # fmt: skip
    value = code.load(code.at(x, column), offset)
    place = code.number_at(start, _shifted(code, column, strides[1], 0))
    return [
        code.multiply_add(code.repeated(place, r * strides[0] + offset * strides[1]), value, total)
        for r, total in enumerate(sums)
    ]


def _add_outer_block(
    code: Code, columns: int, row: ir.Value, count: int, sums: ir.Value, d: ir.Value, turned: ir.Value, biased: bool
) -> None:
    width = padded(columns)
    start = code.number_at(sums, _shifted(code, row, width + LANES, 0))
    mine = code.at(d, row)
    with code.loop(width // LANES) as j:
        totals = [code.load(code.at(code.number_at(start, r * (width + LANES)), j)) for r in range(count)]
        for lane in range(LANES):
            value = code.load(code.at(code.number_at(turned, lane * width), j))
            totals = [
                code.multiply_add(code.repeated(mine, r * LANES + lane), value, total) for r, total in enumerate(totals)
            ]
        for r, total in enumerate(totals):
            code.store(total, code.at(code.number_at(start, r * (width + LANES)), j))
    for r in range(count if biased else 0):
        place = code.number_at(start, r * (width + LANES) + width)
        code.store(code.add(code.load(place), code.load(mine, r)), place)


def _transpose(code: Code, columns: int, x: ir.Value, turned: ir.Value) -> None:
    """Elements with lanes beside each other become lanes with elements beside each other, padded with zeros."""
    width = padded(columns)
    for lane, column in product(range(LANES), range(columns - columns % 4, columns)):
        b = code.builder
        number = b.load(code.number_at(x, column * LANES + lane), typ=DOUBLE, align=8)
        b.store(number, code.number_at(turned, lane * width + column), align=8)
    for lane, column in product(range(LANES), range(columns, width)):
        code.builder.store(ir.Constant(DOUBLE, 0.0), code.number_at(turned, lane * width + column), align=8)
    with code.loop(columns // 4) as i:
        for half in range(0, LANES, 4):
            source = code.number_at(code.at(x, _shifted(code, i, 4, 0)), half)
            target = code.number_at(turned, _shifted(code, i, 4, half * width))
            for lane, value in enumerate(_turn([_quad(code, source, c * LANES) for c in range(4)], code)):
                code.builder.store(value, code.number_at(target, lane * width), align=8)


def _quad(code: Code, array: ir.Value, index: int) -> ir.Value:
    return code.builder.load(code.number_at(array, index), typ=QUAD, align=8)


def _turn(rows: Sequence[ir.Value], code: Code) -> list[ir.Value]:
    """A matrix of 4 × 4 transposed."""

    def shuffle(a: ir.Value, b: ir.Value, order: Sequence[int]) -> ir.Value:
        return code.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(NUMBER, 4), list(order)))

    even, odd = (0, 4, 2, 6), (1, 5, 3, 7)
    first, second = (shuffle(rows[0], rows[1], order) for order in (even, odd))
    third, fourth = (shuffle(rows[2], rows[3], order) for order in (even, odd))
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    return [shuffle(first, third, low), shuffle(second, fourth, low),
            shuffle(first, third, high), shuffle(second, fourth, high)]  # fmt: skip

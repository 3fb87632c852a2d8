"""States at the outputs within the accepted steps of a block, as code."""

from llvmlite import ir

from mechanistic.native.block import Block
from mechanistic.native.emit import DOUBLE, INDEX, POINTER, vector
from mechanistic.native.lanes import LANES
from mechanistic.solve import rodas5p, tsit5

BYTES = 8
"""Of a number."""


def read(block: Block, *, explicit: bool) -> None:
    """Writes the next output of every lane whose step contains it, until no lane has one.

    All lanes are computed side by side, each at its own place within its own step.
    """
    b = block.code.builder
    again, goes_on, done = (b.append_basic_block(name) for name in ("next", "within", "read"))
    b.branch(again)
    b.position_at_end(again)
    block.forget()
    due, time = block.load("due"), block.load("time")
    wanted = b.select(b.fcmp_ordered("<", due, block.load("finish")), block.load("accepted"), vector(0.0))
    wanted = b.fcmp_ordered("!=", b.fmul(wanted, block.load("active")), vector(0.0))
    b.cbranch(block.anywhere(wanted), goes_on, done)
    b.position_at_end(goes_on)
    block.store(b.select(wanted, b.fdiv(b.fsub(due, time), block.load("step")), vector(0.0)), "share")
    (_tsit5 if explicit else _rodas5p)(block)
    for lane in range(LANES):
        with b.if_then(b.extract_element(wanted, ir.Constant(ir.IntType(32), lane))):
            _write(block, lane)
    b.branch(again)
    b.position_at_end(done)


def _tsit5(block: Block) -> None:
    code, b = block.code, block.code.builder
    share, size = block.load("share"), block.load("usable")
    weights = []
    for first, second, third, fourth in tsit5.DENSE:
        weight = code.multiply_add(share, vector(fourth), vector(third))
        weight = code.multiply_add(share, weight, vector(second))
        weight = code.multiply_add(share, weight, vector(first)) if first else code.mul(share, weight)
        weights.append(code.mul(b.fmul(size, share), weight))
    for i in block.each():
        value = block.load("x", i)
        for weight, stage in zip(weights, block.stages(7, i), strict=True):
            value = code.multiply_add(weight, stage, value)
        block.store(value, "shown", i)


def _rodas5p(block: Block) -> None:
    """See `mechanistic.solve.rodas5p.Rodas5P.interpolate`."""
    code, b = block.code, block.code.builder
    share = block.load("share")
    both = b.fmul(share, b.fsub(vector(1.0), share))
    weights = []
    for first, second, third in zip(*rodas5p.DENSE, strict=True):
        weight = code.multiply_add(share, vector(third), vector(second))
        weights.append(code.mul(both, code.multiply_add(share, weight, vector(first))))
    for i in block.each():
        x = block.load("x", i)
        value = code.multiply_add(share, code.sub(block.load("end", i), x), x)
        for weight, stage in zip(weights, block.stages(8, i), strict=True):
            value = code.multiply_add(weight, stage, value)
        block.store(value, "shown", i)


def _write(block: Block, lane: int) -> None:
    """Copies the state of a lane to its place, and goes on to the output after it."""
    b, n = block.code.builder, block.states

    def place(name: str, element: ir.Value | int = 0) -> ir.Value:
        return b.gep(block.array(name, element if isinstance(element, int) else 0), [
            ir.Constant(INDEX, lane) if isinstance(element, int)
            else b.add(b.mul(element, ir.Constant(INDEX, LANES)), ir.Constant(INDEX, lane))
        ], source_etype=DOUBLE)  # fmt: skip

    def address(name: str, row: ir.Value, width: int) -> ir.Value:
        start = b.load(place(name), typ=INDEX, align=8)
        return b.inttoptr(b.add(start, b.mul(row, ir.Constant(INDEX, BYTES * width))), POINTER)

    count = b.load(place("output"), typ=DOUBLE, align=8)
    row = b.fptosi(count, INDEX)
    target = address("states_at", row, n)

    def copy(i: ir.Value | int) -> None:
        to = b.gep(target, [ir.Constant(INDEX, i) if isinstance(i, int) else i], source_etype=DOUBLE)
        b.store(b.load(place("shown", i), typ=DOUBLE, align=8), to, align=8)

    for i in block.each():
        copy(i)
    following = b.fadd(count, ir.Constant(DOUBLE, 1.0))
    b.store(following, place("output"), align=8)
    there = b.fcmp_ordered("<", following, b.load(place("outputs"), typ=DOUBLE, align=8))
    with b.if_else(there) as (more, end):
        with more:
            after = address("times_at", b.add(row, ir.Constant(INDEX, 1)), 1)
            b.store(b.load(after, typ=DOUBLE, align=8), place("due"), align=8)
        with end:
            b.store(ir.Constant(DOUBLE, float("inf")), place("due"), align=8)

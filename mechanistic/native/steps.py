"""Steps of a block of subjects as kernels: from the size of a trial step to its verdict, again and again.

Only what happens seldom is left to the driver: stops, failures, and the next subject of a lane.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from mechanistic.native.block import EMPTY, INFINITY, SPACING, Block, Workspace
from mechanistic.native.emit import DOUBLE, INDEX, VECTOR, Code, Kernels, vector
from mechanistic.native.outputs import read
from mechanistic.native.program import Program
from mechanistic.native.verdict import decide, judge
from mechanistic.solve import rodas5p, tsit5
from mechanistic.solve.control import GOLDEN, PROBE
from mechanistic.solve.loop import FAR_BEYOND, PROBED, STIFF_BOUND, STIFF_STEPS

RESIDUAL, LEAST = 1e-3, 1e-13
"""Backward error of the linear systems of a step that is allowed, relative to the tolerance, and at least."""

__all__ = ["EMPTY", "INFINITY", "SPACING", "Block", "Workspace", "emit_steps", "part_of_scale", "rodas5p_terms"]


def emit_steps(kernels: Kernels, program: Program, workspace: Workspace) -> None:
    """Adds kernels of the workspace alone; those of `mechanistic.native.shadows` are called.

    `slope`: the right-hand side at the state. `turn`: looks for the fastest mode, by one turn more. `tsit5_run`,
    `rodas5p_run`: trial steps with their verdicts and outputs, up to one that wants the driver, or only one where it is
    pausing; the last one is neither read nor taken. `…_read`: states at the outputs within the accepted steps.
    `…_dense`: coefficients of dense output. `…_take`: takes the accepted steps.
    """
    bodies: dict[str, Any] = {
        "slope": lambda block: _slope(block, program),
        "turn": lambda block: _turn(block, program),
        "tsit5_read": lambda block: read(block, explicit=True),
        "tsit5_dense": _tsit5_dense,
        "tsit5_take": lambda block: _take(block, explicit=True),
        "tsit5_run": lambda block: _run(block, program, explicit=True),
        "rodas5p_read": lambda block: read(block, explicit=False),
        "rodas5p_dense": _rodas5p_dense,
        "rodas5p_take": lambda block: _take(block, explicit=False),
        "rodas5p_run": lambda block: _run(block, program, explicit=False),
    }
    for name, body in bodies.items():
        with kernels.function(name, 1) as (code, (base,)):
            body(Block(code, workspace, base, program.states))


def _run(block: Block, program: Program, *, explicit: bool) -> None:
    """Steps until the driver is wanted."""
    b, method = block.code.builder, "tsit5" if explicit else "rodas5p"
    again = b.append_basic_block("again")
    b.branch(again)
    b.position_at_end(again)
    if explicit:
        with block.shadowed():
            _look_for_fast_modes(block)
        _tsit5(block, program)
    else:
        _rodas5p(block, program)
    flag = block.load("flag")
    wanted = block.anywhere(b.fcmp_ordered(">", flag, vector(1.0)))
    block.forget()
    goes_on, done = b.append_basic_block("goes_on"), b.append_basic_block("done")
    b.cbranch(b.or_(wanted, block.set("pausing")), done, goes_on)
    b.position_at_end(goes_on)
    with b.if_then(block.anywhere(b.fcmp_ordered("!=", flag, vector(0.0)))):
        block.code.call(f"{method}_read", block.base)
    _take(block, explicit=explicit)
    b.branch(again)
    b.position_at_end(done)


def _slope(block: Block, program: Program) -> None:
    block.slopes(program, block.load("time"), "x", "slope")
    for i in block.each():
        block.store(block.code.add(block.load("slope", i), block.load("inputs", i)), "slope", i)


# Fast modes


def part_of_scale(block: Block, i: ir.Value | int) -> ir.Value:
    """A part of the scale of a state, another one for each."""
    b = block.code.builder
    index = ir.Constant(INDEX, i) if isinstance(i, int) else i
    part = block.code.everywhere(b.fmul(b.sitofp(index, DOUBLE), ir.Constant(DOUBLE, GOLDEN)))
    return b.fadd(vector(0.5), b.fsub(part, block.call("floor", part)))


def _look_for_fast_modes(block: Block) -> None:
    """Looks for fast modes that are at rest; see `mechanistic.solve.control.fastest_rate`."""
    code, b, n = block.code, block.code.builder, block.states
    attempts = block.load("attempts")
    rest = b.fsub(attempts, b.fmul(vector(float(PROBED)), block.call("floor", b.fmul(attempts, vector(1 / PROBED)))))
    wanted = b.select(b.fcmp_ordered("==", rest, vector(0.0)), block.load("active"), vector(0.0))
    with b.if_then(block.anywhere(b.fcmp_ordered("!=", wanted, vector(0.0)))):
        for i in block.each():
            block.store(part_of_scale(block, i), "direction", i)
        for _ in range(2):
            code.call("turn", block.base)
        block.forget()
        suspected = _suspected(block, wanted)
        with b.if_then(block.anywhere(b.fcmp_ordered("!=", suspected, vector(0.0)))):
            # Fast modes, or the growth of states of unlike scales along a chain, which ends after so many turns.
            with code.loop(n):
                code.call("turn", block.base)
            with code.span(0, n, vector(0.0)) as span:
                code.call("turn", block.base)
                span.carried[0] = b.fadd(span.carried[0], block.call("log", block.load("rate")))
            block.store(block.call("exp", b.fmul(span.carried[0], vector(1 / max(n, 1)))), "rate")
            count = b.fmul(_suspected(block, suspected), vector(float(STIFF_STEPS + 1)))
            block.store(b.fadd(block.load("stiff"), count), "stiff")
            block.forget()


def _suspected(block: Block, wanted: ir.Value) -> ir.Value:
    """1 where the mode that was found is too fast for the step, among the lanes that are wanted."""
    b = block.code.builder
    step = block.smaller(block.load("size"), b.fsub(block.load("stop"), block.load("time")))
    fast = b.fcmp_ordered(">", b.fmul(block.load("rate"), step), vector(FAR_BEYOND * STIFF_BOUND))
    return b.select(fast, wanted, vector(0.0))


def _turn(block: Block, program: Program) -> None:
    """One turn by differences: `direction` becomes what the Jacobian makes of it, and `rate` its growth."""
    code, b = block.code, block.code.builder
    total = block.variable(0.0)

    def size(i: ir.Value | int) -> ir.Value:
        return block.call("max", block.load("scale", i), code.magnitude(block.load("x", i)))

    def gather(values: Any) -> ir.Value:
        b.store(vector(0.0), total)
        for i in block.each():
            value = values(i)
            b.store(code.add(b.load(total, typ=VECTOR), code.mul(value, value)), total)
        return block.call("sqrt", b.load(total, typ=VECTOR))

    length = b.fdiv(vector(PROBE), gather(lambda i: block.load("direction", i)))
    for i in block.each():
        moved = code.mul(code.mul(size(i), block.load("direction", i)), length)
        block.store(code.add(block.load("x", i), moved), "argument", i)
    block.slopes(program, block.load("time"), "argument", "right")

    def change(i: ir.Value | int) -> ir.Value:
        slope = code.sub(block.load("stages", i), block.load("inputs", i))
        value = b.fdiv(code.sub(block.load("right", i), slope), size(i))
        block.store(value, "right", i)
        return value

    grown = gather(change)
    somewhere = b.fcmp_ordered(">", grown, vector(0.0))
    for i in block.each():
        block.store(b.select(somewhere, block.load("right", i), block.load("direction", i)), "direction", i)
    block.store(code.mul(vector(1 / PROBE), grown), "rate")


# Steps


def _choose_size(block: Block, *, explicit: bool) -> None:
    """A step that would leave a sliver before the stop is stretched to it."""
    code, b = block.code, block.code.builder
    time, stop, size = (block.load(name) for name in ("time", "stop", "size"))
    remaining = b.fsub(stop, time)
    arriving = b.fcmp_ordered(">=", b.fmul(size, vector(1 + 1e-6)), remaining)
    step = b.select(arriving, remaining, size)
    usable = step
    if not explicit:
        # The linear system of a step of no length would overflow.
        shortest = code.mul(vector(rodas5p.SHORTEST), code.add(vector(1.0), code.magnitude(time)))
        usable = b.select(b.fcmp_ordered("<=", step, vector(EMPTY)), shortest, step)
    block.store(step, "step")
    block.store(usable, "usable")
    block.store(block.number(arriving), "arriving")
    block.store(b.select(arriving, stop, b.fadd(time, step)), "finish")


def _tsit5(block: Block, program: Program) -> None:
    """A step from the first stage, which is known; leaves all seven."""
    code, b = block.code, block.code.builder
    with block.shadowed():
        # A shadow may have been brought back since the last stage of its last step.
        code.call("slope", block.base)
        for i in block.each():
            block.store(block.load("slope", i), "stages", i)
    _choose_size(block, explicit=True)
    size, time = block.load("usable"), block.load("time")
    for stage, (node, row) in enumerate(zip(tsit5.C, tsit5.A, strict=True)):
        if stage == 0:
            continue
        target = "end" if stage == 6 else "before" if stage == 5 else "argument"
        for i in block.each():
            total = code.combine(row, block.stages(stage, i))
            block.store(code.multiply_add(size, total, block.load("x", i)), target, i)
        block.slopes(program, code.add(time, code.mul(vector(node), size)), target, "stages", stage)
        for i in block.each():
            value = b.fadd(block.load("stages", i, stage), block.load("inputs", i))
            block.store(value, "stages", i, stage)
    slope, moved = block.variable(0.0), block.variable(0.0)
    for i in block.each():
        stages, weight = block.stages(7, i), block.load("weight", i)
        block.store(code.mul(size, code.combine(tsit5.ERROR, stages)), "error", i)
        changes = code.sub(stages[6], stages[5]), code.sub(block.load("end", i), block.load("before", i))
        for place, change in zip((slope, moved), changes, strict=True):
            part = code.mul(change, weight)
            b.store(code.add(b.load(place, typ=VECTOR), code.mul(part, part)), place)
    norms = [block.call("sqrt", b.load(place, typ=VECTOR)) for place in (slope, moved)]
    block.store(b.fdiv(code.mul(size, norms[0]), block.larger(norms[1], vector(1e-300))), "stiffness")
    judge(block)
    with block.shadowed():
        code.call("judge_both", block.base)
    decide(block, explicit=True)


def _tsit5_dense(block: Block) -> None:
    """Coefficients of θ, θ², θ³, θ⁴ in `x(θ) - x`."""
    code = block.code
    size = block.load("usable")
    for i in block.each():
        stages = block.stages(7, i)
        for power in range(4):
            weights = [row[power] for row in tsit5.DENSE]
            block.store(code.mul(size, code.combine(weights, stages)), "dense", i, power)


def _rodas5p(block: Block, program: Program) -> None:
    code, b = block.code, block.code.builder
    _choose_size(block, explicit=False)
    size, time = block.load("usable"), block.load("time")
    inverse = b.fdiv(vector(1.0), size)
    block.store(b.fdiv(vector(1.0), code.mul(vector(rodas5p.GAMMA), size)), "diagonal")
    code.call("linearise", block.array("time"), block.array("x"), block.array("constants"), block.array("held"),
              block.array("slope"), block.array("jacobian"))  # fmt: skip
    code.call("factor", block.array("jacobian"), block.array("diagonal"), block.array("factors"))
    for i in block.each():
        slope = b.fadd(code.load(block.array("slope"), i), block.load("inputs", i))
        block.store(slope, "slope", i)
        block.store(slope, "right", i)
    for stage in range(len(rodas5p.C)):
        if stage > 0:
            _rodas5p_right(block, program, stage, time, inverse)
        _add_time_derivative(block, program, rodas5p.D[stage])
        code.call("solve", block.array("factors"), block.array("right"), block.stage(stage))
        if stage == 0:
            code.call("residual", block.array("jacobian"), block.array("diagonal"), block.array("right"),
                      block.stage(0), block.array("weight"), block.array("residual"))  # fmt: skip
    for i in block.each():
        last = block.load("stages", i, 7)
        block.store(code.add(block.load("argument", i), last), "end", i)
        block.store(last, "error", i)
    block.store(vector(0.0), "stiffness")
    judge(block)
    with block.shadowed():
        code.call("judge_both", block.base)
    # Factors without pivoting may be far off. Then the step is rejected, and a shorter one makes the diagonal dominant.
    allowed = block.larger(code.mul(vector(RESIDUAL), block.load("relative")), vector(LEAST))
    solved = b.fcmp_ordered("<", block.load("residual"), allowed)
    block.store(b.select(solved, block.load("ratio"), vector(INFINITY)), "ratio")
    _pass_nothing(block)
    decide(block, explicit=False)


def _rodas5p_right(block: Block, program: Program, stage: int, time: ir.Value, inverse: ir.Value) -> None:
    """The right-hand side of the linear system of a stage after the first."""
    code, b = block.code, block.code.builder
    row, links = rodas5p.A[stage], rodas5p.COUPLING[stage]
    # The rows of A from the sixth on each extend the one before.
    longer = stage > 1 and row[:-1] == rodas5p.A[stage - 1]
    for i in block.each():
        stages = block.stages(stage, i)
        if longer:
            argument = code.add(block.load("argument", i), code.combine(row[-1:], stages[-1:]))
        else:
            argument = code.add(block.load("x", i), code.combine(row, stages))
        block.store(argument, "argument", i)
        block.store(code.multiply_add(inverse, code.combine(links, stages), block.load("inputs", i)), "linked", i)
    node = code.add(time, code.mul(vector(rodas5p.C[stage]), block.load("usable")))
    block.slopes(program, node, "argument", "right")
    for i in block.each():
        block.store(b.fadd(block.load("right", i), block.load("linked", i)), "right", i)


def _add_time_derivative(block: Block, program: Program, weight: float) -> None:
    if weight == 0:
        return
    code = block.code
    scaled = code.mul(vector(weight), block.load("usable"))
    for entry, state in enumerate(program.timed, start=len(program.rows)):
        change = code.mul(scaled, code.load(block.array("jacobian"), entry))
        block.store(code.add(block.load("right", state), change), "right", state)


def _pass_nothing(block: Block) -> None:
    """A step of no length follows the slope, so that a stop may move in a derivative."""
    code, b = block.code, block.code.builder
    step = block.load("step")
    empty = b.fcmp_ordered("<=", step, vector(EMPTY))
    block.forget()
    with b.if_then(block.anywhere(empty)):
        for i in block.each():
            straight = code.add(block.load("x", i), code.mul(step, block.load("slope", i)))
            block.store(b.select(empty, straight, block.load("end", i)), "end", i)
        for name in ("ratio", "below"):
            block.store(b.select(empty, vector(0.0), block.load(name)), name)
    block.forget()


def _rodas5p_dense(block: Block) -> None:
    """x + θ ((end - x) + (1 - θ) (first + θ (second + θ third))), multiplied out."""
    code = block.code
    for i in block.each():
        stages = block.stages(8, i)
        change = code.sub(block.load("end", i), block.load("x", i))
        for power, value in enumerate(rodas5p_terms(code, change, stages)):
            block.store(value, "dense", i, power)


def rodas5p_terms(code: Code, change: ir.Value, stages: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
    """Coefficients of θ, θ², θ³, θ⁴; see `Rodas5P.interpolate`."""
    first, second, third = (code.combine(row, stages) for row in rodas5p.DENSE)
    return code.add(change, first), code.sub(second, first), code.sub(third, second), code.builder.fneg(third)


def _take(block: Block, *, explicit: bool) -> None:
    """Moves the lanes whose step is accepted to its end; all go on with the size that is to follow."""
    b = block.code.builder
    taken = block.holds("accepted")
    for i in block.each():
        block.store(b.select(taken, block.load("end", i), block.load("x", i)), "x", i)
        if explicit:
            block.store(b.select(taken, block.load("stages", i, 6), block.load("stages", i)), "stages", i)
    with block.shadowed():
        block.code.call("follow", block.base)
    block.store(block.load("following"), "size")
    taken = block.holds("accepted")
    for name, value in (("time", "finish"), ("previous", "logarithm")):
        block.store(b.select(taken, block.load(value), block.load(name)), name)
    block.store(b.fadd(block.load("nodes"), block.load("accepted")), "nodes")

"""The verdict on a step of a block of subjects and the size of the next, as code; see `mechanistic.solve.control`."""

from math import log

from llvmlite import ir

from mechanistic.native.block import INFINITY, SPACING, Block
from mechanistic.native.elementary import exp_of_moderate, log_of_normal
from mechanistic.native.emit import DOUBLE, VECTOR, vector
from mechanistic.native.vectors import Vector
from mechanistic.solve.control import LARGEST, LEAST_BEFORE, LEAST_RATIO, SAFETY, SMALLEST, UNDERSHOOTS
from mechanistic.solve.loop import FAR_BEYOND, STIFF_BOUND, STIFF_STEPS

EXPONENT = 1 / 5
"""Of the error in the step size: both methods have an error estimate of order 4."""


def judge(block: Block) -> None:
    """Error over tolerance in the maximum norm, its state, and whether a state falls through its floor."""
    code, b = block.code, block.code.builder
    ratio, culprit, below = (block.variable(start) for start in (-1.0, 0.0, 0.0))
    relative = block.load("relative")
    for i in block.each():
        x, end, floor = (block.load(name, i) for name in ("x", "end", "floor"))
        larger = block.larger(code.magnitude(x), code.magnitude(end))
        allowed = code.multiply_add(relative, larger, block.load("absolute", i))
        share = b.fdiv(code.magnitude(block.load("error", i)), allowed)
        # What is not a number, or not finite, is as wrong as can be.
        right = b.fcmp_ordered("<", code.magnitude(b.fadd(end, share)), vector(INFINITY))
        share = b.select(right, share, vector(INFINITY))
        before = b.load(ratio, typ=VECTOR)
        worse = b.fcmp_ordered(">", share, before)
        b.store(b.select(worse, share, before), ratio)
        state = vector(float(i)) if isinstance(i, int) else code.everywhere(b.sitofp(i, DOUBLE))
        b.store(b.select(worse, state, b.load(culprit, typ=VECTOR)), culprit)
        falls = b.select(b.fcmp_ordered("<", end, floor), vector(1.0), b.load(below, typ=VECTOR))
        b.store(b.select(b.fcmp_ordered(">=", x, floor), falls, b.load(below, typ=VECTOR)), below)
    for place, name in ((ratio, "ratio"), (culprit, "culprit"), (below, "below")):
        block.store(b.load(place, typ=VECTOR), name)


def decide(block: Block, *, explicit: bool) -> None:
    """Whether the step is taken, what size is to follow, and whether the driver is wanted.

    See `factor` of `mechanistic.solve.control` and the loop of `mechanistic.solve.loop`.
    """
    code, b = block.code, block.code.builder
    zero, one = vector(0.0), vector(1.0)
    ratio, undershoots, step = (block.load(name) for name in ("ratio", "undershoots", "step"))
    finite = b.fcmp_ordered("<", ratio, vector(INFINITY))
    undershot = b.select(b.fcmp_ordered("<", undershoots, vector(float(UNDERSHOOTS))), block.load("below"), zero)
    undershot = b.select(finite, undershot, zero)
    below = b.fcmp_ordered("!=", undershot, zero)
    accepted = b.select(below, zero, block.number(b.fcmp_ordered("<=", ratio, one)))
    taken = b.fcmp_ordered("!=", accepted, zero)
    block.store(accepted, "accepted")
    count = b.select(below, vector(2.0), vector(-1.0))
    block.store(block.larger(zero, b.fadd(undershoots, count)), "undershoots")

    following = b.fmul(step, b.select(below, vector(0.25), _change(block, taken, finite)))
    arrived = b.select(taken, block.load("arriving"), zero)
    stopped = b.fcmp_ordered("!=", arrived, zero)
    # A step that was cut short by a stop says nothing of how long the next one may be.
    following = b.select(stopped, block.larger(block.load("size"), following), following)
    block.store(following, "following")
    block.store(b.fadd(block.load("attempts"), one), "attempts")
    if explicit:
        _count_stiff(block, taken)

    time = b.select(taken, block.load("finish"), block.load("time"))
    least = code.mul(vector(SPACING), block.larger(code.magnitude(time), vector(1e-30)))
    reading = b.select(b.fcmp_ordered("<", block.load("due"), block.load("finish")), accepted, zero)
    short = b.select(stopped, zero, block.number(b.fcmp_ordered("<=", following, least)))
    spent = block.number(b.fcmp_ordered(">=", block.load("attempts"), block.load("budget")))
    flag = block.larger(block.larger(arrived, short), spent)
    if explicit:
        flag = block.larger(flag, block.number(b.fcmp_ordered(">=", block.load("stiff"), vector(float(STIFF_STEPS)))))
    flag = block.larger(reading, b.fmul(vector(2.0), flag))
    block.store(b.fmul(flag, block.load("active")), "flag")


def _change(block: Block, taken: ir.Value, finite: ir.Value) -> ir.Value:
    """What to multiply the step by."""
    code, b = block.code, block.code.builder
    ratio, before = block.load("ratio"), block.load("previous")
    error = log_of_normal(Vector(b, block.larger(ratio, vector(LEAST_RATIO)))).value
    block.store(block.larger(error, vector(log(LEAST_BEFORE))), "logarithm")
    grow = code.multiply_add(vector(-0.85 * EXPONENT), error, code.mul(vector(0.2 * EXPONENT), before))
    power = exp_of_moderate(Vector(b, b.select(taken, grow, code.mul(vector(-EXPONENT), error)))).value
    change = code.mul(vector(SAFETY), power)
    change = block.smaller(change, b.select(taken, vector(LARGEST), vector(0.9)))
    return b.select(finite, block.larger(change, vector(SMALLEST)), vector(SMALLEST))


def _count_stiff(block: Block, taken: ir.Value) -> None:
    """Counts steps at the border of stability."""
    b = block.code.builder
    stiffness, count = block.load("stiffness"), block.load("stiff")
    change = b.select(b.fcmp_ordered(">", stiffness, vector(STIFF_BOUND)), vector(1.0), vector(-1.0))
    beyond = b.fcmp_ordered(">", stiffness, vector(FAR_BEYOND * STIFF_BOUND))
    change = b.select(beyond, vector(float(STIFF_STEPS)), change)
    counted = block.larger(vector(0.0), b.fadd(count, change))
    block.store(b.select(taken, counted, count), "stiff")

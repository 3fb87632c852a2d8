"""Steps of a block of subjects as kernels: the size of a trial step, the step, its verdict and the next size.

Only what happens seldom is left to the driver: stops, outputs, failures, and the next subject of a lane.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from llvmlite import ir

from mechanistic.native.emit import DOUBLE, VECTOR, Code, Kernels, vector
from mechanistic.native.program import Program
from mechanistic.solve import rodas5p, tsit5
from mechanistic.solve.control import GOLDEN, LARGEST, PROBE, SAFETY, SMALLEST, UNDERSHOOTS
from mechanistic.solve.loop import FAR_BEYOND, STIFF_BOUND, STIFF_STEPS

INFINITY = float("inf")
SPACING = 16 * float(np.finfo(np.float64).eps)
EMPTY = 1e8 * float(np.finfo(np.float64).tiny)
"""Steps up to this size count as steps of no length."""

EXPONENT = 1 / 5
"""Of the error in the step size: both methods have an error estimate of order 4."""

RESIDUAL, LEAST = 1e-3, 1e-13
"""Backward error of the linear systems of a step that is allowed, relative to the tolerance, and at least."""

SINGLE = (
    "active", "time", "stop", "due", "size", "step", "usable", "finish", "ratio", "residual", "below", "culprit",
    "stiffness", "relative", "point", "diagonal", "previous", "following", "accepted", "arriving", "flag",
    "undershoots", "attempts", "budget", "nodes", "stiff", "rate", "shadowed", "fresh",
)  # fmt: skip
"""Numbers of a lane.

active: 1 where there is a subject. time, stop, due: where it stands, its next stop and its next output. size, step,
usable: of the next step, of the trial step, and in its place where that is nothing. finish: when the trial step ends.
ratio, residual: of its error, and of that of its linear systems, to what is allowed. below: 1 where a state falls
through its floor. culprit: the state that limits it. previous: the ratio of the step before. following: the size that
is to follow. accepted, arriving: 1 where the step is taken, and where it ends at a stop. flag: 1 where there are
outputs within the step, 2 where more is wanted of the driver. stiff, undershoots, attempts, nodes: counts. rate: of the
fastest mode that was found. shadowed: 1 in all lanes where the upper half are shadows of the lower half. fresh: 1 where
a shadow is to be cast.
"""

STATE = (
    "x", "end", "error", "inputs", "scale", "weight", "absolute", "floor", "argument", "before", "right", "slope",
    "direction",
)  # fmt: skip
"""Numbers of a state.

scale, weight: its typical size, and one over it. absolute, floor: error allowed, and least value. direction: in which
fast modes are looked for.
"""


@final
@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a block keeps its numbers: name → index of its first element, all lanes beside each other."""

    places: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, program: Program, factors: int) -> "Workspace":
        """The workspace of a model whose factors have so many entries."""
        n = program.states
        sizes = dict.fromkeys(SINGLE, 1) | dict.fromkeys(STATE, n)
        sizes |= {"constants": program.constants, "held": program.held + program.handles}
        sizes |= {"stages": 8 * n, "dense": 4 * n, "jacobian": program.entries, "factors": factors}
        places = {}
        total = 0
        for name, count in sizes.items():
            places[name] = total
            total += count
        return cls(places, total)


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Code that works on the workspace of a block."""

    code: Code
    workspace: Workspace
    base: ir.Value
    states: int

    def array(self, name: str, element: int = 0) -> ir.Value:
        """The address of an array of the workspace."""
        return self.code.at(self.base, self.workspace.places[name] + element)

    def stage(self, number: int) -> ir.Value:
        return self.array("stages", number * self.states)

    def load(self, name: str, index: ir.Value | int = 0) -> ir.Value:
        return self.code.load(self.array(name), index)

    def store(self, value: ir.Value, name: str, index: ir.Value | int = 0) -> None:
        self.code.store(value, self.array(name), index)

    def call(self, name: str, *arguments: ir.Value) -> ir.Value:
        """An elementary function."""
        return self.code.functions.apply(self.code.builder, name, list(arguments))

    def number(self, mask: ir.Value) -> ir.Value:
        """1 where it holds, else 0."""
        return self.code.builder.select(mask, vector(1.0), vector(0.0))

    def holds(self, name: str) -> ir.Value:
        """Where a number of the workspace is not 0."""
        return self.code.builder.fcmp_ordered("!=", self.load(name), vector(0.0))

    @contextmanager
    def shadowed(self) -> Iterator[None]:
        """What is appended inside is done where there are shadows."""
        b = self.code.builder
        first = b.extract_element(self.load("shadowed"), ir.Constant(ir.IntType(32), 0))
        with b.if_then(b.fcmp_ordered("!=", first, ir.Constant(DOUBLE, 0.0))):
            yield

    def rates(self, time: ir.Value, x: ir.Value, result: ir.Value) -> None:
        """Calls the right-hand side, without inputs."""
        self.code.call("rates", time, x, self.array("constants"), self.array("held"), result)

    def rates_at(self, node: float, size: ir.Value, argument: ir.Value, result: ir.Value) -> None:
        """The right-hand side at a node of a step of some size, without inputs."""
        code = self.code
        self.store(code.add(self.load("time"), code.mul(vector(node), size)), "point")
        self.rates(self.array("point"), argument, result)


def emit_steps(kernels: Kernels, program: Program, workspace: Workspace) -> None:
    """Adds kernels of the workspace alone; those of `mechanistic.native.shadows` are called.

    `slope`: the right-hand side at the state. `probe`, `turn`: look for the fastest mode, by two turns and by one more.
    `tsit5_step`, `rodas5p_step`: a trial step and its verdict. `tsit5_dense`, `rodas5p_dense`: coefficients of its
    dense output. `tsit5_take`, `rodas5p_take`: takes the accepted steps.
    """
    bodies: dict[str, Any] = {
        "slope": _slope,
        "turn": _turn,
        "probe": _probe,
        "tsit5_step": _tsit5,
        "tsit5_dense": _tsit5_dense,
        "tsit5_take": lambda block: _take(block, explicit=True),
        "rodas5p_step": lambda block: _rodas5p(block, program),
        "rodas5p_dense": _rodas5p_dense,
        "rodas5p_take": lambda block: _take(block, explicit=False),
    }
    for name, body in bodies.items():
        with kernels.function(name, 1) as (code, (base,)):
            body(Block(code, workspace, base, program.states))


def _slope(block: Block) -> None:
    code = block.code
    block.rates(block.array("time"), block.array("x"), block.array("slope"))
    with code.loop(block.states) as i:
        block.store(code.add(block.load("slope", i), block.load("inputs", i)), "slope", i)


def part_of_scale(block: Block, i: ir.Value) -> ir.Value:
    """A part of the scale of a state, another one for each."""
    b = block.code.builder
    part = block.code.everywhere(b.fmul(b.sitofp(i, DOUBLE), ir.Constant(DOUBLE, GOLDEN)))
    return b.fadd(vector(0.5), b.fsub(part, block.call("floor", part)))


def _probe(block: Block) -> None:
    """Two turns of the power method from a first direction; see `mechanistic.solve.control.fastest_rate`."""
    with block.code.loop(block.states) as i:
        block.store(part_of_scale(block, i), "direction", i)
    for _ in range(2):
        block.code.call("turn", block.base)


def _turn(block: Block) -> None:
    """One turn by differences: `direction` becomes what the Jacobian makes of it, and `rate` its growth."""
    code, b = block.code, block.code.builder
    total = b.alloca(VECTOR)

    def size(i: ir.Value) -> ir.Value:
        return block.call("max", block.load("scale", i), block.call("abs", block.load("x", i)))

    def gather(values: Any) -> ir.Value:
        b.store(vector(0.0), total)
        with code.loop(block.states) as i:
            value = values(i)
            b.store(code.add(b.load(total, typ=VECTOR), code.mul(value, value)), total)
        return block.call("sqrt", b.load(total, typ=VECTOR))

    length = b.fdiv(vector(PROBE), gather(lambda i: block.load("direction", i)))
    with code.loop(block.states) as i:
        moved = code.mul(code.mul(size(i), block.load("direction", i)), length)
        block.store(code.add(block.load("x", i), moved), "argument", i)
    block.rates(block.array("time"), block.array("argument"), block.array("right"))

    def change(i: ir.Value) -> ir.Value:
        slope = code.sub(code.load(block.stage(0), i), block.load("inputs", i))
        value = b.fdiv(code.sub(block.load("right", i), slope), size(i))
        block.store(value, "right", i)
        return value

    grown = gather(change)
    somewhere = b.fcmp_ordered(">", grown, vector(0.0))
    with code.loop(block.states) as i:
        block.store(b.select(somewhere, block.load("right", i), block.load("direction", i)), "direction", i)
    block.store(code.mul(vector(1 / PROBE), grown), "rate")


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
        shortest = code.mul(vector(rodas5p.SHORTEST), code.add(vector(1.0), block.call("abs", time)))
        usable = b.select(b.fcmp_ordered("<=", step, vector(EMPTY)), shortest, step)
    block.store(step, "step")
    block.store(usable, "usable")
    block.store(block.number(arriving), "arriving")
    block.store(b.select(arriving, stop, b.fadd(time, step)), "finish")


def _tsit5(block: Block) -> None:
    """A step from the first stage, which is known; leaves all seven."""
    code, b = block.code, block.code.builder
    _choose_size(block, explicit=True)
    size = block.load("usable")
    with block.shadowed():
        # A shadow may have been brought back since the last stage of its last step.
        code.call("slope", block.base)
        with code.loop(block.states) as i:
            code.store(block.load("slope", i), block.stage(0), i)
    for stage, (node, row) in enumerate(zip(tsit5.C, tsit5.A, strict=True)):
        if stage == 0:
            continue
        target = block.array("end" if stage == 6 else "before" if stage == 5 else "argument")
        with code.loop(block.states) as i:
            total = code.combine(row, [code.load(block.stage(j), i) for j in range(stage)])
            code.store(code.add(block.load("x", i), code.mul(size, total)), target, i)
        block.rates_at(node, size, target, block.stage(stage))
        with code.loop(block.states) as i:
            code.store(code.add(code.load(block.stage(stage), i), block.load("inputs", i)), block.stage(stage), i)
    slope, moved = (b.alloca(VECTOR) for _ in range(2))
    for place in (slope, moved):
        b.store(vector(0.0), place)
    with code.loop(block.states) as i:
        stages = [code.load(block.stage(j), i) for j in range(7)]
        block.store(code.mul(size, code.combine(tsit5.ERROR, stages)), "error", i)
        weight = block.load("weight", i)
        changes = code.sub(stages[6], stages[5]), code.sub(block.load("end", i), block.load("before", i))
        for place, change in zip((slope, moved), changes, strict=True):
            part = code.mul(change, weight)
            b.store(code.add(b.load(place, typ=VECTOR), code.mul(part, part)), place)
    norms = [block.call("sqrt", b.load(place, typ=VECTOR)) for place in (slope, moved)]
    block.store(b.fdiv(code.mul(size, norms[0]), block.call("max", norms[1], vector(1e-300))), "stiffness")
    _judge(block)
    with block.shadowed():
        code.call("judge_both", block.base)
    _decide(block, explicit=True)


def _tsit5_dense(block: Block) -> None:
    """Coefficients of θ, θ², θ³, θ⁴ in `x(θ) - x`."""
    code = block.code
    size = block.load("usable")
    with code.loop(block.states) as i:
        stages = [code.load(block.stage(j), i) for j in range(7)]
        for power in range(4):
            weights = [row[power] for row in tsit5.DENSE]
            place = block.array("dense", power * block.states)
            code.store(code.mul(size, code.combine(weights, stages)), place, i)


def _rodas5p(block: Block, program: Program) -> None:
    code, b, n = block.code, block.code.builder, block.states
    _choose_size(block, explicit=False)
    size = block.load("usable")
    inverse = b.fdiv(vector(1.0), size)
    block.store(b.fdiv(vector(1.0), code.mul(vector(rodas5p.GAMMA), size)), "diagonal")
    code.call("linearise", block.array("time"), block.array("x"), block.array("constants"), block.array("held"),
              block.array("slope"), block.array("jacobian"))  # fmt: skip
    code.call("factor", block.array("jacobian"), block.array("diagonal"), block.array("factors"))
    with code.loop(n) as i:
        slope = code.add(block.load("slope", i), block.load("inputs", i))
        block.store(slope, "slope", i)
        block.store(slope, "right", i)
    for stage, (node, row, links) in enumerate(zip(rodas5p.C, rodas5p.A, rodas5p.COUPLING, strict=True)):
        if stage > 0:
            with code.loop(n) as i:
                total = code.combine(row, [code.load(block.stage(j), i) for j in range(stage)])
                block.store(code.add(block.load("x", i), total), "argument", i)
            block.rates_at(node, size, block.array("argument"), block.array("right"))
            with code.loop(n) as i:
                linked = code.mul(inverse, code.combine(links, [code.load(block.stage(j), i) for j in range(stage)]))
                driven = code.add(block.load("right", i), block.load("inputs", i))
                block.store(code.add(driven, linked), "right", i)
        _add_time_derivative(block, program, rodas5p.D[stage])
        code.call("solve", block.array("factors"), block.array("right"), block.stage(stage))
        if stage == 0:
            code.call("residual", block.array("jacobian"), block.array("diagonal"), block.array("right"),
                      block.stage(0), block.array("weight"), block.array("residual"))  # fmt: skip
    with code.loop(n) as i:
        last = code.load(block.stage(7), i)
        block.store(code.add(block.load("argument", i), last), "end", i)
        block.store(last, "error", i)
    block.store(vector(0.0), "stiffness")
    _judge(block)
    with block.shadowed():
        code.call("judge_both", block.base)
    # Factors without pivoting may be far off. Then the step is rejected, and a shorter one makes the diagonal dominant.
    allowed = block.call("max", code.mul(vector(RESIDUAL), block.load("relative")), vector(LEAST))
    solved = b.fcmp_ordered("<", block.load("residual"), allowed)
    block.store(b.select(solved, block.load("ratio"), vector(INFINITY)), "ratio")
    _pass_nothing(block)
    _decide(block, explicit=False)


def _add_time_derivative(block: Block, program: Program, weight: float) -> None:
    if weight == 0:
        return
    code = block.code
    scaled = code.mul(vector(weight), block.load("usable"))
    for entry, state in enumerate(program.timed, start=len(program.rows)):
        change = code.mul(scaled, block.load("jacobian", entry))
        block.store(code.add(block.load("right", state), change), "right", state)


def _pass_nothing(block: Block) -> None:
    """A step of no length follows the slope, so that a stop may move in a derivative."""
    code, b = block.code, block.code.builder
    step = block.load("step")
    empty = b.fcmp_ordered("<=", step, vector(EMPTY))
    with code.loop(block.states) as i:
        straight = code.add(block.load("x", i), code.mul(step, block.load("slope", i)))
        block.store(b.select(empty, straight, block.load("end", i)), "end", i)
    for name in ("ratio", "below"):
        block.store(b.select(empty, vector(0.0), block.load(name)), name)


def _rodas5p_dense(block: Block) -> None:
    """x + θ ((end - x) + (1 - θ) (first + θ (second + θ third))), multiplied out."""
    code, n = block.code, block.states
    with code.loop(n) as i:
        stages = [code.load(block.stage(j), i) for j in range(8)]
        first, second, third = (code.combine(row, stages) for row in rodas5p.DENSE)
        change = code.sub(block.load("end", i), block.load("x", i))
        powers = (code.add(change, first), code.sub(second, first), code.sub(third, second), code.builder.fneg(third))
        for power, value in enumerate(powers):
            code.store(value, block.array("dense", power * n), i)


def _judge(block: Block) -> None:
    """Error over tolerance in the maximum norm, its state, and whether a state falls through its floor."""
    code, b = block.code, block.code.builder
    ratio, culprit, below = (b.alloca(VECTOR) for _ in range(3))
    for place, start in ((ratio, -1.0), (culprit, 0.0), (below, 0.0)):
        b.store(vector(start), place)
    relative = block.load("relative")
    with code.loop(block.states) as i:
        x, end, floor = (block.load(name, i) for name in ("x", "end", "floor"))
        larger = block.call("max", block.call("abs", x), block.call("abs", end))
        allowed = code.add(block.load("absolute", i), code.mul(relative, larger))
        share = b.fdiv(block.call("abs", block.load("error", i)), allowed)
        # What is not a number, or not finite, is as wrong as can be: `allowed` is NaN or infinite where `end` is.
        right = b.fcmp_ordered("<", block.call("abs", b.fadd(end, share)), vector(INFINITY))
        share = b.select(right, share, vector(INFINITY))
        before = b.load(ratio, typ=VECTOR)
        worse = b.fcmp_ordered(">", share, before)
        b.store(b.select(worse, share, before), ratio)
        state = code.everywhere(b.sitofp(i, DOUBLE))
        b.store(b.select(worse, state, b.load(culprit, typ=VECTOR)), culprit)
        falls = b.select(b.fcmp_ordered("<", end, floor), vector(1.0), vector(0.0))
        falls = b.select(b.fcmp_ordered(">=", x, floor), falls, vector(0.0))
        b.store(block.call("max", falls, b.load(below, typ=VECTOR)), below)
    for place, name in ((ratio, "ratio"), (culprit, "culprit"), (below, "below")):
        block.store(b.load(place, typ=VECTOR), name)


def _decide(block: Block, *, explicit: bool) -> None:
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
    block.store(block.call("max", zero, b.fadd(undershoots, count)), "undershoots")

    error = block.call("log", block.call("max", ratio, vector(1e-10)))
    before = block.call("log", block.call("max", block.load("previous"), vector(1e-4)))
    grow = code.add(code.mul(vector(-0.85 * EXPONENT), error), code.mul(vector(0.2 * EXPONENT), before))
    power = block.call("exp", b.select(taken, grow, code.mul(vector(-EXPONENT), error)))
    change = code.mul(vector(SAFETY), power)
    change = b.select(taken, change, block.call("min", change, vector(0.9)))
    change = block.call("min", block.call("max", change, vector(SMALLEST)), vector(LARGEST))
    change = b.select(finite, change, vector(SMALLEST))
    change = b.select(below, vector(0.25), change)
    following = b.fmul(step, change)
    arrived = b.select(taken, block.load("arriving"), zero)
    stopped = b.fcmp_ordered("!=", arrived, zero)
    # A step that was cut short by a stop says nothing of how long the next one may be.
    following = b.select(stopped, block.call("max", block.load("size"), following), following)
    block.store(following, "following")
    block.store(b.fadd(block.load("attempts"), one), "attempts")
    if explicit:
        _count_stiff(block, taken)

    time = b.select(taken, block.load("finish"), block.load("time"))
    least = b.fmul(vector(SPACING), block.call("max", block.call("abs", time), vector(1e-30)))
    reading = b.select(b.fcmp_ordered("<", block.load("due"), block.load("finish")), accepted, zero)
    short = b.select(stopped, zero, block.number(b.fcmp_ordered("<=", following, least)))
    spent = block.number(b.fcmp_ordered(">=", block.load("attempts"), block.load("budget")))
    stiff = block.number(b.fcmp_ordered(">=", block.load("stiff"), vector(float(STIFF_STEPS))))
    flag = arrived
    for reason in (short, spent, stiff):
        flag = block.call("max", flag, reason)
    flag = block.call("max", reading, b.fmul(vector(2.0), flag))
    block.store(b.fmul(flag, block.load("active")), "flag")


def _count_stiff(block: Block, taken: ir.Value) -> None:
    """Counts steps at the border of stability."""
    b = block.code.builder
    stiffness, count = block.load("stiffness"), block.load("stiff")
    change = b.select(b.fcmp_ordered(">", stiffness, vector(STIFF_BOUND)), vector(1.0), vector(-1.0))
    beyond = b.fcmp_ordered(">", stiffness, vector(FAR_BEYOND * STIFF_BOUND))
    change = b.select(beyond, vector(float(STIFF_STEPS)), change)
    counted = block.call("max", vector(0.0), b.fadd(count, change))
    block.store(b.select(taken, counted, count), "stiff")


def _take(block: Block, *, explicit: bool) -> None:
    """Moves the lanes whose step is accepted to its end; all go on with the size that is to follow."""
    code, b = block.code, block.code.builder
    taken = block.holds("accepted")
    with code.loop(block.states) as i:
        block.store(b.select(taken, block.load("end", i), block.load("x", i)), "x", i)
        if explicit:
            first, last = (code.load(block.stage(j), i) for j in (0, 6))
            code.store(b.select(taken, last, first), block.stage(0), i)
    with block.shadowed():
        code.call("follow", block.base)
    block.store(block.load("following"), "size")
    for name, value in (("time", block.load("finish")), ("previous", block.load("ratio"))):
        block.store(b.select(taken, value, block.load(name)), name)
    block.store(b.fadd(block.load("nodes"), block.load("accepted")), "nodes")

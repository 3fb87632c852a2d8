"""Error control of derivatives in compiled code: the upper half of a block are the shadows of the lower half.

See `mechanistic.solve.shadow`, whose functions are done here with lanes. What a subject and its shadow decide together
is the same number in both lanes, so that both take the same steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from mechanistic.native.emit import DOUBLE, VECTOR, Code, Kernels, vector
from mechanistic.native.lanes import LANES
from mechanistic.native.program import Program
from mechanistic.native.steps import INFINITY, Block, Workspace, part_of_scale
from mechanistic.solve.shadow import DISTANCE, FAR, LENIENCE

PAIRS = LANES // 2
"""Subjects in a block whose other half are their shadows."""

ROUNDING = 100 * float(np.finfo(np.float64).eps)


def emit_shadows(kernels: Kernels, program: Program, workspace: Workspace) -> None:
    """Adds kernels of the workspace alone.

    `judge_both`: the verdict on a step where the distance to the shadow has to be right as well. `follow`: brings
    shadows back that have gone far. `cast`: starts the shadows of the lanes that are `fresh`.
    """
    for name, body in (("judge_both", _judge_both), ("follow", _follow), ("cast", _cast)):
        with kernels.function(name, 1) as (code, (base,)):
            body(Block(code, workspace, base, program.states))


def _shuffled(code: Code, value: ir.Value, lanes: Sequence[int]) -> ir.Value:
    return code.builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(lanes)))


def _subject(code: Code, value: ir.Value) -> ir.Value:
    """The subject's value, in its lane and in that of its shadow."""
    return _shuffled(code, value, [lane % PAIRS for lane in range(LANES)])


def _shadow(code: Code, value: ir.Value) -> ir.Value:
    """The shadow's value, in its lane and in that of its subject."""
    return _shuffled(code, value, [PAIRS + lane % PAIRS for lane in range(LANES)])


def _upper(code: Code, value: ir.Value, other: ir.Value) -> ir.Value:
    """`value` in the lanes of shadows, `other` in those of subjects."""
    mask = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [lane >= PAIRS for lane in range(LANES)])
    return code.builder.select(mask, value, other)


def _apart(block: Block, name: str, i: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A number of a state, of the subject, and how far that of the shadow is from it."""
    value = block.load(name, i)
    mine = _subject(block.code, value)
    return mine, block.code.sub(_shadow(block.code, value), mine)


def _judge_both(block: Block) -> None:
    code, b = block.code, block.code.builder
    ratio, culprit = b.alloca(VECTOR), b.alloca(VECTOR)
    for place, name in ((ratio, "ratio"), (culprit, "culprit")):
        b.store(_subject(code, block.load(name)), place)
    block.store(_subject(code, block.load("below")), "below")
    stiffness = block.load("stiffness")
    block.store(block.call("max", _subject(code, stiffness), _shadow(code, stiffness)), "stiffness")
    residual = block.load("residual")
    block.store(b.fadd(_subject(code, residual), _shadow(code, residual)), "residual")
    lenient = code.mul(vector(LENIENCE), block.load("relative"))
    with code.loop(block.states) as i:
        (x, before), (end, after), (_, wrong) = (_apart(block, name, i) for name in ("x", "end", "error"))
        farther, larger = (
            block.call("max", block.call("abs", p), block.call("abs", q)) for p, q in ((before, after), (x, end))
        )
        size = code.add(farther, code.mul(vector(DISTANCE), block.load("scale", i)))
        # What is left of differences of states is rounded at the size of the states.
        allowed = code.add(code.mul(lenient, size), code.mul(vector(ROUNDING), larger))
        share = b.fdiv(block.call("abs", wrong), allowed)
        share = b.select(b.fcmp_ordered("<", share, vector(INFINITY)), share, vector(0.0))
        worse = b.fcmp_ordered(">", share, b.load(ratio, typ=VECTOR))
        b.store(b.select(worse, share, b.load(ratio, typ=VECTOR)), ratio)
        state = code.everywhere(b.sitofp(i, DOUBLE))
        b.store(b.select(worse, state, b.load(culprit, typ=VECTOR)), culprit)
    for place, name in ((ratio, "ratio"), (culprit, "culprit")):
        block.store(b.load(place, typ=VECTOR), name)


def _follow(block: Block) -> None:
    code, b = block.code, block.code.builder
    growth, wrong = b.alloca(VECTOR), b.alloca(VECTOR)
    for place in (growth, wrong):
        b.store(vector(0.0), place)
    with code.loop(block.states) as i:
        _, distance = _apart(block, "x", i)
        relative = b.fdiv(block.call("abs", distance), code.mul(vector(DISTANCE), block.load("scale", i)))
        b.store(block.call("max", b.load(growth, typ=VECTOR), relative), growth)
        # Zero, or not a number where the distance is not finite.
        b.store(b.fadd(b.load(wrong, typ=VECTOR), b.fsub(distance, distance)), wrong)
    factor, finite = b.load(growth, typ=VECTOR), b.fcmp_ordered("==", b.load(wrong, typ=VECTOR), vector(0.0))
    far = b.fcmp_ordered(">", factor, vector(FAR))
    with code.loop(block.states) as i:
        x, distance = _apart(block, "x", i)
        near = b.select(far, code.add(x, b.fdiv(distance, factor)), _shadow(code, block.load("x", i)))
        near = b.select(finite, near, _started(block, x, i))
        block.store(_upper(code, near, x), "x", i)


def _cast(block: Block) -> None:
    code, b = block.code, block.code.builder
    fresh = b.fcmp_ordered("!=", block.load("fresh"), vector(0.0))
    with code.loop(block.states) as i:
        value = block.load("x", i)
        x = _subject(code, value)
        block.store(b.select(fresh, _upper(code, _started(block, x, i), x), value), "x", i)


def _started(block: Block, x: ir.Value, i: ir.Value) -> Any:
    """Where a shadow starts: every state is moved by another part of its scale."""
    code = block.code
    part = code.mul(part_of_scale(block, i), block.load("scale", i))
    return code.add(x, code.mul(vector(DISTANCE), part))

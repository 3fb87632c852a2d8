"""Kernels that look at the modes of a block of subjects within their steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from mechanistic.compile import RateField
from mechanistic.native.block import Block, Workspace
from mechanistic.native.build import Forward, machine_code
from mechanistic.native.conditions import Conditions
from mechanistic.native.emit import Kernels, vector
from mechanistic.native.machine import engine_of
from mechanistic.native.watching import Watch
from mechanistic.solve.crossing import SAMPLES

SINGLE = ("theta", "differs", "low", "high", "crossing", "before")
"""Numbers of a lane that are not of `mechanistic.native.steps`, see `mechanistic.native.watching.Watch`."""


@final
@dataclass(frozen=True)
class Crossings:
    """Kernels that look at modes: `look` works on the workspace, `prepare` makes constants of parameters.

    Attributes:
        workspace: that of the steps, and more rows behind it.
        shares: fractions of a step at which modes are looked at.
        engine: keeps the machine code in memory.
    """

    conditions: Conditions
    workspace: Workspace
    shares: tuple[float, ...]
    engine: Any

    @property
    def prepare(self) -> int:
        """Address of the kernel."""
        return int(self.engine.get_function_address("prepare"))

    def watch(self, dense: int, shadowed: bool) -> Watch:
        """How a block is watched whose dense output is that of a kernel."""
        rows = self.workspace.places
        look = int(self.engine.get_function_address("look"))
        return Watch(look, dense, shadowed, np.array(self.shares), *(rows[name] for name in Watch._fields[4:]))


def build_crossings(field: RateField, forward: Forward) -> Crossings:
    """The kernels of a field that has modes and no delays."""
    conditions, discrete = Conditions.of(field), field.discrete
    assert discrete is not None
    workspace = _extended(forward.workspace, conditions)
    # What time alone changes is changed between two looks only where the clock has been asked.
    shares = SAMPLES[-1:] if bool(discrete.timed.all()) else SAMPLES
    sizes = (forward.program.states, forward.program.parameters, forward.workspace.size)

    def emitted() -> Kernels:
        kernels = Kernels.new()
        _emit(kernels, conditions, workspace, sizes)
        return kernels

    code = machine_code("crossings", (forward.program, conditions), emitted)
    return Crossings(conditions, workspace, shares, engine_of(code))


def _extended(workspace: Workspace, conditions: Conditions) -> Workspace:
    counts = {"known": len(conditions.prepare.outputs), "now": len(conditions.modes.outputs)}
    return workspace.extended(dict.fromkeys(SINGLE, 1) | counts)


def _emit(kernels: Kernels, conditions: Conditions, workspace: Workspace, sizes: Sequence[int]) -> None:
    states, parameters, _ = sizes
    known, modes = len(conditions.prepare.outputs), len(conditions.modes.outputs)
    kernels.tape("prepare", conditions.prepare, [parameters], [known])
    kernels.tape("modes", conditions.modes, [1, states, known], [modes])
    with kernels.function("look", 1) as (code, (base,)):
        _look(Block(code, workspace, base, states), modes)


def _look(block: Block, modes: int) -> None:
    """The state and the modes at a fraction `theta` of the step, and whether they are not those held."""
    code, b, n = block.code, block.code.builder, block.states
    theta = block.load("theta")
    at_end = b.fcmp_ordered(">=", theta, vector(1.0))
    with code.loop(n) as i:
        change = vector(0.0)
        for power in reversed(range(4)):
            change = code.mul(theta, code.add(code.load(block.array("dense", power * n), i), change))
        value = code.add(block.load("x", i), change)
        block.store(b.select(at_end, block.load("end", i), value), "argument", i)
    block.store(code.add(block.load("time"), code.mul(theta, block.load("step"))), "point")
    code.call("modes", block.array("point"), block.array("argument"), block.array("known"), block.array("now"))
    differs = vector(0.0)
    for mode in range(modes):
        other = b.fcmp_unordered("!=", block.load("now", mode), block.load("held", mode))
        differs = b.select(other, vector(1.0), differs)
    block.store(differs, "differs")

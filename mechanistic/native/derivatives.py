"""Derivatives of a program as tapes: of the rates by the constants, of their derivatives, and of the constants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from mechanistic.compile.forward import slopes
from mechanistic.compile.tape import Tape, TapeBuilder
from mechanistic.native.program import Program


@final
@dataclass(frozen=True)
class Pattern:
    """Derivatives that are not zero: of what (`rows`) and by what (`columns`)."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def arrays(self) -> tuple[Any, Any]:
        """The rows and the columns."""
        return np.asarray(self.rows, dtype=np.int64), np.asarray(self.columns, dtype=np.int64)


@final
@dataclass(frozen=True, slots=True)
class Derivatives:
    """What tangents need of a program, as tapes with the inputs of `Program.rates`.

    Attributes:
        slopes: the outputs of `Program.linearise`, then ∂f/∂c in the order of `by_constants`.
        bends: derivatives of the entries of `Program.linearise`, `entry` by states, constants and time: in the order of
            `bends_by_states`, `bends_by_constants`, `bends_by_time`.
        prepare: of the constants by parameters, in the order of `parameters`; its inputs are the parameters.
    """

    slopes: Tape
    bends: Tape
    prepare: Tape
    by_constants: Pattern
    bends_by_states: Pattern
    bends_by_constants: Pattern
    bends_by_time: Pattern
    parameters: Pattern

    @classmethod
    def of(cls, program: Program) -> "Derivatives":
        n, tape = program.states, program.linearise
        states, constants = range(1, 1 + n), range(1 + n, 1 + n + program.constants)
        b = TapeBuilder(tape.slots)
        place = b.replay(tape, range(tape.slots))
        outputs = [place[o] for o in tape.outputs]
        found = slopes(b, outputs[:n], constants)
        by_constants, constant_slopes = _ordered(found, constants, by_column=True)
        first = b.finish([*outputs, *constant_slopes])
        found = slopes(b, outputs[n:], [0, *states, *constants])
        by_states, state_bends = _ordered(found, states, by_column=False)
        bent_by_constants, constant_bends = _ordered(found, constants, by_column=True)
        by_time, time_bends = _ordered(found, range(1), by_column=False)
        second = b.finish([*state_bends, *constant_bends, *time_bends])
        b = TapeBuilder(program.parameters)
        place = b.replay(program.prepare, range(program.parameters))
        found = slopes(b, [place[o] for o in program.prepare.outputs], range(program.parameters))
        parameters, registers = _ordered(found, range(program.parameters), by_column=False)
        prepare = b.finish(registers)
        return cls(first, second, prepare, by_constants, by_states, bent_by_constants, by_time, parameters)


def _ordered(found: Sequence[Mapping[int, int]], slots: range, by_column: bool) -> tuple[Pattern, list[int]]:
    """The derivatives by some inputs in order, with the columns counted from 0, and their registers."""
    keys = [(row, slot) for row, each in enumerate(found) for slot in each if slot in slots]
    keys.sort(key=lambda key: (key[1], key[0]) if by_column else key)
    pattern = Pattern(tuple(row for row, _ in keys), tuple(slot - slots.start for _, slot in keys))
    return pattern, [found[row][slot] for row, slot in keys]

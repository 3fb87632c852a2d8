"""Long tapes in parts that are compiled one by one: what a later part needs of an earlier one goes through memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from mechanistic.compile.tape import Instruction, Tape

REPEATED = frozenset({"const", "true", "false"})
"""What every part has for itself."""


@final
@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a tape.

    Attributes:
        tape: inputs are those of the whole tape, then what is `taken`; outputs are those `shown`, then what is `given`.
        taken, given: places in memory.
        shown: positions of outputs of the whole tape.
    """

    tape: Tape
    taken: tuple[int, ...]
    shown: tuple[int, ...]
    given: tuple[int, ...]


def cut(tape: Tape, length: int) -> tuple[list[Stretch], int]:
    """The parts of a tape, of at most `length` instructions, to be run in this order, and how much memory they need.

    Instructions are put in the order in which the outputs need them, so that little is carried from part to part.
    """
    order = _needed(tape)
    length = -(-len(order) // max(1, -(-len(order) // length)))
    part = {register: i // length for i, register in enumerate(order)}
    count = max(part.values(), default=0) + 1
    last: dict[int, int] = {}
    for register, here in part.items():
        for a in tape.instructions[register - tape.slots].arguments:
            if part.get(a, here) < here:
                last[a] = here
    place, size = _allocated(order, part, last)
    shown: list[list[int]] = [[] for _ in range(count)]
    for position, output in enumerate(tape.outputs):
        shown[part.get(output, 0)].append(position)
    parts = []
    for i in range(count):
        own = order[i * length : (i + 1) * length]
        given = [register for register in own if register in last]
        parts.append(_stretch(tape, own, shown[i], given, place))
    return parts, size


def _needed(tape: Tape) -> list[int]:
    """Registers that outputs need, of instructions that are not repeated, output by output."""
    order: list[int] = []
    seen = set(range(tape.slots))
    for output in tape.outputs:
        pending = [output]
        while pending:
            register = pending[-1]
            if register in seen:
                pending.pop()
                continue
            instruction = tape.instructions[register - tape.slots]
            missing = [a for a in reversed(instruction.arguments) if a not in seen]
            if missing:
                pending.extend(missing)
                continue
            seen.add(register)
            if instruction.operation not in REPEATED:
                order.append(register)
            pending.pop()
    return order


def _allocated(order: Iterable[int], part: dict[int, int], last: dict[int, int]) -> tuple[dict[int, int], int]:
    """A place in memory for each register that is used in a later part, and how many places there are.

    A place is free again after the last part that reads it.
    """
    place: dict[int, int] = {}
    free: list[int] = []
    leaving: dict[int, list[int]] = {}
    size = now = 0
    for register in order:
        while now < part[register]:
            free += [place[r] for r in leaving.pop(now, [])]
            now += 1
        if register in last:
            if not free:
                free.append(size)
                size += 1
            place[register] = free.pop()
            leaving.setdefault(last[register], []).append(register)
    return place, size


def _stretch(
    tape: Tape, own: Sequence[int], shown: Sequence[int], given: Sequence[int], place: dict[int, int]
) -> Stretch:
    here = set(own)
    results = [tape.outputs[position] for position in shown]
    read = [a for register in own for a in tape.instructions[register - tape.slots].arguments]
    wanted = dict.fromkeys(a for a in (*read, *results) if a >= tape.slots and a not in here)
    repeated = [r for r in wanted if tape.instructions[r - tape.slots].operation in REPEATED]
    taken = [r for r in wanted if tape.instructions[r - tape.slots].operation not in REPEATED]
    slots = tape.slots + len(taken)
    number = {r: r for r in range(tape.slots)}
    number |= {r: tape.slots + i for i, r in enumerate(taken)}
    number |= {r: slots + i for i, r in enumerate([*repeated, *own])}
    instructions = []
    for register in (*repeated, *own):
        old = tape.instructions[register - tape.slots]
        instructions.append(Instruction(old.operation, tuple(number[a] for a in old.arguments), old.value))
    outputs = tuple(number[r] for r in (*results, *given))
    carried = [tuple(place[r] for r in row) for row in (taken, given)]
    return Stretch(Tape(slots, tuple(instructions), outputs), carried[0], tuple(shown), carried[1])

"""The modes of a compiled field as a flat tape: what conditions, floors, ceilings and signs are at a time and state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.compile.families import Expressions, Family
from mechanistic.compile.tape import Tape, TapeBuilder
from mechanistic.native.program import input_register, replayed, split


@final
@dataclass(frozen=True)
class Conditions:
    """The modes of a model without delays.

    Attributes:
        prepare: parameters → constants.
        modes: `t`, the states and the constants → modes.
    """

    prepare: Tape
    modes: Tape

    @classmethod
    def of(cls, field: RateField) -> "Conditions":
        """The conditions of a field that has modes."""
        n, k = len(field.state_names), len(field.parameter_names)
        builder = TapeBuilder(1 + n + k)
        offsets = {"s": 1, "p": 1 + n}
        assert field.discrete is not None
        values: list[int] = []
        for layer in field.discrete.layers:
            values += _registers(builder, layer, offsets, values)
        modes = _registers(builder, field.discrete.values, offsets, values)
        return cls(*split(builder, modes, n, k, 0))


def _registers(b: TapeBuilder, part: Expressions, offsets: Mapping[str, int], values: Sequence[int]) -> list[int]:
    """Registers of some expressions; `values` are those of the assignments before them."""
    results = [0] * len(part)
    for family in cast(list[Family], list(part.families)):
        columns = cast(Tensor, family.columns).tolist()
        for index, member in enumerate(family.members):
            inputs = [
                input_register(kind, row[index], offsets, values)
                for kind, row in zip(family.kinds, columns, strict=True)
            ]
            results[member] = replayed(b, family.value, inputs)[0]
    return results

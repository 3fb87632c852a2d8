"""Expressions grouped by shape, each shape evaluated once for all of its members, with sparse derivatives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast, final

import sympy
import torch
from torch import Tensor, nn

from mechanistic.compile.expression import Shape, kind_of, shape_of
from mechanistic.compile.tape import TapeBuilder, differentiate
from mechanistic.model import symbol, time


class Tables(NamedTuple):
    """What expressions are evaluated on.

    Attributes:
        states: `(*batch, state)`.
        parameters: `(*batch, parameter)` or `(parameter,)`.
        time: `(*batch,)`.
        assignments: `(*batch, assignment)`.
        held: delayed values and modes, `(*batch, held)`; None where there are none.
    """

    states: Tensor
    parameters: Tensor
    time: Tensor
    assignments: Tensor
    held: Tensor | None = None


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Column of every name in its table."""

    states: Mapping[str, int]
    parameters: Mapping[str, int]
    assignments: Mapping[str, int]
    held: Mapping[str, int] = field(default_factory=dict)

    def column(self, atom: sympy.Symbol, kind: str) -> int:
        """The column of a symbol in the table of its kind."""
        if kind == "t":
            return 0
        tables = {"s": self.states, "p": self.parameters, "a": self.assignments, "h": self.held}
        return tables[kind][atom.name]


@final
class Family(nn.Module):
    """All expressions of one shape: a tape with its derivatives, and where each member's symbols are read.

    Attributes:
        members: positions of the members among the expressions that were grouped.
        moving: slots that may depend on the state or on time.
    """

    def __init__(self, shape: Shape, columns: Tensor, members: Sequence[int], moving: Sequence[int]) -> None:
        super().__init__()
        self.kinds = shape.kinds
        self.members = tuple(members)
        self.moving = tuple(moving)
        self.value = shape.tape
        builder = TapeBuilder(shape.tape.slots)
        output = builder.replay(shape.tape, range(shape.tape.slots))[shape.tape.outputs[0]]
        slopes = {slot: differentiate(builder, output, slot) for slot in moving}
        self.slopes = tuple(slot for slot, register in slopes.items() if register is not None)
        self.derivative = builder.finish([r for r in slopes.values() if r is not None])
        self.register_buffer("columns", columns, persistent=False)
        self._ranges = [_as_range(row) for row in columns.tolist()]

    def gather(self, tables: Tables) -> list[Tensor]:
        """One tensor `(*batch, member)` a slot."""
        columns = cast(Tensor, self.columns)
        sources = {"s": tables.states, "p": tables.parameters, "a": tables.assignments, "h": tables.held}
        inputs = []
        for slot, kind in enumerate(self.kinds):
            if kind == "t":
                inputs.append(tables.time.unsqueeze(-1))
                continue
            span = self._ranges[slot]
            table = cast(Tensor, sources[kind])
            inputs.append(table.index_select(-1, columns[slot]) if span is None else table[..., span])
        return inputs

    def evaluate(self, tables: Tables) -> Tensor:
        """Values, `(*batch, member)`."""
        return _stack(self.value.run(self.gather(tables)), tables.states, len(self.members))[0]

    def differentiate(self, tables: Tables) -> list[Tensor]:
        """One tensor `(*batch, member)` a slot in `slopes`: the derivative with respect to it."""
        if not self.slopes:
            return []
        return _stack(self.derivative.run(self.gather(tables)), tables.states, len(self.members))


def _as_range(columns: list[int]) -> slice | None:
    """The columns as a slice, where they follow each other: a view is cheaper than a gather."""
    first = columns[0] if columns else 0
    return slice(first, first + len(columns)) if columns == list(range(first, first + len(columns))) else None


def _stack(values: Sequence[Tensor | float], like: Tensor, members: int) -> list[Tensor]:
    shape = (*like.shape[:-1], members)
    tensors = (v if isinstance(v, Tensor) else like.new_full((), v) for v in values)
    return [v if v.shape == shape else v.expand(shape) for v in tensors]


def group(expressions: Sequence[sympy.Basic], layout: Layout, moving: frozenset[str]) -> list[Family]:
    """Families of `expressions`; `moving` are the assignments that depend on the state or on time."""
    kind = kind_of(frozenset(layout.states), frozenset(layout.parameters))
    grouped: dict[tuple[Shape, tuple[bool, ...]], list[tuple[int, list[int]]]] = {}
    for position, expression in enumerate(expressions):
        shape, symbols = shape_of(expression, kind)
        moves = tuple(k in "st" or (k == "a" and s.name in moving) for s, k in zip(symbols, shape.kinds, strict=True))
        columns = [layout.column(s, k) for s, k in zip(symbols, shape.kinds, strict=True)]
        grouped.setdefault((shape, moves), []).append((position, columns))
    families = []
    for (shape, moves), rows in grouped.items():
        table = torch.tensor([row[1] for row in rows], dtype=torch.long).T.contiguous().reshape(len(moves), len(rows))
        families.append(Family(shape, table, [row[0] for row in rows], [i for i, m in enumerate(moves) if m]))
    return families


@final
class Expressions(nn.Module):
    """A list of expressions compiled by family, evaluated in the order in which they were given.

    Attributes:
        terms: for each derivative entry, `(expression, kind, column)` of what it differentiates by.
    """

    def __init__(
        self,
        expressions: Sequence[sympy.Basic],
        layout: Layout,
        moving: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.families = nn.ModuleList(group(expressions, layout, moving))
        order = [member for family in self._families for member in family.members]
        back = sorted(range(len(order)), key=order.__getitem__)
        self.ordered = back == list(range(len(order)))
        self.register_buffer("back", torch.tensor(back, dtype=torch.long), persistent=False)
        self.terms = [
            (member, family.kinds[slot], int(cast(Tensor, family.columns)[slot, i]))
            for family in self._families
            for slot in family.slopes
            for i, member in enumerate(family.members)
        ]

    def __len__(self) -> int:
        return sum(len(family.members) for family in self._families)

    @property
    def _families(self) -> list[Family]:
        return cast(list[Family], self.families)

    def forward(self, tables: Tables) -> Tensor:
        """Values, `(*batch, expression)`."""
        if not self.families:
            return tables.states.new_zeros((*tables.states.shape[:-1], 0))
        parts = [family.evaluate(tables) for family in self._families]
        values = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        return values if self.ordered else values.index_select(-1, cast(Tensor, self.back))

    def slopes(self, tables: Tables) -> Tensor:
        """Derivatives, `(*batch, entry)`, in the order of `terms`."""
        parts = [part for family in self._families for part in family.differentiate(tables)]
        return torch.cat(parts, dim=-1) if parts else tables.states.new_zeros((*tables.states.shape[:-1], 0))


def assignment_layers(assignments: Mapping[str, sympy.Expr]) -> list[list[str]]:
    """Assignment names by depth: a layer depends on earlier layers only."""
    depth: dict[str, int] = {}
    for name, value in assignments.items():
        inner = [depth[atom.name] for atom in value.free_symbols if atom.name in depth]
        depth[name] = 1 + max(inner, default=-1)
    layers: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name, level in depth.items():
        layers[level].append(name)
    return layers


def assignment_columns(assignments: Mapping[str, sympy.Expr]) -> dict[str, int]:
    """Assignment name to its column where layers are evaluated one after the other."""
    return {name: i for i, name in enumerate(name for layer in assignment_layers(assignments) for name in layer)}


def moving_assignments(assignments: Mapping[str, sympy.Expr], parameters: Iterable[str]) -> frozenset[str]:
    """Assignments that depend on the state or on time, directly or through others."""
    still = {symbol(name) for name in parameters}
    moving = set()
    for name, value in assignments.items():
        if time in value.free_symbols or value.free_symbols - still:
            moving.add(name)
        else:
            still.add(symbol(name))
    return frozenset(moving)

"""Events, modes and delays of a kinetic model, compiled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast, final

import sympy
import torch
from sympy import Basic, Expr
from torch import Tensor, nn

from mechanistic.compile.families import Expressions, Layout, Tables, assignment_columns, assignment_layers
from mechanistic.compile.switches import HeldSymbol, Switches
from mechanistic.field import AbstractDiscrete
from mechanistic.model import KineticModel


def needed(assignments: Mapping[str, Expr], expressions: Iterable[Basic]) -> dict[str, Expr]:
    """The assignments that some expressions use, directly or through others."""
    found: set[str] = set()
    pending = list(expressions)
    while pending:
        names = {atom.name for atom in pending.pop().free_symbols if atom.name in assignments}
        pending += [assignments[name] for name in names - found]
        found |= names
    return {name: value for name, value in assignments.items() if name in found}


def _used(switches: Switches, expressions: Iterable[Basic]) -> tuple[bool, ...]:
    """Of each delayed value, whether some expressions use it, directly or through other delayed values."""
    place = {symbol: i for i, symbol in enumerate(switches.delayed)}
    found: set[int] = set()
    pending: list[Basic] = list(expressions)
    while pending:
        fresh = {place[atom] for atom in pending.pop().free_symbols if atom in place} - found
        found |= fresh
        pending += [part for i in fresh for part in (switches.past[i], switches.lags[i])]
    return tuple(i in found for i in range(len(place)))


@final
class Assignments(nn.Module):
    """Assignments evaluated layer by layer; `assignment_columns` tells their columns."""

    def __init__(self, assignments: Mapping[str, Expr], layout: Layout, moving: frozenset[str] = frozenset()) -> None:
        super().__init__()
        layers = assignment_layers(assignments)
        self.layers = nn.ModuleList(Expressions([assignments[n] for n in layer], layout, moving) for layer in layers)

    def forward(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None) -> Tables:
        """The tables with the assignments filled in."""
        tables = Tables(x, p, t, x[..., :0], held)
        for layer in self.layers:
            tables = tables._replace(assignments=torch.cat([tables.assignments, layer(tables)], dim=-1))
        return tables


@final
class Discrete(AbstractDiscrete):
    """Events, modes and delays of a `KineticModel`; owns nothing learnable. `moving` is what its right-hand side is."""

    def __init__(self, model: KineticModel, switches: Switches, layout: Layout, moving: Iterable[Basic]) -> None:
        super().__init__()
        events = model.events
        self.modes, self.delays, self.events = len(switches.modes), len(switches.lags), len(events)
        self.nested = tuple(any(isinstance(s, HeldSymbol) for s in past.free_symbols) for past in switches.past)
        surfaces = [mode.surface for mode in switches.modes]
        self.driving = _used(switches, moving)
        self.watched = _used(switches, [*moving, *surfaces, *needed(switches.assignments, surfaces).values()])
        used = [*surfaces, *(mode.value for mode in switches.modes)]
        used += [switches.undelayed(part) for event in events for part in event.expressions().values()]
        assignments = needed(switches.assignments, used)
        layout = replace(layout, assignments=assignment_columns(assignments))
        self._assignments = Assignments(assignments, layout)

        def compiled(expressions: Sequence[Basic]) -> Expressions:
            return Expressions([switches.undelayed(expression) for expression in expressions], layout)

        self._mode = compiled([mode.value for mode in switches.modes])
        self._surface = compiled(surfaces)
        self._clock = compiled([mode.clock for mode in switches.modes])
        self._lags = nn.ModuleList(compiled([lag]) for lag in switches.lags)
        self._past = nn.ModuleList(compiled([past]) for past in switches.past)
        self._trigger = compiled([event.trigger for event in events])
        self._wait = compiled([event.delay for event in events])
        self._priority = compiled([-sympy.oo if event.priority is None else event.priority for event in events])
        self._assigned = compiled([value for event in events for value in event.assignments.values()])
        row = {name: i for i, name in enumerate(model.state_names)}
        places = [(i, row[name]) for i, event in enumerate(events) for name in event.assignments]
        self._buffer("owner", torch.tensor([owner for owner, _ in places], dtype=torch.long))
        self._buffer("target", torch.tensor([target for _, target in places], dtype=torch.long))
        self._buffer("step", torch.tensor([mode.step for mode in switches.modes], dtype=torch.long))
        self._buffer("timed", torch.tensor([mode.timed for mode in switches.modes], dtype=torch.bool))
        for name in ("persistent", "initially", "values_at_trigger"):
            self._buffer(name, torch.tensor([getattr(event, name) for event in events], dtype=torch.bool))

    @property
    def layers(self) -> list[Expressions]:
        """The assignments that modes and events use, layer by layer."""
        return cast(list[Expressions], list(self._assignments.layers))

    @property
    def values(self) -> Expressions:
        """The modes."""
        return self._mode

    def mode(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._mode(self.tables(t, x, p, held)))

    def surface(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._surface(self.tables(t, x, p, held)))

    def clock(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._clock(Tables(x, p, t, x[..., :0], held)))

    def lag(self, index: int, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._lags[index](Tables(x, p, t, x[..., :0], held))).squeeze(-1)

    def past(self, index: int, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._past[index](Tables(x, p, t, x[..., :0], held))).squeeze(-1)

    def trigger(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._trigger(self.tables(t, x, p, held))) != 0

    def wait(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._wait(self.tables(t, x, p, held)))

    def priority(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._priority(self.tables(t, x, p, held)))

    def assigned(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return cast(Tensor, self._assigned(self.tables(t, x, p, held)))

    def complete(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None) -> Tensor:
        """Held values, `(*batch, delay + mode)`, from all of them, from the delayed ones, or from none."""
        if held is None:
            if self.delays:
                raise ValueError("delayed values are known to a simulation only; pass them as `held`")
            held = x[..., :0]
        if held.shape[-1] == self.delays + self.modes:
            return held
        return torch.cat([held, self.mode(t, x, p, held)], dim=-1)

    def tables(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tables:
        """States, parameters and assignments, none of them locked."""
        return cast(Tables, self._assignments(t, x, p, held))

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

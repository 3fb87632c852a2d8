"""What is not smooth in a model's mathematics: conditions, steps and delays, each given a symbol of its own.

Within a step a solver holds every condition as it was at the start of the step, so that the right-hand side stays
smooth there, and looks for the moment at which the condition changes. For this every condition (and every floor,
ceiling and sign) becomes a *mode*: a value that is constant between such moments, and a surface whose crossing changes
it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import sympy
from sympy import Basic, Expr, Piecewise, Symbol
from sympy.core.relational import Eq, Ne, Relational

from mechanistic.model import KineticModel, delay, time, written_out

CLOCK_TERMS = 200
"""Most terms of a surface that is looked at for the time at which it is crossed."""


@final
class HeldSymbol(Symbol):
    """The class of symbols for what a solver holds or looks up: delayed values, then modes."""

    __slots__ = ()


@final
@dataclass(frozen=True, slots=True)
class Mode:
    """A value that is constant but for jumps.

    Attributes:
        value: over what the model holds now; 1 or 0 for an inequality.
        surface: its crossing of zero (or, for `step`, of whole numbers) changes the value.
        step: 1 for a floor, -1 for a ceiling, 0 for a condition or a sign.
        clock: the time at which the surface is crossed next, where it moves by time alone; otherwise infinite.
        timed: whether time alone, or nothing but an event, moves the surface.
    """

    value: Expr
    surface: Expr
    step: int
    clock: Expr
    timed: bool


@final
class Switches:
    """Modes and delays of a model.

    Attributes:
        lags, past: of each delayed value, how long ago, and what it was the value of; over what the model holds now and
            then, assignments written out.
        modes: in the order of their symbols.
        assignments: with delays replaced by their symbols.
    """

    def __init__(self, model: KineticModel) -> None:
        self._model = model
        self._still = _still(model)
        found: dict[delay, None] = {}
        for expression in model.expressions().values():
            for atom in sorted(expression.atoms(delay), key=lambda each: (each.count(delay), str(each))):
                found.setdefault(atom)
        self._delays: dict[Basic, Symbol] = {atom: _held(i) for i, atom in enumerate(found)}
        self.assignments = {name: self.undelayed(value) for name, value in model.assignments.items()}
        flat = written_out(self.assignments)
        self.past, self.lags = ([self.undelayed(atom.args[i]).xreplace(flat) for atom in found] for i in (0, 1))
        self._locks: dict[Basic, Basic] = {}
        self._moving = self._moving_names()
        self.modes = self._read_modes()

    @property
    def count(self) -> int:
        """Number of held symbols."""
        return len(self._delays) + len(self.modes)

    @property
    def delayed(self) -> tuple[Symbol, ...]:
        """The symbols of the delayed values."""
        return tuple(self._delays.values())

    @property
    def columns(self) -> dict[str, int]:
        """Name of each held symbol to its column: delayed values first."""
        return {_held(i).name: i for i in range(self.count)}

    def undelayed(self, expression: Any) -> Any:
        """`expression` with every delay replaced by its symbol."""
        return expression.xreplace(self._delays) if self._delays else expression

    def locked(self, expression: Expr) -> Expr:
        """`expression` with delays and modes replaced by their symbols."""
        return _without_remainders(self.undelayed(expression)).xreplace(self._locks)

    def _moving_names(self) -> set[str]:
        """States and assignments that change between events, and with them."""
        moving = set(self._model.state_names)
        for name, value in self.assignments.items():
            if self._moves(value, moving):
                moving.add(name)
        return moving

    def _moves(self, expression: Basic, moving: set[str]) -> bool:
        return any(s == time or isinstance(s, HeldSymbol) or s.name in moving for s in expression.free_symbols)

    def _switching(self) -> Iterable[Basic]:
        """Expressions whose jumps a solver has to find: those of the right-hand side, and triggers."""
        model = self._model
        yield from self.assignments.values()
        yield from (self.undelayed(reaction.rate) for reaction in model.reactions)
        yield from (self.undelayed(value) for value in (*model.rates.values(), *model.algebraic.values()))
        yield from (self.undelayed(event.trigger) for event in model.events)

    def _read_modes(self) -> tuple[Mode, ...]:
        kinds = (Relational, sympy.floor, sympy.ceiling, sympy.sign)
        atoms: dict[Basic, None] = {}
        for expression in self._switching():
            for atom in sorted(_without_remainders(expression).atoms(*kinds), key=sympy.default_sort_key):
                if self._moves(atom, self._moving):
                    atoms.setdefault(atom)
        first = len(self._delays)
        for i, atom in enumerate(atoms, start=first):
            self._locks[atom] = _lock(atom, _held(i))
        written = written_out({name: value.xreplace(self._locks) for name, value in self.assignments.items()})
        return tuple(self._mode(atom, _held(i), written) for i, atom in enumerate(atoms, start=first))

    def _mode(self, atom: Basic, held: Symbol, written: Mapping[Symbol, Expr]) -> Mode:
        step = {sympy.floor: 1, sympy.ceiling: -1}.get(type(atom), 0)
        surface = atom.lhs - atom.rhs if isinstance(atom, Relational) else atom.args[0]
        value = atom
        if isinstance(atom, Eq | Ne):
            value = sympy.sign(surface)
        elif isinstance(atom, Relational):
            value = Piecewise((sympy.S.One, atom), (sympy.S.Zero, sympy.true), evaluate=False)
        clock, timed = self._clock(surface, held, step, written)
        return Mode(value, surface, step, clock, timed)

    def _clock(self, surface: Expr, held: Symbol, step: int, written: Mapping[Symbol, Expr]) -> tuple[Expr, bool]:
        """When the surface is next crossed, if it is linear in time and everything else in it stands still."""
        locked = surface.xreplace(self._locks).xreplace(written)
        delayed = set(self._delays.values())
        others = locked.free_symbols - {time}
        if others & delayed or any(s.name not in self._still and not isinstance(s, HeldSymbol) for s in others):
            return sympy.oo, False
        if time not in locked.free_symbols:
            return sympy.oo, True
        if locked.count_ops() > CLOCK_TERMS or locked.has(Piecewise):
            return sympy.oo, False
        speed, rest = locked.diff(time), locked.xreplace({time: sympy.S.Zero})
        if speed.has(time) or speed.has(sympy.Derivative) or speed == 0 or rest.has(sympy.nan, sympy.zoo, sympy.oo):
            return sympy.oo, False
        if step == 0:
            return -rest / speed, True
        above, below = (held + 1, held) if step > 0 else (held, held - 1)
        level = Piecewise((above, speed > 0), (below, sympy.true))
        return (level - rest) / speed, True


def _held(index: int) -> HeldSymbol:
    return HeldSymbol(f"held {index}", real=True)


def _still(model: KineticModel) -> set[str]:
    """Parameters, and states that only events move."""
    moved = {name for reaction in model.reactions for name in reaction.stoichiometry}
    moved |= {*model.rates, *model.algebraic}
    return {*model.parameter_names, *(name for name in model.state_names if name not in moved)}


def _lock(atom: Basic, held: Symbol) -> Basic:
    """What stands for `atom` while a step is taken."""
    if isinstance(atom, Eq):
        return Eq(held, 0)
    return Ne(held, 0) if isinstance(atom, Relational) else held


def _without_remainders(expression: Any) -> Any:
    """Remainders written with the floor in them, which is where they jump."""
    if not expression.has(sympy.Mod):
        return expression
    return expression.replace(sympy.Mod, lambda a, b: a - b * sympy.floor(a / b))

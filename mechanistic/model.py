"""Kinetic models as immutable symbols: states, parameters, reactions, rules, observables.

A model states the right-hand side

    dx/dt = N v(t, x, p) + r(t, x, p)

with `x` the *amounts* of the states, `N` the exact stoichiometry of the reactions, `v` their rates and `r` the rate
rules. Nothing here computes numbers; `mechanistic.RateField` compiles a model to tensors.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, final

import sympy
from sympy import Basic, Expr, Function, Rational, Symbol
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from mechanistic.errors import ModelError, nearest

if TYPE_CHECKING:
    from mechanistic.units import UnitsReport

V = TypeVar("V")


@final
class TimeSymbol(Symbol):
    """The class of `time`; distinct from a parameter that happens to be called `time`."""

    __slots__ = ()


time = TimeSymbol("time", real=True)
"""The model's time, for use in rate laws; a parameter of the same name stays a different symbol."""


def symbol(name: str) -> Symbol:
    """The symbol that stands for the state, parameter or assignment `name` in a model's expressions."""
    return Symbol(name, real=True)


def canonical(expression: Any) -> Expr:
    """`expression` as a sympy expression over canonical symbols (`symbol(name)` and `time`).

    Symbols are matched by name, so that `sympy.symbols("ka V")` may be used with any assumptions.

    Raises:
        TypeError: for a string (text is never parsed as mathematics), and for what is no expression (a relation, None).
    """
    if isinstance(expression, str):
        raise TypeError(
            f"{expression!r} is text; write rate laws with sympy symbols, for instance symbol({expression!r})"
        )
    try:
        converted = sympy.sympify(expression, strict=True)
    except sympy.SympifyError:
        converted = None
    if not isinstance(converted, Expr) or converted.is_Matrix:
        raise TypeError(f"expected a number or a sympy expression; got {expression!r}")
    return converted.xreplace(_strangers(converted))


def condition(statement: Any) -> Boolean:
    """`statement` as a sympy truth value over canonical symbols; see `canonical`.

    Raises:
        TypeError: for text and numbers, and for a truth value of Python, which `==` between expressions makes.
    """
    if isinstance(statement, bool):
        raise TypeError(
            f"expected a condition such as `symbol('x') > 1`; got {statement}, which never changes "
            "(`==` compares expressions as they are written: write `sympy.Eq(a, b)`)"
        )
    try:
        converted = None if isinstance(statement, str) else sympy.sympify(statement, strict=True)
    except sympy.SympifyError:
        converted = None
    if not isinstance(converted, Boolean) or isinstance(converted, Symbol):
        raise TypeError(f"expected a condition such as `symbol('x') > 1`; got {statement!r}")
    return converted.xreplace(_strangers(converted))


def _strangers(expression: Basic) -> dict[Symbol, Symbol]:
    """Symbols that are not canonical to those that are."""
    return {
        atom: symbol(atom.name)
        for atom in expression.free_symbols
        if not isinstance(atom, TimeSymbol) and atom != symbol(atom.name)
    }


@final
class delay(Function):  # noqa: N801 - sympy's functions are lower-case classes
    """`delay(expression, lag)`: the value that `expression` had `lag` ago; before the start, the value at the start.

    `lag` is in the model's unit of time and not negative; text is refused with a TypeError.
    """

    nargs = 2
    is_real = True

    def __new__(cls, *arguments: Any, **options: Any) -> Expr:
        """A text would be taken for code by sympy; it is refused with a TypeError, as everywhere."""
        return super().__new__(cls, *(canonical(a) if isinstance(a, str) else a for a in arguments), **options)

    @classmethod
    def eval(cls, expression: Expr, lag: Expr) -> Expr | None:
        """Without a lag, and of a number, it is the expression itself."""
        return expression if lag.is_zero or expression.is_number else None


@final
class FrozenMap(Mapping[str, V]):
    """An immutable, hashable mapping that keeps its order."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = ()) -> None:
        self._items: dict[str, V] = dict(items)

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@final
@dataclass(frozen=True, slots=True)
class State:
    """A quantity that changes in time: an amount, or whatever a rate rule moves.

    Attributes:
        name: unique in the model.
        initial: expression over parameters.
        unit: unit of the state, as text.
        scale: typical size in `unit`, used for tolerances, network inputs and gates; derived when None.
        nonnegative: whether values below zero have no meaning.
    """

    name: str
    initial: Expr = sympy.S.Zero
    unit: str = ""
    scale: float | None = None
    nonnegative: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", canonical(self.initial))


@final
@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that is constant during a simulation, with its nominal value, unit and meaning."""

    name: str
    value: float
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))


@final
@dataclass(frozen=True, slots=True)
class Reaction:
    """A column of the stoichiometry matrix and its rate.

    Attributes:
        name: unique in the model.
        stoichiometry: state name to exact net coefficient; written `"2 A + B -> C"` or as a mapping.
        rate: expression; amount per time when the coefficients are counts.
        fast: whether the reaction is always at equilibrium, `rate = 0`, on the time scale of the others.

    Raises:
        ModelError: for an equation that cannot be read, and for coefficients that are not finite numbers.
    """

    name: str
    stoichiometry: FrozenMap[Rational]
    rate: Expr
    fast: bool

    def __init__(self, name: str, stoichiometry: str | Mapping[str, Any], rate: Any, fast: bool = False) -> None:
        net = parse_equation(stoichiometry) if isinstance(stoichiometry, str) else stoichiometry
        exact = {state: sympy.nsimplify(value, rational=True) for state, value in net.items()}
        problems = [f"`{s}`: expected a finite number; got {net[s]}" for s, c in exact.items() if not c.is_Rational]
        if problems:
            raise ModelError(f"the stoichiometry of reaction `{name}` is not exact:", problems)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "stoichiometry", FrozenMap({s: c for s, c in exact.items() if c != 0}))
        object.__setattr__(self, "rate", canonical(rate))
        object.__setattr__(self, "fast", bool(fast))

    @property
    def equation(self) -> str:
        """The stoichiometry as text, for instance `2 A + B -> C`."""
        return format_equation(self.stoichiometry)


_TERM = re.compile(r"\s*(?:(\d+(?:\.\d+)?(?:/\d+)?)\s*\*?\s*)?([^\W\d]\w*)\s*")


def parse_equation(text: str) -> dict[str, Rational]:
    """Net stoichiometry of `"2 A + B -> C"`; either side may be empty.

    Raises:
        ModelError: when the text has no single arrow or a term is not `[coefficient] name`.
    """
    sides = text.split("->")
    if len(sides) != 2:
        raise ModelError(f"the reaction {text!r} cannot be read:", ["expected one arrow, as in 'A + 2 B -> C'"])
    net: dict[str, Rational] = {}
    for sign, side in zip((-1, 1), sides, strict=True):
        for term in side.split("+") if side.strip() else ():
            match = _TERM.fullmatch(term)
            if match is None:
                problem = f"{term.strip()!r} is not a name with an optional coefficient"
                raise ModelError(f"the reaction {text!r} cannot be read:", [problem])
            try:
                count = Rational(match[1]) if match[1] else Rational(1)
            except ZeroDivisionError:
                raise ModelError(f"the reaction {text!r} cannot be read:", [f"{match[1]!r} is not a number"]) from None
            net[match[2]] = net.get(match[2], Rational(0)) + sign * count
    return net


def format_equation(stoichiometry: Mapping[str, Rational]) -> str:
    """The text of a net stoichiometry; the inverse of `parse_equation`."""

    def side(sign: int) -> str:
        terms = [(name, sign * count) for name, count in stoichiometry.items() if sign * count > 0]
        return " + ".join(name if count == 1 else f"{count} {name}" for name, count in terms)

    return f"{side(-1)} -> {side(1)}".strip()


@final
@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at the moment when a condition becomes true: states jump.

    The meaning is that of SBML Level 3 (section 4.11). At the moment when `trigger` goes from false to true the event
    is triggered; after `delay` it is executed, and every state in `assignments` takes its new value at once. Of events
    due at one moment the one with the highest priority goes first; each may trigger or, where `persistent` is false,
    call off others.

    Attributes:
        name: unique in the model.
        trigger: condition over states, parameters, assignments and time.
        assignments: state name to its value (an amount, like the state) right after the event.
        delay: time from trigger to execution, not negative.
        priority: of events due at one moment, the one with the highest goes first; None comes last.
        persistent: whether it is executed even if the trigger has become false in the meantime.
        initially: the value that the trigger is taken to have just before the start; with False, an event whose
            trigger holds at the start is triggered there.
        values_at_trigger: whether the new values are computed when it is triggered, not when it is executed.
    """

    name: str
    trigger: Boolean
    assignments: Mapping[str, Expr]
    delay: Expr = sympy.S.Zero
    priority: Expr | None = None
    persistent: bool = True
    initially: bool = True
    values_at_trigger: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "trigger", condition(self.trigger))
        if not isinstance(self.assignments, Mapping) or not all(isinstance(name, str) for name in self.assignments):
            raise TypeError(
                f"event `{self.name}`: expected the new values by the name of their state, such as {{'A': 0}}; "
                f"got {self.assignments!r}"
            )
        assignments = FrozenMap({name: canonical(value) for name, value in self.assignments.items()})
        object.__setattr__(self, "assignments", assignments)
        object.__setattr__(self, "delay", canonical(self.delay))
        if self.priority is not None:
            object.__setattr__(self, "priority", canonical(self.priority))

    def expressions(self) -> dict[str, Basic]:
        """Which part of the event, in words, to its expression."""
        parts: dict[str, Basic] = {"trigger": self.trigger, "delay": self.delay}
        if self.priority is not None:
            parts["priority"] = self.priority
        return parts | {f"assignment to `{name}`": value for name, value in self.assignments.items()}

    def rewritten(self, change: Callable[[Any], Any]) -> "Event":
        """The same event with `change` applied to each of its expressions."""
        return replace(
            self,
            trigger=change(self.trigger),
            assignments={name: change(value) for name, value in self.assignments.items()},
            delay=change(self.delay),
            priority=None if self.priority is None else change(self.priority),
        )


@final
@dataclass(frozen=True, eq=False)
class KineticModel:
    """A model of reactions and rate rules as immutable symbols; equal and hashed by content, order included.

    Attributes:
        name: for people.
        states: rows of the stoichiometry matrix; amounts.
        parameters: constants with nominal values and units.
        reactions: columns of the stoichiometry matrix.
        rates: rate rules, state name to expression; such a state takes part in no reaction.
        assignments: name to expression; stored in dependence order.
        observables: name to expression: what a measurement or a user looks at, for instance a concentration.
        events: what happens when a condition becomes true.
        algebraic: state name to an expression that is zero at all times and determines the state, together with the
            others: an index-1 differential-algebraic system. Such a state takes part in no reaction and has no rate
            rule; its initial value is where the search for a consistent one begins.
        source: where the model was published (authors, year, DOI), or an empty string.
        time_unit: unit of time, as text.

    Raises:
        ModelError: lists every undefined symbol, doubled name, cycle and misplaced rule.
    """

    name: str
    states: tuple[State, ...]
    parameters: tuple[Parameter, ...] = ()
    reactions: tuple[Reaction, ...] = ()
    rates: Mapping[str, Expr] = field(default_factory=FrozenMap)
    assignments: Mapping[str, Expr] = field(default_factory=FrozenMap)
    observables: Mapping[str, Expr] = field(default_factory=FrozenMap)
    events: tuple[Event, ...] = ()
    algebraic: Mapping[str, Expr] = field(default_factory=FrozenMap)
    source: str = ""
    time_unit: str = ""

    def __post_init__(self) -> None:
        for name in ("states", "parameters", "reactions", "events"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("rates", "assignments", "observables", "algebraic"):
            items = {key: canonical(value) for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, FrozenMap(items))
        problems = _problems(self)
        if problems:
            raise ModelError(f"the model `{self.name}` is not consistent:", problems)
        object.__setattr__(self, "assignments", FrozenMap(_in_dependence_order(self.assignments)))

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in the order of the rows of the stoichiometry matrix."""
        return tuple(state.name for state in self.states)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the parameter vector."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def reaction_names(self) -> tuple[str, ...]:
        """Names of the reactions, in the order of the columns of the stoichiometry matrix."""
        return tuple(reaction.name for reaction in self.reactions)

    def stoichiometry(self) -> sympy.ImmutableSparseMatrix:
        """The exact net stoichiometry, `(states, reactions)`."""
        row = {name: i for i, name in enumerate(self.state_names)}
        entries = {
            (row[state], column): count
            for column, reaction in enumerate(self.reactions)
            for state, count in reaction.stoichiometry.items()
        }
        return sympy.ImmutableSparseMatrix(len(self.states), len(self.reactions), entries)

    def expand(self, expression: Any) -> Expr:
        """`expression` with every assignment written out: over states, parameters and time only."""
        return canonical(expression).xreplace(self._written_out)

    def derivatives(self) -> FrozenMap[Expr]:
        """State name to the symbolic right-hand side of its equation, assignments kept by name."""
        terms: dict[str, list[Expr]] = {name: [] for name in self.state_names}
        for reaction in self.reactions:
            for state, count in reaction.stoichiometry.items():
                terms[state].append(count * reaction.rate)
        return FrozenMap({name: self.rates.get(name, sympy.Add(*parts)) for name, parts in terms.items()})

    def nominal(self) -> dict[str, float]:
        """Parameter name to nominal value."""
        return {parameter.name: parameter.value for parameter in self.parameters}

    def initial_values(self) -> dict[str, float]:
        """State name to initial value at the nominal parameters.

        Raises:
            ModelError: lists the states whose initial value is not a number there (a division by zero, a root of -1).
        """
        values, problems = {}, []
        for state in self.states:
            try:
                values[state.name] = self._number(state.initial, self.nominal())
            except (TypeError, ZeroDivisionError):
                problems.append(f"`{state.name}`: {state.initial} is not a number")
        if problems:
            raise ModelError(f"the initial values of `{self.name}` are undefined at its nominal parameters:", problems)
        return values

    def with_values(self, **values: float) -> "KineticModel":
        """The same model with other nominal parameter values.

        Raises:
            ModelError: for names that are not parameters.
        """
        unknown = [
            f"`{n}` is not a parameter{nearest(n, self.parameter_names)}" for n in values if n not in self.nominal()
        ]
        if unknown:
            raise ModelError(f"values for `{self.name}` cannot be set:", unknown)
        changed = (replace(p, value=values[p.name]) if p.name in values else p for p in self.parameters)
        return replace(self, parameters=tuple(changed))

    def with_initial(self, **values: Any) -> "KineticModel":
        """The same model started elsewhere: state name to a number, or an expression over parameters.

        Raises:
            ModelError: for names that are not states.
        """
        names = self.state_names
        unknown = [f"`{n}` is not a state{nearest(n, names)}" for n in values if n not in names]
        if unknown:
            raise ModelError(f"initial values for `{self.name}` cannot be set:", unknown)
        states = (replace(s, initial=values[s.name]) if s.name in values else s for s in self.states)
        return replace(self, states=tuple(states))

    def promote(self, expression: Any, name: str, unit: str = "") -> "KineticModel":
        """Names a sub-expression as a new parameter, so that a network or a prior can take hold of it.

        Every occurrence of `expression` in rates, rules, initial values, assignments and observables is replaced by the
        parameter `name`, whose nominal value is that of the expression at the nominal parameters and initial state.

        Raises:
            ModelError: when the expression does not occur, or the name is taken.
        """
        target = canonical(expression)
        replacement = symbol(name)

        def swap(value: Expr) -> Expr:
            return value.subs(target, replacement)

        changed = replace(
            self,
            states=tuple(replace(s, initial=swap(s.initial)) for s in self.states),
            parameters=(
                *self.parameters,
                Parameter(name, self._number(target, self.nominal() | self.initial_values()), unit),
            ),
            reactions=tuple(Reaction(r.name, r.stoichiometry, swap(r.rate), r.fast) for r in self.reactions),
            rates={k: swap(v) for k, v in self.rates.items()},
            assignments={k: swap(v) for k, v in self.assignments.items()},
            observables={k: swap(v) for k, v in self.observables.items()},
            events=tuple(event.rewritten(swap) for event in self.events),
            algebraic={k: swap(v) for k, v in self.algebraic.items()},
        )
        if replacement not in changed.used_symbols():
            raise ModelError(f"`{name}` cannot be promoted:", [f"the expression {target} does not occur in the model"])
        return changed

    def units(self) -> "UnitsReport":
        """The unit of every quantity, and the equations whose units do not fit; nothing is rescaled."""
        from mechanistic.units import units_report

        return units_report(self)

    def used_symbols(self) -> set[Symbol]:
        """Every symbol that some expression of the model mentions."""
        return set().union(*(e.free_symbols for e in self.expressions().values()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, for caches and saved results."""
        text = repr((self.name, self.states, self.parameters, self.reactions, self.rates, self.assignments))
        text += repr((self.events, self.algebraic)) if self.events or self.algebraic else ""
        shown = repr((self.observables, self.source, self.time_unit))
        expressions = {place: sympy.srepr(e) for place, e in self.expressions().items()}
        return hashlib.sha256(f"{text}{shown}{expressions}".encode()).hexdigest()

    @cached_property
    def _written_out(self) -> dict[Symbol, Expr]:
        """The symbol of each assignment to its expression over states, parameters and time."""
        return written_out(self.assignments)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, KineticModel) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        sizes = f"{len(self.states)} states, {len(self.parameters)} parameters, {len(self.reactions)} reactions"
        return f"KineticModel({self.name!r}: {sizes})"

    def _repr_html_(self) -> str:
        from mechanistic.display import model_html

        return model_html(self)

    def _number(self, expression: Expr, values: Mapping[str, float]) -> float:
        """The expression at time 0, computed with 30 digits, so that the result is rounded once.

        The numbers are put in before anything is evaluated: `evalf(subs=...)` cannot take floors of parameters.
        """
        at: dict[Basic, Any] = {symbol(name): sympy.Float(value, 30) for name, value in values.items()}
        return float(self.expand(expression).xreplace(at | {time: sympy.S.Zero}).evalf(30))

    def expressions(self) -> dict[str, Basic]:
        """Where each expression stands, in words, to the expression."""
        return dict(_placed_expressions(self))


def _placed_expressions(model: KineticModel) -> Iterator[tuple[str, Basic]]:
    """Every expression with its place; places repeat in a model that gives one name twice."""
    yield from ((f"initial value of `{state.name}`", state.initial) for state in model.states)
    yield from ((f"rate of reaction `{reaction.name}`", reaction.rate) for reaction in model.reactions)
    yield from ((f"rate rule of `{name}`", value) for name, value in model.rates.items())
    yield from ((f"assignment `{name}`", value) for name, value in model.assignments.items())
    yield from ((f"observable `{name}`", value) for name, value in model.observables.items())
    yield from ((f"algebraic equation of `{name}`", value) for name, value in model.algebraic.items())
    for event in model.events:
        yield from ((f"{part} of event `{event.name}`", value) for part, value in event.expressions().items())


def _problems(model: KineticModel) -> list[str]:
    return [*_name_problems(model), *_symbol_problems(model), *_rule_problems(model)]


def _name_problems(model: KineticModel) -> list[str]:
    quantities = [*model.state_names, *model.parameter_names, *model.assignments]
    problems = [f"`{name}` names more than one quantity" for name in sorted(_doubled(quantities))]
    problems += [f"`{name}` names more than one reaction" for name in sorted(_doubled(model.reaction_names))]
    problems += [f"`{name}` names more than one event" for name in sorted(_doubled(e.name for e in model.events))]
    taken = set(quantities)
    problems += [f"observable `{n}` has the name of a quantity" for n in model.observables if n in taken]
    problems += [f"{name!r} is not a name" for name in quantities if not name.strip()]
    return problems


def _doubled(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def _symbol_problems(model: KineticModel) -> list[str]:
    known = {*model.state_names, *model.parameter_names, *model.assignments}
    problems = []
    for place, expression in _placed_expressions(model):
        if expression.has(sympy.nan, sympy.zoo):
            problems.append(f"{place}: the expression is undefined ({expression})")
        for function in sorted(expression.atoms(AppliedUndef), key=str):
            problems.append(f"{place}: the function `{function.func}` has no meaning")
        for atom in sorted(expression.free_symbols - {time}, key=str):
            if atom.name not in known:
                problems.append(f"{place}: `{atom.name}` is not defined{nearest(atom.name, known)}")
    return problems


def _rule_problems(model: KineticModel) -> list[str]:
    states = set(model.state_names)
    problems = [f"rate rule of `{n}`: not a state{nearest(n, states)}" for n in model.rates if n not in states]
    for reaction in model.reactions:
        for moved in reaction.stoichiometry:
            if moved not in states:
                problems.append(f"reaction `{reaction.name}`: `{moved}` is not a state{nearest(moved, states)}")
            elif moved in model.rates:
                problems.append(f"reaction `{reaction.name}`: `{moved}` already has a rate rule")
            elif moved in model.algebraic:
                problems.append(f"reaction `{reaction.name}`: `{moved}` is determined by an algebraic equation")
    for name in model.algebraic:
        if name not in states:
            problems.append(f"algebraic equation of `{name}`: not a state{nearest(name, states)}")
        elif name in model.rates:
            problems.append(f"algebraic equation of `{name}`: it already has a rate rule")
    for event in model.events:
        for name in event.assignments:
            if name not in states:
                problems.append(f"event `{event.name}`: `{name}` is not a state{nearest(name, states)}")
    cycle = _cycle(model.assignments)
    if cycle:
        return [*problems, f"the assignments form a cycle: {' -> '.join(cycle)}"]
    flat = written_out(_in_dependence_order(model.assignments))
    for state in model.states:
        moving = {atom.name for atom in state.initial.xreplace(flat).free_symbols - {time}} & states
        if moving:
            names = ", ".join(sorted(moving))
            problems.append(f"initial value of `{state.name}`: depends on states ({names}); write it over parameters")
    return problems


def written_out(ordered: Mapping[str, Expr]) -> dict[Symbol, Expr]:
    """Assignments in dependence order with every assignment in them replaced by its expression."""
    replaced: dict[Symbol, Expr] = {}
    for name, value in ordered.items():
        replaced[symbol(name)] = value.xreplace(replaced)
    return replaced


def _dependencies(assignments: Mapping[str, Expr]) -> dict[str, list[str]]:
    return {
        name: sorted(atom.name for atom in value.free_symbols - {time} if atom.name in assignments)
        for name, value in assignments.items()
    }


def _cycle(assignments: Mapping[str, Expr]) -> list[str]:
    """The names along one cycle of the assignments, or an empty list."""
    pending = _dependencies(assignments)
    while pending:
        ready = [name for name, needs in pending.items() if not any(need in pending for need in needs)]
        if not ready:
            walk = [next(iter(pending))]
            while walk[-1] not in walk[:-1]:
                walk.append(next(need for need in pending[walk[-1]] if need in pending))
            return walk[walk.index(walk[-1]) :]
        for name in ready:
            del pending[name]
    return []


def _in_dependence_order(assignments: Mapping[str, Expr]) -> dict[str, Expr]:
    needs = _dependencies(assignments)
    ordered: dict[str, Expr] = {}
    while len(ordered) < len(assignments):
        for name, value in assignments.items():
            if name not in ordered and all(need in ordered for need in needs[name]):
                ordered[name] = value
    return ordered

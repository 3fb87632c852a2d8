"""What a file says put together: states, parameters, rules and events of the model."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import sympy
from sympy import Basic, Expr

from mechanistic.errors import InvalidSBML
from mechanistic.model import Parameter, Reaction, State, delay, symbol, time
from mechanistic.sbml.concentrations import Concentrations
from mechanistic.sbml.declarations import Declarations, Quantity
from mechanistic.sbml.delays import Delays, Start
from mechanistic.sbml.events import Jumps, ReadEvent
from mechanistic.sbml.fast import factor_symbols, with_numbers
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.initial import at_start
from mechanistic.sbml.reactions import ReadReaction


@final
@dataclass(frozen=True)
class Gathered:
    """The mathematics of a file, by id; values are concentrations for most species.

    Attributes:
        initial: initial assignments.
        assigned: assignment rules, and algebraic rules that have a formula.
        rates: rate rules.
        equations: what is zero, for each quantity that an algebraic rule without a formula determines.
        reactions, events: of the file.
        local_parameters: of kinetic laws.
    """

    initial: Mapping[str, Expr]
    assigned: Mapping[str, Expr]
    rates: Mapping[str, Expr]
    equations: Mapping[str, Expr]
    reactions: tuple[ReadReaction, ...]
    events: tuple[ReadEvent, ...]
    local_parameters: tuple[Parameter, ...]

    def expressions(self) -> list[Basic]:
        """Every expression."""
        parts: list[Basic] = [*self.initial.values(), *self.assigned.values(), *self.rates.values()]
        parts += [*self.equations.values(), *(part for event in self.events for part in event.expressions())]
        return parts + [part for reaction in self.reactions for part in (reaction.law, *reaction.changes)]

    def rewritten(self, late: Delays) -> "Gathered":
        """The same with the past written into the delays of what stays."""
        return replace(
            self,
            equations=late.expressions(self.equations),
            reactions=tuple(late.reaction(reaction) for reaction in self.reactions),
            events=tuple(late.event(event) for event in self.events),
        )


@final
class Assembly:
    """Puts together the pieces of one model."""

    def __init__(self, title: str, declared: Declarations, gathered: Gathered, findings: Findings) -> None:
        self._title, self._declared, self._gathered, self._findings = title, declared, gathered, findings
        self._used = set().union(*(part.free_symbols for part in gathered.expressions())) - {time}
        self._jumped = {identity for event in gathered.events for identity in event.values}
        self._quantities = list(declared.quantities.values())
        self._unset = {q.name for q in self._quantities if self._is_unset(q)}

    def pieces(self) -> dict[str, Any]:
        """What the model is made of, by argument of `KineticModel`.

        Raises:
            InvalidSBML: when anything was found that the standard forbids.
            UnsupportedSBML: when anything was found that is not supported.
        """
        states, ruled = self._states(), self._ruled()
        raw = {
            q.name: self._raw(q)
            for q in self._quantities
            if q.name not in self._unset and q.id not in self._gathered.assigned
        }
        self._refuse_unset(states, {**raw, **ruled})
        remembered = any(part.has(delay) for part in self._gathered.expressions())
        start = at_start(raw, {q.name for q in states}, ruled, self._findings, remembered)
        if not start.first:
            # What depends on too much, or in a cycle, must not be walked through.
            self._findings.check()
        abrupt = {*self._gathered.assigned, *self._gathered.equations, *self._jumped}
        kept = Concentrations(self._declared, self._gathered.rates, abrupt, start.varying)
        if kept.states:
            states = [kept.states.get(q.id, q) for q in states]
            raw, ruled = kept.initial(raw), {**ruled, **kept.rules()}
            start = at_start(raw, {q.name for q in states}, ruled, self._findings, remembered)
        self._refuse_guesses(raw, ruled)
        unknown = {self._declared.quantities[i].name for i in self._gathered.equations}
        late = Delays(self._without_fast(start), ruled, unknown, self._findings)
        ruled, rates = late.expressions(ruled), late.expressions(self._state_rates(kept, start.varying))
        gathered = self._gathered.rewritten(late)
        settled = factor_symbols(gathered.reactions)
        reactions = with_numbers(gathered.reactions, {**ruled, **start.values}, start.varying, self._findings)
        quantities = {**self._declared.quantities, **kept.states}
        events = Jumps(gathered.events, quantities, ruled, start.varying, self._findings).events()
        self._findings.check()
        parameters, fixed = self._constants(start, {q.name for q in states}, settled)
        observables, assignments = self._separate_observables({**fixed, **ruled})
        return {
            "states": [self._state(q, start.values[q.name]) for q in states],
            "parameters": [*parameters, *gathered.local_parameters],
            "reactions": list(_model_reactions(reactions, assignments)),
            "rates": rates,
            "assignments": assignments,
            "observables": {**self._concentrations(), **observables},
            "events": events,
            "algebraic": {quantities[i].name: value for i, value in gathered.equations.items()},
        }

    # Values

    def _is_unset(self, quantity: Quantity) -> bool:
        given = (self._gathered.initial, self._gathered.assigned, self._gathered.equations)
        return quantity.value is None and not any(quantity.id in each for each in given)

    def _is_idle(self, quantity: Quantity) -> bool:
        """Whether nothing in the file moves or reads the quantity."""
        moved = any(quantity.name in change for r in self._gathered.reactions for change in r.changes.values())
        ruled = quantity.id in self._gathered.rates or quantity.id in self._jumped
        return not moved and not ruled and quantity.symbol not in self._used

    def _states(self) -> list[Quantity]:
        """What changes in time and is not assigned by a rule."""
        changing = {*self._gathered.rates, *self._gathered.equations, *self._jumped}
        found = [q for q in self._quantities if q.id in changing or (q.moves and q.id not in self._gathered.assigned)]
        return [q for q in found if not (q.name in self._unset and self._is_idle(q))]

    def _constants(
        self, start: Start, moving: set[str], settled: set[sympy.Symbol]
    ) -> tuple[list[Parameter], dict[str, Expr]]:
        """The parameters, and the constants that follow from them."""
        constants = [q for q in self._quantities if q.name in start.values and q.name not in moving]
        # A parameter in place of a stoichiometry could be changed without any effect on the reaction.
        fixed = {
            q.name: start.values[q.name]
            for q in constants
            if q.kind == "stoichiometry" or q.symbol in settled or not start.values[q.name].is_Number
        }
        numbers = {q.name: start.values[q.name] for q in constants if q.name not in fixed}
        endless = {
            q.name
            for q in self._quantities
            if q.name in self._unset and q.id in self._declared.endless and self._is_idle(q)
        }
        kept = {*numbers, *endless}
        return [self._parameter(q, numbers.get(q.name)) for q in self._quantities if q.name in kept], fixed

    def _without_fast(self, start: Start) -> Start:
        nets = [net for r in self._gathered.reactions if r.fast for net in r.changes.values()]
        moved = {symbol(name) for net in nets for name in net}
        return start._replace(first={key: value for key, value in start.first.items() if key not in moved})

    def _raw(self, quantity: Quantity) -> Expr:
        """The value at time zero as the file states it."""
        if quantity.id in self._gathered.initial:
            return quantity.amount(self._gathered.initial[quantity.id])
        if quantity.value is None and quantity.id in self._gathered.equations:
            # Where the search for a solution begins; zero is too often a place without a slope.
            return quantity.amount(sympy.S.One)
        return quantity.value if quantity.value is not None else sympy.S.Zero

    def _ruled(self) -> dict[str, Expr]:
        """Name to assignment rule; a reaction whose id stands in mathematics is assigned its rate."""
        quantities = self._declared.quantities
        ruled = {quantities[i].name: quantities[i].amount(value) for i, value in self._gathered.assigned.items()}
        named = {r.id: r.law for r in self._gathered.reactions if symbol(r.id) in self._used or not r.plain}
        return {**ruled, **{name: law for name, law in named.items() if name not in ruled}}

    def _state_rates(self, kept: Concentrations, varying: set[str]) -> dict[str, Expr]:
        """Rate rules as rates of states: d(cV)/dt = V dc/dt + c dV/dt for amounts."""
        rates: dict[str, Expr] = {}
        for identity, rate in self._gathered.rates.items():
            quantity = kept.states.get(identity, self._declared.quantities[identity])
            rates[quantity.name] = quantity.amount(rate)
            if quantity.size is not None and quantity.size.name in varying:
                rates[quantity.name] += quantity.meaning * self._gathered.rates[quantity.compartment]
        return rates

    def _refuse_guesses(self, raw: Mapping[str, Expr], ruled: Mapping[str, Expr]) -> None:
        """Notes initial values that need the solution of an equation, of which only a guess is known."""
        unknown = {self._declared.quantities[i].name for i in self._gathered.equations}
        known = {**raw, **ruled}
        for name in raw.keys() - unknown if unknown else ():
            seen, stack = {name}, [name]
            while stack:
                new = {atom.name for atom in known[stack.pop()].free_symbols - {time}} - seen
                seen |= new
                stack += new & known.keys()
            for other in sorted(seen & unknown):
                self._findings.unsupported(
                    f"`{name}`: its initial value depends on `{other}`, which an algebraic equation without a formula"
                    " determines; write the value itself"
                )

    def _refuse_unset(self, states: list[Quantity], values: Mapping[str, Expr]) -> None:
        """Notes every quantity without a value that something needs."""
        moving = {q.name for q in states}
        needed: list[tuple[str, Basic]] = [(f"`{name}`", value) for name, value in values.items()]
        quantities = self._declared.quantities
        needed += [(f"rate rule of `{i}`", quantities[i].amount(rate)) for i, rate in self._gathered.rates.items()]
        needed += [(f"algebraic rule for `{i}`", value) for i, value in self._gathered.equations.items()]
        needed += [(f"reaction `{r.name}`", e) for r in self._gathered.reactions for e in (r.law, *r.changes)]
        needed += [(f"event `{event.name}`", e) for event in self._gathered.events for e in event.expressions()]
        unset = [q for q in self._quantities if q.name in self._unset]
        wanted = {q.symbol for q in unset}
        places: dict[Basic, dict[str, None]] = {}
        for place, expression in needed if unset else ():
            for atom in expression.free_symbols & wanted:
                places.setdefault(atom, {})[place] = None
        for quantity in unset:
            users = places.get(quantity.symbol, {})
            infinite = not math.isnan(self._declared.endless.get(quantity.id, math.nan))
            if quantity.name in moving:
                problem = "its initial value is infinite" if infinite else "it has no initial value; give it one"
                self._findings.unsupported(f"{quantity.kind} `{quantity.id}`: {problem}")
            elif users:
                problem = "its value is infinite" if infinite else "no value"
                self._findings.unsupported(
                    f"{quantity.kind} `{quantity.id}`: {problem}, but used in {', '.join(users)}"
                )

    # Parts of the model

    def _state(self, quantity: Quantity, initial: Expr) -> State:
        notes = quantity.notes
        if notes.get("initial") == "float" and initial.is_Integer:
            initial = sympy.Float(float(initial))
        scale = self._scale(quantity)
        moving = quantity.kind in ("species", "compartment")
        nonnegative = notes["nonnegative"] == "true" if "nonnegative" in notes else moving
        return State(quantity.name, initial, quantity.unit, scale, nonnegative)

    def _scale(self, quantity: Quantity) -> float | None:
        text = quantity.notes.get("scale")
        try:
            return None if text is None else float(text)
        except ValueError:
            raise InvalidSBML(
                f"{self._title} is not valid:", [f"scale of `{quantity.id}`: {text!r} is no number"]
            ) from None

    def _parameter(self, quantity: Quantity, value: Expr | None) -> Parameter:
        """A parameter; without a value it is one that nothing uses, infinite or not a number."""
        number = self._declared.endless[quantity.id] if value is None else float(value)
        if quantity.id in self._declared.negative_zeros and number == 0:
            # The sign of a zero is part of what was written.
            number = -0.0
        return Parameter(quantity.name, number, quantity.unit, quantity.description)

    def _concentrations(self) -> dict[str, Expr]:
        found = {}
        for quantity in self._quantities:
            if quantity.kind == "species" and quantity.compartment in self._declared.sized:
                size = self._declared.quantities[quantity.compartment]
                if not {quantity.name, size.name} & self._unset:
                    found[f"[{quantity.name}]"] = quantity.symbol / size.symbol
        return found

    def _separate_observables(self, assignments: dict[str, Expr]) -> tuple[dict[str, Expr], dict[str, Expr]]:
        """What a model was written with as observables, and the assignments proper."""
        marked = {q.name for q in self._quantities if q.notes.get("role") == "observable"}
        used = {atom.name for atom in self._used}
        observables = {name: value for name, value in assignments.items() if name in marked - used}
        return observables, {name: value for name, value in assignments.items() if name not in observables}


def _model_reactions(reactions: list[ReadReaction], assignments: Mapping[str, Expr]) -> Iterator[Reaction]:
    """Reactions of the model; one whose rate is assigned to its id says so."""
    for reaction in reactions:
        assigned = assignments.get(reaction.id) == reaction.law
        yield from reaction.parts(symbol(reaction.id) if assigned else reaction.law)

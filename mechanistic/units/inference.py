"""The unit of an expression from those of its symbols, and every place where two units do not fit.

A quantity without a unit fits everything. A number on its own, as a term of a sum or one side of a comparison, is taken
in the unit of what stands beside it. A number in a product has no dimension as long as the units fit without; a number
that is more than a count or a share is taken for a constant with the unit that is lacking.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final, Literal, TypeAlias, final

import sympy
from sympy import Abs, Basic, Expr, Max, Min, Mod, Piecewise, Pow, Rational, Symbol, ceiling, floor
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair

from mechanistic.model import TimeSymbol, delay, symbol
from mechanistic.units.text import ONE, Unit

Kind: TypeAlias = Literal["inconsistent", "convertible", "missing", "assumed"]

# Beyond it the factor of a power of a unit leaves the range of floating-point numbers.
_LARGEST_POWER: Final = 20.0
_MOST_PARTS: Final = 30
_MOST_BITS: Final = 2_000
_ADDED: Final = "added to"
_CARRIED: Final = ", unless the number in it has the unit that is lacking"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about the units at one place of a model.

    Attributes:
        kind: `inconsistent` (no factor helps), `convertible` (a factor is missing), `missing` (no unit, or one that
            cannot be read), `assumed` (a number was taken in the unit of what stands beside it).
        place: which expression, or which quantity.
        sentence: what about it.
    """

    kind: Kind
    place: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.place}: {self.sentence}"


@final
@dataclass(frozen=True, slots=True)
class Inferred:
    """The unit of an expression.

    Attributes:
        unit: None where it follows from quantities without a unit.
        number: the product of the numbers written in it: one that converts units changes what the unit is.
        bare: whether it is a number and nothing else.
    """

    unit: Unit | None
    number: float = 1.0
    bare: bool = False


UNKNOWN: Final = Inferred(None)
NONE: Final = Inferred(ONE)


@final
class Inference:
    """Walks expressions; gathers what it finds, each finding once.

    Args:
        known: unit of each name, or what was inferred for it; names that are absent have no unit.
        time: unit of time, or None.
        nominal: value of each parameter, for exponents that are parameters.
    """

    def __init__(self, known: Mapping[str, Inferred], time: Unit | None, nominal: Mapping[str, float]) -> None:
        self.known = dict(known)
        self.time = time
        self._nominal = {symbol(name): sympy.Float(value) for name, value in nominal.items()}
        self._found: dict[Finding, None] = {}
        self._seen: dict[Basic, Inferred] = {}
        self._place = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._found)

    def infer(self, place: str, expression: Basic) -> Inferred:
        """The unit of an expression at a place of the model."""
        self._place = place
        # What a shared part of two expressions holds is reported at each.
        self._seen = {}
        # Parts before wholes, without recursion: expressions of files are nested deeper than Python's stack.
        waiting = [expression]
        while waiting:
            parts = [part for part in waiting[-1].args if part not in self._seen]
            waiting += parts
            if not parts:
                node = waiting.pop()
                if node not in self._seen:
                    self._seen[node] = self._of(node)
        return self._seen[expression]

    def expect(self, place: str, expression: Basic, unit: Unit | None, meaning: str) -> None:
        """Compares the unit of an expression with the one that it has to be in, which is that of `meaning`."""
        found = self.infer(place, expression)
        self._compare(found, Inferred(unit), lambda: f"it is in {found.unit}, and {meaning} is in {unit}")

    def expect_value(self, place: str, expression: Basic, unit: Unit | None, meaning: str) -> None:
        """As `expect`, for a value that a state is given: any number in it may be a concentration or an amount."""
        found = self.infer(place, expression)
        if unit is None or found.unit is None:
            return
        # A concentration of 1 in a compartment leaves the size of the compartment and no number.
        sized = expression.is_Symbol and set(found.unit.powers) == {"meter"}
        if found.unit.fits(unit) or not (sized or found.number != 1.0):
            self._compare(found, Inferred(unit), lambda: f"it is in {found.unit}, and {meaning} is in {unit}")

    def _note(self, kind: Kind, sentence: str) -> None:
        self._found[Finding(kind, self._place, sentence)] = None

    def _of(self, node: Basic) -> Inferred:
        """The unit of a node whose parts are known."""
        if isinstance(node, TimeSymbol):
            return Inferred(self.time)
        if isinstance(node, Symbol):
            return self.known.get(node.name, UNKNOWN)
        alone = isinstance(node, Expr) and not isinstance(node, Piecewise)
        if alone and all(self._seen[part].bare for part in node.args):
            return Inferred(ONE, _magnitude(node), bare=True)
        for kinds, rule in _RULES:
            if isinstance(node, kinds):
                return rule(self, node)
        for part in node.args if isinstance(node, Expr) else ():
            self._dimensionless(part, f"the argument of `{node.func.__name__}`")
        return NONE

    def _product(self, node: Basic) -> Inferred:
        parts = [self._seen[part] for part in node.args]
        unit: Unit | None = ONE
        for part in parts:
            unit = None if unit is None or part.unit is None else _within_reach(unit * part.unit)
        return Inferred(unit, math.prod(part.number for part in parts))

    def _power(self, node: Basic) -> Inferred:
        base, exponent = node.args
        under = self._seen[base]
        self._dimensionless(exponent, "an exponent")
        if under.unit is None:
            return UNKNOWN
        power = self._exponent(exponent)
        if power is None:
            self._dimensionless(base, "what is raised to a power that changes")
            return NONE
        if under.unit.is_same(ONE):
            return Inferred(ONE, _raised(under.number, power))
        try:
            return Inferred(_within_reach(under.unit**power), _raised(under.number, power))
        except OverflowError:
            return UNKNOWN

    def _exponent(self, exponent: Basic) -> Fraction | None:
        """The number that an exponent is at the nominal parameters; None where it changes, or is beyond any unit."""
        if isinstance(exponent, Rational):
            value = Fraction(int(exponent.p), int(exponent.q))
        else:
            number = exponent.xreplace(self._nominal)
            if number.free_symbols or not number.is_Number or not number.is_finite:
                return None
            value = Fraction(float(number)).limit_denominator(10**6)
        return value if abs(value) <= _LARGEST_POWER else None

    def _common(self, parts: Iterable[Basic], verb: str) -> Inferred:
        """The unit that all parts share."""
        inferred = [(part, self._seen[part]) for part in parts]
        numbers = [part for part, found in inferred if found.bare and found.number != 0]
        known = [(part, found) for part, found in inferred if not found.bare and found.unit is not None]
        if not known:
            return UNKNOWN
        # A term without a number in it says most surely what the unit is.
        shown, first = next((pair for pair in known if pair[1].number == 1.0), known[0])
        for part, found in known:
            if found is not first:
                self._compare(found, first, partial(_sides, part, found, verb, shown, first))
        for number in numbers if first.unit is not None and not first.unit.is_dimensionless else ():
            sides = f"{number} is {verb} `{_short(shown)}` in {first.unit}"
            # The 1 of `1 + S/K` is a share; of any other number nothing is known.
            shared = verb == _ADDED and abs(number) == 1
            taken = f"{sides}, and is taken to be in {first.unit}"
            self._note("inconsistent" if shared else "assumed", sides if shared else taken)
        return first

    def _compare(self, found: Inferred, wanted: Inferred, sides: Callable[[], str]) -> None:
        """Notes how two units do not agree; `sides` says in words which two."""
        if found.unit is None or wanted.unit is None or found.bare:
            return
        if not found.unit.fits(wanted.unit):
            carried = _carries_unit(found.number) or _carries_unit(wanted.number)
            self._note("assumed" if carried else "inconsistent", f"{sides()}{_CARRIED if carried else ''}")
            return
        factor = found.unit.per(wanted.unit)
        # A number in the expression may be the very factor that converts it.
        if not any(math.isclose(factor, one, rel_tol=1e-9) for one in (1.0, found.number / wanted.number)):
            self._note("convertible", f"{sides()}; multiply the former by {factor:.6g}")

    def _dimensionless(self, node: Basic, what: str) -> None:
        found = self._seen[node]
        if found.unit is not None and not found.unit.is_dimensionless:
            carried = _carries_unit(found.number)
            sentence = f"{what}, `{_short(node)}`, is in {found.unit} and should have no dimension"
            self._note("assumed" if carried else "inconsistent", f"{sentence}{_CARRIED if carried else ''}")

    def _sum(self, node: Basic) -> Inferred:
        return self._common(node.args, _ADDED)

    def _extreme(self, node: Basic) -> Inferred:
        return self._common(node.args, "compared with")

    def _relation(self, node: Basic) -> Inferred:
        self._common(node.args, "compared with")
        return NONE

    def _cases(self, node: Basic) -> Inferred:
        branches = [pair.args[0] for pair in node.args]
        if all(self._seen[branch].bare for branch in branches):
            # A switch between 0 and 1 is a share; other numbers may be constants with any unit.
            return NONE if all(self._seen[branch].number in (0.0, 1.0) for branch in branches) else UNKNOWN
        return self._common(branches, "an alternative to")

    def _same(self, node: Basic) -> Inferred:
        return self._seen[node.args[0]]

    def _delayed(self, node: Basic) -> Inferred:
        lag = self._seen[node.args[1]]
        self._compare(lag, Inferred(self.time), lambda: f"the lag of a delay is in {lag.unit}, and time in {self.time}")
        return self._seen[node.args[0]]

    def _sign(self, node: Basic) -> Inferred:
        return NONE


_Rule: TypeAlias = Callable[[Inference, Any], Inferred]
_RULES: Final[tuple[tuple[Any, _Rule], ...]] = (
    (sympy.Mul, Inference._product),
    (sympy.Add, Inference._sum),
    (Pow, Inference._power),
    (Piecewise, Inference._cases),
    (Relational, Inference._relation),
    ((Min, Max, Mod), Inference._extreme),
    ((Abs, floor, ceiling, ExprCondPair), Inference._same),
    (delay, Inference._delayed),
    ((sympy.sign, sympy.Heaviside), Inference._sign),
)


def _carries_unit(number: float) -> bool:
    """Whether a number is more than a count or a half."""
    return not any(math.isclose(number, count, rel_tol=1e-9) for count in (0.5, 1.0, 2.0, 3.0, 4.0))


def _within_reach(unit: Unit) -> Unit | None:
    """The unit, or None where its factor has grown beyond what is worth following."""
    factor = unit.factor
    return unit if max(factor.numerator.bit_length(), factor.denominator.bit_length()) < _MOST_BITS else None


def _sides(part: Basic, found: Inferred, verb: str, other: Basic, first: Inferred) -> str:
    return f"`{_short(part)}` in {found.unit} is {verb} `{_short(other)}` in {first.unit}"


def _magnitude(node: Expr) -> float:
    try:
        return float(abs(node))
    except (TypeError, OverflowError):
        return 1.0


def _raised(number: float, power: Fraction) -> float:
    try:
        return float(number ** float(power))
    except (OverflowError, ZeroDivisionError):
        return 1.0


def _short(node: Basic) -> str:
    """The expression as text; of a large one, which is slow to print, the names that come first in it."""
    names: dict[str, None] = {}
    waiting, count = [node], 0
    while waiting and count < _MOST_PARTS:
        part = waiting.pop()
        count += 1
        waiting += reversed(part.args)
        if isinstance(part, Symbol):
            names[part.name] = None
    return f"… {', '.join([*names][:4])} …" if waiting else str(node)

"""Units written as text, for instance `mg/L`, `mL/uU/min^2` or `1e9/L`, as exact factors and dimensions.

The names, prefixes and factors are those of pint; how they are put together is read here, because pint computes
whatever powers a text asks for. A name that pint does not know stands for a dimension of its own.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, final

from mechanistic.errors import ListedError
from mechanistic.model import FrozenMap

if TYPE_CHECKING:
    import pint

_LONGEST: Final = 200
_DEEPEST: Final = 10
_LARGEST_POWER: Final = 20
_LARGEST_FACTOR: Final = Fraction(10) ** 250
_SAME: Final = 1e-9

_NUMBER: Final = r"\d{1,20}(?:\.\d{0,20})?(?:[eE][+-]?\d{1,2})?"
_TOKEN: Final = re.compile(
    rf"\s*(?:(?P<number>{_NUMBER})(?![\w.])|(?P<name>%|°?[^\W\d_]\w*)|(?P<sign>\*\*|[*·/()^+-]))"
)
_QUANTITY: Final = re.compile(rf"([+-]?(?:{_NUMBER}|\.\d{{1,20}}))(?![eE][+-]?\d)(?:\s+(\S.*)|([^\d\s._].*))")
# What biologists count and pint does not know. `U` is pint's micromole per minute, but also the unit of insulin.
_COUNTED: Final = (
    "IU = [international_unit] = _ = international_unit",
    "U = [activity_unit]",
    "unit = [unit]",
    "item = [item]",
    "cell = [cell]",
    "virion = [virion]",
    "avogadro = 6.02214076e23",
    "wk = week",
)


class UnitError(ListedError):
    """Units that cannot be read, do not fit each other, or are missing."""


@final
@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a multiple of base units (gram, metre, second, mole, …).

    Attributes:
        factor: how many of the base unit it is.
        powers: name of a base unit to its power, none of them zero.
        unknown: names in the text that pint does not know, each a dimension of its own.
    """

    factor: Fraction
    powers: FrozenMap[Fraction]
    unknown: tuple[str, ...] = ()

    def __mul__(self, other: "Unit") -> "Unit":
        powers = dict(self.powers)
        for name, power in other.powers.items():
            powers[name] = powers.get(name, Fraction(0)) + power
        return Unit(self.factor * other.factor, _nonzero(powers), (*self.unknown, *other.unknown))

    def __truediv__(self, other: "Unit") -> "Unit":
        return self * other**-1

    def __pow__(self, power: int | Fraction) -> "Unit":
        exact = Fraction(power)
        factor = self.factor**exact if exact.denominator == 1 else Fraction(float(self.factor) ** float(exact))
        return Unit(Fraction(factor), _nonzero({n: p * exact for n, p in self.powers.items()}), self.unknown)

    def fits(self, other: "Unit") -> bool:
        """Whether both have the same dimension, so that a factor turns one into the other."""
        names = {*self.powers, *other.powers}
        zero = Fraction(0)
        # Powers of a symbolic exponent are rounded.
        return all(abs(self.powers.get(n, zero) - other.powers.get(n, zero)) < _SAME for n in names)

    def per(self, other: "Unit") -> float:
        """How many of `other` one of this unit is; both fit."""
        return _float(self.factor / other.factor)

    def is_same(self, other: "Unit") -> bool:
        """Whether the two are one unit, whatever they are called."""
        return self.fits(other) and abs(self.per(other) - 1) < _SAME

    @property
    def is_dimensionless(self) -> bool:
        """Whether it has no dimension; it may still be a multiple, as a percent is."""
        return self.fits(ONE)

    def __str__(self) -> str:
        return _shown(self)


ONE: Final = Unit(Fraction(1), FrozenMap())


def _nonzero(powers: Mapping[str, Fraction]) -> FrozenMap[Fraction]:
    return FrozenMap({name: power for name, power in powers.items() if abs(power) >= _SAME})


_SYMBOLS: Final = {"gram": "g", "meter": "m", "mole": "mol", "kelvin": "K", "ampere": "A", "candela": "cd"}
_SYMBOLS_OF_TIME: Final = {"s": 1, "min": 60, "h": 3600, "day": 86_400, "week": 604_800}
_PREFIXES: Final = {0: "", -3: "m", -6: "µ", -9: "n", -12: "p", -15: "f", 3: "k", 6: "M", 9: "G"}


def _float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return float("inf")


def _shown(unit: Unit) -> str:
    """The unit as people write it, in litres and with the time that leaves the simplest factor: `mg/h`, `nmol/L`."""
    powers = {_SYMBOLS.get(name, name): power for name, power in unit.powers.items() if name != "second"}
    factor, seconds = unit.factor, unit.powers.get("second", Fraction(0))
    length = powers.get("m", Fraction(0))
    if length and length % 3 == 0:
        del powers["m"]
        powers["L"] = length / 3
        factor *= Fraction(1000) ** int(length / 3)
    texts = []
    for symbol, size in _SYMBOLS_OF_TIME.items() if seconds else (("s", 1),):
        left = factor / Fraction(size) ** int(seconds) if seconds.denominator == 1 else factor
        texts.append(_product_text(left, powers | ({symbol: seconds} if seconds else {})))
        if seconds.denominator != 1:
            break
    return min(texts, key=lambda text: (text[0].isdigit() and not text.startswith("1/"), len(text)))


def _product_text(factor: Fraction, powers: Mapping[str, Fraction]) -> str:
    over = [_power_text(name, power) for name, power in powers.items() if power > 0]
    under = [_power_text(name, -power) for name, power in powers.items() if power < 0]
    leader = next(iter(powers), "")
    exponent = next((e for e in _PREFIXES if factor == Fraction(10) ** e), None)
    if exponent is not None and leader in ("g", "mol", "L", "m", "s") and powers[leader] == 1:
        over[0], factor = _PREFIXES[exponent] + over[0], Fraction(1)
    number = "" if factor == 1 else f"{_float(factor):.6g}"
    return "/".join([" ".join(filter(None, [number, "*".join(over)])) or "1", *under])


def _power_text(name: str, power: Fraction) -> str:
    return name if power == 1 else f"{name}^{float(power):g}"


def parse_unit(text: str) -> Unit:
    """The unit that `text` stands for: names and numbers with `*`, `/`, `^` and parentheses; `1` for none.

    Raises:
        UnitError: when the text cannot be read, or is longer or has larger powers than any unit.
    """
    try:
        return _Parser(text).unit()
    except (ValueError, OverflowError) as error:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        advice = "write it as in `mg/L` or `mL/uU/min^2`, and `1` for no unit"
        raise UnitError(f"the unit {shown!r} cannot be read:", [f"{error}; {advice}"]) from None


def parse_quantity(text: str) -> tuple[Fraction, str]:
    """The number, exactly as written, and the text of the unit of a quantity such as `100 mg`.

    Raises:
        UnitError: when it is not a number and then something.
    """
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    unit = match[2] or match[3] if match else ""
    if match is None or not (unit == "1" or re.search(r"[^\W\d_]|%", unit)):
        raise UnitError(f"the quantity {text[:60]!r} cannot be read:", ["write a number and a unit, as in `100 mg`"])
    return Fraction(match[1]), unit


@final
class _Parser:
    """Reads a product from left to right: `mL/uU/min^2` is `mL` by `uU` by `min^2`."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ValueError(f"it is longer than {_LONGEST} characters")
        self._tokens = list(_tokens(text.strip()))
        self._at = 0
        self._depth = 0

    def unit(self) -> Unit:
        found = self._product()
        if self._at < len(self._tokens):
            raise ValueError(f"`{self._tokens[self._at][1]}` stands in the wrong place")
        return found

    def _next(self, *wanted: str) -> str:
        """The next token when it is one of `wanted`, and it is passed; otherwise an empty string."""
        if self._at < len(self._tokens) and self._tokens[self._at][1] in wanted:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return ""

    def _product(self) -> Unit:
        found = self._factor()
        while self._at < len(self._tokens) and self._tokens[self._at][1] != ")":
            divided = self._next("*", "·", "/") == "/"
            other = self._factor()
            found = _bounded(found / other if divided else found * other)
        return found

    def _factor(self) -> Unit:
        base = self._base()
        if not self._next("^", "**"):
            return base
        power = self._power()
        if abs(power) > _LARGEST_POWER:
            raise ValueError(f"a power is larger than {_LARGEST_POWER}")
        return _bounded(base**power)

    def _base(self) -> Unit:
        if self._next("("):
            self._depth += 1
            if self._depth > _DEEPEST:
                raise ValueError(f"parentheses are nested deeper than {_DEEPEST}")
            found = self._product()
            if not self._next(")"):
                raise ValueError("a parenthesis is not closed")
            self._depth -= 1
            return found
        kind, token = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")
        self._at += 1
        if kind == "number":
            return _bounded(Unit(Fraction(token), FrozenMap()))
        if kind == "name":
            return _named(token)
        raise ValueError(f"{'the end' if kind == 'end' else f'`{token}`'} stands where a unit should be")

    def _power(self) -> Fraction:
        closed = bool(self._next("("))
        sign = -1 if self._next("-", "+") == "-" else 1
        kind, token = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")
        self._at += 1
        if kind != "number" or (closed and not self._next(")")):
            raise ValueError("a power is a number")
        return sign * Fraction(token)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at : at + 10].strip()!r} is not a part of a unit")
        at = match.end()
        yield str(match.lastgroup), match[match.lastgroup or 0]


def _bounded(unit: Unit) -> Unit:
    if not 1 / _LARGEST_FACTOR <= abs(unit.factor) <= _LARGEST_FACTOR:
        raise ValueError("its factor is zero, or beyond any unit")
    if any(abs(power) > _LARGEST_POWER * _LARGEST_POWER for power in unit.powers.values()):
        raise ValueError("its powers are too large")
    return unit


@lru_cache(maxsize=4096)
def _named(name: str) -> Unit:
    """The unit of one name with its prefix."""
    if len(name) > 60:
        raise ValueError("a name is longer than 60 characters")
    registry = _registry()
    known = registry.parse_unit_name(name)
    alone = Unit(Fraction(1), FrozenMap({name: Fraction(1)}), () if known else (name,))
    if not known:
        return alone
    factor, root = registry.get_root_units(name)
    exact = Fraction(str(factor))
    # What has an offset (degree Celsius), a logarithm or a sign (some constants) is no factor: it stays on its own.
    if exact <= 0 or not registry._units[known[0][1]].is_multiplicative:
        return alone
    # Angles and counts have no dimension.
    items = registry.Quantity(1, root).unit_items()
    return Unit(exact, _nonzero({n: Fraction(str(p)) for n, p in items if not registry.Unit(n).dimensionless}))


@cache
def _registry() -> "pint.UnitRegistry":
    """pint's units, with exact factors, and what biologists count; built on first use (0.2 s)."""
    import pint

    registry: pint.UnitRegistry = pint.UnitRegistry(non_int_type=Fraction, on_redefinition="ignore", cache_folder=None)
    for line in _COUNTED:
        registry.define(line)
    return registry

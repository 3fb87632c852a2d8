"""Units of SBML as short text, for instance `nmol/l`, and what libsbml derives about the units of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import libsbml

from mechanistic.sbml.document import Document

_SYMBOLS = {
    "mole": "mol", "item": "item", "gram": "g", "kilogram": "kg", "litre": "l", "liter": "l", "metre": "m",
    "meter": "m", "second": "s", "hertz": "Hz", "joule": "J", "kelvin": "K", "newton": "N", "pascal": "Pa", "volt": "V",
    "watt": "W", "ampere": "A", "candela": "cd", "coulomb": "C", "katal": "kat", "becquerel": "Bq", "farad": "F",
    "radian": "rad", "siemens": "S", "tesla": "T", "weber": "Wb", "ohm": "Ω", "lux": "lx", "lumen": "lm", "henry": "H",
    "gray": "Gy", "sievert": "Sv", "steradian": "sr", "avogadro": "avogadro", "dimensionless": "",
}  # fmt: skip
_PREFIXES = {
    -18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", -2: "c", -1: "d", 0: "", 3: "k", 6: "M", 9: "G", 12: "T",
}  # fmt: skip
_CATEGORIES = (
    libsbml.LIBSBML_CAT_GENERAL_CONSISTENCY,
    libsbml.LIBSBML_CAT_IDENTIFIER_CONSISTENCY,
    libsbml.LIBSBML_CAT_MATHML_CONSISTENCY,
    libsbml.LIBSBML_CAT_MODELING_PRACTICE,
    libsbml.LIBSBML_CAT_OVERDETERMINED_MODEL,
    libsbml.LIBSBML_CAT_SBO_CONSISTENCY,
    libsbml.LIBSBML_CAT_UNITS_CONSISTENCY,
)
# 20702: a parameter without a unit in Level 3; the bindings have no name for it.
_UNDECLARED = (
    libsbml.UndeclaredUnits,
    libsbml.UndeclaredTimeUnitsL3,
    libsbml.UndeclaredExtentUnitsL3,
    libsbml.UndeclaredObjectUnitsL3,
    20702,
)
_TIMES = {60.0: "min", 3600.0: "h", 86400.0: "d"}


def unit_text(model: libsbml.Model, unit: str) -> str:
    """The unit `unit` of the model as text, or an empty string when it has no short form."""
    if not unit:
        return ""
    definition = model.getUnitDefinition(unit)
    if definition is None:
        return _SYMBOLS.get(unit, "")
    over: list[str] = []
    under: list[str] = []
    for i in range(definition.getNumUnits()):
        part = definition.getUnit(i)
        text = _base_text(part)
        if text is None:
            return ""
        exponent = part.getExponentAsDouble()
        if text and exponent:
            size = "" if abs(exponent) == 1 else f"^{abs(exponent):g}"
            (over if exponent > 0 else under).append(text + size)
    if not under:
        return "*".join(over)
    below = "*".join(under) if len(under) == 1 else f"({'*'.join(under)})"
    return f"{'*'.join(over) or '1'}/{below}"


def substance_unit(model: libsbml.Model, species: libsbml.Species) -> str:
    """Unit of the amount of `species`."""
    default = "substance" if model.getLevel() < 3 else model.getSubstanceUnits()
    return _named(model, species.getSubstanceUnits() or default, "mol")


def size_unit(model: libsbml.Model, compartment: libsbml.Compartment) -> str:
    """Unit of the size of `compartment`."""
    dimensions = compartment.getSpatialDimensions()
    if dimensions not in (1, 2, 3):
        return unit_text(model, compartment.getUnits())
    if model.getLevel() < 3:
        default, plain = {1: ("length", "m"), 2: ("area", "m^2"), 3: ("volume", "l")}[dimensions]
    else:
        units = {1: model.getLengthUnits, 2: model.getAreaUnits, 3: model.getVolumeUnits}
        default, plain = units[dimensions](), ""
    return _named(model, compartment.getUnits() or default, plain)


def time_unit(model: libsbml.Model) -> str:
    """Unit of the model's time."""
    return _named(model, "time" if model.getLevel() < 3 else model.getTimeUnits(), "s")


def _named(model: libsbml.Model, unit: str, plain: str) -> str:
    """Level 2 predefines `substance`, `volume` and so on; `plain` is what they mean unless they are redefined."""
    predefined = unit in ("substance", "volume", "area", "length", "time")
    if predefined and model.getUnitDefinition(unit) is None:
        return plain if model.getLevel() < 3 else ""
    return unit_text(model, unit)


def _base_text(part: libsbml.Unit) -> str | None:
    """One unit with its prefix, or None when it has no short form."""
    kind = libsbml.UnitKind_toString(part.getKind())
    base = _SYMBOLS.get(kind)
    if base is None:
        return None
    scale, multiplier = part.getScale(), part.getMultiplier()
    if kind == "second" and scale == 0 and multiplier in _TIMES:
        return _TIMES[multiplier]
    prefix = _PREFIXES.get(scale)
    if multiplier != 1.0 or prefix is None or (prefix and not base):
        return None
    if kind == "kilogram":
        return base if scale == 0 else None
    return prefix + base


@final
@dataclass(frozen=True, slots=True)
class UnitWarning:
    """What libsbml finds about the units of a file.

    Attributes:
        line: line of the file.
        sentence: libsbml's message.
        number: libsbml's number of the rule, 10501 to 10599 in the SBML specification for most.
    """

    line: int
    sentence: str
    number: int

    @property
    def is_undeclared(self) -> bool:
        """Whether it only says that numbers or parameters without a unit leave something unchecked."""
        return self.number in _UNDECLARED

    def __str__(self) -> str:
        return f"line {self.line}: {self.sentence} (libsbml {self.number})"


def unit_warnings(source: str | Path) -> tuple[UnitWarning, ...]:
    """What libsbml's own derivation of units finds in an SBML file, in the order of the lines.

    It reads the file's unit definitions and the units of its numbers, which a `KineticModel` has as text or not at all;
    `model.units()` in turn follows the units of a model that never was a file.

    Args:
        source: path of a file, or its text.

    Raises:
        InvalidSBML, UnsupportedSBML: as `read_sbml`, for what keeps the file from being opened.
    """
    tree = Document(source).tree
    tree.getErrorLog().clearLog()
    for category in _CATEGORIES:
        tree.setConsistencyChecks(category, category == libsbml.LIBSBML_CAT_UNITS_CONSISTENCY)
    tree.checkConsistency()
    log = tree.getErrorLog()
    errors = (log.getError(i) for i in range(log.getNumErrors()))
    found = {
        UnitWarning(error.getLine(), " ".join(error.getMessage().split()), error.getErrorId()): None
        for error in errors
        if error.getCategory() == libsbml.LIBSBML_CAT_UNITS_CONSISTENCY
    }
    return tuple(sorted(found, key=lambda warning: (warning.line, warning.number)))

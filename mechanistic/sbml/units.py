"""Units of SBML as short text, for instance `nmol/l`; for people, never used in calculations."""

import libsbml

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

"""Units: read from text, followed through the expressions of a model, and reported; numbers are never rescaled."""

from mechanistic.units.inference import Finding
from mechanistic.units.report import Quantity, UnitsReport, units_report
from mechanistic.units.text import Unit, UnitError, parse_quantity, parse_unit

__all__ = ["Finding", "Quantity", "Unit", "UnitError", "UnitsReport", "parse_quantity", "parse_unit", "units_report"]

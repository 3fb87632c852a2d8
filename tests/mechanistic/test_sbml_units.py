"""libsbml's own derivation of units, as a list."""

import pytest

from mechanistic.errors import InvalidSBML
from mechanistic.sbml.units import unit_warnings
from tests.mechanistic.sbml_text import apply, listed, math, sbml

UNITS = (
    "<listOfUnitDefinitions>"
    '<unitDefinition id="per_s"><listOfUnits><unit kind="second" exponent="-1" scale="0" multiplier="1"/></listOfUnits>'
    "</unitDefinition></listOfUnitDefinitions>"
)


def grown(unit: str) -> str:
    """dx/dt = k x with x in gram and k in `unit`."""
    parameters = (
        '\n<parameter id="x" value="1" units="gram" constant="false"/>',
        f'\n<parameter id="k" value="1" {unit} constant="true"/>',
    )
    rule = f'\n<rateRule variable="x">{math(apply("times", "k", "x"))}</rateRule>'
    return sbml(UNITS, listed("Parameters", *parameters), listed("Rules", rule), attributes='timeUnits="second"')


def test_units_that_fit_give_no_warning():
    assert unit_warnings(grown('units="per_s"')) == ()


def test_units_that_do_not_fit_are_listed_with_their_line():
    (warning,) = unit_warnings(grown('units="gram"'))
    assert warning.number == 10533
    assert warning.line == 5
    assert str(warning).startswith("line 5: ")
    assert not warning.is_undeclared


def test_what_cannot_be_checked_is_marked():
    warnings = unit_warnings(grown(""))
    assert warnings
    assert all(warning.is_undeclared for warning in warnings)


@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0" encoding="UTF-8"?>', '<?xml version="1.0"?>\n'])
def test_lines_are_those_of_the_file(declaration):
    text = declaration + grown('units="gram"').partition("?>\n")[2]
    (warning,) = unit_warnings(text)
    assert text.splitlines()[warning.line - 1].startswith("<rateRule")


def test_what_is_no_sbml_is_refused():
    with pytest.raises(InvalidSBML):
        unit_warnings("<html/>")

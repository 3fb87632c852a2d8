"""What a file uses of SBML, counted."""

import pytest

from mechanistic.errors import InvalidSBML
from mechanistic.sbml.uses import counted, sbml_remarks, sbml_uses
from tests.mechanistic.sbml_text import (
    TIME,
    apply,
    assigned,
    compartment,
    function,
    initially,
    listed,
    parameter,
    rate,
    reaction,
    reference,
    sbml,
    species,
)


def test_every_construct_is_counted():
    text = sbml(
        listed("FunctionDefinitions", function("f", "x", apply("times", "x", "x"))),
        listed("Compartments", compartment("c"), compartment("d", constant=False)),
        listed(
            "Species",
            species("A", "c", 'initialAmount="1"'),
            species("B", "c", 'initialAmount="1"', boundary=True),
        ),
        listed("Parameters", parameter("k", "1"), parameter("y", constant=False), parameter("z", "1", constant=False)),
        listed("InitialAssignments", initially("k", apply("plus", "1", "1"))),
        listed("Rules", assigned("y", apply("times", "2", TIME)), rate("z", apply("times", "k", TIME))),
        listed("Reactions", reaction("r", reference("A"), "", apply("times", "k", "A"))),
    )
    uses = sbml_uses(text)
    assert dict(uses.counts) == {
        "species": 2,
        "boundary species": 1,
        "compartments": 2,
        "variable compartments": 1,
        "parameters": 3,
        "variable parameters": 2,
        "reactions": 1,
        "functions": 1,
        "initial assignments": 1,
        "assignment rules": 1,
        "rate rules": 1,
        "time in mathematics": 2,
    }
    assert (uses.level, uses.version, uses.packages) == (3, 2, ())
    assert str(uses).startswith("SBML Level 3 Version 2: 2 species, 1 boundary species")


def test_level_1_is_counted_as_what_it_is():
    text = (
        '<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model name="m"><listOfCompartments>'
        '<compartment name="c" volume="1"/></listOfCompartments></model></sbml>'
    )
    assert (sbml_uses(text).level, sbml_uses(text).counts["compartments"]) == (1, 1)


def test_units_that_do_not_fit_are_told_from_units_that_are_not_declared():
    seconds, metres = 'units="second"', 'units="metre"'

    def text(first, second):
        rule = assigned("y", apply("plus", "a", "b"))
        variables = (parameter("a", "1", more=first), parameter("b", "1", more=second), parameter("y", constant=False))
        return sbml(listed("Parameters", *variables), listed("Rules", rule))

    mixed, unknown, fitting = (sbml_remarks(text(*pair)) for pair in ((seconds, metres), ("", ""), (seconds, seconds)))
    assert any("same units" in sentence for sentence in mixed.units)
    assert unknown.unknown
    assert not any("same units" in sentence for sentence in (*unknown.units, *fitting.units))


def test_a_file_that_is_not_valid_is_refused():
    with pytest.raises(InvalidSBML):
        sbml_uses("<sbml/>")


def test_one_of_a_kind_is_named_in_the_singular():
    counts = {"events": 1, "events with delay": 2, "variable stoichiometries": 1, "boundary species": 1}
    assert counted(counts) == "1 event, 2 events with delay, 1 variable stoichiometry, 1 boundary species"
    assert (
        counted({"time in mathematics": 1, "events with priority": 1}) == "1 time in mathematics, 1 event with priority"
    )
    assert counted({}) == "nothing"

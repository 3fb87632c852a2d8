"""What an SBML file means: amounts and concentrations, sizes, rules, initial values, stoichiometries, names."""

import codecs

import pytest
import sympy
from sympy import Rational

from mechanistic.model import KineticModel, symbol, time
from mechanistic.sbml import read_sbml
from tests.mechanistic.sbml_text import (
    TIME,
    apply,
    assigned,
    call,
    compartment,
    function,
    initially,
    listed,
    math,
    parameter,
    rate,
    reaction,
    reference,
    sbml,
    species,
)
from tests.shared import shared_file

K, S, V = symbol("k"), symbol("S"), symbol("V")


def decay(*extra: str, law: str = apply("times", "k", "S"), **changed: str) -> KineticModel:
    """S -> nothing in a compartment V of size 2, k = 0.5."""
    parts = {
        "compartments": compartment("V", "2"),
        "species": species("S", "V", 'initialAmount="8"'),
        "parameters": parameter("k", "0.5"),
        "initial": "",
        "rules": "",
        "reactions": reaction("J", reference("S"), "", law),
    } | changed
    lists = (
        listed("Compartments", parts["compartments"]),
        listed("Species", parts["species"]),
        listed("Parameters", parts["parameters"]),
        listed("InitialAssignments", *filter(None, [parts["initial"]])),
        listed("Rules", *filter(None, [parts["rules"]])),
        listed("Reactions", *filter(None, [parts["reactions"]])),
    )
    return read_sbml(sbml(*lists))


def test_a_species_is_an_amount_and_its_symbol_a_concentration():
    model = decay()
    assert model.state_names == ("S",)
    assert model.derivatives()["S"] == -K * S / V
    assert model.observables == {"[S]": S / V}
    assert model.initial_values() == {"S": 8.0}
    assert model.nominal() == {"V": 2.0, "k": 0.5}


def test_a_species_in_substance_units_is_its_amount_in_mathematics():
    model = decay(species=species("S", "V", 'initialAmount="8"', amounts=True))
    assert model.derivatives()["S"] == -K * S
    assert model.observables == {"[S]": S / V}


def test_an_initial_concentration_follows_a_changed_size():
    model = decay(species=species("S", "V", 'initialConcentration="3"'))
    assert model.initial_values()["S"] == 6.0
    assert model.with_values(V=5.0).initial_values()["S"] == 15.0


def test_a_compartment_without_extent_has_no_concentrations():
    model = decay(compartments=compartment("V", "", dimensions="0"))
    assert model.derivatives()["S"] == -K * S
    assert not model.observables
    assert model.parameter_names == ("k",)


def test_a_boundary_species_is_a_parameter_that_reactions_leave_alone():
    both = species("S", "V", 'initialAmount="8"') + species("B", "V", 'initialAmount="6"', boundary=True)
    law = apply("times", "k", "B")
    model = decay(species=both, reactions=reaction("J", reference("B"), reference("S"), law))
    assert model.state_names == ("S",)
    assert model.nominal()["B"] == 6.0
    assert model.derivatives()["S"] == K * symbol("B") / V
    assert model.observables["[B]"] == symbol("B") / V


def test_the_amount_of_a_constant_concentration_follows_a_changed_size():
    constant = species("B", "V", 'initialConcentration="3"', boundary=True, constant="true")
    model = decay(species=species("S", "V", 'initialAmount="8"') + constant)
    assert model.assignments["B"] == 3 * V


def test_a_rule_for_a_species_states_a_concentration():
    rest = species("B", "V", boundary=True)
    model = decay(species=species("S", "V", 'initialAmount="8"') + rest, rules=assigned("B", apply("minus", "7", "S")))
    assert sympy.expand(model.assignments["B"] - V * (7 - S / V)) == 0


def test_a_rate_rule_of_a_species_moves_its_concentration():
    model = decay(species=species("S", "V", 'initialAmount="8"', boundary=True), rules=rate("S", "k"), reactions="")
    assert model.rates["S"] == K * V


def test_a_rate_rule_in_a_growing_compartment_has_the_term_of_dilution():
    # d(cV)/dt = V dc/dt + c dV/dt
    model = decay(
        compartments=compartment("V", "2", constant=False),
        species=species("S", "V", 'initialAmount="8"', boundary=True),
        rules=rate("V", "1") + rate("S", "k"),
        reactions="",
    )
    assert sympy.expand(model.rates["S"] - (K * V + S / V)) == 0
    assert model.rates["V"] == 1


def test_a_growing_compartment_does_not_change_amounts():
    model = decay(compartments=compartment("V", "2", constant=False), rules=rate("V", "1"))
    assert model.derivatives()["S"] == -K * S / V
    assert {state.name: state.nonnegative for state in model.states} == {"S": True, "V": True}


def test_a_rate_rule_of_a_parameter_may_become_negative():
    model = decay(parameters=parameter("k", "0.5", constant=False), rules=rate("k", "-1"))
    assert {state.name: state.nonnegative for state in model.states} == {"S": True, "k": False}


def test_initial_assignments_stay_expressions_over_parameters():
    parameters = parameter("k", "0.5") + parameter("a") + parameter("b")
    initial = initially("b", apply("times", "2", "a")) + initially("a", apply("plus", "k", "1"))
    model = decay(parameters=parameters, initial=initial + initially("S", "b"))
    assert set(model.assignments) == {"a", "b"}
    assert model.initial_values()["S"] == 2 * (2 * (0.5 + 1))
    assert model.with_values(k=1.0).initial_values()["S"] == 2 * (2 * (1 + 1))


def test_initial_assignments_see_the_state_at_time_zero():
    parameters = parameter("k", "0.5") + parameter("a") + parameter("r", constant=False)
    initial = initially("a", apply("plus", "S", "r", TIME))
    model = decay(parameters=parameters, initial=initial, rules=assigned("r", apply("times", "S", TIME)))
    # [S] = 8/2 at time zero, where both r and time are zero.
    assert model.expand(symbol("a")).xreplace({V: sympy.Integer(2)}) == 4
    assert time not in model.assignments["a"].free_symbols


def test_an_initial_assignment_of_a_size_reaches_concentrations():
    model = decay(
        compartments=compartment("V", ""),
        initial=initially("V", apply("times", "4", "k")),
        species=species("S", "V", 'initialConcentration="3"'),
    )
    assert model.initial_values()["S"] == 6.0


def test_local_parameters_hide_global_ones():
    local = listed("LocalParameters", '<localParameter id="k" value="9"/>')
    two = reaction("J", reference("S"), "", apply("times", "k", "S"), local=local)
    model = decay(reactions=two + reaction("L", "", reference("S"), "k"))
    assert model.reactions[0].rate == symbol("J.k") * S / V
    assert model.reactions[1].rate == K
    assert model.nominal()["J.k"] == 9.0


def test_a_local_parameter_may_have_the_name_of_a_species():
    local = listed("LocalParameters", '<localParameter id="S" value="9"/>')
    both = species("S", "V", 'initialAmount="8"') + species("P", "V", 'initialAmount="0"')
    model = decay(species=both, reactions=reaction("J", reference("P"), "", "S", local=local))
    assert model.reactions[0].rate == symbol("J.S")


@pytest.mark.parametrize(("text", "exact"), [("0.1", Rational(1, 10)), ("2", Rational(2)), ("1e-3", Rational(1, 1000))])
def test_stoichiometries_are_exact(text, exact):
    model = decay(reactions=reaction("J", reference("S", text), "", "k"))
    assert model.reactions[0].stoichiometry == {"S": -exact}


def test_a_species_on_both_sides_counts_once():
    model = decay(reactions=reaction("J", reference("S", "1"), reference("S", "3"), "k"))
    assert model.reactions[0].stoichiometry == {"S": 2}


def test_a_stoichiometry_assigned_a_number_is_that_number():
    third = initially("n", apply("divide", "1", "3"))
    model = decay(initial=third, reactions=reaction("J", reference("S", "", "n"), "", "k"))
    assert model.reactions[0].stoichiometry == {"S": Rational(-1, 3)}


def test_a_stoichiometry_that_depends_on_a_parameter_becomes_a_factor_of_the_rate():
    both = species("S", "V", 'initialAmount="8"') + species("P", "V", 'initialAmount="0"')
    made = reaction("J", reference("S"), reference("P", "", "n"), "k")
    model = decay(species=both, initial=initially("n", apply("times", "4", "k")), reactions=made)
    assert model.expand(model.derivatives()["P"]) == 4 * K**2
    assert model.derivatives()["S"] == -symbol("J")
    assert model.expand(symbol("J")) == K


def test_a_stoichiometry_in_mathematics_is_its_number():
    model = decay(reactions=reaction("J", reference("S", "3", "n"), "", apply("times", "k", "n")))
    assert model.expand(model.reactions[0].rate) == 3 * K
    assert "n" not in model.parameter_names


def test_a_conversion_factor_scales_the_change_of_its_species_only():
    both = species("S", "V", 'initialAmount="8"', conversionFactor="f") + species("P", "V", 'initialAmount="0"')
    made = reaction("J", reference("S"), reference("P"), "k")
    model = decay(species=both, parameters=parameter("k", "0.5") + parameter("f", "7"), reactions=made)
    assert model.expand(model.derivatives()["S"]) == -K * symbol("f")
    assert model.expand(model.derivatives()["P"]) == K


def test_a_reaction_in_mathematics_is_its_rate():
    parameters = parameter("k", "0.5") + parameter("flux", constant=False)
    model = decay(parameters=parameters, rules=assigned("flux", apply("times", "2", "J")))
    assert model.expand(symbol("flux")) == 2 * K * S / V


def test_function_definitions_are_written_in():
    twice = function("twice", "S", apply("times", "2", "S"))
    text = sbml(
        listed("FunctionDefinitions", twice, function("four", "x", call("twice", call("twice", "x")))),
        listed("Parameters", parameter("S", "3"), parameter("a", constant=False)),
        listed("Rules", assigned("a", call("four", "S"))),
    )
    assert read_sbml(text).assignments["a"] == 4 * S


@pytest.mark.parametrize("name", ["lambda", "E", "I", "S", "beta", "gamma", "time", "pi", "Q", "if", "None", "N"])
def test_any_id_is_a_name(name):
    text = sbml(
        listed("Parameters", parameter(name, "3"), parameter("x", constant=False)),
        listed("Rules", assigned("x", apply("plus", name, TIME))),
    )
    assert read_sbml(text).assignments["x"] == symbol(name) + time


def test_units_and_descriptions_are_text():
    units = listed(
        "UnitDefinitions",
        f'<unitDefinition id="u">{listed("Units", _unit("mole", -9), _unit("litre", -3, -1))}</unitDefinition>',
        f'<unitDefinition id="t">{listed("Units", _unit("second", 0, 1, 3600))}</unitDefinition>',
        f'<unitDefinition id="n">{listed("Units", _unit("mole", -9))}</unitDefinition>',
    )
    text = sbml(
        units,
        listed("Compartments", compartment("V", "2")),
        listed("Species", species("S", "V", 'initialAmount="8"')),
        listed("Parameters", parameter("k", "1", more='units="u" name="a rate"')),
        attributes='timeUnits="t" substanceUnits="n" name="a model"',
    )
    model = read_sbml(text)
    assert (model.name, model.time_unit, model.states[0].unit) == ("a model", "h", "nmol")
    assert [(p.unit, p.description) for p in model.parameters if p.name == "k"] == [("nmol/ml", "a rate")]


def _unit(kind: str, scale: int = 0, exponent: int = 1, multiplier: float = 1) -> str:
    return f'<unit kind="{kind}" scale="{scale}" exponent="{exponent}" multiplier="{multiplier}"/>'


LEVEL_1 = """<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model name="m">
<listOfCompartments><compartment name="c" volume="2"/></listOfCompartments>
<listOfSpecies><species name="A" compartment="c" initialAmount="3"/>
<species name="B" compartment="c" initialAmount="0"/></listOfSpecies>
<listOfReactions><reaction name="r"><listOfReactants>
<speciesReference species="A" stoichiometry="1" denominator="3"/></listOfReactants>
<listOfProducts><speciesReference species="B"/></listOfProducts>
<kineticLaw formula="k*A*log(A)"><listOfParameters><parameter name="k" value="0.5"/></listOfParameters></kineticLaw>
</reaction></listOfReactions></model></sbml>"""


def test_level_1_is_read():
    # Its `log` is the natural logarithm, and species in its formulas are concentrations.
    model = read_sbml(LEVEL_1)
    a = symbol("A") / symbol("c")
    assert model.reactions[0].rate == symbol("r.k") * a * sympy.log(a)
    assert model.reactions[0].stoichiometry == {"A": Rational(-1, 3), "B": 1}


def test_level_2_stoichiometries_may_be_mathematics():
    body = f'<speciesReference species="S"><stoichiometryMath>{math(apply("times", "3", "k"))}</stoichiometryMath>'
    text = sbml(
        listed("Compartments", '<compartment id="V" size="2"/>'),
        listed("Species", '<species id="S" compartment="V" initialAmount="8"/>'),
        listed("Parameters", '<parameter id="k" value="0.5"/>'),
        listed("Reactions", reaction("J", f"{body}</speciesReference>", "", "k")),
        level=2,
        version=4,
    )
    assert read_sbml(text).expand(read_sbml(text).derivatives()["S"]) == -3 * K**2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "utf-8-sig"])
def test_files_are_read_in_the_encoding_that_they_declare(tmp_path, encoding):
    text = sbml(listed("Parameters", parameter("k", "1", more='name="Zerfällt"')))
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    path = tmp_path / "model.xml"
    path.write_bytes(codecs.encode(text.replace("UTF-8", declared), encoding))
    assert read_sbml(path).parameters[0].description == "Zerfällt"
    assert read_sbml(str(path)) == read_sbml(path)


BENCHMARKS = {
    "Bachmann_MSB2011": (25, 36),
    "Boehm_JProteomeRes2014": (8, 9),
    "Borghans_BiophysChem1997": (3, 8),
    "Brannmark_JBC2010": (9, 11),
    "Chen_MSB2009": (500, 827),
    "Crauste_CellSystems2017": (5, 12),
    "Elowitz_Nature2000": (8, 16),
    "Fujita_SciSignal2010": (9, 11),
    "Perelson_Science1996": (4, 5),
    "Raia_CancerResearch2011": (14, 16),
    "Sneyd_PNAS2002": (6, 10),
    "Weber_BMC2015": (7, 21),
    "Zheng_PNAS2012": (15, 60),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_pathways_have_the_states_and_reactions_of_their_descriptions(name):
    model = read_sbml(shared_file(f"benchmark_models/{name}/model_{name}.xml"))
    assert (len(model.states), len(model.reactions)) == BENCHMARKS[name]

"""Events, delays and fast reactions of a file: the symbols that they become."""

import pytest
import sympy

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import Event, KineticModel, Reaction, delay, symbol, time
from mechanistic.sbml import read_sbml, write_sbml
from tests.mechanistic.sbml_text import (
    SYMBOLS,
    TIME,
    apply,
    assigned,
    compartment,
    delayed,
    event,
    initially,
    listed,
    math,
    parameter,
    rate,
    reaction,
    reference,
    sbml,
    species,
    term,
)

S, V, P, Q, K = map(symbol, "SVpqk")
LATER = sympy.Gt(time, 1)
AFTER_ONE = apply("gt", TIME, "1")


def part(kind: str, body: str) -> str:
    """The `delay` or the `priority` of an event."""
    return f"<{kind}>{math(term(body))}</{kind}>"


def network(*events: str, rules: str = "", moving: bool = True, changes: bool = False) -> KineticModel:
    """S decays in V = 2 as a concentration; p = 5 and q = 3 may change, k = 0.5 may not."""
    size = compartment("V", "2", constant=not changes)
    law = reaction("J", reference("S"), "", apply("times", "k", "S", "V"))
    return read_sbml(
        sbml(
            listed("Compartments", size),
            listed("Species", species("S", "V", 'initialConcentration="4"', boundary=not moving)),
            listed(
                "Parameters", parameter("p", "5", constant=False), parameter("q", "3", False), parameter("k", "0.5")
            ),
            listed("Rules", rules) if rules else "",
            listed("Reactions", law),
            listed("Events", *events),
        )
    )


def rate_of(name: str) -> str:
    return f'<apply><csymbol encoding="text" definitionURL="{SYMBOLS}/rateOf">r</csymbol>{term(name)}</apply>'


def only(model: KineticModel) -> Event:
    (found,) = model.events
    return found


# What an event is


def test_every_part_of_an_event_is_read():
    text = event(
        "dose", apply("lt", "S", "p"), {"p": apply("plus", "p", "q")}, part("delay", "k") + part("priority", "q")
    )
    text = text.replace('initialValue="true"', 'initialValue="false"').replace(
        'persistent="true"', 'persistent="false"'
    )
    model = network(text.replace('TriggerTime="true"', 'TriggerTime="false"'))
    below = sympy.Lt(S / V, P, evaluate=False)
    assert only(model) == Event("dose", below, {"p": P + Q}, K, Q, False, False, False)
    assert model.state_names == ("S", "p")
    assert not {state.name: state.nonnegative for state in model.states}["p"]
    assert model.initial_values()["p"] == 5
    assert model.derivatives()["p"] == 0
    assert model.parameter_names == ("V", "q", "k")


def test_what_an_event_of_level_2_leaves_out_has_its_default():
    text = sbml(
        '<listOfParameters><parameter id="p" value="1" constant="false"/></listOfParameters>',
        f"<listOfEvents><event><trigger>{math(AFTER_ONE)}</trigger><listOfEventAssignments>"
        f'<eventAssignment variable="p">{math(term("2"))}</eventAssignment>'
        "</listOfEventAssignments></event></listOfEvents>",
        level=2,
        version=4,
    )
    assert only(read_sbml(text)) == Event("event_1", LATER, {"p": 2}, 0, None, True, True, True)


def level_2(unit: str, definitions: str = "") -> str:
    return sbml(
        definitions,
        '<listOfParameters><parameter id="p" value="1" constant="false"/></listOfParameters>',
        f'<listOfEvents><event timeUnits="{unit}"><trigger>{math(AFTER_ONE)}</trigger><delay>{math(term("2"))}</delay>'
        f'<listOfEventAssignments><eventAssignment variable="p">{math(term("2"))}</eventAssignment>'
        "</listOfEventAssignments></event></listOfEvents>",
        level=2,
        version=2,
    )


def test_a_delay_in_a_unit_of_its_own_is_refused():
    hours = (
        '<unitDefinition id="{}"><listOfUnits><unit kind="second" multiplier="3600"/></listOfUnits></unitDefinition>'
    )
    assert only(read_sbml(level_2("second"))).delay == 2
    assert only(read_sbml(level_2("time", listed("UnitDefinitions", hours.format("time"))))).delay == 2
    with pytest.raises(UnsupportedSBML, match="event `event_1`: its delay is in a unit of its own, `h`"):
        read_sbml(level_2("h", listed("UnitDefinitions", hours.format("h"))))
    with pytest.raises(UnsupportedSBML, match="unit of its own, `second`"):
        read_sbml(level_2("second", listed("UnitDefinitions", hours.format("time"))))


def test_events_without_an_id_get_names_that_nothing_else_has():
    names = [
        event("", AFTER_ONE, {"p": "1"}),
        event("event_1", AFTER_ONE, {"p": "2"}),
        event("", AFTER_ONE, {"p": "3"}),
    ]
    assert [each.name for each in network(*names).events] == ["event_1_", "event_1", "event_3"]


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("p", sympy.Ne(P, 0)),
        ("<true/>", sympy.true),
        ("2", sympy.true),
        (apply("and", AFTER_ONE, apply("geq", "p", "q")), sympy.And(LATER, sympy.Ge(P, Q, evaluate=False))),
        (apply("not", AFTER_ONE), sympy.Le(time, 1)),
    ],
)
def test_triggers_are_conditions(text, condition):
    assert only(network(event("e", term(text), {"q": "1"}))).trigger == condition


# Parts without mathematics


def test_an_event_without_a_condition_never_happens():
    text = event("e", AFTER_ONE, {"p": "1"}).replace(math(AFTER_ONE), "")
    assert network(text) == network()


def test_delays_priorities_and_assignments_without_mathematics_have_no_effect():
    text = event("e", AFTER_ONE, {"p": "1"}, "<delay/><priority/>")
    text = text.replace("<listOfEventAssignments>", '<listOfEventAssignments><eventAssignment variable="q"/>')
    assert network(text) == network(event("e", AFTER_ONE, {"p": "1"}))


def test_triggers_may_ask_for_rates():
    rule = event("e", apply("lt", rate_of("S"), "J"), {"p": rate_of("q")})
    model = network(rule, rules=rate("q", "k"))
    assert only(model).trigger == sympy.Lt(-symbol("J") / V, symbol("J"), evaluate=False)
    assert only(model).assignments == {"p": K}
    assert model.expand(symbol("J")) == K * S


def test_an_event_without_assignments_stays_an_event():
    assert only(network(event("e", AFTER_ONE, {}))) == Event("e", LATER, {})


# Amounts after an event


def test_a_concentration_becomes_an_amount():
    assert only(network(event("e", AFTER_ONE, {"S": apply("plus", "S", "3")}))).assignments == {"S": (S / V + 3) * V}


def test_amounts_stay_where_the_size_changes():
    model = network(event("e", AFTER_ONE, {"V": apply("times", "2", "V")}), changes=True)
    assert only(model).assignments == {"V": 2 * V}
    assert model.state_names == ("S", "V")
    assert model.initial_values() == {"S": 8, "V": 2}
    assert {state.name: state.nonnegative for state in model.states} == {"S": True, "V": True}


@pytest.mark.parametrize("order", [("S", "V"), ("V", "S")])
def test_a_concentration_and_the_size_that_one_event_gives(order):
    values = {"S": "3", "V": apply("times", "2", "V")}
    model = network(event("e", AFTER_ONE, {name: values[name] for name in order}), changes=True)
    assert only(model).assignments == {"V": 2 * V, "S": 6 * V}


def test_a_size_that_follows_by_a_rule_from_what_the_event_gives():
    rules = assigned("q", apply("plus", "p", "1")) + assigned("V", apply("times", "2", "q"))
    model = network(event("e", AFTER_ONE, {"S": "3", "p": apply("minus", "p")}), rules=rules, changes=True)
    assert only(model).assignments == {"S": 3 * 2 * (-P + 1), "p": -P}


def test_a_size_that_depends_on_the_concentration_itself_is_refused():
    rules = assigned("V", apply("plus", apply("times", "p", "q"), "1"))
    assert network(event("e", AFTER_ONE, {"S": "3"}), rules=rules, changes=True)
    around = sbml(
        listed("Compartments", compartment("V", "", constant=False)),
        listed("Species", species("S", "V", 'initialAmount="1"'), species("T", "V", 'initialAmount="1"', amounts=True)),
        listed("Rules", assigned("V", apply("plus", "T", "1"))),
        listed("Events", event("e", AFTER_ONE, {"S": "3", "T": "S"})),
    )
    assert only(read_sbml(around)).assignments == {"S": 3 * (S / V + 1), "T": S / V}


def test_a_size_that_is_too_deep_to_write_out_is_refused(monkeypatch):
    rules = assigned("q", apply("sin", apply("sin", apply("sin", "p")))) + assigned("V", "q")
    text = event("e", AFTER_ONE, {"S": "3", "p": "k"})
    assert only(network(text, rules=rules, changes=True)).assignments["S"] == 3 * sympy.sin(sympy.sin(sympy.sin(K)))
    monkeypatch.setattr("mechanistic.sbml.events.DEPTH_LIMIT", 3)
    with pytest.raises(UnsupportedSBML, match="event `e`: `q` after it is too large"):
        network(text, rules=rules, changes=True)


def test_boundary_species_compartments_and_stoichiometries_become_states():
    text = sbml(
        listed("Compartments", compartment("V", "2")),
        listed(
            "Species", species("S", "V", 'initialAmount="4"'), species("B", "V", 'initialAmount="1"', boundary=True)
        ),
        listed("Reactions", reaction("J", reference("B"), reference("S", "2", "n", constant=False), "3")),
        listed("Events", event("e", AFTER_ONE, {"n": "7", "B": "1"})),
    )
    model = read_sbml(text)
    assert model.state_names == ("S", "B", "n")
    assert only(model).assignments == {"n": 7, "B": V}
    assert model.derivatives() == {"S": symbol("J") * symbol("n"), "B": 0, "n": 0}
    assert model.expand(symbol("J")) == 3


def test_a_state_that_only_events_move_needs_a_value_at_the_start():
    text = sbml(
        listed("Parameters", parameter("p", constant=False)), listed("Events", event("e", AFTER_ONE, {"p": "1"}))
    )
    with pytest.raises(UnsupportedSBML, match="parameter `p`: it has no initial value"):
        read_sbml(text)


def test_what_an_assignment_rule_holds_cannot_be_assigned():
    with pytest.raises(InvalidSBML, match="assignment"):
        network(event("e", AFTER_ONE, {"p": "1"}), rules=assigned("p", "q"))


# Concentrations that rate rules move

C = symbol("S.concentration")


def test_a_concentration_stays_where_the_size_jumps():
    model = network(event("e", AFTER_ONE, {"V": "3"}), rules=rate("S", "p"), moving=False, changes=True)
    assert model.state_names == ("S.concentration", "V")
    assert model.rates == {"S.concentration": P}
    assert model.assignments == {"S": C * V}
    assert model.initial_values() == {"S.concentration": 4, "V": 2}
    assert model.expand(model.observables["[S]"]) == C
    assert only(model).assignments == {"V": 3}


def test_a_concentration_in_a_size_that_follows_a_rule():
    rules = rate("S", "1") + assigned("V", apply("plus", "1", TIME))
    model = network(rules=rules, moving=False, changes=True)
    assert model.rates == {"S.concentration": 1}
    assert model.assignments == {"V": 1 + time, "S": C * V}


def test_an_event_gives_such_a_species_a_concentration():
    rules = rate("S", "1") + rate("V", "1")
    text = event("e", AFTER_ONE, {"S": apply("times", "2", "S")}, part("delay", "1"))
    model = network(text, rules=rules, moving=False, changes=True)
    assert only(model) == Event("e", LATER, {"S.concentration": 2 * S / V}, 1)
    assert model.rates == {"S.concentration": 1, "V": 1}


def test_without_a_jump_the_amount_is_the_state():
    model = network(rules=rate("S", "1") + rate("V", "2"), moving=False, changes=True)
    assert model.rates == {"S": V + 2 * S / V, "V": 2}


# Values from the time of the trigger


def test_a_late_concentration_that_does_not_vary_meets_the_size_at_its_execution():
    text = event("e", AFTER_ONE, {"S": "k"}, part("delay", "1"))
    found = only(network(text, rules=rate("V", "1"), changes=True))
    assert found.assignments == {"S": K * V}
    assert not found.values_at_trigger
    assert only(network(text)).values_at_trigger


def test_a_late_concentration_that_varies_is_refused_where_the_size_varies():
    text = event("e", AFTER_ONE, {"S": apply("times", "2", "S")}, part("delay", "1"))
    with pytest.raises(UnsupportedSBML, match="event `e`: it gives `S` a concentration"):
        network(text, rules=rate("V", "1"), changes=True)
    assert only(network(text.replace('TriggerTime="true"', 'TriggerTime="false"'), rules=rate("V", "1"), changes=True))


# Delays


def test_a_delay_is_a_function():
    model = network(rules=assigned("p", delayed("S", apply("times", "2", "k"))))
    assert model.assignments == {"p": delay(S / V, 2 * K)}


def test_delays_stand_in_laws_and_events():
    late = sbml(
        listed("Compartments", compartment("V")),
        listed("Species", species("S", "V", 'initialAmount="4"', amounts=True)),
        listed("Reactions", reaction("J", reference("S"), "", delayed("S", "2"))),
        listed("Events", event("e", apply("gt", delayed("S", "1"), "3"), {"S": delayed("S", "4")})),
    )
    model = read_sbml(late)
    assert model.reactions == (Reaction("J", {"S": -1}, delay(S, 2)),)
    assert only(model) == Event("e", sympy.Gt(delay(S, 1), 3, evaluate=False), {"S": delay(S, 4)})


def late(initial: str, value: str, lag: str = "2") -> sympy.Expr:
    """The rule p = delay(value, lag) beside S, which moves by a rate rule and may have an initial assignment."""
    text = sbml(
        listed("Parameters", parameter("S", "4", False), parameter("k", "1"), parameter("p", constant=False)),
        listed("InitialAssignments", *([initially("S", initial)] if initial else [])),
        listed("Rules", rate("S", apply("minus", "k")), assigned("p", delayed(value, lag))),
    )
    return read_sbml(text).assignments["p"]


def before(lag: float, value: sympy.Expr, later: sympy.Expr) -> sympy.Expr:
    """`value` at negative times of what is asked for, and `later` from then on."""
    return sympy.Piecewise((value, sympy.Lt(time, lag, evaluate=False)), (later, True), evaluate=False)


def test_a_rule_of_time_alone_holds_before_the_start():
    assert late("", apply("sin", TIME)) == sympy.sin(time - 2)
    assert late("", TIME, apply("times", "3", "k")) == time - 3 * K


def test_a_rule_of_time_and_states_has_its_own_past():
    assert late("", apply("times", "S", TIME)) == before(2, 4 * (time - 2), delay(S * time, 2))


def test_an_initial_assignment_of_time_holds_before_the_start():
    assert late(apply("plus", "3", TIME), "S") == before(2, time + 1, delay(S, 2))
    assert late(apply("plus", "3", "k"), "S") == delay(S, 2)


def test_nothing_moves_before_the_start():
    assert late("", rate_of("S")) == before(2, sympy.S.Zero, -K)
    with pytest.raises(UnsupportedSBML, match=r"rateOf\(S\): a delay looks back past the start"):
        late(apply("plus", "3", TIME), rate_of("S"))


def test_fast_reactions_move_at_the_start_and_not_before():
    text = sbml(
        listed("Compartments", compartment("V")),
        listed("Species", species("S", "V", 'initialAmount="2"', amounts=True)),
        listed("Parameters", parameter("p", constant=False)),
        listed("Rules", assigned("p", delayed("S", "2"))),
        listed("Reactions", reaction("J", reference("S"), "", "S", more='fast="true"')),
        version=1,
    )
    model = read_sbml(text)
    assert model.assignments == {"p": before(2, sympy.Integer(2), delay(S, 2))}
    assert read_sbml(write_sbml(model)) == model


def test_a_delay_needs_to_know_what_an_equation_determined():
    equation = f"<algebraicRule>{math(apply('minus', apply('exp', 'S'), 'k'))}</algebraicRule>"
    parts = [parameter("S", "4", False), parameter("k", "2"), parameter("p", constant=False)]

    def found(value: str) -> KineticModel:
        return read_sbml(
            sbml(listed("Parameters", *parts), listed("Rules", equation, assigned("p", delayed(value, "2"))))
        )

    assert found("S").assignments == {"p": delay(S, 2)}
    with pytest.raises(UnsupportedSBML, match="it asks for `S` before the start"):
        found(apply("times", "S", TIME))


def test_delays_in_delays_add_up():
    assert late("", delayed(apply("sin", TIME), "k")) == sympy.sin(time - 2 - K)
    assert late("", delayed("S", "1")) == delay(delay(S, 1), 2)


def test_an_initial_value_looks_back_past_the_start():
    text = sbml(
        listed("Parameters", parameter("p", constant=False), parameter("q", constant=False)),
        listed("InitialAssignments", initially("p", delayed("q", "3"))),
        listed("Rules", assigned("q", apply("plus", TIME, "1")), rate("p", "1")),
    )
    assert read_sbml(text).initial_values() == {"p": -2}


# Fast reactions


def test_a_fast_reaction_is_marked():
    text = sbml(
        listed("Compartments", compartment("V")),
        listed("Species", species("S", "V", 'initialAmount="1"'), species("B", "V", "", boundary=True)),
        listed("Reactions", reaction("J", reference("S"), reference("B"), "S", more='fast="true"')),
        version=1,
    )
    (found,) = read_sbml(text.replace('id="B" compartment="V"', 'id="B" compartment="V" initialAmount="0"')).reactions
    assert found == Reaction("J", {"S": -1}, S / V, fast=True)


def test_a_fast_reaction_with_conversion_factors_is_one_column():
    factors = parameter("a", "2"), parameter("b", "0.5")
    text = sbml(
        listed("Compartments", compartment("V")),
        listed(
            "Species",
            species("S", "V", 'initialAmount="1"', amounts=True, conversionFactor="a"),
            species("T", "V", 'initialAmount="1"', amounts=True, conversionFactor="b"),
        ),
        listed("Parameters", *factors),
        listed("Reactions", reaction("J", reference("S"), reference("T"), "S", more='fast="true"')),
        version=1,
    )
    model = read_sbml(text)
    assert model.reactions == (Reaction("J", {"S": -2, "T": sympy.Rational(1, 2)}, S, fast=True),)
    assert model.parameter_names == ("V",)


def test_a_fast_reaction_whose_stoichiometry_changes_is_refused():
    text = sbml(
        listed("Compartments", compartment("V")),
        listed("Species", *(species(name, "V", 'initialAmount="1"', amounts=True) for name in "ST")),
        listed("Rules", rate("n", "1")),
        listed(
            "Reactions",
            reaction("J", reference("S"), reference("T", "1", "n", constant=False), "S", more='fast="true"'),
        ),
        version=1,
    )
    with pytest.raises(UnsupportedSBML, match="reaction `J`: it is fast, and the stoichiometry n changes in time"):
        read_sbml(text)


# Whole models


def test_what_was_read_is_written_and_read_again():
    trigger = apply("lt", "S", "p")
    text = event("dose", trigger, {"p": apply("plus", "p", "q"), "S": "1"}, part("delay", "k") + part("priority", "q"))
    model = network(text, rules=assigned("q", delayed("S", "1")))
    assert read_sbml(write_sbml(model)) == model


def test_initial_assignments_give_events_their_start():
    text = sbml(
        listed("Parameters", parameter("p", constant=False), parameter("k", "2")),
        listed("InitialAssignments", initially("p", apply("times", "3", "k"))),
        listed("Events", event("e", AFTER_ONE, {"p": "1"})),
    )
    assert read_sbml(text).with_values(k=5).initial_values() == {"p": 15}

"""Events, delays, fast reactions and algebraic equations in written files.

What is read back is equal; beyond that, the files are inspected with libsbml and solved by roadrunner.
"""

from dataclasses import replace

import libsbml
import numpy as np
import pytest
import roadrunner
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mechanistic.errors import ModelError
from mechanistic.model import Event, KineticModel, Parameter, Reaction, State, delay, symbol, time
from mechanistic.sbml import read_driven, read_sbml, write_sbml
from tests.mechanistic.test_sbml_writer import assert_returns

A, B, K = symbol("A"), symbol("B"), symbol("k")
DECAY = KineticModel("decay", [State("A", 8), State("B")], [Parameter("k", 0.5)], [Reaction("loss", "A -> B", K * A)])
FAST = KineticModel(
    "fast",
    [State("A", 3), State("B"), State("C")],
    [Parameter("k", 2.0)],
    [Reaction("shift", "A -> B", A - K * B, fast=True), Reaction("loss", "B -> C", sympy.Max(B, A, 1) * K)],
)
ROOT = KineticModel("root", [State("A", 4), State("B")], [Parameter("k", 1.0)], algebraic={"B": B**3 + B - K * A})


def with_events(*events, model=DECAY):
    return replace(model, events=events)


FULL = with_events(
    Event(
        "second dose",
        sympy.Or(time > 2, sympy.And(A < 3, B >= K)),
        {"B": 0, "A": A + sympy.sign(B)},
        delay=K / 2,
        priority=3 * K,
        persistent=False,
        initially=False,
        values_at_trigger=False,
    ),
    Event("plain", time > 1, {"A": 1}),
)


def parsed(model):
    return libsbml.readSBMLFromString(write_sbml(model))


def formula(element):
    return libsbml.formulaToL3String(element.getMath())


def solved(model, end=3.0, points=61):
    """Times and values by name, from roadrunner."""
    runner = roadrunner.RoadRunner(write_sbml(model))
    runner.integrator.setValue("relative_tolerance", 1e-11)
    runner.integrator.setValue("absolute_tolerance", 1e-13)
    names = ["time", *model.state_names]
    return dict(zip(names, np.asarray(runner.simulate(0.0, end, points, names)).T, strict=True))


@pytest.mark.parametrize("model", [FULL, FAST, ROOT], ids=lambda model: model.name)
def test_the_files_are_valid_for_others(model):
    document = parsed(model)
    document.setConsistencyChecks(libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, False)
    document.checkConsistency()
    log = document.getErrorLog()
    errors = [log.getError(i) for i in range(log.getNumErrors())]
    assert [e.getMessage() for e in errors if e.getSeverity() >= libsbml.LIBSBML_SEV_ERROR] == []


def test_every_part_of_an_event_stands_in_its_element():
    document = parsed(FULL)  # the events live only as long as their document
    full, plain = (document.getModel().getEvent(i) for i in range(2))
    trigger = full.getTrigger()
    assert (trigger.getInitialValue(), trigger.getPersistent()) == (False, False)
    assert not full.getUseValuesFromTriggerTime()
    assert formula(trigger) == "(time > 2) || ((B >= k) && (A < 3))"
    assert (formula(full.getDelay()), formula(full.getPriority())) == ("(1 / 2) * k", "3 * k")
    assignments = [full.getEventAssignment(i) for i in range(2)]
    # The order of the assignments is kept, and one with a function of ours calls its definition.
    assert [(a.getVariable(), formula(a)) for a in assignments] == [("B", "0"), ("A", "A + kinetwin_sign(B)")]
    assert (plain.getTrigger().getInitialValue(), plain.getTrigger().getPersistent()) == (True, True)
    assert plain.getUseValuesFromTriggerTime()
    assert not plain.isSetDelay()
    assert not plain.isSetPriority()


def test_a_repeated_dose_is_the_sum_of_its_decays():
    model = with_events(*(Event(f"dose {t}", time >= t, {"A": A + 8}) for t in (1, 2)))
    found = solved(model)
    t = found["time"]
    expected = sum(8 * np.exp(-0.5 * np.clip(t - start, 0.0, None)) * (t >= start) for start in (0, 1, 2))
    # Values at the very times of the events may be those before or after.
    at = np.isin(np.round(t, 9), (1.0, 2.0))
    assert_allclose(found["A"][~at], expected[~at], rtol=1e-8)
    assert_allclose((found["A"] + found["B"])[~at], (8 * (1 + (t > 1) + (t > 2)))[~at], rtol=1e-8)


@pytest.mark.parametrize("at_trigger", [True, False])
def test_a_delayed_event_takes_the_values_that_it_says(at_trigger):
    model = with_events(Event("late", A < 4, {"B": A}, delay=1, values_at_trigger=at_trigger))
    found = solved(model)
    halved = np.log(2.0) / 0.5
    after = found["time"] > halved + 1.01
    jumped_to = 4.0 if at_trigger else 4.0 * np.exp(-0.5)
    decayed = 4.0 * np.exp(-0.5) - found["A"]
    assert_allclose(found["B"][after], (jumped_to + decayed)[after], rtol=1e-7)


def test_the_event_of_highest_priority_goes_first():
    events = [
        Event(n, time >= 1, {"B": B * 10 + i}, priority=i, values_at_trigger=False) for n, i in (("x", 1), ("y", 2))
    ]
    still = KineticModel("still", [State("A", 0), State("B", 0)], [], [Reaction("no", "A -> B", 0)], events=events)
    assert solved(still)["B"][-1] == 21.0


def test_fast_reactions_are_written_in_the_last_version_that_has_them():
    document = parsed(FAST)
    assert (document.getLevel(), document.getVersion()) == (3, 1)
    assert [document.getModel().getReaction(i).getFast() for i in range(2)] == [True, False]
    document = parsed(DECAY)
    assert (document.getLevel(), document.getVersion()) == (3, 2)


@pytest.mark.parametrize("kind", [sympy.Min, sympy.Max])
def test_functions_of_version_2_keep_their_meaning_in_version_1(kind):
    """The law of the slow reaction, read by roadrunner from either version, has one value."""
    law = kind(A, B, 1.5) * K
    slow = KineticModel("m", FAST.states, FAST.parameters, [Reaction("loss", "A -> C", law)])
    fast = KineticModel("m", FAST.states, FAST.parameters, [*slow.reactions, Reaction("quick", {}, 0, fast=True)])
    text = write_sbml(fast).replace('fast="true"', 'fast="false"')
    for a, b in ((1.0, 2.0), (2.0, 1.0), (3.0, 4.0)):
        rates = []
        for source in (write_sbml(slow), text):
            runner = roadrunner.RoadRunner(source)
            runner["init(A)"], runner["init(B)"] = a, b
            runner.reset()
            rates.append(runner.getReactionRates()[0])
        assert rates[0] == rates[1] == 2.0 * (min if kind is sympy.Min else max)(a, b, 1.5)


def test_an_algebraic_equation_names_the_state_that_it_determines():
    document = parsed(ROOT)
    rule = document.getModel().getRule(0)
    assert rule.isAlgebraic()
    assert formula(rule) == "B + B^3 + -1 * A * k"
    assert 'variable="B"' in rule.getAnnotationString()


def test_a_driven_parameter_is_marked_and_keeps_its_nominal_value():
    cause = "a network of A & <B>"
    text = write_sbml(DECAY, driven={"k": cause})
    assert read_sbml(text) == DECAY
    assert read_driven(text) == {"k": cause}
    document = libsbml.readSBMLFromString(text)
    parameter = document.getModel().getParameter("k")
    assert (parameter.getConstant(), parameter.getValue()) == (True, 0.5)
    assert "A &amp; &lt;B&gt;" in parameter.getNotesString()
    assert read_driven(write_sbml(DECAY)) == {}


def test_what_drives_may_be_any_text():
    cause = "a\nnetwork\x01"
    assert read_driven(write_sbml(DECAY, driven={"k": cause})) == {"k": cause}


def test_what_is_driven_must_be_a_parameter():
    with pytest.raises(ModelError, match="driven `kk` is not a parameter"):
        write_sbml(DECAY, driven={"kk": "a network"})


def test_every_expression_of_an_event_that_cannot_be_written_is_listed():
    strange = sympy.gamma(A)
    model = with_events(Event("e", strange > 1, {"A": strange}, delay=strange, priority=strange))
    with pytest.raises(ModelError) as refusal:
        write_sbml(model)
    places = [problem.partition(":")[0] for problem in refusal.value.problems]
    assert places == [f"{part} of event `e`" for part in ("trigger", "delay", "priority", "assignment to `A`")]


@pytest.mark.parametrize("model", [FULL, FAST, ROOT], ids=lambda model: model.name)
def test_what_is_written_returns_equal(model):
    assert_returns(model)


LAG = symbol("lag")


@pytest.mark.parametrize(
    "late",
    [
        delay(A, LAG),
        delay(A * B, 2) + delay(delay(A, 1), LAG / 2),
        delay(A + time, 2),
        delay(symbol("wave"), LAG) * delay(time**2, 1),
        delay(time * delay(time + A, 1), LAG),
        sympy.Piecewise((time, time < 2), (delay(A + time, 2), True), evaluate=False),
    ],
    ids=str,
)
def test_delays_return_equal(late):
    """Also where time is delayed: the model holds it at the start before the start, and the standard does not."""
    # A selection that is compared comes back as a choice between comparisons.
    trigger = time > 1 if late.is_Piecewise else late > 1
    model = KineticModel(
        "late",
        [State("A", 1.0), State("B", 2)],
        [Parameter("lag", 1.5)],
        [Reaction("r", "A -> B", late)],
        assignments={"wave": A * sympy.sin(time), "past": late},
        events=[Event("e", trigger, {"A": late})],
    )
    assert_returns(model)


def test_delayed_time_stands_still_before_the_start_for_others_too():
    model = KineticModel("late", [State("A", 1.0)], [], [Reaction("r", "-> A", delay(A + time, 2))])
    document = parsed(model)
    law = document.getModel().getReaction(0).getKineticLaw()
    assert formula(law) == "delay(piecewise(A + 0, time < 0, A + time), 2)"


QUANTITIES = st.sampled_from(
    [A, B, symbol("C"), K, LAG, time, sympy.Integer(3), sympy.Float(0.1), sympy.Rational(2, 7)]
)
VALUES = st.one_of(
    QUANTITIES,
    st.builds(lambda a, b: a * b, QUANTITIES, QUANTITIES),
    st.builds(lambda a, b: sympy.exp(-a) + b, QUANTITIES, QUANTITIES),
    st.builds(lambda a, b: sympy.Max(a, b) / (1 + K), QUANTITIES, QUANTITIES),
    st.builds(lambda a, b: delay(a, LAG) - b, QUANTITIES, QUANTITIES),
    st.builds(lambda a, b: sympy.sign(a) * sympy.Mod(b, 2), QUANTITIES, QUANTITIES),
)
RELATIONS = st.builds(
    lambda kind, a, b: kind(a, b), st.sampled_from([sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le]), VALUES, QUANTITIES
)
TRIGGERS = st.one_of(
    RELATIONS,
    st.builds(lambda p, q: sympy.And(p, q), RELATIONS, RELATIONS),
    st.builds(lambda p, q, r: sympy.Or(p, sympy.And(q, sympy.Not(r))), RELATIONS, RELATIONS, RELATIONS),
)
EVENTS = st.builds(
    Event,
    name=st.just("e"),
    trigger=TRIGGERS,
    assignments=st.dictionaries(st.sampled_from(["A", "B", "dose", "odd name"]), VALUES, max_size=3),
    delay=st.one_of(st.just(sympy.S.Zero), VALUES),
    priority=st.one_of(st.none(), VALUES),
    persistent=st.booleans(),
    initially=st.booleans(),
    values_at_trigger=st.booleans(),
)


@given(st.lists(EVENTS, max_size=3), VALUES, VALUES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_model_returns_equal(events, law, root, fast):
    # Delayed values are of other states: before the start those of a fast reaction are not the same in a file.
    quick = symbol("dose") - K * symbol("odd name")
    model = KineticModel(
        "any",
        [State("A", 1.5), State("B", 2), State("C", K), State("dose", 3, "mg"), State("odd name"), State("held", 1)],
        [Parameter("k", 0.3), Parameter("lag", 2.0)],
        [Reaction("slow", "A -> B", law), Reaction("quick", {"dose": -1, "odd name": 1}, quick, fast=fast)],
        rates={"C": law},
        events=[replace(event, name=f"e{i}") for i, event in enumerate(events)],
        algebraic={"held": symbol("held") ** 3 + symbol("held") - root},
    )
    assert_returns(model)

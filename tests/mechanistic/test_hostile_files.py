"""Hostile files, read in a process with little time and memory: each ends in one error, or in a model.

The limits leave room for machines that are busy; on a free core nothing here takes more than a few seconds.
"""

import itertools

import pytest

from mechanistic.sbml import read_sbml, write_sbml
from tests.mechanistic.confined import Request, confined
from tests.mechanistic.sbml_text import (
    TIME,
    apply,
    assigned,
    call,
    compartment,
    function,
    initially,
    listed,
    parameter,
    reaction,
    reference,
    sbml,
    species,
    term,
)
from tests.mechanistic.sbml_text import math as written

SECONDS = 60
MEMORY = 2 * 2**30


@pytest.fixture(scope="module")
def child():
    child = confined(SECONDS, MEMORY)
    yield child
    child.stop()


def wrapped(body: str, *functions: str) -> str:
    """A file whose parameter `a` is initially `body`."""
    quantities = listed("Parameters", parameter("a"), parameter("b", "1"))
    return sbml(
        listed("FunctionDefinitions", *functions), quantities, listed("InitialAssignments", initially("a", body))
    )


def noted(text: str) -> str:
    return sbml().replace("<model", f"{text}<model")


def happening(name: str, trigger: str, value: str) -> str:
    change = f'<eventAssignment variable="p">{written(term(value))}</eventAssignment>'
    start = f'<trigger initialValue="true" persistent="true">{written(trigger)}</trigger>'
    changes = listed("EventAssignments", change)
    return f'<event id="{name}" useValuesFromTriggerTime="true">{start}{changes}</event>'


def eventful(*events: str) -> str:
    changing = (parameter(name, "0", constant=False) for name in "pq")
    return sbml(listed("Parameters", *changing), listed("Events", *events))


def entities() -> str:
    levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    return noted("<notes>&e12;</notes>").replace("?>\n", f'?>\n<!DOCTYPE s [<!ENTITY e0 "ha">{levels}]>')


def cycle(length: int, assign, constant: bool) -> str:
    names = [f"a{i}" for i in range(length)]
    equations = [assign(name, other) for name, other in zip(names, [*names[1:], names[0]], strict=True)]
    kind = "InitialAssignments" if constant else "Rules"
    return sbml(listed("Parameters", *(parameter(n, constant=constant) for n in names)), listed(kind, *equations))


def pieces(count: int) -> str:
    each = "".join(f"<piece>{term(str(i))}{apply('gt', 'b', str(i))}</piece>" for i in range(count))
    return f"<piecewise>{each}<otherwise>{term('0')}</otherwise></piecewise>"


def many(count: int) -> str:
    return "".join(apply("gt", "q", str(i)) for i in range(count))


REFUSED = {
    "entities that expand": (entities, "document type"),
    "ten megabytes of functions in each other": (
        lambda: wrapped("<apply><sin/>" * 500_000 + "<ci>b</ci>" + "</apply>" * 500_000),
        "nested deeper",
    ),
    "ten megabytes of paragraphs in each other": (lambda: noted("<notes>" + "<p>" * 3_300_000), "nested deeper"),
    "ten megabytes of a sum": (lambda: wrapped(f"<apply><plus/>{'<ci>b</ci>' * 900_000}</apply>"), "too many parts"),
    "ten megabytes of a name": (lambda: sbml(listed("Parameters", parameter("a" * 10_000_000))), "longer than"),
    "ten megabytes of a comment": (lambda: noted(f"<!--{'x' * 10_000_000}-->"), "longer than"),
    "a hundred thousand arguments": (
        lambda: wrapped(call("f", "b"), function("f", " ".join(f"x{i}" for i in range(100_000)), "x1")),
        "too many parts",
    ),
    "a selection of ten thousand": (lambda: wrapped(pieces(10_000)), "too many parts"),
    "a trigger of a hundred thousand": (
        lambda: eventful(happening("e", f"<apply><and/>{many(100_000)}</apply>", "1")),
        "too many parts",
    ),
    "a hundred thousand species": (
        lambda: sbml(listed("Species", *(species(f"s{i}", "V", 'initialAmount="1"') for i in range(100_000)))),
        "more than 10000 elements <species>",
    ),
    "ten thousand events": (
        lambda: eventful(*(happening(f"e{i}", apply("gt", TIME, str(i)), "1") for i in range(10_000))),
        "more than 1000 elements <event>",
    ),
    "a maximum of a thousand": (
        lambda: wrapped(f"<apply><max/>{''.join(apply('times', 'b', str(i)) for i in range(1000))}</apply>"),
        "more than 100 arguments",
    ),
    "ten thousand functions in a row": (
        lambda: wrapped("b", *(function(f"f{i}", "x", call(f"f{i - 1}", "x") if i else "x") for i in range(10_000))),
        "depend on each other",
    ),
    "three thousand rules over values that are missing": (
        lambda: sbml(
            listed("Parameters", *(parameter(f"{n}{i}", constant=n == "p") for i in range(3_000) for n in "pq")),
            listed("Rules", *(assigned(f"q{i}", apply("times", "2", f"p{i}")) for i in range(3_000))),
        ),
        "`p0`: no value",
    ),
    "initial values in a circle": (lambda: cycle(100, initially, True), "circular|cycle"),
    "rules in a circle": (lambda: cycle(100, assigned, False), "circular|cycle"),
    "functions that call each other": (
        lambda: wrapped(call("f", "b"), function("f", "x", call("g", "x")), function("g", "x", call("f", "x"))),
        "cycle|not previously defined",
    ),
    "an integer of a million digits": (lambda: wrapped(f"<cn>{'9' * 1_000_000}</cn>"), "valid double"),
    "a power of ten without end": (lambda: wrapped('<cn type="e-notation">1<sep/>999999999</cn>'), "exponential"),
    "a fraction of nothing": (lambda: wrapped('<cn type="rational">1<sep/>0</cn>'), "division by zero"),
    "a rate that is no number": (
        lambda: sbml(
            listed("Compartments", compartment("V", "INF")),
            listed("Species", species("S", "V", 'initialConcentration="NaN"')),
            listed("Reactions", reaction("J", reference("S", "INF"), "", "S")),
        ),
        "infinite|no initial value",
    ),
    "code for an encoding": (lambda: sbml().replace("UTF-8", "punycode").encode(), "encoding 'punycode'"),
    "what is no encoding": (lambda: sbml().replace("UTF-8", "hex").encode(), "encoding 'hex'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_refused_within_seconds(child, name, tmp_path):
    make, part = REFUSED[name]
    source = make()
    if isinstance(source, bytes):
        path = tmp_path / "model.xml"
        path.write_bytes(source)
        source = path
    outcome = child.ask(Request(source))
    assert outcome.error in ("InvalidSBML", "UnsupportedSBML"), outcome
    assert any(each in outcome.message for each in part.split("|")), outcome.message[:500]
    assert not outcome.forbidden


READ = {
    "a selection of five hundred": lambda: wrapped(pieces(500)),
    "three hundred events": lambda: eventful(*(happening(f"e{i}", apply("gt", TIME, str(i)), "1") for i in range(500))),
    "a trigger of five hundred": lambda: eventful(happening("e", f"<apply><and/>{many(500)}</apply>", "1")),
    "an exclusive or of a hundred": lambda: eventful(happening("e", f"<apply><xor/>{many(100)}</apply>", "1")),
}


@pytest.mark.parametrize("name", READ)
def test_large_files_are_read_within_seconds(child, name):
    outcome = child.ask(Request(READ[name]()))
    assert not outcome.error, outcome.message[:500]
    assert not outcome.forbidden


def test_events_that_set_each_other_off_without_end_are_stopped(child):
    # p - q changes its sign with each event, at one moment of time.
    apart = apply("minus", "p", "q")
    there = happening("there", apply("geq", apart, "0"), apply("minus", "q", "1"))
    back = happening("back", apply("lt", apart, "0"), apply("plus", "q", "1"))
    outcome = child.ask(Request(eventful(there, back, happening("first", apply("gt", TIME, "0.1"), "2")), "solve"))
    assert outcome.expected, outcome


# Names

NAMES = [
    *(
        "lambda",
        "None",
        "True",
        "class",
        "def",
        "exec",
        "eval",
        "import",
        "__class__",
        "__init__",
        "__import__",
        "self",
    ),
    *("print", "E", "I", "S", "N", "O", "Q", "C", "pi", "oo", "zoo", "nan", "inf", "beta", "gamma", "zeta", "Symbol"),
    *("sqrt", "exp", "sin", "time", "t", "delay", "rateOf", "avogadro", "symbol", "Piecewise"),
]


def decay(names: list[str]) -> str:
    """A species that decays, and the names of all that takes part in it."""
    space, substance, rate, process, doubled, twice = names
    law = apply("times", rate, substance, space)
    return sbml(
        listed("FunctionDefinitions", function(doubled, "x", apply("times", "2", "x"))),
        listed("Compartments", compartment(space, "2")),
        listed("Species", species(substance, space, 'initialAmount="8"')),
        listed("Parameters", parameter(rate, "0.5"), parameter(twice, constant=False)),
        listed("Rules", assigned(twice, call(doubled, substance))),
        listed("Reactions", reaction(process, reference(substance), "", law)),
    )


@pytest.mark.parametrize("shift", range(0, len(NAMES), 6))
def test_names_of_python_and_sympy_are_names_like_others(child, shift):
    names = list(itertools.islice(itertools.cycle(NAMES), shift, shift + 6))
    plain = child.ask(Request(decay(["V", "A", "k", "J", "f", "r"]), "solve"))
    named = child.ask(Request(decay(names), "solve"))
    assert not named.error, named
    assert not named.forbidden
    assert [value for _, value in named.states] == [value for _, value in plain.states]
    model = read_sbml(decay(names))
    assert model.state_names == (names[1],)
    assert read_sbml(write_sbml(model)) == model


def test_the_watch_of_the_child_sees_what_it_must(child, tmp_path):
    # Reading a file that does not exist is an error of Python's own, which the child tells from the project's.
    outcome = child.ask(Request(tmp_path / "absent.xml"))
    assert (outcome.error, outcome.expected) == ("FileNotFoundError", False)

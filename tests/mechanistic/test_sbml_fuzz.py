"""Damaged SBML files: each ends in a model or in one error of the project's own.

Valid files are changed in their bytes and in their elements, and read, compiled and solved in a process that is limited
in time and memory and that notices code made of text, programs, connections and files written. The same examples are
drawn in every run; `KINETWIN_FUZZ=20000` draws that many others.
"""

import os
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mechanistic.confined import STAGES, Request, confined
from tests.mechanistic.sbml_text import (
    AVOGADRO,
    SYMBOLS,
    TIME,
    apply,
    assigned,
    call,
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
    term,
)
from tests.mechanistic.sbml_text import math as written
from tests.mechanistic.test_sbml_hierarchy import DECAY, composed, definition, submodel, submodels

EXAMPLES = int(os.environ.get("KINETWIN_FUZZ", "0"))
SECONDS = 60
MEMORY = 2 * 2**30


def csymbol(name: str, *arguments: str) -> str:
    symbol = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/{name}">{name}</csymbol>'
    return f"<apply>{symbol}{''.join(map(term, arguments))}</apply>"


def event(name: str, trigger: str, value: str, more: str = "") -> str:
    change = f'<eventAssignment variable="p">{written(term(value))}</eventAssignment>'
    start = f'<trigger initialValue="false" persistent="false">{written(trigger)}</trigger>'
    return (
        f'<event id="{name}" useValuesFromTriggerTime="false">{start}{more}{listed("EventAssignments", change)}</event>'
    )


SPACE = listed("Compartments", compartment("V", "2"))
CHOSEN = f"<piecewise><piece><ci>k</ci>{apply('gt', TIME, '1')}</piece><otherwise><cn>2</cn></otherwise></piecewise>"
BODIES = (
    sbml(
        listed("FunctionDefinitions", function("f", "a b", apply("divide", "a", apply("plus", "a", "b")))),
        SPACE,
        listed("Species", species("S", "V", 'initialAmount="8"'), species("T", "V", 'initialConcentration="1"')),
        listed("Parameters", parameter("k", "0.5"), parameter("p", "1", constant=False), parameter("q")),
        listed("InitialAssignments", initially("q", apply("times", "k", apply("exp", "2")))),
        listed("Rules", assigned("p", apply("max", CHOSEN, "S"))),
        listed("Reactions", reaction("J", reference("S", "2"), reference("T"), call("f", "S", "k"))),
    ),
    sbml(
        listed("Parameters", parameter("p", "1", constant=False), parameter("q", "1", constant=False)),
        listed("Rules", rate("q", apply("minus", "p", csymbol("delay", "q", "0.5")))),
        listed(
            "Events",
            event("e", apply("and", apply("gt", TIME, "0.2"), apply("lt", "p", "2")), apply("plus", "p", "q")),
            event("g", apply("gt", "q", "1.1"), "0", f"<priority>{written(term('2'))}</priority>"),
            event("h", apply("gt", TIME, "0.7"), AVOGADRO, f"<delay>{written(term('0.1'))}</delay>"),
        ),
    ),
    sbml(
        SPACE,
        listed("Species", species("S", "V", 'initialAmount="3"'), species("T", "V", 'initialAmount="1"')),
        listed("Parameters", parameter("k", "2"), parameter("p", constant=False)),
        listed("Rules", f"<algebraicRule>{written(apply('minus', apply('times', 'k', 'p'), 'S'))}</algebraicRule>"),
        listed(
            "Reactions", reaction("J", reference("S"), reference("T"), apply("minus", "S", "T"), more='fast="true"')
        ),
        version=1,
    ),
    sbml(
        listed("Parameters", parameter("p", "1", constant=False), parameter("q", "1", constant=False)),
        listed("Rules", assigned("p", csymbol("rateOf", "q")), rate("q", apply("minus", apply("root", "q")))),
    ),
    composed(submodels(submodel("A", "decay"), submodel("B", "decay")), definitions=definition("decay", DECAY)),
    """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model name="m">
<listOfCompartments><compartment name="V" volume="2"/></listOfCompartments>
<listOfSpecies><species name="S" compartment="V" initialAmount="3"/></listOfSpecies>
<listOfParameters><parameter name="k" value="0.5"/></listOfParameters>
<listOfReactions><reaction name="J" reversible="false">
<listOfReactants><speciesReference species="S"/></listOfReactants>
<kineticLaw formula="k*S^2/(1+pow(S,2))"/></reaction></listOfReactions></model></sbml>""",
)
WORDS = (
    "", "0", "-1", "1e400", "1e-400", "NaN", "-INF", "true", "false", "lambda", "__class__", "exec", "time", "S", "p",
    "q", "V", "k", "J", "f", "e", "A", "decay", "A__S", "3", "1/0", "9" * 400, "../x", "http://127.0.0.1:9/x", "\u00e9",
)  # fmt: skip
TAGS = [
    *("plus", "minus", "times", "divide", "power", "root", "exp", "ln", "sin", "tan", "arcsec", "factorial", "floor"),
    *("quotient", "rem", "min", "and", "or", "xor", "not", "implies", "eq", "neq", "lt", "piecewise", "piece"),
    *("otherwise", "apply", "lambda", "bvar", "degree", "logbase", "ci", "cn", "sep", "csymbol", "true", "infinity"),
]
TOKENS = (
    "<",
    ">",
    "&",
    "&#0;",
    "&#x1F600;",
    "]]>",
    "<!--",
    "<![CDATA[",
    "<!DOCTYPE a>",
    "<?a b?>",
    '"',
    "'",
    "\x00",
    "\ufeff",
)


@st.composite
def damaged_elements(draw) -> str:
    """A valid file with elements taken out, doubled, moved, renamed, or with other words in them."""
    root = ElementTree.fromstring(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(1, 4))):
        places = [(above, child) for above in root.iter() for child in above]
        if not places:
            break
        above, child = places[draw(st.integers(0, len(places) - 1))]
        other = places[draw(st.integers(0, len(places) - 1))][1]
        change = draw(
            st.sampled_from(("remove", "double", "move", "tag", "text", "attribute", "attribute", "attribute"))
        )
        if change == "remove":
            above.remove(child)
        elif change == "double":
            above.append(child)
        elif change == "move" and child not in other.iter():
            above[list(above).index(child)] = other
        elif change == "tag":
            child.tag = child.tag.rpartition("}")[0] + "}" * ("}" in child.tag) + draw(st.sampled_from(TAGS))
        elif change == "text":
            child.text = draw(st.sampled_from(WORDS))
        elif change == "attribute" and child.attrib:
            child.set(draw(st.sampled_from(sorted(child.attrib))), draw(st.sampled_from(WORDS)))
        if sum(1 for _ in root.iter()) > 2000:
            break
    return ElementTree.tostring(root, encoding="unicode")


@st.composite
def damaged_bytes(draw) -> str:
    """A valid file with pieces cut out, doubled, and put in."""
    text = draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(1, 4))):
        first, second = sorted(draw(st.integers(0, len(text))) for _ in range(2))
        second = min(second, first + draw(st.sampled_from((1, 4, 30, 300))))
        piece = draw(st.sampled_from(TOKENS + WORDS) | st.characters(exclude_categories=("Cs",)))
        text = text[:first] + draw(st.sampled_from(("", piece, text[first:second] * 2))) + text[second:]
    return text if text.lstrip("\ufeff \t\r\n").startswith("<") else f"<{text}"


@pytest.fixture(scope="module")
def child():
    child = confined(SECONDS, MEMORY)
    yield child
    child.stop()


def check(child, text: str, stage: str) -> None:
    outcome = child.ask(Request(text, stage))
    assert outcome.expected, outcome
    assert not outcome.forbidden, outcome


FEW = settings(
    max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("text", BODIES, ids=range(len(BODIES)))
def test_the_files_are_valid_to_begin_with(child, text):
    outcome = child.ask(Request(text, "read"))
    assert not outcome.error, outcome


@FEW
@given(text=damaged_elements(), stage=st.sampled_from(STAGES))
def test_damaged_elements(child, text, stage):
    check(child, text, stage)


@FEW
@given(text=damaged_bytes(), stage=st.sampled_from(STAGES))
def test_damaged_text(child, text, stage):
    check(child, text, stage)

"""Files that cannot be read: every problem at once, with its place, and never a crash."""

import pytest

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.sbml import read_sbml
from mechanistic.sbml.findings import Findings
from tests.mechanistic.sbml_text import (
    apply,
    assigned,
    call,
    compartment,
    delayed,
    event,
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
    term,
)


def test_five_problems_are_listed_in_one_error():
    text = sbml(
        listed("Compartments", compartment("V", "2")),
        listed("Species", species("S", "V"), species("T", "V", 'initialAmount="1"')),
        listed("Parameters", parameter("p", "1", constant=False), parameter("q", constant=False), parameter("u")),
        listed("Rules", f"<algebraicRule>{math(apply('minus', apply('times', 'q', 'q'), 'u'))}</algebraicRule>"),
        listed(
            "Reactions",
            reaction("early", reference("S"), "", delayed("p", "-1")),
            reaction("lawless", reference("T"), "", "1").replace(f"<kineticLaw>{math(term('1'))}</kineticLaw>", ""),
        ),
        listed("Events", event("dose", apply("gt", "p", "1"), {"S": "2", "p": apply("divide", "1", "0")})),
    )
    with pytest.raises(UnsupportedSBML) as refusal:
        read_sbml(text)
    problems = "\n".join(refusal.value.problems)
    for part in ("`p` in event `dose`", "algebraic rule", "reaction `early`: delay()", "reaction `lawless`"):
        assert part in problems
    assert "species `S`: it has no initial value" in problems


def test_all_that_the_standard_forbids_is_listed_with_lines():
    rules = [assigned("a", "unknown"), assigned("b", "missing"), assigned("c", apply("divide", "a", "b", "a"))]
    names = [parameter(name, constant=False) for name in "abc"]
    text = sbml(listed("Parameters", *names), listed("Rules", *rules)).replace("<assignmentRule", "\n<assignmentRule")
    with pytest.raises(InvalidSBML) as refusal:
        read_sbml(text)
    problems = "\n".join(refusal.value.problems)
    assert "unknown" in problems
    assert "missing" in problems
    assert all(problem.startswith("line ") for problem in refusal.value.problems)
    assert len(refusal.value.problems) >= 3


@pytest.mark.parametrize(
    ("lists", "part"),
    [
        (
            [
                listed("Parameters", parameter("a", "INF"), parameter("b")),
                listed("InitialAssignments", initially("b", "a")),
            ],
            "`a`: its value is infinite, but used in `b`",
        ),
        (
            [listed("Parameters", parameter("a", "INF", constant=False)), listed("Rules", rate("a", "1"))],
            "`a`: its initial value is infinite",
        ),
        (
            [
                listed("Parameters", parameter("a", "NaN"), parameter("b")),
                listed("InitialAssignments", initially("b", "a")),
            ],
            "`a`",
        ),
        ([listed("Parameters", parameter("a", constant=False)), listed("Rules", rate("a", "1"))], "`a`"),
        (
            [
                listed("Parameters", parameter("a", constant=False), parameter("b")),
                listed("InitialAssignments", initially("b", "a")),
                '<listOfRules><assignmentRule variable="a"/></listOfRules>',
            ],
            "`a`: no value, but used in `b`",
        ),
    ],
)
def test_values_and_mathematics_that_are_missing_are_named(lists, part):
    space = listed("Compartments", compartment("V")) + listed("Species", species("S", "V", 'initialAmount="1"'))
    with pytest.raises(UnsupportedSBML, match=part):
        read_sbml(sbml(space, *lists))


def test_a_compartment_without_size_is_refused_where_it_is_needed():
    lists = (listed("Compartments", compartment("V", "")), listed("Species", species("S", "V", 'initialAmount="1"')))
    assert read_sbml(sbml(*lists)).observables == {}
    with pytest.raises(UnsupportedSBML, match="compartment `V`: no value, but used in reaction `J`"):
        read_sbml(sbml(*lists, listed("Reactions", reaction("J", reference("S"), "", "S"))))


def test_flux_balance_is_refused_in_one_sentence():
    names = ["a", "b", "c"]
    lawless = [
        reaction(n, "", reference("S"), "1").replace(f"<kineticLaw>{math(term('1'))}</kineticLaw>", "") for n in names
    ]
    package = 'xmlns:fbc="http://www.sbml.org/sbml/level3/version1/fbc/version2" fbc:required="false"'
    text = sbml(
        listed("Compartments", compartment("V")),
        listed("Species", species("S", "V", 'initialAmount="1"')),
        listed("Reactions", *lawless),
        attributes='fbc:strict="false"',
        root=package,
    )
    with pytest.raises(UnsupportedSBML) as refusal:
        read_sbml(text)
    (problem,) = refusal.value.problems
    assert problem.startswith("package fbc:")
    assert "3 reactions have no kinetic law" in problem
    with pytest.raises(UnsupportedSBML) as refusal:
        read_sbml(text.replace(package, "").replace('fbc:strict="false"', ""))
    assert refusal.value.problems == tuple(f"reaction `{name}`: it has no kinetic law" for name in names)


def test_packages_that_change_the_meaning_are_refused_beside_everything_else():
    package = 'xmlns:multi="http://www.sbml.org/sbml/level3/version1/multi/version1" multi:required="true"'
    endless = [parameter("a", "INF"), parameter("b")]
    text = sbml(listed("Parameters", *endless), listed("InitialAssignments", initially("b", "a")), root=package)
    with pytest.raises(UnsupportedSBML) as refusal:
        read_sbml(text)
    assert [problem.split()[0] for problem in refusal.value.problems] == ["package", "parameter"]


def test_what_is_undefined_beside_an_unsupported_package_is_no_crash():
    package = 'xmlns:multi="http://www.sbml.org/sbml/level3/version1/multi/version1" multi:required="true"'
    with pytest.raises(UnsupportedSBML, match="package"):
        read_sbml(sbml(listed("Reactions", reaction("J", reference("S"), "", "1")), root=package))


def test_packages_of_pictures_are_ignored():
    package = 'xmlns:layout="http://www.sbml.org/sbml/level3/version1/layout/version1" layout:required="false"'
    assert read_sbml(sbml(listed("Parameters", parameter("p", "1")), root=package)).parameter_names == ("p",)


# Hostile files

ENTITY = '<!DOCTYPE sbml [<!ENTITY a "b">]>'
PATH_ENTITY = '<!DOCTYPE sbml [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def wrapped(body: str, *functions: str) -> str:
    """A file whose parameter `a` is initially `body`."""
    quantities = listed("Parameters", parameter("a"), parameter("b", "1"))
    return sbml(
        listed("FunctionDefinitions", *functions), quantities, listed("InitialAssignments", initially("a", body))
    )


def nested(depth: int) -> str:
    return f"{'<apply><sin/>' * depth}<ci>b</ci>{'</apply>' * depth}"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("<html/>", "root element is <html>"),
        ("<sbml>\n<model>", "line 2"),
        ("<", "well-formed"),
        (sbml().replace("<model", "<notes>&a;</notes><model"), "entity"),
        (sbml().replace("?>\n", f"?>\n{ENTITY}"), "document type"),
        (sbml().replace("?>\n", f"?>\n{PATH_ENTITY}"), "document type"),
        (wrapped(nested(100_000)), "nested deeper"),
        (sbml().replace("<model", "<a>" * 100_000 + "<model"), "nested deeper"),
        ('<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2"/>', "no model"),
        (wrapped(call("f", "b"), function("f", "x", call("f", "x"))), "refers to itself"),
        (wrapped(call("f", "b"), function("f", "x", call("g", "x")), function("g", "x", call("f", "x"))), "cycle"),
    ],
    ids=range(11),
)
def test_hostile_or_broken_files_end_in_one_sentence(text, part):
    with pytest.raises(InvalidSBML, match=part):
        read_sbml(text)


@pytest.mark.parametrize("depth", [160, 350])
def test_deep_mathematics_is_refused_and_not_overrun(depth):
    with pytest.raises(UnsupportedSBML, match="nested deeper than 150"):
        read_sbml(wrapped(nested(depth)))


def test_long_differences_are_not_deep():
    body = "<apply><minus/>" * 300 + "<ci>b</ci>" + "<cn>2</cn></apply>" * 300
    assert read_sbml(wrapped(body)).initial_values() == {}


@pytest.mark.parametrize("argument", ["b", "1"])
def test_definitions_that_double_sixty_times_are_refused(argument):
    doubled = [
        function(f"f{i}", "x", apply("times", call(f"f{i - 1}", "x"), apply("sin", call(f"f{i - 1}", "x"))))
        for i in range(1, 60)
    ]
    text = wrapped(call("f59", argument), function("f0", "x", apply("sin", "x")), *doubled)
    with pytest.raises(UnsupportedSBML, match="too large"):
        read_sbml(text)


@pytest.mark.parametrize(("length", "part"), [(200, "written out"), (2000, "pairs")])
def test_long_chains_of_rules_are_refused(length, part):
    names = [parameter(f"a{i}", constant=False) for i in range(length)] + [parameter("b", "1")]
    rules = [assigned(f"a{i}", apply("sin", f"a{i - 1}" if i else "b")) for i in range(length)]
    deep = [
        rule.replace("<sin/>", "<sin/><apply><cos/>").replace("</ci></apply>", "</ci></apply></apply>")
        for rule in rules
    ]
    with pytest.raises(UnsupportedSBML, match=part):
        read_sbml(sbml(listed("Parameters", *names), listed("Rules", *deep)))


def test_rules_that_depend_on_each_other_are_invalid():
    text = sbml(
        listed("Parameters", parameter("a", constant=False), parameter("b", constant=False)),
        listed("Rules", assigned("a", "b"), assigned("b", "a")),
    )
    with pytest.raises(InvalidSBML, match="with variable 'a' creates a cycle"):
        read_sbml(text)


def test_an_oversized_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("mechanistic.sbml.document.SIZE_LIMIT", 1000)
    path = tmp_path / "large.xml"
    path.write_text(sbml() + " " * 1000)
    with pytest.raises(InvalidSBML, match="larger than"):
        read_sbml(path)
    with pytest.raises(InvalidSBML, match="larger than"):
        read_sbml(sbml() + " " * 1000)


def test_a_file_that_is_not_text_is_invalid(tmp_path):
    path = tmp_path / "model.xml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff")
    with pytest.raises(InvalidSBML, match=r"`model\.xml`"):
        read_sbml(path)


def test_a_missing_file_is_missing():
    with pytest.raises(FileNotFoundError):
        read_sbml("there/is/no/such/file.xml")


def test_what_is_not_supported_stands_behind_what_is_invalid():
    findings = Findings("the text")
    findings.unsupported("event `dose`")
    findings.invalid("`x` is not defined")
    with pytest.raises(InvalidSBML) as refusal:
        findings.check()
    assert refusal.value.problems == ("`x` is not defined", "event `dose` (not supported)")

"""The runner of the SBML test suite, on a folder of small cases whose verdicts are known."""

import json
import math
import re
from dataclasses import replace

import pytest

from tests.conformance import sbml as runner
from tests.conformance.sbml_cases import Case, read_cases
from tests.conformance.sbml_report import BEGIN, END, Verdict, kind_of_problem, report, summary, with_results
from tests.mechanistic.sbml_text import (
    apply,
    assigned,
    compartment,
    listed,
    parameter,
    reaction,
    reference,
    sbml,
    species,
)

DECAY = (
    listed("Compartments", compartment("V", "2")),
    listed("Species", species("S", "V", 'initialAmount="8"')),
    listed("Parameters", parameter("k", "1"), parameter("p", "1", False), parameter("r", constant=False)),
    listed("Rules", assigned("r", apply("times", "2", "S"))),
    listed("Reactions", reaction("J", reference("S"), "", apply("times", "k", "S", "V"))),
)
# S falls as 8 exp(-t); its concentration is half of that, and r is twice the concentration.
VALUES = {"amount": lambda t: 8 * math.exp(-t), "concentration": lambda t: 4 * math.exp(-t)}


def write_case(folder, case, text, *, kind="amount", values=None, test_type="TimeCourse", indexed=True):
    place = folder / "cases" / case
    place.mkdir(parents=True)
    (place / f"{case}-sbml-l3v2.xml").write_text(text)
    exact = values or VALUES[kind]
    rows = [f"{t},{exact(t)!r},{VALUES['amount'](t)!r}" for t in (0.0, 1.0, 2.0)]
    (place / f"{case}-results.csv").write_text("\n".join(["time,S,r", *rows]))
    wanted = {name: "S" if name == kind else "" for name in ("amount", "concentration")}
    course = {"start": "0", "duration": "2.0", "steps": "2"} if test_type == "TimeCourse" else dict.fromkeys(COURSE, "")
    settings = {**course, "variables": "S, r", "absolute": "1.000000e-009", "relative": "1e-6", **wanted}
    (place / f"{case}-settings.txt").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    entry = {
        "id": case,
        "file": f"cases/{case}/{case}-sbml-l3v2.xml",
        "testType": test_type,
        "start": 0.0,
        "duration": 2.0,
        "steps": 2,
        "variables": ["S", "r"],
        "absolute": 1e-9,
        "relative": 1e-6,
        "amount": ["S"] if kind == "amount" else [],
        "concentration": ["S"] if kind == "concentration" else [],
        "components": ["Species"],
        "tags": [kind.title()],
        "packages": [],
    }
    if indexed:
        with (folder / "index.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


COURSE = ("start", "duration", "steps")


@pytest.fixture
def folder(tmp_path):
    write_case(tmp_path, "00001", sbml(*DECAY))
    write_case(tmp_path, "00002", sbml(*DECAY), kind="concentration")
    write_case(tmp_path, "00003", re.sub("<kineticLaw>.*</kineticLaw>", "", sbml(*DECAY)))
    write_case(tmp_path, "00004", sbml(*DECAY), test_type="FluxBalanceSteadyState")
    return tmp_path


def run(folder, capfd, *more):
    """Exit code, lines, and the report of the runner."""
    code = runner.main([str(folder), "--out", str(folder / "out"), *more])
    written = folder / "out" / "conformance" / "sbml.md"
    return code, capfd.readouterr().out.splitlines(), written.read_text() if written.exists() else ""


def test_amounts_concentrations_and_refusals_are_told_apart(folder, capfd):
    page = runner.PAGE.read_text()
    code, lines, written = run(folder, capfd, "--jobs", "1")
    assert (code, lines) == (0, ["sbml: 2 passed, 0 failed, 2 unsupported, 0 errors"])
    assert "| Species | 4 | 2 | 0 | 2 | 0 |" in written
    assert "| Concentration | 1 | 1 | 0 | 0 | 0 |" in written
    assert f"| {runner.FLUX_BALANCE} | 1 |" in written
    assert re.search(r"\| reaction `…`: .* \| 1 \|", written)
    # Results on other cases than the given ones are not those of the documentation.
    assert runner.PAGE.read_text() == page


def test_wrong_numbers_broken_files_and_timeouts_are_failures(folder, capfd):
    write_case(folder, "00005", sbml(*DECAY), values=lambda t: 8 * math.exp(-t) * (1 + 2e-6))
    write_case(folder, "00006", sbml(*DECAY).replace("</model>", ""))
    code, (*lines, last), written = run(folder, capfd)
    assert code == 1
    assert last == "sbml: 2 passed, 1 failed, 2 unsupported, 1 errors"
    assert [line.split(":")[0] for line in lines] == ["00005 fail", "00006 error"]
    assert "`S` in row 0" in lines[0]
    assert "### Failed\n\n00005" in written
    assert "### Errors\n\n00006" in written


def test_a_folder_without_index_is_read_from_its_settings(tmp_path, capfd):
    write_case(tmp_path, "00001", sbml(*DECAY), kind="concentration", indexed=False)
    write_case(tmp_path, "00002", sbml(*DECAY), test_type="FluxBalanceSteadyState", indexed=False)
    description = "componentTags: Species, Reaction\ntestTags: Concentration\ntestType: TimeCourse\n"
    (tmp_path / "cases" / "00001" / "00001-model.m").write_text(f"(*\n{description}*)\n")
    code, lines, written = run(tmp_path, capfd)
    assert (code, lines[-1]) == (0, "sbml: 1 passed, 0 failed, 1 unsupported, 0 errors")
    assert "| Reaction | 1 | 1 | 0 | 0 | 0 |" in written


@pytest.mark.parametrize(
    "given", [{}, {"steps": None}, {"file": None, "testType": None}, {"variables": None, "concentration": None}]
)
def test_what_a_row_leaves_out_is_taken_from_the_settings(tmp_path, given):
    write_case(tmp_path, "00001", sbml(*DECAY), kind="concentration")
    (whole,) = read_cases(tmp_path)
    row = json.loads((tmp_path / "index.jsonl").read_text())
    kept = {"id": row["id"]} if not given else {key: value for key, value in row.items() if key not in given}
    (tmp_path / "index.jsonl").write_text(json.dumps(kept))
    (case,) = read_cases(tmp_path)
    assert replace(case, labels=whole.labels) == whole


def test_cases_that_cannot_be_read_are_errors_that_stop_nothing(tmp_path, capfd):
    for number in range(1, 9):
        write_case(tmp_path, f"0000{number}", sbml(*DECAY))
    rows = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    rows[1]["steps"] = "many"
    rows[2]["file"] = "cases/00003/absent.xml"
    del rows[3]["duration"]
    del rows[4]["id"]
    (tmp_path / "cases" / "00004" / "00004-settings.txt").unlink()
    (tmp_path / "cases" / "00006" / "00006-results.csv").unlink()
    (tmp_path / "cases" / "00007" / "00007-results.csv").write_text("time,S,r\n0,1\n")
    (tmp_path / "cases" / "00008" / "00008-results.csv").write_bytes(b"\xff\xfe\x00")
    text = "\n".join([*map(json.dumps, rows), "{", "[]"])
    (tmp_path / "index.jsonl").write_text(text)
    code, (*lines, last), _ = run(tmp_path, capfd)
    assert code == 1
    assert last == "sbml: 1 passed, 0 failed, 0 unsupported, 9 errors"
    places = ["00002", "00003", "00004", "index.jsonl:5", "00006", "00007", "00008", "index.jsonl:9", "index.jsonl:10"]
    assert [line.split(" ")[0] for line in lines] == places
    parts = ["`steps` is 'many'", "no absent.xml", "`duration` is not given", "no `id`", "no 00006-results.csv"]
    assert all(part in line for part, line in zip(parts, lines, strict=False))


def test_a_case_that_takes_too_long_is_stopped(folder):
    verdicts = runner.score(read_cases(folder)[:1], jobs=1, timeout=0.0, memory=2**33)
    assert verdicts[0].status == "timeout"
    assert "no answer within" in verdicts[0].reason
    assert summary(verdicts) == "sbml: 0 passed, 0 failed, 0 unsupported, 1 errors"


def test_a_child_that_cannot_start_is_an_error(folder):
    # Python itself does not fit into 32 MiB.
    verdicts = runner.score(read_cases(folder)[:1], jobs=1, timeout=60.0, memory=2**25)
    assert verdicts[0].status == "error"


def test_an_absent_suite_is_skipped_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KINETWIN_SHARED", str(tmp_path))
    assert runner.main([]) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_named_folder_without_cases_is_a_mistake(tmp_path):
    with pytest.raises(SystemExit) as end:
        runner.main([str(tmp_path)])
    assert end.value.code != 0


@pytest.mark.parametrize(
    ("actual", "expected", "passes"),
    [
        (1.0, 1.0 + 2e-9, True),
        (1.0, 1.0 + 3e-9, False),
        (math.nan, math.nan, True),
        (0.0, math.nan, False),
        (math.nan, 0.0, False),
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (1e300, math.inf, False),
    ],
)
def test_a_value_passes_within_both_tolerances_together(actual, expected, passes, tmp_path):
    case = Case("1", tmp_path, tmp_path, variables=("x",), absolute=1e-9, relative=1e-9)
    assert (runner.judge(case, {"x": [actual]}, {"x": [expected]}).status == "pass") is passes


def test_results_replace_results_and_nothing_else():
    page = f"# A page\n\n{BEGIN}\nold\n{END}\n\nmore\n"
    once = with_results(page, "new")
    assert once == f"# A page\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"
    assert with_results(once, "new") == once
    with pytest.raises(ValueError, match="marks"):
        with_results("# A page", "new")


def test_the_page_of_the_documentation_holds_results():
    page = runner.PAGE.read_text("utf-8")
    assert with_results(page, page.partition(BEGIN)[2].partition(END)[0].strip()) == page


def test_reasons_are_counted_once_a_case_and_without_names(tmp_path):
    verdicts = [
        Verdict("1", "unsupported", "event `a`\nevent `b`\nreaction `J`: delay()"),
        Verdict("2", "unsupported", "event number 3"),
        Verdict("3", "unsupported", "event `c`"),
    ]
    shown = report([Case(v.case, tmp_path, tmp_path) for v in verdicts], verdicts)
    assert "| event `…` | 2 |\n| event number N | 1 |\n| reaction `…`: delay() | 1 |" in shown
    assert kind_of_problem("`a`: no value, but used in `b`, `c1`") == "`…`: no value, but used in `…`"

"""The runner of the SBML test suite, on a folder of small cases whose verdicts are known."""

import json
import math

import pytest

from tests.conformance import sbml as runner
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
from tests.mechanistic.test_sbml_refusals import event

DECAY = (
    listed("Compartments", compartment("V", "2")),
    listed("Species", species("S", "V", 'initialAmount="8"')),
    listed("Parameters", parameter("k", "1"), parameter("p", "1", False), parameter("r", constant=False)),
    listed("Rules", assigned("r", apply("times", "2", "S"))),
    listed("Reactions", reaction("J", reference("S"), "", apply("times", "k", "S", "V"))),
)
# S falls as 8 exp(-t); its concentration is half of that, and r is twice the concentration.
VALUES = {"amount": lambda t: 8 * math.exp(-t), "concentration": lambda t: 4 * math.exp(-t)}


def write_case(folder, case, text, *, kind="amount", values=None, test_type="TimeCourse"):
    place = folder / "cases" / case
    place.mkdir(parents=True)
    (place / f"{case}-sbml-l3v2.xml").write_text(text)
    exact = values or VALUES[kind]
    rows = [f"{t},{exact(t)!r},{VALUES['amount'](t)!r}" for t in (0.0, 1.0, 2.0)]
    (place / f"{case}-results.csv").write_text("\n".join(["time,S,r", *rows]))
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
    with (folder / "index.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


@pytest.fixture
def folder(tmp_path):
    write_case(tmp_path, "00001", sbml(*DECAY))
    write_case(tmp_path, "00002", sbml(*DECAY), kind="concentration")
    write_case(tmp_path, "00003", sbml(*DECAY, listed("Events", event("e"))))
    write_case(tmp_path, "00004", sbml(*DECAY), test_type="FluxBalanceSteadyState")
    return tmp_path


def test_amounts_concentrations_and_refusals_are_told_apart(folder, capfd, tmp_path):
    assert runner.main([str(folder), "--jobs", "1", "--report", str(tmp_path / "report.md")]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "sbml: 2 passed, 0 failed, 2 unsupported, 0 errors"
    report = (tmp_path / "report.md").read_text()
    assert "| Species | 4 | 2 | 0 | 2 | 0 |" in report
    assert "| Concentration | 1 | 1 | 0 | 0 | 0 |" in report


def test_wrong_numbers_broken_files_and_timeouts_are_failures(folder, capfd):
    write_case(folder, "00005", sbml(*DECAY), values=lambda t: 8 * math.exp(-t) * (1 + 2e-6))
    write_case(folder, "00006", sbml(*DECAY).replace("</model>", ""))
    assert runner.main([str(folder), "--jobs", "2"]) == 1
    *lines, last = capfd.readouterr().out.splitlines()
    assert last == "sbml: 2 passed, 1 failed, 2 unsupported, 1 errors"
    assert [line.split(":")[0] for line in lines] == ["00005 fail", "00006 error"]
    assert "`S` in row 0" in lines[0]


def test_a_case_that_takes_too_long_is_stopped(folder):
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    verdicts = runner.score(folder, rows[:1], jobs=1, timeout=0.0, memory=2**33)
    assert verdicts[0].status == "timeout"
    assert runner.summary(verdicts) == "sbml: 0 passed, 0 failed, 0 unsupported, 1 errors"


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
def test_a_value_passes_within_both_tolerances_together(actual, expected, passes):
    case = {"id": "1", "variables": ["x"], "absolute": 1e-9, "relative": 1e-9}
    assert (runner.judge(case, {"x": [actual]}, {"x": [expected]}).status == "pass") is passes

"""What a run of the SBML test suite is shown as: a last line, and tables in Markdown.

Nothing here depends on the machine or the time of the run, so that a page changes only when a verdict does.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, final

from tests.conformance.sbml_cases import Case

STATUSES = ("pass", "fail", "unsupported", "error", "timeout")
BEGIN, END = "<!-- results of SUITE=sbml: begin -->", "<!-- results of SUITE=sbml: end -->"


@final
class Verdict(NamedTuple):
    """How a case ended, and why; the problems of a refusal stand one a line."""

    case: str
    status: str
    reason: str = ""


@final
class Published(NamedTuple):
    """What another program does on the suite; empty where it is not known."""

    name: str
    cases: str
    passed: str
    failed: str
    unsupported: str
    source: str


_MEASURED = "measured with the release"
OTHERS = (
    Published("roadrunner 2.10", "1787 time courses", "1578", "1", "208", _MEASURED),
    Published(
        "AMICI",
        "1823",
        "1290",
        "",
        "",
        "stated for AMICI; its pages that could be read say 1247 of 1821",
    ),
    Published(
        "SBMLImporter.jl",
        "1821",
        "1266",
        "",
        "",
        "[its documentation](https://sebapersson.github.io/SBMLImporter.jl/stable/support)",
    ),
    Published("sbmltoodejax 0.4.3", "", "462", "132", "", _MEASURED),
    Published("jaxkineticmodel 0.0.4", "", "336", "242", "", _MEASURED),
)


def summary(verdicts: Iterable[Verdict]) -> str:
    """The last line of a run; a timeout is an error."""
    passed, failed, unsupported, errors = _counts(verdicts)
    return f"sbml: {passed} passed, {failed} failed, {unsupported} unsupported, {errors} errors"


def report(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> str:
    """The tables of a run, in Markdown, from headings of the third level downwards."""
    parts = [
        f"{len(cases)} cases, of which {sum(case.test_type == 'TimeCourse' for case in cases)} are time courses:",
        f"```text\n{summary(verdicts)}\n```",
        "### Beside others",
        _comparison(cases, verdicts),
        "### What is not supported",
        "A case that has several reasons is counted at each of them.",
        _reasons(verdicts),
        *_wrong(verdicts),
        "### By component, tag and package",
        _by_label(cases, verdicts),
    ]
    return "\n\n".join(parts)


def with_results(page: str, results: str) -> str:
    """`page` with `results` between its marks.

    Raises:
        ValueError: when the page does not hold both marks, in order.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page does not hold the marks `{BEGIN}` and `{END}`")
    return f"{head}{BEGIN}\n\n{results}\n\n{END}{tail}"


def _counts(verdicts: Iterable[Verdict]) -> tuple[int, int, int, int]:
    """Passed, failed, unsupported, errors."""
    count = Counter(verdict.status for verdict in verdicts)
    return count["pass"], count["fail"], count["unsupported"], count["error"] + count["timeout"]


def _table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Rows under a head in Markdown; columns whose title is a count are set right."""
    numeric = {"Cases", "Passed", "Failed", "Unsupported", "Errors"}
    titles = head.split(" | ")
    rule = "|".join("---:" if title in numeric else "---" for title in titles)
    lines = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in lines)])


def _comparison(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> str:
    courses = [verdict for case, verdict in zip(cases, verdicts, strict=True) if case.test_type == "TimeCourse"]
    own = [
        ("Kinetwin, these cases", len(cases), *_counts(verdicts), "`make conformance`"),
        ("Kinetwin, these time courses", len(courses), *_counts(courses), "`make conformance`"),
    ]
    others = [(o.name, o.cases, o.passed, o.failed, o.unsupported, "", o.source) for o in OTHERS]
    return _table("Program | Cases | Passed | Failed | Unsupported | Errors | Source", [*own, *others])


def _reasons(verdicts: Iterable[Verdict]) -> str:
    """Refusals by what was refused, names left out."""
    found: Counter[str] = Counter()
    for verdict in verdicts:
        if verdict.status == "unsupported":
            found.update({kind_of_problem(problem) for problem in verdict.reason.splitlines()})
    return _table("Reason | Cases", sorted(found.items(), key=lambda item: (-item[1], item[0])))


def kind_of_problem(problem: str) -> str:
    """A problem without the names in it, so that the same problem of two models reads the same."""
    return re.sub(r"(?<![\w.])\d+(\.\d+)?(e[+-]?\d+)?\b", "N", re.sub(r"`[^`]*`(, `[^`]*`)*", "`…`", problem))


def _wrong(verdicts: Iterable[Verdict]) -> list[str]:
    """Cases that came out wrong and cases that ended in an error, by number; nothing when there are none."""
    lists: defaultdict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.status not in ("pass", "unsupported"):
            lists["Failed" if verdict.status == "fail" else "Errors"].append(verdict.case)
    return [text for title, names in lists.items() for text in (f"### {title}", ", ".join(names))]


def _by_label(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> str:
    found: defaultdict[str, list[Verdict]] = defaultdict(list)
    for case, verdict in zip(cases, verdicts, strict=True):
        for label in case.labels:
            found[label].append(verdict)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = ((label, len(those), *_counts(those)) for label, those in ordered)
    return _table("Label | Cases | Passed | Failed | Unsupported | Errors", rows)

"""Scores the simulator on the cases of the SBML test suite: `python -m tests.conformance.sbml [FOLDER]`.

The folder holds `index.jsonl`, one row a case, and `cases/NNNNN/` with the model and the expected values. Each case
runs in a child process with a time and a memory limit. A case passes when every value is within the tolerances of the
case, |actual - expected| <= absolute + relative |expected|; it is unsupported when the reader refuses it.

The last line reads `sbml: N passed, N failed, N unsupported, N errors`; the exit code is 1 when a case failed or ended
in an error, and 0 otherwise.
"""

import argparse
import csv
import json
import math
import multiprocessing
import queue
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, final

STATUSES = ("pass", "fail", "unsupported", "error", "timeout")
SUITE = "conformance/sbml"


class Verdict(NamedTuple):
    """How a case ended, and why."""

    case: str
    status: str
    reason: str = ""


# Simulation of one case, in a child process


def simulate_case(folder: Path, case: Mapping[str, Any]) -> dict[str, list[float]]:
    """Values of the variables of a case at its output times.

    Raises:
        UnsupportedSBML: when the model, or a variable of it, is not supported.
    """
    from mechanistic.model import State
    from mechanistic.sbml import read_sbml
    from mechanistic.simulate import simulate
    from mechanistic.solve.auto import Auto
    from mechanistic.solve.problem import Tolerance
    from mechanistic.solve.rodas5p import Rodas5P
    from mechanistic.solve.tsit5 import Tsit5

    model = read_sbml(folder / case["file"])
    wanted = {f"output {i}": _expression(model, name, case) for i, name in enumerate(case["variables"])}
    # The suite lets quantities fall below zero, which a biological model would not.
    states = tuple(replace(state, nonnegative=False) for state in model.states) or (State("nothing"),)
    solver = Auto(Tsit5(max_steps=20_000), Rodas5P(max_steps=200_000))
    tolerance = Tolerance(min(1e-8, case["relative"] * 1e-4), 1e-12)
    shown = replace(model, states=states, observables=wanted)
    solution = simulate(shown, output_times(case), solver=solver, tolerance=tolerance).check()
    columns = solution.observe().T.tolist()
    return dict(zip(case["variables"], columns, strict=True))


def _expression(model: Any, name: str, case: Mapping[str, Any]) -> Any:
    """What a variable of the case stands for: a concentration, an amount, another quantity, or a rate."""
    from mechanistic.errors import UnsupportedSBML
    from mechanistic.model import symbol

    if name in case["concentration"]:
        if f"[{name}]" in model.observables:
            return model.observables[f"[{name}]"]
    elif name in {*model.state_names, *model.parameter_names, *model.assignments}:
        return symbol(name)
    elif name in model.reaction_names:
        return next(reaction.rate for reaction in model.reactions if reaction.name == name)
    raise UnsupportedSBML("the case asks for what the model does not hold:", [f"`{name}` has no value"])


def output_times(case: Mapping[str, Any]) -> list[float]:
    """Start, start + duration/steps, …, start + duration."""
    start, steps = case["start"] or 0.0, case["steps"]
    return [start + case["duration"] * i / steps for i in range(steps + 1)] if steps else [start]


def _serve(connection: Connection, folder: Path, memory: int) -> None:
    """Answers cases until the connection closes."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    import torch

    from mechanistic.errors import UnsupportedSBML

    torch.set_num_threads(1)
    connection.send(None)
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            answer: Any = simulate_case(folder, case)
        except UnsupportedSBML as refusal:
            answer = Verdict(case["id"], "unsupported", "; ".join(refusal.problems))
        except Exception as error:
            answer = Verdict(case["id"], "error", f"{type(error).__name__}: {error}")
        connection.send(answer)


@final
class _Worker:
    """A child process that is replaced when it dies or takes too long."""

    def __init__(self, folder: Path, timeout: float, memory: int) -> None:
        self._folder, self._timeout, self._memory = folder, timeout, memory
        self._process: Any = None

    def ask(self, case: Mapping[str, Any]) -> Any:
        """The table of a case, or a verdict."""
        self._start()
        self._connection.send(dict(case))
        try:
            if self._connection.poll(self._timeout):
                return self._connection.recv()
        except EOFError:
            self.stop()
            return Verdict(case["id"], "error", "the child process died")
        self.stop()
        return Verdict(case["id"], "timeout", f"no answer within {self._timeout:g} s")

    def _start(self) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            arguments = (theirs, self._folder, self._memory)
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
            self._connection.recv()

    def stop(self) -> None:
        """Ends the child process."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process = None


# Scoring


def judge(
    case: Mapping[str, Any], table: Mapping[str, Sequence[float]], expected: Mapping[str, list[float]]
) -> Verdict:
    """Compares the values of a case with what is expected of it."""
    for name in case["variables"]:
        if name not in expected or len(expected[name]) != len(table[name]):
            return Verdict(case["id"], "error", f"the expected results do not fit `{name}`")
        for row, (actual, wanted) in enumerate(zip(table[name], expected[name], strict=True)):
            if not _close(actual, wanted, case["absolute"], case["relative"]):
                reason = f"`{name}` in row {row}: {actual!r}, expected {wanted!r}"
                return Verdict(case["id"], "fail", reason)
    return Verdict(case["id"], "pass")


def _close(actual: float, expected: float, absolute: float, relative: float) -> bool:
    if math.isnan(expected) or math.isinf(expected):
        return actual == expected or (math.isnan(actual) and math.isnan(expected))
    return abs(actual - expected) <= absolute + relative * abs(expected)


def expected_results(folder: Path, case: Mapping[str, Any]) -> dict[str, list[float]]:
    """Column to values of the results file, without its first column, the time."""
    path = folder / "cases" / case["id"] / f"{case['id']}-results.csv"
    with path.open(newline="", encoding="utf-8-sig") as file:
        head, *rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    columns = zip(*([float(cell.strip().strip('"') or "nan") for cell in row] for row in rows), strict=True)
    named = list(zip((name.strip().strip('"') for name in head), map(list, columns), strict=True))
    return dict(named[1:])


def score(folder: Path, cases: Sequence[Mapping[str, Any]], jobs: int, timeout: float, memory: int) -> list[Verdict]:
    """The verdict of every case, in the order of the cases."""
    pending: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
    verdicts: dict[str, Verdict] = {}
    for case in cases:
        if case["testType"] == "TimeCourse":
            pending.put(case)
        else:
            verdicts[case["id"]] = Verdict(case["id"], "unsupported", f"test type {case['testType']}")

    def work() -> None:
        worker = _Worker(folder, timeout, memory)
        try:
            while not pending.empty():
                case = pending.get_nowait()
                answer = worker.ask(case)
                decided = isinstance(answer, Verdict)
                verdicts[case["id"]] = answer if decided else judge(case, answer, expected_results(folder, case))
        except queue.Empty:
            pass
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    _show_progress(threads, verdicts, len(cases))
    missing = (Verdict(case["id"], "error", "the runner stopped") for case in cases if case["id"] not in verdicts)
    verdicts.update({verdict.case: verdict for verdict in missing})
    return [verdicts[case["id"]] for case in cases]


def _show_progress(threads: Iterable[threading.Thread], verdicts: Mapping[str, Verdict], total: int) -> None:
    shown = 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
        if len(verdicts) >= shown + 100:
            shown = len(verdicts)
            print(f"{shown}/{total} {_counts(list(verdicts.values()))}", file=sys.stderr, flush=True)


def _counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    counted = Counter(verdict.status for verdict in verdicts)
    return {status: counted[status] for status in STATUSES if counted[status]}


# Reports


def summary(verdicts: Iterable[Verdict]) -> str:
    """The last line of a run; a timeout is an error."""
    count = Counter(verdict.status for verdict in verdicts)
    errors = count["error"] + count["timeout"]
    return f"sbml: {count['pass']} passed, {count['fail']} failed, {count['unsupported']} unsupported, {errors} errors"


def report(cases: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict]) -> str:
    """A table by component, tag and package, in Markdown."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case, verdict in zip(cases, verdicts, strict=True):
        for tag in {*case["components"], *case["tags"], *case["packages"]}:
            found[tag][verdict.status] += 1
    lines = ["# SBML test suite", "", summary(verdicts), "", "| Tag | Cases | Passed | Failed | Unsupported | Errors |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for tag, count in sorted(found.items(), key=lambda item: (-item[1].total(), item[0])):
        errors = count["error"] + count["timeout"]
        cells = (tag, count.total(), count["pass"], count["fail"], count["unsupported"], errors)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


@final
@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    folder: Path
    report: Path | None
    jobs: int
    timeout: float
    memory: int
    cases: tuple[str, ...]


def _options(arguments: Sequence[str] | None) -> Options:
    from tests.shared import shared_folder

    parser = argparse.ArgumentParser(prog="python -m tests.conformance.sbml", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder of cases (default: the shared reference data)")
    parser.add_argument("--report", type=Path, metavar="PATH", help="also write a table by tag, in Markdown")
    parser.add_argument("--jobs", type=int, default=2, help="child processes (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a case (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB of address space a child (default: %(default)s)")
    parser.add_argument("--case", action="append", default=[], metavar="NNNNN", help="only this case (repeatable)")
    given = parser.parse_args(arguments)
    if given.folder is not None and not (given.folder / "index.jsonl").exists():
        parser.error(f"{given.folder} holds no index.jsonl")
    folder = shared_folder() / SUITE if given.folder is None else given.folder
    return Options(folder, given.report, given.jobs, given.timeout, int(given.memory * 2**30), tuple(given.case))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite; returns the exit code."""
    options = _options(arguments)
    index = options.folder / "index.jsonl"
    if not index.exists():
        print(f"sbml: skipped, there are no cases in {options.folder}; name a folder or set KINETWIN_SHARED")
        return 0
    rows = [json.loads(line) for line in index.read_text("utf-8").splitlines() if line.strip()]
    cases = [row for row in rows if not options.cases or row["id"] in options.cases]
    verdicts = score(options.folder, cases, options.jobs, options.timeout, options.memory)
    for verdict in verdicts:
        if verdict.status not in ("pass", "unsupported"):
            print(f"{verdict.case} {verdict.status}: {' '.join(verdict.reason.split())}")
    if options.report is not None:
        options.report.write_text(report(cases, verdicts), encoding="utf-8")
    print(summary(verdicts))
    return int(any(verdict.status not in ("pass", "unsupported") for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())

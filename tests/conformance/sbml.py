"""Scores the simulator on the cases of the SBML test suite: `python -m tests.conformance.sbml [FOLDER]`.

The folder holds `cases/NNNNN/` with a model, its settings and the expected values, and usually `index.jsonl`, one row a
case. Each case runs in a child process with a time and a memory limit. A case passes when every value is within the
tolerances of the case, |actual - expected| <= absolute + relative |expected|; it is unsupported when the reader or
the compiler refuses it, or the solver finds no consistent state. A case that cannot be read is an error of its own and
stops nothing.

The last line reads `sbml: N passed, N failed, N unsupported, N errors`; the exit code is 1 when a case failed or ended
in an error, and 0 otherwise. Without a folder the results are written into `docs/conformance.md`; those of another
folder into `conformance/sbml.md` of the folder `--out`.
"""

import argparse
import csv
import math
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from tests.child import Child, NoAnswer, TimedOut
from tests.conformance.sbml_cases import Case, read_cases
from tests.conformance.sbml_report import STATUSES, Verdict, report, summary, with_results

SUITE = "conformance/sbml"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
FLUX_BALANCE = "flux balance optimises a steady state and has no course in time; Kinetwin simulates courses in time"


# Simulation of one case, in a child process


def simulate_case(case: Case) -> dict[str, list[float]]:
    """Values of the variables of a case at its output times; at the time of an event, the value after it.

    Raises:
        UnsupportedSBML: when the model, or a variable of it, is not supported.
        ModelError: when the model can be read and not be computed.
    """
    from mechanistic.errors import UnsupportedSBML
    from mechanistic.model import State
    from mechanistic.sbml import read_sbml
    from mechanistic.simulate import simulate
    from mechanistic.solve.auto import Auto
    from mechanistic.solve.problem import Status, Tolerance
    from mechanistic.solve.rodas5p import Rodas5P
    from mechanistic.solve.tsit5 import Tsit5

    model = read_sbml(case.model)
    wanted = {f"output {i}": _expression(model, name, case) for i, name in enumerate(case.variables)}
    # The suite lets quantities fall below zero, which a biological model would not.
    states = tuple(replace(state, nonnegative=False) for state in model.states) or (State("nothing"),)
    solver = Auto(Tsit5(max_steps=20_000), Rodas5P(max_steps=200_000))
    tolerance = Tolerance(min(1e-8, case.relative * 1e-4), 1e-12)
    shown = replace(model, states=states, observables=wanted)
    solution = simulate(shown, case.times(), solver=solver, tolerance=tolerance)
    if int(solution.status) == Status.INCONSISTENT:
        raise UnsupportedSBML("the model cannot be simulated:", [Status.INCONSISTENT.advice])
    solution.check()
    columns = solution.observe().T.tolist()
    return dict(zip(case.variables, columns, strict=True))


def _expression(model: Any, name: str, case: Case) -> Any:
    """What a variable of the case stands for: a concentration, an amount, another quantity, or a rate."""
    from mechanistic.errors import UnsupportedSBML
    from mechanistic.model import symbol

    if name in case.concentration:
        if f"[{name}]" in model.observables:
            return model.observables[f"[{name}]"]
    elif name in {*model.state_names, *model.parameter_names, *model.assignments}:
        return symbol(name)
    elif name in model.reaction_names:
        return next(reaction.rate for reaction in model.reactions if reaction.name == name)
    raise UnsupportedSBML("the case asks for what the model does not hold:", [f"`{name}` has no value"])


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)


def _answer(case: Case) -> dict[str, list[float]] | Verdict:
    """The table of a case, or why there is none."""
    from mechanistic.errors import ModelError, UnsupportedSBML

    try:
        return simulate_case(case)
    except (UnsupportedSBML, ModelError) as refusal:
        # The reader names what it does not read, the compiler what it does not compute.
        return Verdict(case.id, "unsupported", "\n".join(refusal.problems))
    except Exception as error:
        return Verdict(case.id, "error", f"{type(error).__name__}: {error}")


# Scoring


def judge(case: Case, table: Mapping[str, Sequence[float]], expected: Mapping[str, Sequence[float]]) -> Verdict:
    """Compares the values of a case with what is expected of it."""
    for name in case.variables:
        if name not in expected or len(expected[name]) != len(table[name]):
            return Verdict(case.id, "error", f"the expected results do not fit `{name}`")
        for row, (actual, wanted) in enumerate(zip(table[name], expected[name], strict=True)):
            if not _close(actual, wanted, case.absolute, case.relative):
                reason = f"`{name}` in row {row}: {actual!r}, expected {wanted!r}"
                return Verdict(case.id, "fail", reason)
    return Verdict(case.id, "pass")


def _close(actual: float, expected: float, absolute: float, relative: float) -> bool:
    if math.isnan(expected) or math.isinf(expected):
        return actual == expected or (math.isnan(actual) and math.isnan(expected))
    return abs(actual - expected) <= absolute + relative * abs(expected)


def expected_results(case: Case) -> dict[str, list[float]]:
    """Column to values of the results file, without its first column, the time.

    Raises:
        ValueError: when the file is not a table of numbers.
        OSError: when it cannot be read.
    """
    with case.results.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError("it is empty")
    columns = zip(*([float(cell.strip().strip('"') or "nan") for cell in row] for row in rows[1:]), strict=True)
    named = list(zip((name.strip().strip('"') for name in rows[0]), map(list, columns), strict=True))
    return dict(named[1:])


def _scored(case: Case, child: Child) -> Verdict:
    """The verdict of one case; whatever is wrong with its files is an error of this case alone."""
    if case.problem:
        return Verdict(case.id, "error", case.problem)
    if case.test_type == "FluxBalanceSteadyState":
        return Verdict(case.id, "unsupported", FLUX_BALANCE)
    if case.test_type != "TimeCourse":
        return Verdict(case.id, "unsupported", f"the test type `{case.test_type}` is not known")
    try:
        expected = expected_results(case)
    except (OSError, ValueError, csv.Error) as error:
        return Verdict(case.id, "error", f"{case.results.name} cannot be read: {error}")
    try:
        answer = child.ask(case)
    except NoAnswer as reason:
        status = "timeout" if isinstance(reason, TimedOut) else "error"
        return Verdict(case.id, status, f"the child process {reason}")
    if isinstance(answer, Verdict) and answer.reason.startswith("MemoryError"):
        # The next case has the memory to itself.
        child.stop()
    return answer if isinstance(answer, Verdict) else judge(case, answer, expected)


def score(cases: Sequence[Case], jobs: int, timeout: float, memory: int) -> list[Verdict]:
    """The verdict of every case, in the order of the cases.

    Args:
        cases: what to run.
        jobs: number of child processes.
        timeout: seconds a case.
        memory: bytes of address space a child process.
    """
    pending: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(len(cases)):
        pending.put(i)
    verdicts: dict[int, Verdict] = {}

    def work() -> None:
        child = Child(_answer, timeout, memory, _prepare)
        try:
            while not pending.empty():
                i = pending.get_nowait()
                verdicts[i] = _scored(cases[i], child)
        except queue.Empty:
            pass
        finally:
            child.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    _show_progress(threads, verdicts, len(cases))
    return [verdicts.get(i, Verdict(case.id, "error", "the runner stopped")) for i, case in enumerate(cases)]


def _show_progress(threads: Iterable[threading.Thread], verdicts: Mapping[int, Verdict], total: int) -> None:
    shown = 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
        if len(verdicts) >= shown + 100:
            shown = len(verdicts)
            count = Counter(verdict.status for verdict in list(verdicts.values()))
            print(f"{shown}/{total} { ({s: count[s] for s in STATUSES if count[s]}) }", file=sys.stderr, flush=True)


# The command


@final
@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        folder: of cases; None for the reference data.
        out: folder of the report on other cases.
        jobs: child processes.
        timeout: seconds a case.
        memory: bytes of address space a child process.
        cases: ids of the only cases to run; all when empty.
    """

    folder: Path | None
    out: Path
    jobs: int
    timeout: float
    memory: int
    cases: tuple[str, ...]


def _options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> Options:
    parser.add_argument("folder", nargs="?", type=Path, help="folder of cases (default: the shared reference data)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for a report (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="child processes (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a case (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB of address space a child (default: %(default)s)")
    parser.add_argument("--case", action="append", default=[], metavar="NNNNN", help="only this case (repeatable)")
    given = parser.parse_args(arguments)
    return Options(given.folder, given.out, given.jobs, given.timeout, int(given.memory * 2**30), tuple(given.case))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite; returns the exit code."""
    from tests.shared import shared_folder

    parser = argparse.ArgumentParser(prog="python -m tests.conformance.sbml", description=__doc__.split("\n\n")[0])
    options = _options(parser, arguments)
    folder = shared_folder() / SUITE if options.folder is None else options.folder
    found = read_cases(folder)
    if not found and options.folder is None:
        print(f"sbml: skipped, there are no cases in {folder}; name a folder or set KINETWIN_SHARED")
        return 0
    cases = [case for case in found if not options.cases or case.id in options.cases]
    if not cases:
        parser.error(f"there are no such cases in {folder}: it needs cases/NNNNN/NNNNN-settings.txt, or index.jsonl")
    verdicts = score(cases, options.jobs, options.timeout, options.memory)
    wrong = [verdict for verdict in verdicts if verdict.status not in ("pass", "unsupported")]
    for verdict in wrong:
        print(f"{verdict.case} {verdict.status}: {' '.join(verdict.reason.split())}")
    if len(cases) == len(found):
        _write(options, report(cases, verdicts))
    print(summary(verdicts))
    return int(bool(wrong))


def _write(options: Options, results: str) -> None:
    """The page of the documentation holds the reference data's results, `out` those of other cases."""
    if options.folder is None:
        page = PAGE.read_text("utf-8")
        changed = with_results(page, results)
        if changed != page:
            PAGE.write_text(changed, encoding="utf-8")
        return
    target = options.out / "conformance" / "sbml.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"# SBML test suite\n\n{results}\n", encoding="utf-8")
    print(f"report: {target}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

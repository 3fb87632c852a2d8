"""The command `kinetwin`: simulate or validate a model file, or run the demonstration."""

import argparse
import math
import os
import sys
import tempfile
from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn, final

import numpy as np
import pandas as pd
import xarray as xr

from mechanistic.errors import InvalidSBML, KinetwinError, ListedError, nearest
from mechanistic.model import KineticModel
from mechanistic.plots import trajectories
from mechanistic.sbml import read_antimony, read_sbml
from mechanistic.schedule import Schedule
from mechanistic.simulate import simulate
from mechanistic.validation import validate

WRONG: Final = 1
"""Exit status where a check of a model failed."""

ERROR: Final = 2
"""Exit status where the input, not the program, is at fault."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells expect it."""

PICTURES: Final = (".png", ".svg", ".pdf")
OUTPUTS: Final = (".csv", ".nc", *PICTURES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status.

    0; 1 when a check failed; 2 with the whole error on stderr; 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    status = 0
    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("kinetwin: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        # Errors of files are named by their file, not by the number that the system gives them.
        file = error.filename2 or error.filename
        problem = f"{file}: {error.strerror}" if file and error.strerror else str(error)
        print(f"kinetwin: {problem}", file=sys.stderr)
        return ERROR
    except KinetwinError as error:
        print(f"kinetwin: {error}", file=sys.stderr)
        return ERROR
    return status


@final
class _Version(argparse.Action):
    """Looks the version up only when it is asked for: a checkout that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"kinetwin {version('kinetwin')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kinetwin", description="Known biology coupled with learned dynamics.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and leave")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    simulate = commands.add_parser(
        "simulate",
        help="solve a model file: a table, netCDF or a picture",
        description="Solve an SBML or Antimony file at its nominal parameters and show states and observables.",
        epilog="example: kinetwin simulate warfarin.xml --times 0 120 241 --dose gut:100 --dose gut:50@24",
    )
    simulate.add_argument("file", type=Path, metavar="FILE", help="SBML or Antimony")
    simulate.add_argument(
        "--times",
        nargs=3,
        metavar=("START", "STOP", "COUNT"),
        default=("0", "100", "101"),
        help="evenly spaced output times, in the model's unit (default: 0 100 101); the solution starts at 0",
    )
    simulate.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="the value of a parameter")
    simulate.add_argument(
        "--dose", action="append", default=[], metavar="STATE:AMOUNT[@TIME]", help="a bolus, at time 0 by default"
    )
    simulate.add_argument(
        "--output", type=Path, metavar="PATH", help=f"write a file ({', '.join(OUTPUTS)}) instead of printing a table"
    )
    simulate.set_defaults(run=_simulate)

    check = commands.add_parser(
        "validate",
        help="check an import: against roadrunner, conserved totals, positivity, gradients, …",
        description="Check what a model file says and how it is simulated; exit status 1 when a check fails.",
        epilog="example: kinetwin validate pathway.xml --html report.html",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="SBML or Antimony")
    check.add_argument("--html", type=Path, metavar="PATH", help="write the report as a page as well")
    check.add_argument(
        "--horizon", metavar="TIME", help="simulate up to this time (default: chosen from the model's time scales)"
    )
    check.add_argument("--seconds", default="60", metavar="SECONDS", help="limit for each check (default: 60)")
    check.set_defaults(run=_validate)

    demo = commands.add_parser(
        "demo",
        help="import, fit, compare and simulate a population, end to end",
        description="Fit a mechanism and a hybrid to a cohort, compare them, and simulate virtual patients.",
    )
    demo.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="where to write (default: out)")
    demo.add_argument("--seed", type=int, default=0, help="of the simulated cohort and the fits (default: 0)")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from hybrid import demo

    demo.run(options.out, options.seed)
    return 0


def _validate(options: argparse.Namespace) -> int:
    horizon = None if options.horizon is None else _number(options.horizon)
    problems = []
    if options.horizon is not None and (horizon is None or horizon <= 0):
        problems.append(f"--horizon {options.horizon}: expected a positive number, in the model's unit of time")
    seconds = _number(options.seconds)
    if seconds is None or seconds <= 0:
        problems.append(f"--seconds {options.seconds}: expected a positive number")
    if options.html is not None and not options.html.parent.is_dir():
        problems.append(f"--html {options.html}: there is no folder {options.html.parent}")
    elif options.html is not None and options.html.is_dir():
        problems.append(f"--html {options.html}: this is a folder; name the file")
    if problems or seconds is None:
        raise ListedError("these options cannot be used:", problems)
    model = read_model(options.file)
    source = options.file if _is_sbml(options.file) else None
    report = validate(model, source=source, horizon=horizon, seconds=seconds, progress=sys.stderr.isatty())
    print(report)
    if options.html is not None:
        report.to_html(options.html)
        print(f"wrote {options.html}", file=sys.stderr)
    if report.interrupted:
        raise KeyboardInterrupt
    return 0 if report.ok else WRONG


def _simulate(options: argparse.Namespace) -> int:
    request = _Request(options)
    model = read_model(options.file)
    problems = [
        f"--{option} {name}: the model has no {kind} `{name}`{nearest(name, known) or ': ' + ', '.join(known)}"
        for option, kind, names, known in (
            ("set", "parameter", request.values, model.parameter_names),
            ("dose", "state", request.schedule.targets, model.state_names),
        )
        for name in names
        if name not in known
    ]
    if problems:
        raise ListedError(f"these options do not fit the model `{model.name}`:", problems)
    if not model.states and not model.observables:
        raise ListedError(f"the model `{model.name}` cannot be simulated:", ["it has no state and no observable"])
    solution = simulate(model, request.times, request.values, request.schedule)
    solution.check()
    _show(solution.dataset(), options.output)
    return 0


@final
class _Request:
    """What the options of `simulate` say, checked together before anything is solved.

    Raises:
        ListedError: lists every option that cannot be read.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._problems: list[str] = []
        self.times = self._read_times(*options.times)
        self.values = dict(filter(None, map(self._read_value, options.set)))
        doses = list(filter(None, map(self._read_dose, options.dose)))
        if options.output is not None and options.output.suffix.lower() not in OUTPUTS:
            self._problems.append(f"--output {options.output}: the name must end in one of {', '.join(OUTPUTS)}")
        if options.output is not None and not options.output.parent.is_dir():
            self._problems.append(f"--output {options.output}: there is no folder {options.output.parent}")
        if self._problems:
            raise ListedError("these options cannot be used:", self._problems)
        self.schedule = Schedule.none()
        for dose in doses:
            self.schedule = self.schedule + Schedule.bolus(*dose)

    def _read_times(self, start: str, stop: str, count: str) -> np.ndarray:
        first, last = _number(start), _number(stop)
        if first is None or last is None or not count.isdecimal() or int(count) < 1:
            self._problems.append(
                f"--times {start} {stop} {count}: expected two numbers and how many times, as in 0 24 97"
            )
        elif not 0 <= first <= last:
            self._problems.append(f"--times {start} {stop} {count}: START must not be negative, nor later than STOP")
        else:
            return np.linspace(first, last, int(count))
        return np.zeros(0)

    def _read_value(self, text: str) -> tuple[str, float] | None:
        name, separator, number = text.partition("=")
        value = _number(number)
        if not separator or not name.strip() or value is None:
            self._problems.append(f"--set {text}: expected NAME=VALUE, as in CL=2.75")
            return None
        return name.strip(), value

    def _read_dose(self, text: str) -> tuple[str, float, float] | None:
        state, separator, rest = text.partition(":")
        number, at, when = rest.partition("@")
        amount, time = _number(number), _number(when) if at else 0.0
        if not separator or not state.strip() or amount is None or time is None:
            self._problems.append(f"--dose {text}: expected STATE:AMOUNT or STATE:AMOUNT@TIME, as in gut:100@24")
            return None
        return state.strip(), amount, time


def read_model(path: Path) -> KineticModel:
    """The model in an SBML or Antimony file, told apart by the content: text is Antimony unless it starts with `<`.

    Raises:
        OSError: where the file cannot be read.
        InvalidSBML, UnsupportedSBML: where the model cannot be used; lists every reason.
    """
    if _is_sbml(path):
        return read_sbml(path)
    try:
        return read_antimony(path)
    except InvalidSBML as error:
        hint = "text that does not begin with `<`, as SBML does, is taken for Antimony"
        hints = [] if path.suffix.lower() in (".ant", ".txt") else [hint]
        raise InvalidSBML(str(error).partition("\n")[0], [*error.problems, *hints]) from None


def _is_sbml(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(256)
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(start).strip()
    except UnicodeDecodeError:
        # SBML may have other encodings; of what is no text at all, its reader says so.
        return True
    return not text or text.startswith("<") or min(text) < "\t"


def _show(dataset: xr.Dataset, output: Path | None) -> None:
    if output is None:
        print(_table(dataset).to_string(float_format="{:.6g}".format))
        return
    suffix = output.suffix.lower()
    if suffix == ".csv":
        write_whole(output, lambda path: _table(dataset).to_csv(path))
    elif suffix == ".nc":
        write_whole(output, lambda path: dataset.to_netcdf(path, engine="h5netcdf"))
    else:
        figure = trajectories(dataset)
        write_whole(output, lambda path: figure.savefig(path, dpi=150))
    print(f"wrote {output}", file=sys.stderr)


def _table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a time, one column a state or observable."""
    return dataset[[name for name, values in dataset.data_vars.items() if values.dims == ("time",)]].to_dataframe()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside `path` and then puts it in place, so that no reader ever sees half of it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # `mkstemp` keeps others out; a result has the permissions that any new file of the user gets.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())

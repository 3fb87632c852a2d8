"""Cases of the SBML test suite as they lie in a folder.

`cases/NNNNN/` holds a model, `NNNNN-settings.txt` and `NNNNN-results.csv`; `index.jsonl`, where there is one, has a row
a case. What a row leaves out is taken from the settings and, where it lies there, the description `NNNNN-model.m`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

STEPS_LIMIT = 1_000_000
"""Most output steps of a case."""

_NAMES = {"testType": "testType", "componentTags": "components", "testTags": "tags", "packagesPresent": "packages"}


@final
@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of one model, and where the files are.

    Attributes:
        id: five digits.
        folder: of the files.
        model: file of the model.
        test_type: `TimeCourse` or `FluxBalanceSteadyState`.
        start, duration: in the model's unit of time.
        steps: number of steps of the output; one row more is expected.
        variables: ids whose values are asked for.
        absolute, relative: tolerances.
        concentration: the species whose concentration, not amount, is asked for.
        labels: components, tags and packages.
        problem: why the case cannot be read; empty when it can.
    """

    id: str
    folder: Path
    model: Path
    test_type: str = "TimeCourse"
    start: float = 0.0
    duration: float = 0.0
    steps: int = 0
    variables: tuple[str, ...] = ()
    absolute: float = 0.0
    relative: float = 0.0
    concentration: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    problem: str = ""

    @property
    def results(self) -> Path:
        """The file of the expected values."""
        return self.folder / f"{self.id}-results.csv"

    def times(self) -> list[float]:
        """Start, start + duration/steps, …, start + duration."""
        if not self.steps:
            return [self.start]
        return [self.start + self.duration * i / self.steps for i in range(self.steps + 1)]


def read_cases(folder: Path) -> list[Case]:
    """The cases of a folder, in the order of its index or else of their ids; empty when there are none."""
    index = folder / "index.jsonl"
    if not index.exists():
        return [_case(folder, {"id": name}) for name in _numbered(folder)]
    lines = index.read_text("utf-8", errors="replace").splitlines()
    return [_indexed(folder, line, number) for number, line in enumerate(lines, start=1) if line.strip()]


def _numbered(folder: Path) -> list[str]:
    return sorted({path.name.removesuffix("-settings.txt") for path in folder.glob("cases/*/*-settings.txt")})


def _indexed(folder: Path, line: str, number: int) -> Case:
    place = f"index.jsonl:{number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Case(place, folder, folder, problem=f"the row is not JSON: {error}")
    if not isinstance(row, dict) or not re.fullmatch(r"[\w-]+", str(row.get("id", ""))):
        return Case(place, folder, folder, problem="the row has no `id`")
    return _case(folder, {key: value for key, value in row.items() if value is not None})


def _case(folder: Path, row: Mapping[str, Any]) -> Case:
    identity = str(row["id"])
    home = (folder / row["file"]).parent if isinstance(row.get("file"), str) else folder / "cases" / identity
    problems: list[str] = []
    settings = _fields(home / f"{identity}-settings.txt")
    given = {**settings, **_description(home / f"{identity}-model.m"), **row}
    labels = {label for key in ("components", "tags", "packages") for label in _words(given.get(key))}
    # Only flux balance has no duration; the settings say so where nothing else does.
    kind = "FluxBalanceSteadyState" if settings.get("duration") == "" else "TimeCourse"
    start, duration, steps, absolute, relative = (
        _number(given, name, problems) for name in ("start", "duration", "steps", "absolute", "relative")
    )
    variables = _words(given.get("variables"))
    case = Case(
        identity,
        home,
        _model(folder, home, given),
        str(given.get("testType", kind)),
        start or 0.0,
        duration or 0.0,
        int(steps or 0),
        variables,
        absolute or 0.0,
        relative or 0.0,
        _words(given.get("concentration")),
        tuple(sorted(labels)),
    )
    if case.test_type != "TimeCourse":
        return case
    missing = [name for name in ("duration", "absolute", "relative") if given.get(name, "") == ""]
    problems += [f"`{name}` is not given" for name in missing]
    problems += [] if variables else ["`variables` is not given"]
    problems += [] if 0 <= case.steps <= STEPS_LIMIT else [f"{case.steps} steps are out of range"]
    problems += [f"there is no {path.name}" for path in (case.model, case.results) if not path.is_file()]
    return Case(**{name: getattr(case, name) for name in case.__slots__} | {"problem": "; ".join(problems)})


def _fields(path: Path) -> dict[str, str]:
    """`name: value` a line; nothing where there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _description(path: Path) -> dict[str, str]:
    """Test type, components, tags and packages of the suite's own description of a case."""
    return {_NAMES[name]: value for name, value in _fields(path).items() if name in _NAMES and value}


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    return tuple(word.strip() for word in value if str(word).strip()) if isinstance(value, list) else ()


def _number(given: Mapping[str, Any], name: str, problems: list[str]) -> float | None:
    value = given.get(name, "")
    if value == "":
        return None
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError):
        problems.append(f"`{name}` is {value!r}, which is not a number")
        return None
    return number


def _model(folder: Path, home: Path, given: Mapping[str, Any]) -> Path:
    """The file of the model: the one that the row names, or else that of the newest Level and Version."""
    if isinstance(given.get("file"), str):
        return folder / given["file"]
    found = sorted(home.glob(f"{given['id']}-sbml-l?v?.xml"))
    return found[-1] if found else home / f"{given['id']}-sbml.xml"

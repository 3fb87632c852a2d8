"""What a benchmark and the processes that it measures tell each other: arrays and JSON; needs NumPy alone."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

_ARRAYS = ("times", "parameters", "initial", "sizes", "dose_times", "dose_states", "dose_amounts")


@final
@dataclass(frozen=True, eq=False)
class Task:
    """Initial value problems of many patients, with the same output times and doses.

    Attributes:
        name: key of the model in `benchmarks.models`.
        states: names.
        parameter_names: names.
        times: output times, `(time,)`, the first of them the start.
        parameters: `(patient, parameter)`.
        initial: states before the first dose, `(patient, state)`.
        sizes: typical size of each state, for absolute tolerances, `(state,)`.
        dose_times: `(dose,)`; none before the start.
        dose_states: index of the state that jumps, `(dose,)`.
        dose_amounts: `(dose,)`.
        folder: where it lies, with `equations_numba.py`, `equations_jax.py` and `model.xml` beside it.
    """

    name: str
    states: tuple[str, ...]
    parameter_names: tuple[str, ...]
    times: np.ndarray
    parameters: np.ndarray
    initial: np.ndarray
    sizes: np.ndarray
    dose_times: np.ndarray
    dose_states: np.ndarray
    dose_amounts: np.ndarray
    folder: Path

    def write(self) -> None:
        """Puts the arrays and the names into `folder`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.folder / "task.npz", **{name: getattr(self, name) for name in _ARRAYS})
        names = {"name": self.name, "states": self.states, "parameter_names": self.parameter_names}
        (self.folder / "task.json").write_text(json.dumps(names), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Task":
        """The task that `write` put into a folder."""
        names = json.loads((folder / "task.json").read_text("utf-8"))
        with np.load(folder / "task.npz") as arrays:
            found = {name: arrays[name] for name in _ARRAYS}
        return cls(names["name"], tuple(names["states"]), tuple(names["parameter_names"]), **found, folder=folder)

    def segments(self) -> list["Segment"]:
        """The stretches between doses; the value at the time of a dose is the one after it."""
        start, end = float(self.times[0]), float(self.times[-1])
        begins = sorted({start, *(float(t) for t in self.dose_times if t < end)})
        found = []
        for begin, until in zip(begins, [*begins[1:], end], strict=True):
            jump = np.zeros(len(self.states))
            for time, state, amount in zip(self.dose_times, self.dose_states, self.dose_amounts, strict=True):
                if time == begin:
                    jump[state] += amount
            last = self.times <= until if until == end else self.times < until
            inside = np.flatnonzero((self.times >= begin) & last)
            first, count = (int(inside[0]), len(inside)) if len(inside) else (0, 0)
            found.append(Segment(begin, until, first, count, jump))
        return found


@final
@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch between doses.

    Attributes:
        start: its first moment.
        end: its last moment.
        first: index of its first output time.
        count: number of its output times.
        jump: what is added to the states at its start, `(state,)`.
    """

    start: float
    end: float
    first: int
    count: int
    jump: np.ndarray


@final
@dataclass(frozen=True)
class Request:
    """What a process is asked to measure.

    Attributes:
        task: folder of a `Task`.
        answer: where the `Answer` goes; states lie beside it.
        rtols: relative tolerances, one point of the work–precision curve each.
        sample: patients whose states are kept, the first of the task.
        patients: patients at most that one timed run solves.
        budget: seconds that one timed run should take; fewer patients are solved where it would be more.
        repeats: timed runs.
        alone: every patient is solved by a call of its own.
        options: what a tool needs beyond that, by name.
    """

    task: str
    answer: str
    rtols: tuple[float, ...]
    sample: int
    patients: int
    budget: float
    repeats: int
    alone: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Puts the request into a JSON file."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Request":
        """The request that `write` put into a file."""
        found = json.loads(path.read_text("utf-8"))
        return cls(**found | {"rtols": tuple(found["rtols"])})


@final
@dataclass(frozen=True)
class Measured:
    """One point of a work–precision curve, before its error is known.

    Attributes:
        rtol: relative tolerance.
        patients: patients of one timed run.
        cpu: CPU seconds of each run, all threads together.
        wall: seconds of each run.
        states: file with the states of the sample, `(sample, time, state)`.
        failed: patients of the sample without a full course.
    """

    rtol: float
    patients: int
    cpu: tuple[float, ...]
    wall: tuple[float, ...]
    states: str
    failed: int = 0


@final
@dataclass(frozen=True)
class Answer:
    """What a process measured.

    Attributes:
        tool: name for tables.
        versions: distribution to version.
        settings: how the tool was run, in words.
        setup: CPU seconds before the first result: reading, compiling, and the first call.
        memory: largest resident set, bytes.
        points: one a tolerance.
        problem: why there is no result; empty when there is one.
    """

    tool: str
    versions: dict[str, str]
    settings: str
    setup: float = 0.0
    memory: int = 0
    points: tuple[Measured, ...] = ()
    problem: str = ""

    def write(self, path: Path) -> None:
        """Puts the answer into a JSON file."""
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read(cls, path: Path) -> "Answer":
        """The answer that `write` put into a file."""
        found = json.loads(path.read_text("utf-8"))
        points = tuple(Measured(**p | {"cpu": tuple(p["cpu"]), "wall": tuple(p["wall"])}) for p in found.pop("points"))
        return cls(**found, points=points)


_EVIDENCE = (
    "times", "theta", "base", "place", "own_base", "own_place", "decadic", "condition", "time", "observable",
    "logarithmic", "data", "sizes",
)  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class Evidence:
    """A log-likelihood: conditions to simulate, and what was measured.

    The model's parameters are `base`, with the estimated parameter `place` in place of it where that is not -1.

    Attributes:
        name: of the problem.
        states: names.
        times: output times of every condition, `(time,)`, the first of them the start.
        theta: estimated parameters on their scales, where likelihood and gradient are taken, `(estimated,)`.
        base, place: of every condition, `(condition, parameter)`.
        own_base, own_place: of every measurement, `(measurement, parameter)`; they fill in placeholders as well.
        decadic: which estimated parameters are on a decadic scale, bool `(estimated,)`.
        condition, time, observable: indices of every measurement, `(measurement,)`.
        logarithmic: whether it is compared on a decadic scale, bool `(measurement,)`.
        data: values, `(measurement,)`.
        sizes: typical size of each state, for absolute tolerances, `(state,)`.
        folder: where it lies, with the equations beside it.
    """

    name: str
    states: tuple[str, ...]
    times: np.ndarray
    theta: np.ndarray
    base: np.ndarray
    place: np.ndarray
    own_base: np.ndarray
    own_place: np.ndarray
    decadic: np.ndarray
    condition: np.ndarray
    time: np.ndarray
    observable: np.ndarray
    logarithmic: np.ndarray
    data: np.ndarray
    sizes: np.ndarray
    folder: Path

    def write(self) -> None:
        """Puts arrays and names into `folder`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.folder / "evidence.npz", **{name: getattr(self, name) for name in _EVIDENCE})
        (self.folder / "evidence.json").write_text(json.dumps({"name": self.name, "states": self.states}), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Evidence":
        """What `write` put into a folder."""
        names = json.loads((folder / "evidence.json").read_text("utf-8"))
        with np.load(folder / "evidence.npz") as arrays:
            return cls(names["name"], tuple(names["states"]), **{n: arrays[n] for n in _EVIDENCE}, folder=folder)

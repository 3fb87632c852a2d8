"""What is simulated: models, what is done to them, and when they are looked at."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

import numpy as np

import mechanistic as mech


class Absent(Exception):  # noqa: N818 - an outcome: the row is skipped
    """Something that a row needs is not there; the message says what."""


@final
@dataclass(frozen=True)
class Case:
    """A model and an experiment.

    Attributes:
        name: key.
        title: for tables and pictures.
        stiff: whether implicit methods are compared.
        load: makes the model, its nominal values set to those of the experiment.
        end: last output time; the first is 0.
        varied: which parameters differ between patients, as a test of their names.
        dose: state, amount, interval and number of doses; None without doses.
        outputs: number of output times.
    """

    name: str
    title: str
    stiff: bool
    load: Callable[[], mech.KineticModel]
    end: float
    varied: Callable[[str], bool]
    dose: tuple[str, float, float, int] | None = None
    outputs: int = 100

    @property
    def times(self) -> np.ndarray:
        """Output times, `(time,)`."""
        return np.linspace(0.0, self.end, self.outputs)

    @property
    def schedule(self) -> mech.Schedule | None:
        """The doses as `mechanistic.simulate` takes them."""
        if self.dose is None:
            return None
        state, amount, every, count = self.dose
        return mech.Schedule.repeat(state, amount=amount, every=every, count=count)


def benchmark_folder(problem: str) -> Path:
    """The folder of a problem of the PEtab benchmark collection, in the reference data beside the repository.

    Raises:
        Absent: when it is not there.
    """
    beside = Path(__file__).resolve().parents[2] / "shared"
    shared = Path(os.environ.get("KINETWIN_SHARED", beside))
    folder = shared / "benchmark_models" / problem
    if not folder.is_dir():
        raise Absent(f"{problem} of the PEtab benchmark collection is not in the reference data (KINETWIN_SHARED)")
    return folder


def _benchmark(problem: str, condition: str) -> mech.KineticModel:
    """A problem's model with the published parameter values, under one of its experimental conditions."""
    folder = benchmark_folder(problem)
    model = mech.read_sbml(folder / f"model_{problem}.xml")
    values = {row["parameterId"]: row["nominalValue"] for row in _table(folder / f"parameters_{problem}.tsv")}
    conditions = _table(folder / f"experimentalCondition_{problem}.tsv")
    values |= next(row for row in conditions if row["conditionId"] == condition)
    states = {name: float(values[name]) for name in model.state_names if name in values}
    changed = {name: float(values[name]) for name in model.parameter_names if name in values}
    return model.with_values(**changed).with_initial(**states)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _not_in(*names: str) -> Callable[[str], bool]:
    return lambda name: name not in names


def _cases() -> tuple[Case, ...]:
    return (
        Case(
            "bachmann",
            "Bachmann 2011, JAK2/STAT5 (25 states)",
            True,
            lambda: _benchmark("Bachmann_MSB2011", "model1_data1"),
            240.0,
            _not_in("cyt", "nuc", "Epo", "ActD"),
        ),
        Case(
            "fujita",
            "Fujita 2010, EGF/Akt (9 states)",
            True,
            lambda: _benchmark("Fujita_SciSignal2010", "condition_step_01_0"),
            3600.0,
            _not_in("Cell", "EGF_0", "EGF_rate", "EGF_end"),
        ),
        Case(
            "chen",
            "Chen 2009, ErbB (500 states)",
            True,
            lambda: _benchmark("Chen_MSB2009", "model1_data1"),
            9000.0,
            lambda name: False,
        ),
        Case(
            "pk",
            "two-compartment oral pharmacokinetics, 7 doses (3 states)",
            False,
            mech.library.pharmacokinetics.two_compartment_oral,
            168.0,
            lambda name: True,
            dose=("gut", 100.0, 24.0, 7),
        ),
    )


CASES = {case.name: case for case in _cases()}


@cache
def model_of(name: str) -> mech.KineticModel:
    """The model of a case.

    Raises:
        Absent: when its file is not there.
    """
    return CASES[name].load()

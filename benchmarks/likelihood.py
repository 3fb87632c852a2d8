"""Log-likelihoods of the PEtab benchmark problems as arrays, the same for Kinetwin and for every peer.

A problem is read from its tables as far as the rows of the table need it: one model, conditions that set parameters,
normal noise, observables on a linear or a decadic scale. Formulas are read as part of the SBML model.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

import mechanistic as mech
from benchmarks.equations import jax_likelihood, numpy_likelihood
from benchmarks.exchange import Evidence
from benchmarks.models import benchmark_folder
from benchmarks.populations import write_equations

OFFSET = 0.05
"""Standard deviation of what is added to the nominal values, on their scales: at them the gradient is almost zero."""

Row = Mapping[str, str]


def read(problem: str, folder: Path, seed: int = 0) -> tuple[mech.KineticModel, Evidence]:
    """The model with its observables, and the data as arrays; both are written into `folder` as well.

    Raises:
        Absent: when the problem is not in the reference data.
    """
    source = benchmark_folder(problem)
    tables = {kind: _table(source, kind) for kind in ("parameters", "experimentalCondition", "observables")}
    measurements = _table(source, "measurementData")
    folder.mkdir(parents=True, exist_ok=True)
    model = _with_observables(source / f"model_{problem}.xml", tables["observables"], folder / "observed.xml")
    places = _Places.of(model, tables["parameters"])
    conditions = {row["conditionId"]: row for row in tables["experimentalCondition"]}
    used = list(dict.fromkeys(row["simulationConditionId"] for row in measurements))
    rows = [places.row(conditions[name]) for name in used]
    own = [places.row(conditions[m["simulationConditionId"]] | _placeholders(m)) for m in measurements]
    times = np.unique([float(m["time"]) for m in measurements])
    scales = {row["observableId"]: row.get("observableTransformation") or "lin" for row in tables["observables"]}
    names = list(scales)
    draws = OFFSET * np.random.default_rng(seed).standard_normal(len(places.theta))
    evidence = Evidence(
        problem, model.state_names, np.r_[0.0, times] if times[0] > 0 else times, places.theta + draws,
        np.array([r[0] for r in rows]), np.array([r[1] for r in rows]),
        np.array([r[0] for r in own]), np.array([r[1] for r in own]), places.decadic,
        np.array([used.index(m["simulationConditionId"]) for m in measurements]),
        np.searchsorted(times, [float(m["time"]) for m in measurements]) + int(times[0] > 0),
        np.array([names.index(m["observableId"]) for m in measurements]),
        np.array([scales[m["observableId"]] == "log10" for m in measurements]),
        np.array([float(m["measurement"]) for m in measurements]),
        mech.RateField(model).scales.numpy(), folder,
    )  # fmt: skip
    evidence.write()
    write_equations(model, folder)
    (folder / "likelihood_numpy.py").write_text(numpy_likelihood(model, outputs(names)), "utf-8")
    (folder / "likelihood_jax.py").write_text(jax_likelihood(model, outputs(names)), "utf-8")
    return model, evidence


def outputs(names: Sequence[str]) -> list[str]:
    """Observables and noises, in the order of `Evidence.observable`."""
    return [*(f"y_{name}" for name in names), *(f"sigma_{name}" for name in names)]


def output_names(problem: str) -> list[str]:
    """`outputs` of a problem."""
    return outputs([row["observableId"] for row in _table(benchmark_folder(problem), "observables")])


def _table(source: Path, kind: str) -> list[Row]:
    path = next(iter(sorted(source.glob(f"{kind}_*.tsv"))))
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _placeholders(measurement: Row) -> Row:
    """Name of a placeholder to what stands for it."""
    found: dict[str, str] = {}
    for kind in ("observable", "noise"):
        values = (measurement.get(f"{kind}Parameters") or "").split(";")
        name = measurement["observableId"]
        found |= {f"{kind}Parameter{i}_{name}": value for i, value in enumerate(values, 1) if value}
    return found


def _with_observables(path: Path, observables: Sequence[Row], into: Path) -> mech.KineticModel:
    """The model with every observable and its noise as assignment rules; what they name and it lacks, as parameters."""
    import libsbml

    document = libsbml.readSBML(str(path))
    model = document.getModel()
    formulas = [(f"y_{row['observableId']}", row["observableFormula"]) for row in observables]
    formulas += [(f"sigma_{row['observableId']}", row["noiseFormula"]) for row in observables]
    for name in dict.fromkeys(n for _, text in formulas for n in re.findall(r"[A-Za-z_]\w*", text)):
        if model.getElementBySId(name) is None and name != "time":
            added = model.createParameter()
            added.setId(name)
            added.setValue(1.0)
            added.setConstant(True)
    for name, text in formulas:
        added = model.createParameter()
        added.setId(name)
        added.setConstant(False)
        rule = model.createAssignmentRule()
        rule.setVariable(name)
        rule.setMath(libsbml.parseL3Formula(text))
    libsbml.writeSBMLToFile(document, str(into))
    return observed(into)


def observed(path: Path) -> mech.KineticModel:
    """The model that was written to a file, with nothing else to observe than the observables and their noises."""
    model = mech.read_sbml(path)
    rest = {name: e for name, e in model.assignments.items() if not name.startswith(("y_", "sigma_"))}
    seen = {name: e for name, e in model.assignments.items() if name not in rest}
    return replace(model, assignments=rest, observables=seen)


@final
@dataclass(frozen=True, eq=False)
class _Places:
    """Where estimated parameters enter the parameters of a model."""

    names: tuple[str, ...]
    nominal: np.ndarray
    estimated: tuple[str, ...]
    fixed: Mapping[str, float]
    theta: np.ndarray
    decadic: np.ndarray

    @classmethod
    def of(cls, model: mech.KineticModel, parameters: Sequence[Row]) -> "_Places":
        chosen = [row for row in parameters if row["estimate"] == "1"]
        fixed = {row["parameterId"]: float(row["nominalValue"]) for row in parameters if row["estimate"] != "1"}
        decadic = np.array([row["parameterScale"] == "log10" for row in chosen])
        value = np.array([float(row["nominalValue"]) for row in chosen])
        theta = np.where(decadic, np.log10(np.where(decadic, value, 1.0)), value)
        nominal = np.array([p.value for p in model.parameters])
        return cls(model.parameter_names, nominal, tuple(r["parameterId"] for r in chosen), fixed, theta, decadic)

    def row(self, given: Row) -> tuple[np.ndarray, np.ndarray]:
        """Numbers, `(parameter,)`, and for each the index of the estimated parameter that replaces it, or -1."""
        values, index = self.nominal.copy(), np.full(len(self.names), -1)
        for place, name in enumerate(self.names):
            source = given.get(name) or name
            if source in self.estimated:
                index[place] = self.estimated.index(source)
            elif source in self.fixed:
                values[place] = self.fixed[source]
            elif source != name:
                values[place] = float(source)
        return values, index

"""Patients: parameters drawn from log-normal distributions around those of a model, and the task that they make."""

from pathlib import Path

import numpy as np
import torch

import mechanistic as mech
from benchmarks.equations import jax_source, numba_source, torch_source
from benchmarks.exchange import Task
from benchmarks.models import Case, model_of

SPREAD = 0.3
"""Standard deviation of the logarithm of every parameter that varies between patients."""


def parameters(case: Case, patients: int, seed: int = 0) -> np.ndarray:
    """`(patient, parameter)`; the first has the model's own values, and none depends on the count."""
    model = model_of(case.name)
    nominal = np.array([p.value for p in model.parameters])
    draws = np.random.default_rng(seed).standard_normal((patients, len(nominal)))
    draws[0] = 0.0
    varied = np.array([case.varied(name) for name in model.parameter_names])
    return nominal * np.exp(SPREAD * draws * varied)


def task(case: Case, patients: int, folder: Path) -> Task:
    """The patients of a case in a folder, with the model in the forms that peers read."""
    model = model_of(case.name)
    p = parameters(case, patients)
    field = mech.RateField(model)
    initial = field.initial(torch.as_tensor(p)).numpy()
    state, amount, every, count = case.dose or ("", 0.0, 1.0, 0)
    made = Task(
        case.name,
        model.state_names,
        model.parameter_names,
        case.times,
        p,
        initial,
        field.scales.numpy(),
        every * np.arange(count),
        np.full(count, model.state_names.index(state) if state else 0),
        np.full(count, amount),
        folder,
    )
    made.write()
    write_equations(model, folder)
    mech.write_sbml(model, folder / "model.xml")
    return made


def write_equations(model: mech.KineticModel, folder: Path) -> None:
    """Puts the right-hand side of a model into a folder, for numba, JAX and PyTorch."""
    (folder / "equations_numba.py").write_text(numba_source(model), "utf-8")
    (folder / "equations_jax.py").write_text(jax_source(model), "utf-8")
    (folder / "equations_torch.py").write_text(torch_source(model), "utf-8")

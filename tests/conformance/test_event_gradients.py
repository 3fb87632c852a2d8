"""Gradients through the events of the SBML test suite: every output by every parameter (or initial
value, where a model has no parameter), against central differences."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mechanistic import KineticModel, State, Tolerance, simulate, symbol
from mechanistic.sbml import read_sbml
from tests.shared import shared_file, shared_folder

CASES = 66
ACCUMULATING = ("00374", "00748")
INDEX = "conformance/sbml/index.jsonl"
TIGHT = Tolerance(1e-10, 1e-12)
STEP = 1e-4
MOMENTS = (0.0719, 0.2319, 0.3719, 0.5519, 0.7319, 0.9719)
"""Output times as shares of the duration: none of them is the round time of an event, where outputs jump."""


def labels(row: dict) -> list[str]:
    return row["tags"] + row["components"]


def chosen() -> Iterator[dict]:
    """Event cases in turn by tag, so that every tag is seen as early as possible."""
    index = shared_folder() / INDEX
    if not index.exists():
        return
    rows = [json.loads(line) for line in index.read_text("utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if any("Event" in tag for tag in row["components"]) and not row["packages"]]
    # Lots that are drawn, and events that accumulate, have no derivative; fast reactions may be switched off.
    rows = [row for row in rows if not {"RandomEventExecution", "FastReaction"} & set(labels(row))]
    rows = [row for row in rows if row["id"] not in ACCUMULATING]
    count: dict[str, int] = {}
    for _ in range(min(CASES, len(rows))):
        rarest = min(rows, key=lambda row: (min(count.get(tag, 0) for tag in labels(row)), row["id"]))
        for tag in labels(rarest):
            count[tag] = count.get(tag, 0) + 1
        rows.remove(rarest)
        yield rarest


def read(row: dict) -> KineticModel:
    """The model of a case, with every state that its reader has as an output."""
    path: Path = shared_file("conformance/sbml") / row["file"]
    model = read_sbml(path)
    states = tuple(replace(state, nonnegative=False) for state in model.states) or (State("nothing"),)
    seen = {f"seen {name}": symbol(name) for name in (*(s.name for s in states), *model.assignments)}
    return replace(model, states=states, observables=seen)


def outputs(model: KineticModel, times: list[float], p: Tensor) -> Tensor:
    """`(row, time · output)` for parameters, or for initial states where a model has no parameter."""
    given = {"parameters": p} if model.parameters else {"initial": p}
    return simulate(model, times, **given, tolerance=TIGHT).check().observe().flatten(-2)


def differences(model: KineticModel, times: list[float], p: Tensor, step: Tensor) -> Tensor:
    """Fourth-order central differences, `(output, parameter)`; every shift is a row of one batch."""
    shifts = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=p.dtype)[:, None, None] * torch.diag(step)
    values = outputs(model, times, (p + shifts).reshape(-1, len(p))).reshape(4, len(p), -1)
    low2, low, high, high2 = values
    return ((8 * (high - low) - (high2 - low2)) / (12 * step[:, None])).T


@pytest.mark.parametrize("row", [pytest.param(row, id=row["id"]) for row in chosen()])
def test_outputs_after_events_have_exact_gradients(row: dict) -> None:
    model = read(row)
    times = [row["duration"] * share for share in MOMENTS]
    values = [parameter.value for parameter in model.parameters] or list(model.initial_values().values())
    p = torch.tensor(values, dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(lambda q: outputs(model, times, q), p)
    step = STEP * torch.where(p == 0, 1.0, p.abs())
    coarse, fine = differences(model, times, p, step), differences(model, times, p, step / 2)
    # Differences that depend on their step straddle an output's jump or a change in what happens: nothing to compare.
    size = 1 + exact.abs()
    smooth = (coarse - fine).abs() <= 1e-5 * size
    assert smooth.double().mean() > 0.5
    # Solutions that are right to 1e-10 make differences over steps of 1e-4 wrong by about 1e-6.
    assert (exact - fine)[smooth].abs().max() <= 2e-5 * size[smooth].max()
    assert ((exact - fine).abs() <= 2e-5 * size)[smooth].all()


def test_there_are_enough_cases() -> None:
    shared_file(INDEX)
    rows = list(chosen())
    tags = {tag for row in rows for tag in labels(row) if "Event" in tag}
    assert len(rows) >= 60
    assert len(tags) >= 8

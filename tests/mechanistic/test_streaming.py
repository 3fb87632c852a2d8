"""A file holds what one simulation of all subjects gives, to the last bit, however it was cut, interrupted or named."""

import errno
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mechanistic as mech
from mechanistic.streaming import files

MODEL = mech.library.two_compartment_oral()
FIELD = mech.RateField(MODEL)
DOSES = mech.Schedule.repeat("gut", amount=100.0, every=24.0, count=3)
TIMES = np.linspace(0.0, 72.0, 7)
COUNT = 53
FORMATS = (".zarr", ".nc")


def people(count: int = COUNT) -> Tensor:
    draws = torch.randn(count, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return FIELD.nominal() * torch.exp(0.3 * draws)


PEOPLE = people()
WHOLE = mech.simulate(FIELD, TIMES, PEOPLE, DOSES).dataset()


def stream(path: Path, parameters: Any = PEOPLE, **changed: Any) -> mech.Streamed:
    arguments = {"schedule": DOSES, "chunk": 8, "progress": False, **changed}
    return mech.simulate_to(
        path, arguments.pop("system", FIELD), arguments.pop("times", TIMES), parameters, **arguments
    )


def read(path: Path) -> xr.Dataset:
    with xr.open_zarr(path) if path.suffix == ".zarr" else xr.open_dataset(path) as data:
        return data.load()


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Names, dims, dtypes, attributes of variables and bits are the same."""
    found = found.drop_attrs(deep=False)
    xr.testing.assert_identical(found, expected)
    for name in expected.variables:
        assert found[name].dtype == expected[name].dtype


class Interrupting:
    """Rows of the subjects' parameters; raises once, when it is asked for one of them to solve it."""

    def __init__(self, row: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        # The first and last rows are asked for before anything is solved.
        self.row, self.error, self.asked = row, error, 0

    def __call__(self, rows: slice) -> Tensor:
        self.asked += 1
        if self.row is not None and self.asked > 4 and rows.start <= self.row < rows.stop:
            self.row = None
            raise self.error
        return PEOPLE[rows]


@pytest.mark.parametrize("subjects", [None, [f"mouse {i}" for i in range(COUNT)], np.arange(COUNT) * 2])
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_file_holds_what_simulate_gives(tmp_path: Path, suffix: str, subjects: Any) -> None:
    found = stream(tmp_path / f"out{suffix}", subjects=subjects)
    assert found.check().finished
    assert_same(read(found.path), WHOLE if subjects is None else WHOLE.assign_coords(subject=subjects))
    assert read(found.path).identical(found.dataset())
    assert [path.name for path in tmp_path.iterdir()] == [f"out{suffix}"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_values_may_be_single_precision_and_without_observables(tmp_path: Path, suffix: str) -> None:
    found = read(stream(tmp_path / f"out{suffix}", dtype="float32", observables=False).path)
    states = WHOLE.drop_vars("cp")
    assert_same(found, states.assign({n: states[n].astype(np.float32) for n in FIELD.state_names}))


@settings(max_examples=8)
@given(st.integers(1, 2 * COUNT), st.sampled_from(FORMATS))
def test_chunks_change_no_bit(tmp_path_factory: pytest.TempPathFactory, chunk: int, suffix: str) -> None:
    assert_same(read(stream(tmp_path_factory.mktemp("chunk") / f"out{suffix}", chunk=chunk).path), WHOLE)


def test_chunks_change_no_bit_of_what_elementary_functions_give(tmp_path: Path) -> None:
    """Vector units have other code for the elements at the end of an array; observables must not show it."""
    x, k = mech.symbol("x"), mech.symbol("k")
    model = mech.KineticModel(
        "observed",
        states=(mech.State("x", 3),),
        parameters=(mech.Parameter("k", 0.2),),
        reactions=(mech.Reaction("out", "x ->", k * x),),
        observables={"power": (x + 1) ** k, "saturation": 1 / (1 + sympy.exp(-k * x))},
    )
    values = {"k": torch.linspace(0.1, 3.0, COUNT, dtype=torch.float64)}
    whole = mech.simulate(model, TIMES, values).dataset()
    for chunk in (1, 3, 7):
        found = stream(tmp_path / f"{chunk}.zarr", values, system=model, schedule=None, chunk=chunk)
        assert_same(read(found.path), whole)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_argument_may_differ_between_subjects(tmp_path: Path, suffix: str) -> None:
    start = torch.linspace(-1.0, 0.0, COUNT, dtype=torch.float64)
    times = torch.stack([torch.linspace(0.0, 10.0 + i, 6, dtype=torch.float64) for i in range(COUNT)])
    times[::3, 4:] = torch.nan
    # Rows of one chunk that are all the same do not make the times of the file the same.
    times[8:16] = times[8]
    before = torch.arange(COUNT * 6).reshape(COUNT, 6) % 2 == 0
    doses = mech.Schedule.bolus("gut", torch.linspace(1.0, 50.0, COUNT, dtype=torch.float64)[:, None], 2.0)
    initial = {"central": torch.linspace(0.0, 5.0, COUNT, dtype=torch.float64)}
    own = {"initial": initial, "start": start, "before": before}
    found = stream(tmp_path / f"out{suffix}", {"CL": PEOPLE[:, 1]}, times=times, schedule=doses, **own)
    whole = mech.simulate(FIELD, times, {"CL": PEOPLE[:, 1]}, doses, **own)
    assert_same(read(found.path), whole.dataset())


def test_functions_of_rows_and_arrays_in_files_give_the_same(tmp_path: Path) -> None:
    doses = DOSES.expand((COUNT,))
    table = np.lib.format.open_memmap(tmp_path / "people.npy", "w+", shape=PEOPLE.shape)
    table[:] = PEOPLE
    functions = stream(
        tmp_path / "functions.zarr", lambda rows: {"CL": PEOPLE[rows, 1]}, schedule=doses.select, count=COUNT
    )
    assert_same(read(functions.path), mech.simulate(FIELD, TIMES, {"CL": PEOPLE[:, 1]}, DOSES).dataset())
    assert_same(read(stream(tmp_path / "table.zarr", table).path), WHOLE)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("row", [9, 20, 30, 41])
def test_an_interrupted_file_says_how_far_it_is_and_goes_on_to_the_same(tmp_path: Path, suffix: str, row: int) -> None:
    path, done = tmp_path / f"out{suffix}", row // 8 * 8
    stopped = stream(path, Interrupting(row), count=COUNT)
    assert not stopped.finished
    assert (stopped.status == np.where(np.arange(COUNT) < done, 0, files.PENDING)).all()
    found = read(path)
    assert (found.status.values == stopped.status).all()
    for name in WHOLE:
        values = found[name].values
        if name != "status":
            assert (values[:done] == WHOLE[name].values[:done]).all()
            assert np.isnan(values[done:]).all()
    with pytest.raises(mech.SolveError, match=f"{COUNT - done} subjects are still to be simulated"):
        stopped.check()
    with pytest.raises(mech.StreamError, match="`resume=True` goes on"):
        stream(path, Interrupting(None), count=COUNT)
    again = Interrupting(None)
    assert stream(path, again, count=COUNT, resume=True).finished
    assert again.asked == 4 + -(-(COUNT - done) // 8)
    assert_same(read(path), WHOLE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_error_of_a_function_keeps_what_was_complete(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(ZeroDivisionError):
        stream(path, Interrupting(20, ZeroDivisionError), count=COUNT)
    assert (read(path).status.values == 0).sum() == 16
    stream(path, Interrupting(None), count=COUNT, resume=True).check()
    assert_same(read(path), WHOLE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_disk_that_becomes_full_is_named_and_loses_nothing(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out{suffix}"
    kind = files._ZarrFile if suffix == ".zarr" else files._NetCDFFile
    write = kind.write

    def full(self: Any, rows: slice, values: Any) -> None:
        if rows.start == 16:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "write", full)
        with pytest.raises(mech.StreamError, match=rf"out\{suffix}[^$]*No space left on device; what was complete"):
            stream(path)
    assert (read(path).status.values == 0).sum() == 16
    stream(path, resume=True).check()
    assert_same(read(path), WHOLE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_finished_file_is_not_simulated_again(tmp_path: Path, suffix: str) -> None:
    stream(tmp_path / f"out{suffix}", resume=True)
    again = Interrupting(None)
    with pytest.raises(mech.StreamError, match="`parameters` is not what it was begun with"):
        stream(tmp_path / f"out{suffix}", again, count=COUNT, resume=True)
    assert repr(stream(tmp_path / f"out{suffix}", resume=True)).endswith("53 subjects, {'OK': 53})")


CHANGES = {
    "system": {"system": mech.RateField(MODEL.with_values(CL=9.0))},
    "times": {"times": TIMES + 1},
    "parameters": {"parameters": PEOPLE * 2},
    "schedule": {"schedule": mech.Schedule.none()},
    "initial": {"initial": {"gut": 3.0}},
    "start": {"start": -1.0},
    "before": {"before": [True] * 7},
    "solver": {"solver": mech.Rodas5P()},
    "tolerance": {"tolerance": mech.Tolerance(rtol=1e-4)},
    "engine": {"engine": mech.Torch()},
    "subjects": {"subjects": [str(i) for i in range(COUNT)]},
    "observables": {"observables": False},
    "dtype": {"dtype": np.float32},
    "chunk": {"chunk": 9},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stream(tmp_path_factory.mktemp("finished") / "out.zarr").path


@pytest.mark.parametrize("name", CHANGES)
def test_another_request_is_refused_and_changes_nothing(finished: Path, name: str) -> None:
    path = finished
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    with pytest.raises(mech.StreamError, match=f"`{name}`") as error:
        stream(path, resume=True, **CHANGES[name])
    assert len(error.value.problems) == 1
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_of_others_are_refused_and_kept(tmp_path: Path, suffix: str) -> None:
    foreign, damaged = tmp_path / f"foreign{suffix}", tmp_path / f"damaged{suffix}"
    # Version 3 of zarr warns that its metadata in one place are no part of it.
    WHOLE.to_zarr(foreign, zarr_format=2) if suffix == ".zarr" else WHOLE.to_netcdf(foreign)
    damaged.write_bytes(b"no such thing")
    for path in (foreign, damaged):
        with pytest.raises(mech.StreamError, match="cannot go on"):
            stream(path, resume=True)
    assert_same(read(foreign), WHOLE)
    assert damaged.read_bytes() == b"no such thing"


@pytest.mark.parametrize("head", ["", "[]", "[" * 10000, '{"format": 2}', '{"format": 1, "request": {"times": []}}'])
def test_a_request_that_was_changed_is_refused(tmp_path: Path, head: str) -> None:
    path = stream(tmp_path / "out.zarr").path
    (path / ".zattrs").write_text(json.dumps({files.HEAD: head}), "utf-8")
    with pytest.raises(mech.StreamError, match="cannot go on"):
        stream(path, resume=True)


def test_places_that_cannot_be_written_are_named_before_anything_is_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(mech.StreamError, match=r"file is not a folder"):
        stream(tmp_path / "file" / "out.zarr", "never looked at")
    with pytest.raises(mech.StreamError, match=r"out.csv cannot be written:\n.*\.zarr, \.nc"):
        stream(tmp_path / "out.csv", "never looked at")
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(mech.StreamError, match=r"it takes 0.00 GB, and 0.00 GB are free in .*; make room"):
        stream(tmp_path / "out.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_problems_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(mech.SolveError) as error:
        stream(tmp_path / "out.nc", before=torch.zeros(7, 7), subjects=["a"], dtype=int, chunk=0)
    assert len(error.value.problems) == 4
    with pytest.raises(mech.SolveError, match="nothing says how many subjects there are"):
        stream(tmp_path / "out.nc", None)
    with pytest.raises(mech.SolveError, match="has the batch"):
        stream(tmp_path / "out.nc", PEOPLE[None])
    with pytest.raises(mech.SolveError, match=r"the rows 0 to 1 has the batch \(\), not \(1,\)"):
        stream(tmp_path / "out.nc", lambda rows: PEOPLE[0], count=3)
    with pytest.raises(mech.SolveError, match="`times` may not be a function"):
        stream(tmp_path / "out.nc", times=lambda rows: TIMES)
    assert not list(tmp_path.iterdir())


def test_a_function_that_gives_other_values_each_time_is_refused(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(rows: slice) -> Tensor:
        return PEOPLE[rows] * torch.rand((), generator=generator, dtype=torch.float64)

    with pytest.raises(mech.SolveError, match="`parameters` gave other values for the same rows"):
        stream(tmp_path / "out.zarr", drawn, count=COUNT)
    assert not list(tmp_path.iterdir())


def test_one_subject_is_a_batch_of_one(tmp_path: Path) -> None:
    assert_same(read(stream(tmp_path / "out.nc", PEOPLE[:1]).path), WHOLE.isel(subject=slice(0, 1)))


@pytest.mark.parametrize("suffix", FORMATS)
def test_failures_stay_with_their_subjects(tmp_path: Path, suffix: str) -> None:
    """`dx/dt = k x²` from 1 reaches infinity at `1/k`."""
    x, k = mech.symbol("x"), mech.symbol("k")
    model = mech.KineticModel("blow-up", (mech.State("x", 1),), (mech.Parameter("k", 0.1),), rates={"x": k * x**2})
    values = torch.full((30,), 0.01, dtype=torch.float64)
    values[3::5] = 1.0
    labels = [f"mouse {i}" for i in range(30)]
    solution = mech.simulate(model, TIMES, {"k": values}, solver=mech.Tsit5())
    found = stream(
        tmp_path / f"out{suffix}", {"k": values}, system=model, schedule=None, solver=mech.Tsit5(), subjects=labels
    )
    assert_same(read(found.path), solution.dataset(labels))
    assert found.finished
    assert found.status.astype(bool).sum() == 6
    with pytest.raises(mech.SolveError, match="subject 'mouse 3': ") as error:
        found.check()
    assert len(error.value.problems) == 6

"""What benchmarks count and compare; no figure of time is a fact to be tested."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mechanistic as mech
from benchmarks import ours_training, populations, report
from benchmarks.__main__ import KINDS, main
from benchmarks.compare import FLOOR, Point, errors, front, seconds_at
from benchmarks.equations import Hoisted, numba_source, torch_source
from benchmarks.evaluating import gradient_error
from benchmarks.exchange import Answer, Measured, Request, Task
from benchmarks.gradients import PROBLEMS
from benchmarks.hybrids import Training
from benchmarks.models import CASES, model_of
from benchmarks.ours_training import batch
from benchmarks.rows import ROWS
from benchmarks.solving import Curve, Result, line


def _point(error, seconds):
    return Point(1e-6, error, error, seconds, seconds, 1)


def test_the_error_of_a_course_that_is_off_by_a_known_share():
    reference = np.exp(-np.linspace(0, 3, 7))[None, :, None]
    # The largest share is met where the course is largest, at its start: 1e-5 / (1 + FLOOR).
    assert errors(reference * (1 + 1e-5), reference) == pytest.approx([1e-5 / (1 + FLOOR)], rel=1e-9)


def test_a_state_that_is_zero_counts_absolutely_and_nan_is_infinite():
    zero = np.zeros((1, 3, 1))
    assert errors(zero, zero) == [0.0]
    assert errors(zero + FLOOR * 1e-3, zero) == pytest.approx([1e-3])
    assert errors(zero + np.nan, zero) == [math.inf]


def test_time_at_an_error_on_a_power_law_is_the_power_law():
    # seconds = error ** -0.25, a method of order 4: a straight line in logarithms.
    points = [_point(10.0**-k, 10.0 ** (k / 4)) for k in (3, 5, 8)]
    assert seconds_at(points, 10**-6.5) == pytest.approx(10 ** (6.5 / 4))


def test_no_time_is_invented_beyond_the_curve():
    points = [_point(1e-3, 1.0), _point(1e-5, 2.0)]
    assert seconds_at(points, 1e-1) == 1.0
    assert seconds_at(points, 1e-7) is None
    assert seconds_at([], 1e-3) is None
    assert seconds_at(points, math.nan) is None


def test_a_point_that_another_beats_in_error_and_time_is_left_out():
    best = [_point(1e-3, 1.0), _point(1e-6, 3.0)]
    assert front([best[1], _point(1e-4, 4.0), best[0]]) == best


def test_rows_have_names_of_their_own_and_known_models():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.case for row in ROWS if row.kind != "gradient"} <= set(CASES)
    assert {row.case for row in ROWS if row.kind == "gradient"} <= set(PROBLEMS)
    assert {row.kind for row in ROWS} <= set(KINDS)


def test_an_unknown_row_is_refused_with_the_nearest_name(capsys):
    assert main(["--only", "population_pq"]) == 2
    assert "`population_pk`" in capsys.readouterr().err


def test_results_can_be_read_back_and_infinities_are_null(tmp_path):
    curve = Curve("tool", {"tool": "1"}, "as it is", 0.1, (_point(math.inf, 1.0), _point(1e-5, 2.0)))
    results = [Result(ROWS[0], 2.0, 1e-5, "tool", curves=(curve,)), Result(ROWS[1], problem="skipped: no data")]
    report.write(results, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert set(found) == {"date", "machine", "rows"}
    assert found["rows"][0]["curves"][0]["points"][0]["error"] is None
    assert found["rows"][0]["ratio"] == 2.0
    assert line(results[0]) == f"{ROWS[0].name} 2 {ROWS[0].target:g} 1.0e-05"
    assert line(results[1]).endswith("# skipped: no data")
    assert ROWS[0].name in report.table(results)


def test_requests_and_answers_survive_the_way_through_a_file(tmp_path):
    request = Request("task", "answer", (1e-4, 1e-6), 1, 2, 0.5, 3, True, {"stiff": True})
    request.write(tmp_path / "request.json")
    assert Request.read(tmp_path / "request.json") == request
    answer = Answer("tool", {"tool": "1"}, "", points=(Measured(1e-6, 2, (0.1,), (0.2,), "states.npy"),))
    answer.write(tmp_path / "answer.json")
    assert Answer.read(tmp_path / "answer.json") == answer


def test_segments_hold_every_output_time_once_and_every_dose(tmp_path):
    task = populations.task(CASES["pk"], 3, tmp_path)
    segments = Task.read(tmp_path).segments()
    assert [i for s in segments for i in range(s.first, s.first + s.count)] == list(range(len(task.times)))
    assert sum(s.jump.sum() for s in segments) == task.dose_amounts.sum()


def test_a_patient_does_not_depend_on_how_many_there_are():
    few, many = (populations.parameters(CASES["pk"], count) for count in (3, 8))
    assert np.array_equal(few, many[:3])


def test_the_equations_that_peers_get_are_those_of_the_model():
    model = model_of("pk")
    names: dict[str, object] = {}
    exec(numba_source(model), names)
    x, p = np.array([1.0, 2.0, 3.0]), np.array([q.value for q in model.parameters])
    c, f = np.empty(names["CONSTANTS"]), np.empty(3)
    names["constants"](p, c)
    names["rates"](0.0, x, f, c)
    expected = mech.RateField(model)(torch.zeros(()).double(), torch.as_tensor(x), torch.as_tensor(p))
    # Sums of a few terms: the orders of addition differ by rounding.
    assert f == pytest.approx(expected.numpy(), rel=1e-13)
    assert len(Hoisted(model).jacobian) == 6


def test_the_error_of_a_gradient_is_a_share_of_its_largest_entry_and_the_value_does_not_count():
    reference = np.array([7.0, 4.0, -1.0])
    assert gradient_error(np.array([0.0, 4.0, -1.002]), reference) == pytest.approx(5e-4)
    assert gradient_error(np.array([7.0, np.nan, -1.0]), reference) == math.inf


def test_patients_side_by_side_have_the_rates_that_each_has_alone():
    model = model_of("pk")
    names: dict[str, object] = {}
    exec(torch_source(model), names)
    field = mech.RateField(model)
    p = field.nominal() * torch.linspace(0.5, 2.0, 3).double()[:, None]
    x = torch.linspace(1.0, 9.0, 9).double().reshape(3, 3)
    rates = names["rates"](0.0, x, names["constants"](p))
    assert torch.allclose(rates, field(torch.zeros(()).double(), x, p), rtol=1e-13)


def test_a_training_step_is_the_gradient_of_its_loss(tmp_path):
    """Against the loss itself, moved along one direction of weights and parameters; gates have kinks, hence 1e-4."""
    batch().write(tmp_path / "batch.npz")
    given = Training.read(tmp_path / "batch.npz")
    request = Request(str(tmp_path), "", (1e-8,), 1, 1, 0.0, 1)
    found = ours_training.prepare(request)(1e-8)
    parts = [given.parameters, *given.layers]
    moves = [np.cos(1.0 + np.arange(part.size)).reshape(part.shape) for part in parts]
    slope = found[1:] @ np.concatenate([move.ravel() for move in moves])
    losses = []
    for step in (1e-4, -1e-4):
        parameters, *layers = (part + step * move for part, move in zip(parts, moves, strict=True))
        replace(given, parameters=parameters, layers=tuple(layers)).write(tmp_path / "batch.npz")
        losses.append(ours_training.prepare(request)(1e-8)[0])
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-4, rel=1e-4)

"""What holds for every system with events, conditions and delays, whatever happens in it."""

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mechanistic import (
    Event,
    KineticModel,
    Parameter,
    Reaction,
    Schedule,
    State,
    Status,
    Tolerance,
    delay,
    simulate,
    symbol,
    time,
)
from tests.mechanistic.event_models import SOLVERS, TIGHT, central, delayed_decay, free

S = symbol


def delayed_decay_at(t: float, dose: float, given: float) -> float:
    """Its solution for L = 1 with a bolus; between kinks a polynomial (Bellman & Cooke 1963, section 3.2)."""
    undosed = sum((-1) ** n * (t - n + 1) ** n / math.factorial(n) for n in range(math.floor(t) + 2))
    since = t - given
    terms = range(math.floor(since) + 1) if since >= 0 else ()
    return undosed + dose * sum((-1) ** n * (since - n) ** n / math.factorial(n) for n in terms)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_dose_comes_back_after_the_delay(solver) -> None:
    """Every piece is a polynomial, which is integrated without error at any tolerance if its kinks are met."""
    times = [0.5, 1.2, 1.7, 2.3, 3.4, 4.6]
    schedule = Schedule.bolus("x", 2.0, time=0.33)
    found = simulate(delayed_decay(), times, schedule=schedule, solver=solver, tolerance=Tolerance(1e-6, 1e-9))
    expected = torch.tensor([delayed_decay_at(t, 2.0, 0.33) for t in times], dtype=torch.float64)
    torch.testing.assert_close(found.states[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_gradients_pass_through_the_moments_at_which_a_dose_comes_back(solver) -> None:
    """Of the lag, the dose and its time; the tolerance is that of differences of a solution that is right to 1e-10."""

    def outputs(p: Tensor) -> Tensor:
        doses = Schedule.bolus("x", p[None, 1:2], p[None, 2:3])
        return simulate(
            delayed_decay(), [0.5, 1.7, 2.6], {"L": p[:1]}, doses, solver=solver, tolerance=TIGHT
        ).states.reshape(-1)

    p = torch.tensor([1.0, 2.0, 0.33], dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(outputs, p)
    torch.testing.assert_close(exact, central(outputs, p), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_negative_lag_is_a_status_of_that_subject_alone(solver) -> None:
    lags = torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64)
    solution = simulate(delayed_decay(), [0.5], {"L": lags}, solver=solver, tolerance=TIGHT)
    assert solution.status.tolist() == [Status.NOT_FINITE, Status.OK, Status.OK]
    assert float(solution.states[1, 0, 0]) == pytest.approx(math.exp(-0.5), rel=1e-9)
    assert float(solution.states[2, 0, 0]) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_what_stands_still_keeps_its_value_to_the_last_digit(solver) -> None:
    """Else an event that waits for a count of three tenths would see a little more or less, and never come."""
    x, count = S("x"), S("count")
    model = KineticModel(
        "count",
        (State("x", 1), free("count"), free("seen")),
        (Parameter("k", 0.7), Parameter("step", 0.1)),
        (Reaction("loss", "x ->", S("k") * x),),
        events=(
            Event("refill", x < sympy.Rational(2, 5), {"x": x + 1, "count": count + S("step")}),
            Event("third", sympy.Eq(count, 3 * S("step")), {"seen": 1}),
        ),
    )
    times = torch.linspace(0, 20, 81, dtype=torch.float64)
    states: Tensor = simulate(model, times, solver=solver).states
    sums = [0.0]
    while len(sums) < 30:
        sums.append(sums[-1] + 0.1)
    assert set(states[:, 1].tolist()) <= set(sums)
    assert float(states[-1, 2]) == 1


def everything() -> KineticModel:
    """A refill at a threshold, a wash in a window, a rate that is switched, and a delayed loss."""
    x, y, k = S("x"), S("y"), S("k")
    switched = sympy.Piecewise((2, y > S("low")), (sympy.Rational(1, 2), True))
    return KineticModel(
        "everything",
        (State("x", 1), State("y", 0.2), free("count")),
        (Parameter("k", 0.7), Parameter("low", 0.5), Parameter("wait", 0.3), Parameter("L", 0.4)),
        (
            Reaction("use", "x -> y", k * x * switched),
            Reaction("loss", "y ->", k * y * delay(y, S("L")) / (1 + y)),
        ),
        events=(
            Event("refill", x < S("low"), {"x": x + y + S("low"), "count": S("count") + 1}, delay=S("wait") * (1 + y)),
            Event("wash", (time > 1) & (y > S("low")), {"y": y / 3}, priority=x, persistent=False),
        ),
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@settings(max_examples=2, deadline=None)
@given(st.integers(0, 10_000))
def test_a_subject_is_the_same_in_every_batch(solver, seed: int) -> None:
    """Bit for bit, next to others with their own schedules and ends, one of which fails."""
    generator = torch.Generator().manual_seed(seed)
    rows = 4
    p = torch.tensor([0.7, 0.5, 0.3, 0.4], dtype=torch.float64)
    p = p * (0.7 + 0.6 * torch.rand(rows, 4, generator=generator, dtype=torch.float64))
    p[2, 3] = -1.0
    times = torch.rand(rows, 6, generator=generator, dtype=torch.float64).mul(2.5).sort(-1).values
    times[3, 4:] = torch.nan
    given_at = torch.rand(rows, 2, generator=generator, dtype=torch.float64) * 2
    before = torch.rand(rows, 6, generator=generator) < 0.5
    times[:, 0] = given_at.amin(-1).clamp(max=times[:, 1])

    def run(some: slice):
        doses = [Schedule.bolus("x", 0.6, given_at[some, i]) for i in range(2)]
        return simulate(everything(), times[some], p[some], doses[0] + doses[1], before=before[some], solver=solver)

    batch = run(slice(None))
    assert batch.status.tolist()[2] == Status.NOT_FINITE
    for row in range(rows):
        alone = run(slice(row, row + 1))
        assert torch.equal(batch.states[row].nan_to_num(-1), alone.states[0].nan_to_num(-1))
        for found, expected in zip(batch.statistics, alone.statistics, strict=True):
            assert found[row] == expected[0]
        assert batch.status[row] == alone.status[0]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_an_event_at_the_very_end_is_no_failure(solver) -> None:
    """A ball that falls for 1 lands at the last output, or a rounding before it."""
    h, v = S("h"), S("v")
    bounce = Event("bounce", h <= 0, {"v": -v * S("e"), "h": 0})
    model = KineticModel(
        "ball", (free("h", S("h0")), free("v")), (Parameter("h0", 1.5), Parameter("g", 3.0), Parameter("e", 0.65)),
        rates={"h": v, "v": -S("g")}, events=(bounce,),
    )  # fmt: skip
    found = simulate(model, [0.5, 1.0], solver=solver, tolerance=TIGHT).check().states[-1]
    assert float(found[0]) == pytest.approx(0, abs=1e-13)
    assert abs(float(found[1])) in (pytest.approx(3.0), pytest.approx(1.95))

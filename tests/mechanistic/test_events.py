"""Events, conditions and delays against closed forms, and gradients through them against central differences."""

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
    delay,
    simulate,
    symbol,
    time,
)
from tests.mechanistic.event_models import SOLVERS, TIGHT, central, delayed_decay, free

S = symbol


def decay(*events: Event, rate: object = None) -> KineticModel:
    """dx/dt = -k x from 1, with something that counts."""
    x, k = S("x"), S("k")
    states = (State("x", 1), free("count"))
    parameters = (Parameter("k", 0.5), Parameter("T", 2.0), Parameter("wait", 0.5), Parameter("low", 0.4))
    return KineticModel(
        "decay", states, parameters, (Reaction("loss", "x ->", k * x if rate is None else rate),), events=events
    )


def ball() -> KineticModel:
    return KineticModel(
        "ball",
        (free("h", S("h0")), free("v")),
        (Parameter("h0", 1.0), Parameter("g", 9.81), Parameter("e", 0.8)),
        rates={"h": S("v"), "v": -S("g")},
        events=(Event("bounce", S("h") <= 0, {"v": -S("e") * S("v"), "h": 0}),),
    )


def bounced(t: float, h0: float, g: float, e: float) -> float:
    """Height of a ball that falls from `h0` and keeps the share `e` of its speed at every bounce."""
    speed, start = math.sqrt(2 * h0 * g), math.sqrt(2 * h0 / g)
    if t < start:
        return h0 - g * t * t / 2
    speed *= e
    while t >= start + 2 * speed / g:
        start, speed = start + 2 * speed / g, speed * e
    return speed * (t - start) - g * (t - start) ** 2 / 2


def check_gradient(model: KineticModel, times, solver=None, schedule=None) -> None:
    """The derivative of every output by every parameter; the tolerance is that of the differences of a solution that is
    itself right to 1e-10."""

    def f(p: Tensor) -> Tensor:
        return simulate(model, times, p, schedule, solver=solver, tolerance=TIGHT).check().states.reshape(-1)

    p = torch.tensor([q.value for q in model.parameters], dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(f, p)
    torch.testing.assert_close(exact, central(f, p), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_ball_bounces_as_its_closed_form_says(solver) -> None:
    times = torch.linspace(0, 2.5, 26, dtype=torch.float64)
    height = simulate(ball(), times, solver=solver, tolerance=TIGHT).states[:, 0]
    expected = torch.tensor([bounced(float(t), 1, 9.81, 0.8) for t in times], dtype=torch.float64)
    # A parabola is integrated without error; what is left is the rounding of the moments of the bounces.
    torch.testing.assert_close(height, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_gradients_pass_through_the_moments_of_bounces(solver) -> None:
    check_gradient(ball(), [0.2, 0.7, 1.3, 1.9], solver)


@settings(max_examples=20, deadline=None)
@given(st.floats(1.0, 3.0), st.floats(1.0, 10.0), st.floats(0.6, 0.9))
def test_a_ball_in_a_batch_is_the_ball_alone(h0: float, g: float, e: float) -> None:
    other = torch.tensor([1.0, 9.81, 0.8], dtype=torch.float64)
    mine = torch.tensor([h0, g, e], dtype=torch.float64)
    times = [0.5, 1.0]
    batch = simulate(ball(), times, torch.stack([other, mine]), tolerance=TIGHT)
    alone = simulate(ball(), times, mine, tolerance=TIGHT)
    assert torch.equal(batch.states[1], alone.states)
    assert batch.statistics.steps[1] == alone.statistics.steps


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_an_event_in_time_waits_for_its_delay(solver) -> None:
    model = decay(Event("gift", time >= S("T"), {"x": S("x") + 1}, delay=S("wait")))
    found = simulate(model, [2.0, 2.5, 4.0], solver=solver, tolerance=TIGHT).states[:, 0]
    # The new value is that of the moment of the trigger.
    gift = math.exp(-1) + 1
    expected = torch.tensor([math.exp(-1), gift, gift * math.exp(-0.75)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    check_gradient(model, [1.0, 2.2, 4.0], solver)


def test_values_of_the_moment_of_execution() -> None:
    model = decay(Event("gift", time >= 2, {"x": S("x") + 1}, delay=S("wait"), values_at_trigger=False))
    found = simulate(model, [2.5], tolerance=TIGHT).states[0, 0]
    assert float(found) == pytest.approx(math.exp(-1.25) + 1, rel=1e-9)
    check_gradient(model, [2.2, 4.0])


def test_a_threshold_refills_again_and_again() -> None:
    refill = Event("refill", S("x") < S("low"), {"x": S("x") + 1, "count": S("count") + 1})
    period = math.log(1.4 / 0.4) / 0.5
    first = math.log(1 / 0.4) / 0.5
    found = simulate(decay(refill), [10.0], tolerance=TIGHT).states[0]
    count = 1 + math.floor((10 - first) / period)
    assert float(found[1]) == count
    expected = 1.4 * math.exp(-0.5 * (10 - first - (count - 1) * period))
    assert float(found[0]) == pytest.approx(expected, rel=1e-8)
    check_gradient(decay(refill), [1.0, 5.0, 10.0])


def test_a_dose_and_an_event_share_the_queue() -> None:
    wash = Event("wash", S("x") > 2, {"x": S("x") / 4})
    doses = Schedule.repeat("x", amount=2.0, every=2.0, count=2, time=1.0)
    found = simulate(decay(wash), [1.0, 3.0], schedule=doses, tolerance=TIGHT).states[:, 0]
    first = (math.exp(-0.5) + 2) / 4
    second = (first * math.exp(-1) + 2) / 4
    torch.testing.assert_close(found, torch.tensor([first, second], dtype=torch.float64), rtol=1e-9, atol=0)


def test_gradients_pass_through_the_times_of_doses_that_lead_to_events() -> None:
    wash = Event("wash", S("x") > 1.2, {"x": S("x") / 4})
    model = decay(wash, rate=S("k") * S("x") - sympy.Rational(3, 10))
    free_model = KineticModel(
        model.name, tuple(free(s.name, s.initial) for s in model.states), model.parameters, model.reactions,
        events=model.events,
    )  # fmt: skip

    def f(p: Tensor) -> Tensor:
        doses = Schedule.bolus("x", p[None, :2], p[None, 2:])
        return simulate(free_model, [0.5, 2.0, 5.0], schedule=doses, tolerance=TIGHT).check().states[0, :, 0]

    p = torch.tensor([0.5, 0.8, 0.9, 2.5], dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(f, p)
    torch.testing.assert_close(exact, central(f, p), rtol=1e-5, atol=1e-6)


def test_an_event_is_called_off_when_it_is_not_persistent() -> None:
    window = (time >= 1) & (time < 1.5)
    events = [Event(f"e{kept}", window, {"count": S("count") + 1}, delay=1, persistent=kept) for kept in (True, False)]
    for event in events:
        found = simulate(decay(event), [3.0], tolerance=TIGHT).states[0, 1]
        assert float(found) == float(event.persistent)


def test_the_highest_priority_goes_first_and_none_goes_last() -> None:
    def write(name: str, digit: int, priority: object) -> Event:
        return Event(name, time >= 1, {"count": 10 * S("count") + digit}, priority=priority, values_at_trigger=False)

    events = (write("a", 1, None), write("b", 2, 5), write("c", 3, S("low") * 100))
    assert float(simulate(decay(*events), [1.0], tolerance=TIGHT).states[0, 1]) == 321


def test_events_trigger_each_other_at_one_moment() -> None:
    first = Event("first", time >= 1, {"count": 1})
    second = Event("second", sympy.Eq(S("count"), 1), {"x": 5})
    third = Event("third", S("x") > 4, {"count": 7})
    found = simulate(decay(first, second, third), [1.0], tolerance=TIGHT).states[0]
    assert found.tolist() == [5.0, 7.0]


def test_a_trigger_that_holds_at_the_start() -> None:
    for initially in (True, False):
        event = Event("e", S("x") > 0.5, {"count": 1}, initially=initially)
        assert float(simulate(decay(event), [0.0]).states[0, 1]) == float(not initially)


def test_strict_and_weak_conditions_differ_at_their_moment_alone() -> None:
    for trigger, at_once in ((time >= 1, 1.0), (time > 1, 0.0)):
        found = simulate(decay(Event("e", trigger, {"count": 1})), [1.0, 1.0 + 1e-9]).states[:, 1]
        assert found.tolist() == [at_once, 1.0]


def test_events_without_end_are_a_status() -> None:
    flip = Event("flip", S("count") < 1, {"count": 1}, initially=False)
    flop = Event("flop", S("count") > 0, {"count": 0})
    solution = simulate(decay(flip, flop), [1.0])
    assert int(solution.status) == Status.EVENTS
    with pytest.raises(Exception, match="follow each other here without end"):
        solution.check()


def test_bounces_that_accumulate_are_told() -> None:
    """With e = 1/2 the bounces of this ball end at three times the time of its fall (Zeno's paradox)."""
    with pytest.warns(RuntimeWarning, match=r"come ever faster and accumulate, in row 0 near t = 1.35"):
        simulate(ball(), [0.5, 2.0], {"e": 0.5})


def test_a_negative_delay_is_a_status_of_that_subject_alone() -> None:
    model = decay(Event("e", time >= 1, {"count": 1}, delay=S("wait")))
    solution = simulate(model, [2.0], {"wait": torch.tensor([0.5, -0.5], dtype=torch.float64)})
    assert solution.status.tolist() == [Status.OK, Status.EVENTS]
    assert float(solution.states[0, 0, 1]) == 1.0


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_rate_that_is_switched_in_time_is_integrated_exactly(solver) -> None:
    off = sympy.Piecewise((0, (time >= 1) & (time < S("T"))), (1, True))
    model = decay(rate=S("k") * S("x") * off)
    found = simulate(model, [1.0, 1.5, 2.0, 3.0], solver=solver, tolerance=TIGHT).states[:, 0]
    expected = torch.exp(-0.5 * torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    check_gradient(model, [1.5, 3.0], solver)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_surface_that_is_left_and_met_again_within_one_step_is_met(solver) -> None:
    """A throw from the ground after a long rest: the step that follows reaches the end, the flight ends before."""
    throw = Event("throw", time >= 100, {"v": 1, "pull": 2})
    land = Event("land", S("h") <= 0, {"count": S("count") + 1, "v": 0, "pull": 0})
    states = tuple(free(name) for name in ("h", "v", "pull", "count"))
    model = KineticModel("throw", states, rates={"h": S("v"), "v": -S("pull")}, events=(throw, land))
    found = simulate(model, [103.0], solver=solver).states[0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_short_pulse_is_not_stepped_over() -> None:
    """A window of a ten-thousandth of the span, which no error control would notice."""
    pulse = sympy.Piecewise((1000, (time > 7) & (time < 7.001)), (0, True))
    model = KineticModel("pulse", (free("x"),), rates={"x": pulse})
    assert float(simulate(model, [10.0]).states[0, 0]) == pytest.approx(1.0, rel=1e-9)


def test_a_floor_of_time_makes_stairs() -> None:
    model = KineticModel("stairs", (free("x"),), rates={"x": sympy.floor(2 * time)})
    found = simulate(model, [3.25], tolerance=TIGHT).states[0, 0]
    assert float(found) == pytest.approx(sum(0.5 * i for i in range(6)) + 0.25 * 6, rel=1e-12)


def test_a_rate_that_is_switched_by_the_state_is_integrated_exactly() -> None:
    """dx/dt = -1 above `low`, then -k x: the slope jumps where the state arrives."""
    x, k, low = S("x"), S("k"), S("low")
    model = decay(rate=sympy.Piecewise((1, x > low), (k * x, True)))
    found = simulate(model, [0.5, 2.6], tolerance=TIGHT).states[:, 0]
    expected = torch.tensor([0.5, 0.4 * math.exp(-0.5 * 2.0)], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    check_gradient(model, [0.5, 2.6])


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_delay_is_solved_by_steps(solver) -> None:
    """x' = -x(t - 1), x = 1 before: a polynomial between whole times (Bellman & Cooke 1963, section 3.2)."""

    def exact(t: float) -> float:
        return sum((-1) ** n * (t - n + 1) ** n / math.factorial(n) for n in range(math.floor(t) + 2))

    times = [0.5, 1.0, 1.7, 2.0, 3.3, 4.6]
    found = simulate(delayed_decay(), times, solver=solver, tolerance=TIGHT).states[:, 0]
    torch.testing.assert_close(found, torch.tensor([exact(t) for t in times], dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_gradients_pass_through_delays(solver) -> None:
    check_gradient(delayed_decay(), [0.5, 1.7, 2.6, 3.3], solver)


def test_a_delay_in_an_observable_and_in_a_trigger() -> None:
    x = S("x")
    late = Event("late", delay(x, 1) < sympy.Rational(1, 2), {"seen": time})
    states, loss = (State("x", 1), free("seen")), Reaction("loss", "x ->", S("k") * x)
    seen = {"before": delay(x, 1)}
    model = KineticModel("seen", states, (Parameter("k", 0.5),), (loss,), observables=seen, events=(late,))
    solution = simulate(model, [0.5, 2.0, 4.0], tolerance=TIGHT)
    expected = torch.tensor([1.0, math.exp(-0.5), math.exp(-1.5)], dtype=torch.float64)
    torch.testing.assert_close(solution.observe()[:, 0], expected, rtol=1e-9, atol=0)
    assert float(solution.states[-1, 1]) == pytest.approx(1 + math.log(2) / 0.5, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 2.0), st.floats(0.05, 0.9), st.floats(0.0, 1.0))
def test_an_amount_is_kept_when_events_only_move_it(k: float, low: float, wait: float) -> None:
    """A reaction and an event that both exchange x and y keep x + y."""
    x, y = S("x"), S("y")
    model = KineticModel(
        "exchange", (State("x", 1), State("y", 0)), (Parameter("k", k), Parameter("low", low), Parameter("wait", wait)),
        (Reaction("r", "x -> y", S("k") * x),),
        events=(Event("back", x < S("low"), {"x": x + y / 2, "y": y / 2}, delay=S("wait"), values_at_trigger=False),),
    )  # fmt: skip
    total = simulate(model, [0.5, 1.0, 3.0, 7.0], tolerance=TIGHT).check().states.sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)

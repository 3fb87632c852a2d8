"""Compiled flights: models with events and state conditions, held against PyTorch, closed forms and differences."""

import math

import pytest
import sympy
import torch
from sympy import Piecewise, ceiling, floor, sign
from torch import Tensor

from mechanistic import (
    Event,
    KineticModel,
    Parameter,
    RateField,
    Reaction,
    Schedule,
    State,
    Status,
    Tsit5,
    simulate,
    symbol,
    time,
)
from mechanistic.native import Native
from mechanistic.native.flight import Flights
from mechanistic.solve.engine import Torch
from tests.mechanistic.event_models import SOLVERS, TIGHT, free

S = symbol
x, k, count = S("x"), S("k"), S("count")
TIMES = [0.3, 0.9, 1.0, 1.7, 2.6, 4.1, 5.3]
by_name = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)


def model(name: str, *events: Event, rate: object = 0, gain: object = 0) -> KineticModel:
    """dx/dt = gain - k x - rate from x = 1; what counts stands still."""
    loss, other = Reaction("loss", "x ->", k * x), Reaction("other", "x ->", rate)
    parameters = (Parameter("k", 0.5), Parameter("low", 0.4), Parameter("wait", 0.35))
    states = (free("x", 1), free("count"))
    return KineticModel(
        name, states, parameters, (loss, other, Reaction("gain", "-> x", sympy.sympify(gain))), events=events
    )


REFILL = Event("refill", x < S("low"), {"x": x + 1, "count": count + 1})
MODELS = {
    "threshold": model("threshold", REFILL),
    "thermostat": model(
        "thermostat",
        Event("on", x < S("low"), {"count": 1}),
        Event("off", x > 2 * S("low"), {"count": 0}),
        gain=count,
    ),
    "delayed": model("delayed", Event("late", x < S("low"), {"x": x + 1, "count": x}, delay=S("wait") * (1 + x))),
    "at execution": model(
        "executed", Event("late", x < S("low"), {"x": x + 1}, delay=S("wait"), values_at_trigger=False)
    ),
    "called off": model(
        "called", Event("late", x < S("low"), {"count": count + 1}, delay=1, persistent=False), REFILL
    ),
    "priorities": model(
        "ranked",
        Event("a", x < S("low"), {"count": 10 * count + 1}, priority=x, values_at_trigger=False),
        Event("b", x < S("low"), {"count": 10 * count + 2}, priority=1 + x, values_at_trigger=False),
    ),
    "time and state": model("both", Event("late", (time > 1.2) & (x < 0.6), {"x": 2 * x + time})),
    "piecewise": model("switched", rate=Piecewise((1, x > S("low")), (k * x, True))),
    "stairs of a state": model("stairs", rate=floor(4 * x) / 9, gain=ceiling(3 * x) / 40),
    "sign of a state": model("signed", rate=(2 + sign(x - S("low"))) / 8),
}  # fmt: skip
DOSES = Schedule.repeat("x", amount=0.3, every=0.7, count=3, time=0.3)
INFUSED = DOSES + Schedule.infusion("x", 0.5, 0.9, 1.1)


@by_name
@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_pytorch(name: str, solver) -> None:
    """With doses beside, outputs before and after them, and other parameters in every row."""
    field = RateField(MODELS[name])
    p = field.nominal() * torch.tensor([1.0, 0.9, 1.2, 1.1, 0.8]).double()[:, None]
    before = torch.tensor([True, True, False, False, False, True, False])
    # An infusion would hold some of the others where their slope changes its sign.
    doses = INFUSED if field.model.events else DOSES
    mine, other = (
        simulate(field, TIMES, p, doses, before=before, solver=solver, tolerance=TIGHT, engine=engine)
        for engine in (Native(), Torch())
    )
    assert mine.engine == "compiled code"
    assert mine.status.tolist() == other.status.tolist() == [Status.OK] * 5
    # Both are right to the tolerance in every step; a crossing carries an error on as one of its moment.
    torch.testing.assert_close(mine.states, other.states, rtol=1e-8, atol=1e-8)
    assert (mine.statistics.steps - other.statistics.steps).abs().max() <= 1 + other.statistics.steps.max() // 20


@by_name
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_pytorch_and_of_differences(name: str, solver) -> None:
    """Of a sum of outputs by parameters, initial states, doses and their times."""
    field = RateField(MODELS[name])
    times = torch.tensor([0.45, 1.13, 2.6, 4.13]).double()

    def f(q: Tensor, engine: Native | Torch) -> Tensor:
        doses = Schedule.bolus("x", q[:, 5:6], q[:, 6:7])
        found = simulate(
            field, times, q[:, :3], doses, initial=q[:, 3:5], solver=solver, tolerance=TIGHT, engine=engine
        )
        return (found.states * times.cos()[:, None]).sum((1, 2))

    q = torch.cat([field.nominal(), torch.tensor([1.07, 0.0, 0.3, 0.77]).double()])
    found = []
    for engine in (Native(), Torch()):
        leaf = q.clone().requires_grad_()
        found += torch.autograd.grad(f(leaf[None], engine), leaf)
    # Derivatives of two meshes of steps, each right to the tolerance times what derivatives are allowed more.
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)
    shifts = 1e-4 * torch.eye(7).double() * torch.tensor([-2.0, -1.0, 1.0, 2.0]).double()[:, None, None]
    low2, low, high, high2 = f((q + shifts).reshape(28, 7), Native()).reshape(4, 7)
    torch.testing.assert_close(found[0], (8 * (high - low) - (high2 - low2)) / 12e-4, rtol=1e-5, atol=1e-6)


@by_name
def test_the_period_of_a_thermostat_is_its_closed_form(solver) -> None:
    """dx/dt = u - x, u = 2 from x = 1 until x = 1.5, then 0: up in log(2), down in log(1.5)."""
    events = (Event("off", x >= 1.5, {"u": 0, "count": count + 1}), Event("on", x <= 1, {"u": 2}))
    thermostat = KineticModel(
        "heat", (free("x", 1), free("u", 2), free("count")), rates={"x": S("u") - x}, events=events
    )
    period = math.log(2) + math.log(1.5)
    times = torch.linspace(0, 30, 61).double()
    found = simulate(thermostat, times, solver=solver, tolerance=TIGHT, engine=Native()).states
    phase = times % period
    up = 2 - torch.exp(-phase)
    expected = torch.where(phase < math.log(2), up, 1.5 * torch.exp(math.log(2) - phase))
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-8)
    assert found[-1, 2] == 1 + math.floor((30 - math.log(2)) / period)


@by_name
@pytest.mark.parametrize("wanted", [False, True])
def test_a_subject_is_the_same_bit_for_bit_in_every_batch(solver, wanted: bool) -> None:
    field = RateField(MODELS["delayed"])
    generator = torch.Generator().manual_seed(3)
    p = field.nominal() * (0.6 + torch.rand(11, 3, generator=generator).double())
    p = p.requires_grad_(wanted)
    times = torch.rand(11, 6, generator=generator).double().mul(5).sort(-1).values
    whole = simulate(field, times, p, DOSES, solver=solver)
    for row in (0, 4, 10):
        alone = simulate(field, times[row], p[row], DOSES, solver=solver)
        assert torch.equal(whole.states[row], alone.states)
        assert whole.statistics.steps[row] == alone.statistics.steps
        assert whole.statistics.rejected[row] == alone.statistics.rejected


def test_between_events_nothing_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many flights as there are executions, doses and conditions that change; PyTorch takes no step."""
    flights = []
    fly = Flights.fly
    monkeypatch.setattr(Flights, "fly", lambda *given: flights.append(1) or fly(*given))
    monkeypatch.setattr(Tsit5, "step", None)
    found = simulate(MODELS["threshold"], [40.0], tolerance=TIGHT, solver=Tsit5()).check()
    assert found.states[-1, 1] > 10
    # One flight leads to an event, and that the condition ends with it is seen at once.
    assert len(flights) <= found.states[-1, 1] + 1
    assert found.statistics.steps > 5 * len(flights)


@by_name
def test_a_condition_that_rounding_shows_otherwise_is_passed(solver) -> None:
    """Compiled code and PyTorch round an exponential differently, and a slow state stays there for long.

    The moment is known as well as an exponential is rounded: to 1e-16, over the slope of 1e-6.
    """
    seen = Event("seen", sympy.exp(x) > S("level"), {"at": time})
    slow = KineticModel("slow", (free("x"), free("at")), (Parameter("level", 1.0),), rates={"x": 1e-6}, events=(seen,))
    level = torch.exp(1e-6 * torch.linspace(0.1, 0.9, 40).double())
    found = simulate(slow, [1.0], {"level": level}, solver=solver, engine=Native()).check()
    torch.testing.assert_close(found.states[:, 0, 1], 1e6 * level.log(), rtol=0, atol=1e-9)


def test_what_turns_out_to_be_stiff_is_solved_by_the_other_method_on_any_number_of_threads() -> None:
    """A relaxation oscillator, whose first jump is counted; its batch is large enough for several shares."""
    up, down = (Event(name, at, {"count": count + 1}) for name, at in (("up", x >= 1), ("down", x <= -1)))
    rates = {"x": S("v"), "v": k * (1 - x**2) * S("v") - x}
    states = (free("x", 2), free("v"), free("count"))
    swing = KineticModel("swing", states, (Parameter("k", 300.0),), rates=rates, events=(up, down))
    p = torch.linspace(300, 320, 520).double()[:, None]
    mine, other = (simulate(swing, [50.0, 300.0], p, engine=Native(threads=threads)) for threads in (1, 2))
    assert torch.equal(mine.states, other.states)
    assert {mine.methods[i] for i in mine.method.tolist()} == {"Rodas5P"}
    reference = simulate(swing, [50.0, 300.0], p[:1], engine=Torch())
    torch.testing.assert_close(mine.states[:1], reference.states, rtol=1e-6, atol=1e-6)
    assert reference.states[0, -1, 2] == 1


def test_a_surface_that_is_left_at_once_is_not_met_twice() -> None:
    """A throw from the ground: the flight starts on the surface h = 0 that ends it."""
    throw = Event("throw", time >= 100, {"v": 1, "pull": 2})
    land = Event("land", S("h") <= 0, {"count": count + 1, "v": 0, "pull": 0})
    states = tuple(free(name) for name in ("h", "v", "pull", "count"))
    thrown = KineticModel("throw", states, rates={"h": S("v"), "v": -S("pull")}, events=(throw, land))
    found = simulate(thrown, [103.0], engine=Native()).states[0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 1]).double(), rtol=0, atol=1e-12)


def test_failures_are_those_of_one_subject_alone() -> None:
    """A state that ends in finite time, and an event whose delay is negative."""
    grow = Reaction("grow", "-> x", k * x**2)
    late = Event("late", x > 1.5, {"seen": 1}, delay=S("wait"))
    parameters = (Parameter("k", 0.1), Parameter("wait", 0.5))
    fails = KineticModel("fails", (State("x", 1), free("seen")), parameters, (grow,), events=(late,))
    p = torch.tensor([[0.1, 0.5], [0.9, 0.5], [0.5, -1.0], [0.5, 0.5]]).double()
    mine, other = (simulate(fails, [0.5, 1.9], p, solver=Tsit5(), engine=engine) for engine in (Native(), Torch()))
    assert mine.status.tolist() == other.status.tolist()
    assert mine.status.tolist()[1] in (Status.MIN_STEP, Status.NOT_FINITE)
    assert mine.status.tolist()[2:] == [Status.EVENTS, Status.OK]
    torch.testing.assert_close(mine.reached, other.reached, rtol=1e-6, atol=0)
    torch.testing.assert_close(mine.states, other.states, rtol=1e-6, atol=1e-9, equal_nan=True)


def test_events_that_accumulate_are_told() -> None:
    """With e = 1/2 the bounces of this ball end at three times the time of its fall (Zeno's paradox)."""
    h, v = S("h"), S("v")
    bounce = Event("bounce", h <= 0, {"v": -v / 2, "h": 0})
    ball = KineticModel("zeno", (free("h", 1), free("v")), rates={"h": v, "v": -9.81}, events=(bounce,))
    with pytest.warns(RuntimeWarning, match=r"come ever faster and accumulate, in row 0 near t = 1.35"):
        simulate(ball, [0.5, 2.0], engine=Native())

"""One clock a subject: the same subject alone, and inside any batch, has the same trajectory and the same gradient."""

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import mechanistic as mech
from mechanistic import Schedule, Tolerance, prepared, simulate

pytestmark = pytest.mark.usefixtures("both_engines")
SOLVERS = (mech.Tsit5(), mech.Rodas5P(), mech.Auto())
WIDTH = 5
ORAL = mech.RateField(mech.library.two_compartment_oral())
ROBERTSON = mech.RateField(mech.library.robertson())

# Sums of floats are taken in another order in another batch: differences of rounding, which step control may amplify.
close = {"rtol": 1e-9, "atol": 1e-12, "equal_nan": True}

doses = st.one_of(
    st.just(Schedule.none()),
    st.builds(
        Schedule.bolus, st.sampled_from(["gut", "central"]), st.floats(1.0, 200.0), st.sampled_from([0.0, 1.0, 2.5])
    ),
    st.builds(Schedule.infusion, st.just("central"), st.floats(1.0, 200.0), st.floats(0.2, 8.0), st.floats(0.0, 5.0)),
    st.builds(Schedule.repeat, st.just("gut"), st.floats(1.0, 100.0), st.floats(0.5, 6.0), st.integers(1, 4)),
)
schedules = st.builds(lambda a, b: a + b, doses, doses)
times = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.5]), st.floats(0.0, 12.0)), min_size=0, max_size=WIDTH).map(
    sorted
)
subject = st.tuples(
    schedules,
    times,
    st.lists(st.floats(-0.5, 0.5), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=WIDTH, max_size=WIDTH),
)


# A dose at the smallest float after the start: a segment over which nothing can be divided by the step.
TWO_INSTANTS = (Schedule.bolus("central", 1.0, 5e-324), [1.0], [0.0] * 5, [False] * WIDTH)


def padded(values: list[float]) -> list[float]:
    return values + [torch.nan] * (WIDTH - len(values))


@settings(max_examples=30)
@example([TWO_INSTANTS], SOLVERS[1], False)
@given(st.lists(subject, min_size=1, max_size=6), st.sampled_from(SOLVERS), st.booleans())
def test_a_subject_alone_and_in_any_batch(subjects: list[Any], solver: Any, moving: bool) -> None:
    clock = torch.tensor([padded(t) for _, t, _, _ in subjects], dtype=torch.float64)
    parameters = ORAL.nominal() * torch.exp(torch.tensor([eta for _, _, eta, _ in subjects], dtype=torch.float64))
    before = torch.tensor([flags for _, _, _, flags in subjects])
    schedule = Schedule.stack([s for s, _, _, _ in subjects])
    if moving:
        # Doses whose times carry a gradient take another path through the stops.
        schedule = Schedule(
            schedule.targets, schedule.target, schedule.time.requires_grad_(), schedule.amount, schedule.duration
        )
    whole = simulate(ORAL, clock, parameters, schedule, before=before, solver=solver).check()
    assert torch.equal(whole.states.isnan().any(-1), clock.isnan())
    for row, (alone, _, _, _) in enumerate(subjects):
        count = int(clock[row].isfinite().sum())
        # With a gradient, the error of derivatives bounds the steps as well.
        mine = parameters[row].clone().requires_grad_(moving)
        one = simulate(ORAL, clock[row, :count], mine, alone, before=before[row, :count], solver=solver).check()
        torch.testing.assert_close(whole.states[row, :count].detach(), one.states.detach(), **close)
        if not moving:
            assert int(whole.statistics.steps[row]) == int(one.statistics.steps)


@given(st.permutations(range(4)))
@settings(max_examples=4)
def test_the_order_of_subjects_does_not_matter(order: list[int]) -> None:
    parameters = ORAL.nominal() * torch.tensor([[0.5], [1.0], [1.5], [2.0]], dtype=torch.float64)
    clock = torch.tensor([[1.0, 20.0], [0.5, 3.0], [2.0, torch.nan], [0.1, 8.0]], dtype=torch.float64)
    given_doses = Schedule.bolus(
        "gut", torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([0.0, 1.0, 2.0, 3.0]).double()
    )
    plain = simulate(ORAL, clock, parameters, given_doses)
    mixed = simulate(ORAL, clock[order], parameters[order], given_doses.select(order))
    torch.testing.assert_close(plain.states[order], mixed.states, **close)


@pytest.mark.parametrize("solver", [mech.Rodas5P(), mech.Auto()], ids=lambda s: type(s).__name__)
def test_stiff_and_harmless_subjects_share_a_batch(solver: Any) -> None:
    k = torch.tensor([[0.04, 3e7, 1e4], [0.04, 3.0, 1.0], [0.04, 3e5, 1e2], [4.0, 3e7, 1e4]], dtype=torch.float64)
    clock = torch.tensor([[1.0, 40.0], [1.0, 5.0], [0.0, 100.0], [0.5, torch.nan]], dtype=torch.float64)
    whole = simulate(ROBERTSON, clock, k, solver=solver).check()
    for row in range(4):
        one = simulate(ROBERTSON, clock[row][clock[row].isfinite()], k[row], solver=solver).check()
        torch.testing.assert_close(whole.states[row][: len(one.states)], one.states, **close)
        assert whole.methods[int(whole.method[row])] == one.methods[int(one.method)]


def test_finished_subjects_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = mech.RateField.forward

    def counted(self: mech.RateField, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        rows.append(len(x))
        return original(self, t, x, p)

    monkeypatch.setattr(mech.RateField, "forward", counted)
    clock = torch.tensor([[0.01]] * 60 + [[1.0]] * 3 + [[200.0]], dtype=torch.float64)
    out = simulate(ORAL, clock, initial={"gut": 100.0}, solver=mech.Tsit5(), engine=mech.Torch()).check()
    assert rows[0] == 64
    assert 1 in rows
    # Without compaction every evaluation would take all 64 rows.
    assert sum(rows) < 0.3 * 64 * len(rows)
    one = simulate(ORAL, [200.0], initial={"gut": 100.0}, solver=mech.Tsit5()).check()
    torch.testing.assert_close(out.states[-1], one.states, **close)
    torch.testing.assert_close(out.states[0], out.states[59], rtol=0, atol=0)


def test_a_failing_subject_disturbs_no_other() -> None:
    k = torch.tensor([[0.04, 3.0, 1.0], [torch.nan, 3.0, 1.0], [0.04, 3.0, torch.inf]], dtype=torch.float64)
    for solver in SOLVERS:
        out = simulate(ROBERTSON, [1.0, 5.0], k, solver=solver)
        assert out.succeeded.tolist() == [True, False, False]
        alone = simulate(ROBERTSON, [1.0, 5.0], k[0], solver=solver).check()
        torch.testing.assert_close(out.states[0], alone.states, **close)
        assert out.states[1:].isnan().all()


def test_gradients_of_a_subject_are_those_it_has_alone() -> None:
    parameters = (ORAL.nominal() * torch.tensor([[0.7], [1.0], [1.3]], dtype=torch.float64)).requires_grad_()
    clock = torch.tensor([[1.0, 12.0, 30.0], [0.5, 2.0, torch.nan], [3.0, 8.0, 100.0]], dtype=torch.float64)
    dose = Schedule.repeat("gut", torch.tensor([10.0, 20.0, 30.0]).double(), 6.0, 3)
    tight = Tolerance(1e-8, 1e-11)
    whole = simulate(ORAL, clock, parameters, dose, tolerance=tight).states
    (grads,) = torch.autograd.grad(torch.where(whole.isfinite(), whole, 0.0).square().sum(), parameters)
    for row in range(3):
        own = parameters[row].detach().requires_grad_()
        valid = clock[row][clock[row].isfinite()]
        alone = simulate(ORAL, valid, own, dose.select(slice(row, row + 1)), tolerance=tight).states
        (grad,) = torch.autograd.grad(alone.square().sum(), own)
        torch.testing.assert_close(grads[row], grad, rtol=1e-8, atol=1e-9 * float(grad.abs().max()))


def test_batches_broadcast() -> None:
    field = ORAL
    k = field.nominal().expand(3, 1, 5)
    dose = Schedule.bolus("gut", torch.tensor([1.0, 2.0]).double())
    out = simulate(field, [1.0, 2.0, 4.0], k, dose).check()
    assert out.states.shape == (3, 2, 3, 3)
    assert out.status.shape == out.reached.shape == out.statistics.steps.shape == (3, 2)
    # The model is linear: twice the dose, twice the amounts; the tolerance is relative, so up to 1e-6 of them.
    torch.testing.assert_close(out.states[:, 1], 2 * out.states[:, 0], rtol=1e-5, atol=1e-7)


def test_a_batch_taken_in_pieces_is_the_batch(monkeypatch):
    model = mech.library.two_compartment_oral()
    clearance = torch.linspace(3.0, 8.0, 7, dtype=torch.float64, requires_grad=True)
    doses = Schedule.repeat("gut", 100.0, every=12.0, count=2)

    def run() -> tuple[Tensor, Tensor]:
        solution = simulate(model, [1.0, 13.0, 30.0], {"CL": clearance}, doses)
        return solution.states.detach(), torch.autograd.grad(solution.observe().sum(), clearance)[0]

    whole = run()
    monkeypatch.setattr(prepared, "STATES_AT_ONCE", 6)
    for value, other in zip(run(), whole, strict=True):
        # Rounding of vectorised sums may differ with the size of the batch, nothing else.
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)

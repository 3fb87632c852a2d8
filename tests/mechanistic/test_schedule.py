"""Doses: construction, arithmetic, refusals, and the stops that a solver makes of them."""

import time as clock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from mechanistic import library
from mechanistic.errors import ScheduleError
from mechanistic.schedule import Schedule, Stops, compile_schedule

STATES = ("central", "gut")


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def compiled(schedule: Schedule, start: float = 0.0, end: float = 10.0, rows: int = 1) -> Stops:
    return compile_schedule(schedule, STATES, torch.full((rows,), start).double(), torch.full((rows,), end).double())


def test_constructors_say_what_is_given() -> None:
    assert repr(Schedule.repeat("gut", 5.0, 24.0, 7)) == "Schedule(7 × 5 bolus → gut every 24)"
    assert repr(Schedule.infusion("central", 100.0, 2.0, time=1.0)) == "Schedule(100 infusion over 2 → central at 1)"
    assert repr(Schedule.none()) == "Schedule(no dose)"
    both = Schedule.repeat("gut", 5.0, 24.0, 2, time=6.0) + Schedule.bolus("central", 1.0)
    assert repr(both) == "Schedule(2 × 5 bolus → gut every 24 from 6; 1 bolus → central at 0)"
    assert "… 29 more rows" in repr(Schedule.bolus("gut", torch.ones(32).double()))


@pytest.mark.parametrize(
    ("amount", "time", "shape"),
    [
        (1.0, 0.0, (1,)),
        ([1.0, 2.0], 0.0, (2, 1)),
        ([1.0, 2.0], [[0.0, 1.0, 2.0]] * 2, (2, 3)),
        (1.0, [[[0.0]]], (1, 1, 1)),
    ],
)
def test_a_number_is_one_dose_and_a_vector_one_dose_a_subject(amount: object, time: object, shape: tuple) -> None:
    assert Schedule.bolus("gut", amount, time).time.shape == shape


def test_a_sum_holds_the_doses_of_both_row_by_row() -> None:
    single, batch = Schedule.bolus("gut", 1.0, 3.0), Schedule.infusion("central", tensor(5, 6), 2.0)
    total = single + batch
    assert total.batch_shape == (2,)
    assert total.targets == ("gut", "central")
    assert total.amount.tolist() == [[1.0, 5.0], [1.0, 6.0]]
    assert total.target.tolist() == [[0, 1], [0, 1]]


def test_stacking_pads_and_selecting_undoes_it() -> None:
    single = [Schedule.repeat("gut", 5.0, 1.0, 3), Schedule.none(), Schedule.bolus("central", 2.0, 4.0)]
    stacked = Schedule.stack(single)
    assert stacked.time.shape == (3, 3)
    assert stacked.time[1].tolist() == [torch.inf] * 3
    assert [repr(stacked.select(i)) for i in range(3)] == [repr(s) for s in single]
    assert repr(stacked.select([2, 0]).select(0)) == repr(single[2])
    assert stacked.select(torch.tensor([True, False, True])).batch_shape == (2,)
    assert stacked.select(slice(0, 2)).batch_shape == (2,)


def test_every_bad_entry_is_listed_at_once() -> None:
    with pytest.raises(ScheduleError) as error:
        Schedule.infusion("gut", tensor(-1, float("nan"), 1, 1), tensor(1, 1, -2, 1), tensor(0, 0, 0, float("inf")))
    text = str(error.value)
    assert len(error.value.problems) == 4
    for part in ("row 0, dose 1: `amount` is -1", "row 1, dose 1: `amount` is nan", "row 2, dose 1: `duration` is -2"):
        assert part in text
    assert "row 3, dose 1: `time` is inf" in text


def test_a_long_list_of_problems_is_shortened() -> None:
    with pytest.raises(ScheduleError, match="and 80 more"):
        Schedule.bolus("gut", -torch.ones(100).double())


@pytest.mark.parametrize(("every", "count"), [(0.0, 3), (-1.0, 3), (float("nan"), 3), (24.0, 0), (24.0, 1.5)])
def test_a_repeat_needs_a_positive_interval_and_count(every: float, count: int) -> None:
    with pytest.raises(ScheduleError, match=r"every|count"):
        Schedule.repeat("gut", 1.0, every, count)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ScheduleError, match="do not fit"):
        Schedule.bolus("gut", tensor(1, 2), tensor(1, 2, 3))
    with pytest.raises(ScheduleError, match="cannot be added"):
        Schedule.bolus("gut", tensor(1, 2)) + Schedule.bolus("gut", tensor(1, 2, 3))
    with pytest.raises(ScheduleError, match="does not fit the batch"):
        compiled(Schedule.bolus("gut", tensor(1, 2)), rows=3)
    with pytest.raises(ScheduleError, match="stacked"):
        Schedule.stack([Schedule.bolus("gut", tensor(1, 2))])
    with pytest.raises(ScheduleError, match="stacked"):
        Schedule.stack([])
    with pytest.raises(ScheduleError, match="same"):
        Schedule(("gut",), torch.zeros(2, dtype=torch.long), tensor(1), tensor(1), tensor(1))
    with pytest.raises(ScheduleError, match="indices"):
        Schedule(("gut",), torch.ones(1, dtype=torch.long), tensor(1), tensor(1), tensor(0))


def test_a_schedule_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Schedule.none().time = tensor(1.0)  # type: ignore[misc]


def test_doses_at_start_and_end_are_given_and_later_ones_are_not() -> None:
    stops = compiled(Schedule.repeat("gut", tensor(5.0, 5.0), 5.0, 4), rows=2)
    assert stops.times.tolist() == [[0.0, 5.0, 10.0]] * 2
    assert stops.jumps[0].tolist() == [[0.0, 5.0]] * 3
    assert stops.rates.abs().sum() == 0


def test_doses_at_one_time_merge_by_adding() -> None:
    stops = compiled(
        Schedule.bolus("gut", 1.0, 4.0) + Schedule.bolus("gut", 2.0, 4.0) + Schedule.bolus("central", 3.0, 4.0)
    )
    assert stops.times.tolist() == [[0.0, 4.0, 10.0]]
    assert stops.jumps[0, 1].tolist() == [3.0, 3.0]


def test_overlapping_infusions_add_and_end() -> None:
    stops = compiled(Schedule.infusion("central", 4.0, 4.0, 1.0) + Schedule.infusion("central", 20.0, 10.0, 3.0))
    assert stops.times.tolist() == [[0.0, 1.0, 3.0, 5.0, 10.0]]
    # Rates are sums over the infusions that run, not running differences, so what has ended leaves exactly nothing.
    assert stops.rates[0, :, 0].tolist() == [0.0, 1.0, 3.0, 2.0]


def test_rows_are_padded_at_their_end() -> None:
    schedule = Schedule.stack([Schedule.bolus("gut", 1.0, 1.0) + Schedule.bolus("gut", 1.0, 2.0), Schedule.none()])
    stops = compiled(schedule, rows=2)
    assert stops.times.tolist() == [[0.0, 1.0, 2.0, 10.0], [0.0, 10.0, 10.0, 10.0]]
    assert stops.jumps[1].abs().sum() == 0


def test_an_infusion_too_short_for_its_clock_is_a_bolus() -> None:
    stops = compiled(Schedule.infusion("gut", 3.0, 1e-20, time=4.0))
    assert stops.jumps[0, 1].tolist() == [0.0, 3.0]


def test_no_dose_and_no_time_still_make_a_segment() -> None:
    assert compiled(Schedule.none()).times.tolist() == [[0.0, 10.0]]
    assert compiled(Schedule.bolus("gut", 1.0), end=0.0).times.tolist() == [[0.0, 0.0]]
    assert compiled(Schedule.bolus("gut", 1.0), end=0.0).jumps.sum() == 1.0


def test_doses_before_the_start_and_unknown_states_are_named() -> None:
    schedule = Schedule.bolus("gutt", tensor(1, 1, 1), tensor(1, -1, 1))
    with pytest.raises(ScheduleError) as error:
        compiled(schedule, rows=3)
    assert "`gutt` is not a state (did you mean `gut`?)" in str(error.value)
    assert "row 1: dose 1 at -1 comes before the start at 0" in str(error.value)
    with pytest.raises(ScheduleError, match="row 0: the simulation ends at -1"):
        compiled(Schedule.none(), end=-1.0)


DOSES = st.lists(
    st.tuples(
        st.sampled_from(STATES),
        st.floats(0.0, 100.0),
        st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0, 30.0]),
        st.sampled_from([0.0, 1.0, 1.5, 2.0, 10.0, 10.5, 40.0]),
    ),
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(DOSES, min_size=1, max_size=4), st.booleans())
def test_what_flows_in_by_any_time_is_what_the_doses_say(cohort: list, moving: bool) -> None:
    """The input of jumps and rates up to a stop equals the sum over doses of what each has delivered by then."""
    rows = [sum((Schedule.infusion(s, a, d, t) for s, a, d, t in row), Schedule.none()) for row in cohort]
    schedule = Schedule.stack(rows)
    schedule.time.requires_grad_(moving)
    stops = compiled(schedule, rows=len(rows))
    times, rates = stops.times.detach(), stops.rates.detach()
    assert bool((times[:, 1:] >= times[:, :-1]).all())
    assert times[:, 0].tolist() == [0.0] * len(rows)
    assert times[:, -1].tolist() == [10.0] * len(rows)
    steps = times.diff(dim=1)[..., None]
    inflow = stops.jumps.detach().cumsum(dim=1)
    inflow[:, 1:] += (rates * steps).cumsum(dim=1)
    for row, doses in enumerate(cohort):
        for stop in [k for k in range(times.shape[1]) if k + 1 == times.shape[1] or steps[row, k] > 0]:
            now = float(times[row, stop])
            given_by_now = dict.fromkeys(STATES, 0.0)
            for state, amount, duration, start in doses:
                share = 1.0 if duration == 0 else min((now - start) / duration, 1.0)
                given_by_now[state] += amount * share if start <= now else 0.0
            # Rounding of a few additions of numbers up to 100.
            assert inflow[row, stop].tolist() == pytest.approx([given_by_now[s] for s in STATES], abs=1e-10)


def decay(stops: Stops, rate: float = 0.3) -> torch.Tensor:
    """Closed form of x' = -rate x + u through all stops, the state after the last jump."""
    x = stops.jumps[:, 0]
    for k in range(stops.rates.shape[1]):
        survival = torch.exp(-rate * (stops.times[:, k + 1] - stops.times[:, k]))[:, None]
        x = x * survival + stops.rates[:, k] / rate * (1 - survival) + stops.jumps[:, k + 1]
    return x


@pytest.mark.parametrize("start", [0.0, -1.0])
def test_amounts_times_and_durations_have_the_gradients_of_the_closed_form(start: float) -> None:
    def final_state(amount: torch.Tensor, time: torch.Tensor, duration: torch.Tensor) -> torch.Tensor:
        schedule = Schedule.infusion("central", amount, duration, time) + Schedule.bolus("gut", amount, 2 * time)
        return decay(compiled(schedule, start=start, rows=2))

    # A dose exactly at the start (row 0) moves only forwards, where central differences have no meaning: start at 0
    # is tried with doses after it.
    values = (tensor(3.0, 5.0), tensor(0.7, 4.0), tensor(2.0, 30.0))
    assert gradcheck(final_state, [v.requires_grad_() for v in values], eps=1e-6, atol=1e-7, rtol=1e-6)


def test_a_dose_at_the_start_feels_its_own_time() -> None:
    time = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    final = decay(compiled(Schedule.bolus("gut", 5.0, time)))[0, 1]
    # x(end) = 5 exp(-0.3 (10 - time)), so dx/dtime = 0.3 x(end).
    (slope,) = torch.autograd.grad(final, time)
    assert float(slope) == pytest.approx(0.3 * 5 * 2.718281828459045**-3, rel=1e-12)


def test_doses_that_coincide_each_feel_their_own_time() -> None:
    first = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    final = decay(compiled(Schedule.bolus("gut", 5.0, first) + Schedule.bolus("gut", 2.0, second)))[0, 1]
    slopes = torch.autograd.grad(final, (first, second))
    unit = 0.3 * 2.718281828459045 ** (-0.3 * 6)
    assert [float(s) for s in slopes] == pytest.approx([5 * unit, 2 * unit], rel=1e-12)


def test_end_and_start_carry_gradients() -> None:
    def final_state(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return decay(compile_schedule(Schedule.bolus("gut", 1.0, 3.0), STATES, start, end))

    ends = (tensor(0.0, 1.0).requires_grad_(), tensor(5.0, 6.0).requires_grad_())
    assert gradcheck(final_state, ends, eps=1e-6, atol=1e-8, rtol=1e-6)


def test_dtype_follows_the_doses_and_one_schedule_serves_all_rows() -> None:
    single = Schedule.repeat("gut", 5.0, 1.0, 3)
    assert torch.equal(compiled(single, rows=4).jumps, compiled(single.expand((4,)), rows=4).jumps)
    assert single.to(torch.float32).amount.dtype == torch.float32
    assert Schedule.bolus("gut", torch.ones(2, dtype=torch.float32)).amount.dtype == torch.float64


def test_doses_with_units_are_those_of_the_numbers_in_the_units_of_the_model() -> None:
    model = library.warfarin_pkpd()  # mg and h
    written = Schedule.repeat("gut", "0.1 g", "1 day", 3, time="90 min", duration="1800 s", model=model)
    assert repr(written) == repr(Schedule.repeat("gut", 100.0, 24.0, 3, time=1.5, duration=0.5))
    mixed = Schedule.bolus("gut", tensor(1.0, 2.0), "1 day", model=model)
    assert torch.equal(mixed.time, torch.full((2, 1), 24.0).double())
    assert repr(Schedule.infusion("gut", "5e4 ug", 2.0, model=model)) == repr(Schedule.infusion("gut", 50.0, 2.0))


@pytest.mark.parametrize(
    ("doses", "problems"),
    [
        (lambda m: Schedule.bolus("gut", "100 mg"), ("`amount` is the text '100 mg'; give `model`",)),
        (lambda m: Schedule.bolus("gut", "1 nmol", "3 mg", model=m), ("`molar_mass`", "different dimensions")),
        (lambda m: Schedule.bolus("gutt", "1 mg", model=m), ("did you mean `gut`",)),
        (lambda m: Schedule.bolus("gut", "many mg", model=m), ("`amount`: the quantity 'many mg' cannot be read",)),
        (lambda m: Schedule.repeat("gut", 1.0, "1 mg", 3, model=m), ("`every`: `mg` cannot be converted to `h`",)),
    ],
)
def test_doses_with_units_that_do_not_fit_are_refused(doses, problems) -> None:
    with pytest.raises(ScheduleError) as caught:
        doses(library.warfarin_pkpd())
    assert len(caught.value.problems) == len(problems)
    assert all(problem in text for problem, text in zip(problems, caught.value.problems, strict=True))


def test_ten_thousand_subjects_with_twenty_doses_compile_in_a_second() -> None:
    rows = 10_000
    sizes = torch.linspace(1, 2, rows, dtype=torch.float64)
    schedule = Schedule.repeat("gut", sizes, sizes, 10) + Schedule.repeat("central", sizes, 1.0, 10, duration=sizes)
    begin = clock.process_time()
    stops = compiled(schedule, rows=rows)
    # About 0.1 s of one core; the bound leaves a factor of ten to a busy machine.
    assert clock.process_time() - begin < 1.0
    assert stops.rates.shape[0] == rows

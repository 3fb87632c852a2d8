"""Doses: what is given to whom and when, and the stops, jumps and input rates that a solver makes of them.

A schedule is the experiment, not the model: a bolus is a jump of a state, an infusion a constant input over its
duration. Each subject has its own row; ragged rows are padded with doses of amount 0 at time +inf.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mechanistic.errors import ListedError, ScheduleError, nearest

if TYPE_CHECKING:
    from mechanistic.model import KineticModel

_LISTED: Final = 20


@final
@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """Doses, batched: one row a subject. Amounts in the unit of the state, times in the unit of the model.

    Attributes:
        targets: names of the states that receive doses.
        target: index into `targets`, `(*batch, dose)`.
        time: when a dose is given, or an infusion starts, `(*batch, dose)`; +inf for padding.
        amount: `(*batch, dose)`, not negative; 0 for padding.
        duration: `(*batch, dose)`; 0 for a bolus, otherwise the infusion runs at `amount / duration`.

    Raises:
        ScheduleError: lists every negative, undefined or infinite entry and every mismatch of shapes.
    """

    targets: tuple[str, ...]
    target: Tensor
    time: Tensor
    amount: Tensor
    duration: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        problems = _shape_problems(self) or _value_problems(self)
        if problems:
            raise ScheduleError("these doses cannot be given:", _shortened(problems))

    @classmethod
    def none(cls) -> "Schedule":
        """No dose."""
        empty = torch.zeros(0, dtype=torch.float64)
        return cls((), torch.zeros(0, dtype=torch.long), empty, empty, empty)

    @classmethod
    def bolus(cls, state: str, amount: Any, time: Any = 0.0, *, model: "KineticModel | None" = None) -> "Schedule":
        """A jump of `state` by `amount` at `time`.

        Args:
            state: name of the state that jumps.
            amount: a number for one dose; `(batch,)` for one dose a subject; `(*batch, dose)` for several; or text with
                a unit, for instance `"100 mg"`.
            time: as `amount`; the two broadcast against each other.
            model: whose units a text is converted to; not needed for numbers.

        Raises:
            ScheduleError: for a text that cannot be read, or whose unit does not fit the model's.
        """
        return cls.infusion(state, amount, 0.0, time, model=model)

    @classmethod
    def infusion(
        cls, state: str, amount: Any, duration: Any, time: Any = 0.0, *, model: "KineticModel | None" = None
    ) -> "Schedule":
        """`amount` into `state` at a constant rate from `time` to `time + duration`; arguments as in `bolus`."""
        given = {"amount": amount, "duration": duration, "time": time}
        return cls._of(state, *(_doses(value) for value in _in_units_of(model, state, given)))

    @classmethod
    def repeat(
        cls,
        state: str,
        amount: Any,
        every: Any,
        count: int,
        time: Any = 0.0,
        duration: Any = 0.0,
        *,
        model: "KineticModel | None" = None,
    ) -> "Schedule":
        """`count` doses of `amount` into `state`, the first at `time`, one `every` so often; arguments as in `bolus`.

        Raises:
            ScheduleError: for a count below 1, an interval that is not positive, and as `bolus`.
        """
        given = {"amount": amount, "every": every, "time": time, "duration": duration}
        amount, every, time, duration = _in_units_of(model, state, given)
        interval = _doses(every)
        problems = []
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            problems.append(f"`count` is {count!r}; give a whole number of doses, 1 or more")
        if not bool((interval > 0).all() & interval.isfinite().all()):
            problems.append(f"`every` is {_number(every)}; give a positive interval between doses")
        if problems:
            raise ScheduleError("the doses cannot be repeated:", problems)
        times = _doses(time) + interval * torch.arange(count, dtype=interval.dtype, device=interval.device)
        return cls._of(state, _doses(amount), _doses(duration), times)

    @classmethod
    def stack(cls, schedules: Sequence["Schedule"]) -> "Schedule":
        """One schedule without a batch for each subject, as one schedule with a row a subject.

        Raises:
            ScheduleError: when one of them is batched already, or there is none.
        """
        problems = [
            f"schedule {i} has the batch {tuple(s.batch_shape)}; stack schedules of single subjects"
            for i, s in enumerate(schedules)
            if s.batch_shape
        ]
        if problems or not schedules:
            raise ScheduleError("these schedules cannot be stacked:", problems or ["there is no schedule"])
        targets = _union(schedules)
        width = max(s.size for s in schedules)
        rows = [s._aimed_at(targets)._padded(width) for s in schedules]
        return cls(targets, *(torch.stack([getattr(s, name) for s in rows]) for name in _TENSORS))

    @classmethod
    def _of(cls, state: str, amount: Tensor, duration: Tensor, time: Tensor) -> "Schedule":
        try:
            amount, duration, time = torch.broadcast_tensors(amount, duration, time)
        except RuntimeError:
            shapes = {"amount": amount, "duration": duration, "time": time}
            text = ", ".join(f"`{name}` {tuple(value.shape)}" for name, value in shapes.items())
            raise ScheduleError("the doses do not fit together:", [f"shapes (subject, dose) are {text}"]) from None
        dtype = torch.promote_types(torch.promote_types(amount.dtype, duration.dtype), time.dtype)
        device = next((v.device for v in (amount, duration, time) if v.device.type != "cpu"), amount.device)
        amount, duration, time = (value.to(device=device, dtype=dtype) for value in (amount, duration, time))
        target = torch.zeros(amount.shape, dtype=torch.long, device=device)
        return cls((state,), target, time, amount, duration)

    @property
    def batch_shape(self) -> torch.Size:
        """The batch, `()` for a single subject."""
        return self.time.shape[:-1]

    @property
    def size(self) -> int:
        """Number of columns: the most doses that a row holds, padding included."""
        return self.time.shape[-1]

    def __add__(self, other: "Schedule") -> "Schedule":
        """The doses of both, row by row; batches broadcast."""
        if not isinstance(other, Schedule):
            return NotImplemented
        try:
            batch = torch.broadcast_shapes(self.batch_shape, other.batch_shape)
        except RuntimeError:
            problem = f"one has the batch {tuple(self.batch_shape)}, the other {tuple(other.batch_shape)}"
            raise ScheduleError("these schedules cannot be added:", [problem]) from None
        targets = _union([self, other])
        both = [s._aimed_at(targets).expand(batch) for s in (self, other)]
        return Schedule(targets, *(torch.cat([getattr(s, name) for s in both], dim=-1) for name in _TENSORS))

    def select(self, rows: Any) -> "Schedule":
        """The rows of some subjects: an index, a slice, a list of indices or a mask over the first batch axis."""
        if not self.batch_shape:
            raise ScheduleError("rows cannot be selected:", ["the schedule has no batch"])
        index = torch.as_tensor(rows, device=self.time.device) if isinstance(rows, Sequence) else rows
        return self._map(lambda value: value[index])

    def expand(self, batch_shape: Sequence[int]) -> "Schedule":
        """The same doses for every row of a larger batch.

        Raises:
            ScheduleError: when the batch of the schedule does not broadcast to `batch_shape`.
        """
        if tuple(batch_shape) == tuple(self.batch_shape):
            return self
        try:
            return self._map(lambda value: value.expand(*batch_shape, self.size))
        except RuntimeError:
            problem = f"it has the batch {tuple(self.batch_shape)}, wanted is {tuple(batch_shape)}"
            raise ScheduleError("the schedule does not fit the batch:", [problem]) from None

    def to(self, *args: Any, **kwargs: Any) -> "Schedule":
        """The same doses in another dtype or on another device; arguments as `torch.Tensor.to`."""
        time, amount, duration = (getattr(self, name).to(*args, **kwargs) for name in _TENSORS[1:])
        return Schedule(self.targets, self.target.to(time.device), time, amount, duration)

    def _map(self, change: Any) -> "Schedule":
        return Schedule(self.targets, *(change(getattr(self, name)) for name in _TENSORS))

    def _aimed_at(self, targets: tuple[str, ...]) -> "Schedule":
        place = torch.tensor([targets.index(name) for name in self.targets], dtype=torch.long)
        return replace(self, targets=targets, target=place.to(self.target.device)[self.target])

    def _padded(self, width: int) -> "Schedule":
        fill = {"target": 0, "time": float("inf"), "amount": 0.0, "duration": 0.0}
        rest = (*self.batch_shape, width - self.size)

        def grown(name: str) -> Tensor:
            value = getattr(self, name)
            return torch.cat([value, value.new_full(rest, fill[name])], dim=-1)

        return Schedule(self.targets, *map(grown, _TENSORS))

    def __repr__(self) -> str:
        rows = [_row_text(self, row) for row in _rows(self.batch_shape, limit=4)]
        if not self.batch_shape:
            return f"Schedule({rows[0]})"
        total = self.batch_shape.numel()
        lines = [*rows[:3], f"… {total - 3} more rows"] if total > 3 else rows
        return "\n  ".join([f"Schedule of {total} rows:", *lines])


_TENSORS: Final = ("target", "time", "amount", "duration")


@final
@dataclass(frozen=True, eq=False)
class Stops:
    """A schedule as a solver needs it: integrate from stop to stop, jump at each.

    A row starts at `times[:, 0]` and ends at `times[:, -1]`; rows with fewer stops are padded with segments of zero
    length at their end. Doses at one time share a stop. Where dose times or durations carry a gradient they do not:
    each keeps a stop of its own (also one at the start), so that a derivative reaches each; the segments of zero length
    between them have to be passed as `x + (times[k + 1] - times[k]) f(x)` for this derivative to be complete.

    Attributes:
        times: sorted, `(batch, segment + 1)`.
        jumps: what is added to the state on arrival at each stop, `(batch, segment + 1, state)`.
        rates: constant input during each segment, amount per time, `(batch, segment, state)`.
    """

    times: Tensor
    jumps: Tensor
    rates: Tensor


def compile_schedule(schedule: Schedule, state_names: Sequence[str], start: Tensor, end: Tensor) -> Stops:
    """The stops, jumps and input rates of `schedule` between `start` and `end`.

    A dose at `start` or `end` is given; a dose after `end` is not; an infusion may run past `end`. The result is
    differentiable with respect to times, amounts and durations of the doses, and to `start` and `end`.

    Args:
        schedule: without a batch, or one row a subject.
        state_names: the states in the order of the state vector.
        start: `(batch,)`, each subject's first time.
        end: `(batch,)`, each subject's last time.

    Raises:
        ScheduleError: for unknown states, and doses before `start`, naming the rows.
    """
    schedule = schedule.expand(start.shape)
    problems = [
        *(
            f"`{name}` is not a state{nearest(name, state_names)}"
            for name in schedule.targets
            if name not in state_names
        ),
        *_span_problems(schedule, start.detach(), end.detach()),
    ]
    if problems:
        raise ScheduleError("the schedule does not fit the simulation:", _shortened(problems))
    state = torch.tensor([list(state_names).index(name) for name in schedule.targets], dtype=torch.long)
    into = state.to(schedule.target.device)[schedule.target]
    given = schedule.time <= end[:, None]
    # An infusion shorter than the spacing of floating-point times is a bolus: nothing can be integrated over it.
    infused = (schedule.time + schedule.duration > schedule.time) & given
    columns = infused.any(dim=0)
    times, position = _ordered_stops(schedule, columns, given, start, end)
    segments, size, doses = times.shape[1] - 1, len(state_names), schedule.size
    first, last = position[:, 1 : doses + 1], position[:, doses + 1 : -1]

    jumps = times.new_zeros(len(times), (segments + 1) * size)
    jumps = jumps.scatter_add(1, first * size + into, torch.where(given & ~infused, schedule.amount, 0.0).to(times))

    infused, into, first = infused[:, columns], into[:, columns], first[:, columns]
    duration = torch.where(infused, schedule.duration[:, columns], 1.0)
    rate = torch.where(infused, schedule.amount[:, columns] / duration, 0.0).to(times)
    segment = torch.arange(segments, device=times.device)[:, None]
    active = (first[:, None] <= segment) & (segment < last[:, None])
    rates = times.new_zeros(len(times), segments, size)
    rates = rates.scatter_add(2, into[:, None].expand(active.shape), torch.where(active, rate[:, None], 0.0))
    return Stops(times, jumps.reshape(len(times), segments + 1, size), rates)


def _ordered_stops(
    schedule: Schedule, columns: Tensor, given: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Sorted stop times, and the stop at which each of (start, doses, ends of infusions, end) takes place."""
    last = end[:, None]
    finish = (schedule.time + schedule.duration)[:, columns]
    moments = [
        start[:, None],
        torch.where(given, schedule.time, last),
        torch.where(given[:, columns] & (finish <= last), finish, last),
        last,
    ]
    times, order = torch.sort(torch.cat(moments, dim=1), dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    if _differentiated(schedule.time) or _differentiated(schedule.duration):
        return times, rank
    opens = torch.cat([torch.ones_like(times[:, :1], dtype=torch.bool), times[:, 1:] > times[:, :-1]], dim=1)
    group = opens.cumsum(dim=1) - 1
    count = group[:, -1:] + 1
    width = max(int(count.max()), 2) if len(count) else 2
    # Openers first, in order: gathering them, instead of scattering, leaves one source for each gradient.
    openers = torch.argsort((~opens).to(torch.int8), dim=1, stable=True)[:, :width]
    merged = torch.where(torch.arange(width, device=times.device) < count, times.gather(1, openers), last)
    return merged, group.gather(1, rank)


def _differentiated(value: Tensor) -> bool:
    return value.requires_grad or forward_ad.unpack_dual(value).tangent is not None


def _span_problems(schedule: Schedule, start: Tensor, end: Tensor) -> list[str]:
    if start.ndim != 1 or start.shape != end.shape:
        return [f"`start` and `end` are `(batch,)`; got {tuple(start.shape)} and {tuple(end.shape)}"]
    problems = [
        f"row {row}: the simulation ends at {float(end[row]):g}, before its start at {float(start[row]):g}"
        for row in (~(start <= end)).nonzero().flatten().tolist()
    ]
    for row, dose in (schedule.time.detach() < start[:, None]).nonzero().tolist():
        when, begin = float(schedule.time[row, dose]), float(start[row])
        problems.append(f"row {row}: dose {dose + 1} at {when:g} comes before the start at {begin:g}; start earlier")
    return problems


def _shape_problems(schedule: Schedule) -> list[str]:
    shapes = {name: tuple(getattr(schedule, name).shape) for name in _TENSORS}
    if len(set(shapes.values())) > 1 or shapes["time"] == ():
        return [f"`{name}` has the shape {shape}; all want the same `(*batch, dose)`" for name, shape in shapes.items()]
    problems = []
    if schedule.target.dtype != torch.long:
        problems.append(f"`target` holds {schedule.target.dtype}; give indices (torch.long) into `targets`")
    elif schedule.target.numel() and not 0 <= int(schedule.target.min()) <= int(schedule.target.max()) < len(
        schedule.targets
    ):
        problems.append(f"`target` has indices outside the {len(schedule.targets)} names of `targets`")
    doubled = sorted({name for name in schedule.targets if schedule.targets.count(name) > 1})
    return [*problems, *(f"`{name}` stands twice in `targets`" for name in doubled)]


def _value_problems(schedule: Schedule) -> list[str]:
    time, amount, duration = (getattr(schedule, name).detach() for name in _TENSORS[1:])
    checks = (
        (time.isnan() | (time == -torch.inf), "time", time, "give a finite time"),
        (~amount.isfinite(), "amount", amount, "give a finite amount"),
        (amount < 0, "amount", amount, "a dose cannot be negative; write a reaction for what is taken away"),
        (~duration.isfinite(), "duration", duration, "give a finite duration"),
        (duration < 0, "duration", duration, "give 0 for a bolus or a positive duration for an infusion"),
        ((time == torch.inf) & (amount != 0), "time", time, "only padding, with amount 0, has no time"),
    )
    return [
        f"{_place(index)}: `{name}` is {float(values[tuple(index)]):g}; {advice}"
        for wrong, name, values, advice in checks
        for index in (wrong.nonzero().tolist() if wrong.any() else ())
    ]


def _place(index: list[int]) -> str:
    *row, dose = index
    return f"row {', '.join(map(str, row))}, dose {dose + 1}" if row else f"dose {dose + 1}"


def _shortened(problems: list[str]) -> list[str]:
    rest = len(problems) - _LISTED
    return [*problems[:_LISTED], f"… and {rest} more like these"] if rest > 0 else problems


def _union(schedules: Sequence[Schedule]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for schedule in schedules for name in schedule.targets))


def _doses(value: Any) -> Tensor:
    """A number as `(1,)`, one value a subject as `(batch, 1)`, `(*batch, dose)` as it is."""
    floating = isinstance(value, Tensor) and value.is_floating_point()
    tensor = value if floating else torch.as_tensor(value, dtype=torch.float64)
    return tensor.unsqueeze(-1) if tensor.ndim < 2 else tensor


def _in_units_of(model: "KineticModel | None", state: str, given: dict[str, Any]) -> list[Any]:
    """The values, with each text such as `100 mg` as a number in the unit of the model; amounts in that of `state`."""
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    if not texts:
        return list(given.values())
    if model is None:
        problems = [
            f"`{name}` is the text {value!r}; give `model`, whose units it is in" for name, value in texts.items()
        ]
        raise ScheduleError("the doses cannot be given:", problems)
    report, numbers, problems = model.units(), dict(given), []
    for name, value in texts.items():
        try:
            numbers[name] = report.value(value, state if name == "amount" else "time")
        except ListedError as error:
            problems.append(f"`{name}`: {' '.join([str(error).splitlines()[0], *error.problems])}")
    if problems:
        raise ScheduleError("the doses cannot be given:", problems)
    return list(numbers.values())


def _number(value: Any) -> str:
    return f"{float(value):g}" if _doses(value).numel() == 1 else str(value)


def _rows(batch_shape: torch.Size, limit: int) -> Iterator[tuple[int, ...]]:
    for flat in range(min(batch_shape.numel(), limit)):
        yield tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), batch_shape)) if batch_shape else ()


def _row_text(schedule: Schedule, row: tuple[int, ...]) -> str:
    """The doses of one subject in words: `7 × 5 bolus → gut every 24`."""
    time, amount, duration, target = (
        getattr(schedule, name).detach()[row].tolist() for name in ("time", "amount", "duration", "target")
    )
    doses = [
        ((schedule.targets[to], much, long), when)
        for to, much, long, when in zip(target, amount, duration, time, strict=True)
        if when != float("inf")
    ]
    parts = []
    for (state, much, long), group in groupby(doses, key=lambda dose: dose[0]):
        when = [moment for _, moment in group]
        gaps = {round(b - a, 9) for a, b in pairwise(when)}
        kind = f"infusion over {long:g}" if long else "bolus"
        if len(when) > 1 and len(gaps) == 1 and min(gaps) > 0:
            first = f" from {when[0]:g}" if when[0] else ""
            parts.append(f"{len(when)} × {much:g} {kind} → {state} every {min(gaps):g}{first}")
        else:
            parts += [f"{much:g} {kind} → {state} at {moment:g}" for moment in when]
    return "; ".join(parts) or "no dose"

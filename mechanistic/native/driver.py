"""The loop over blocks of subjects, compiled once for all models: every lane has its own clock, steps and stops.

It does what `mechanistic.solve.loop` does with tensors, one subject a lane; a lane that has finished takes the next
subject. Kernels take the steps and say which lanes want something; nothing that one lane computes enters another one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mechanistic.native.call import call, compiled, inlined
from mechanistic.native.lanes import LANES
from mechanistic.native.steps import SPACING
from mechanistic.native.watching import Watch, end_at_crossings, land_at_crossings
from mechanistic.solve.loop import STIFF_STEPS
from mechanistic.solve.problem import Status

OK, BUDGET, MIN_STEP, NOT_FINITE, STIFF = (
    int(s) for s in (Status.OK, Status.BUDGET, Status.MIN_STEP, Status.NOT_FINITE, Status.STIFF)
)


class Calls(NamedTuple):
    """Addresses of kernels, see `mechanistic.native.steps`."""

    run: int
    read: int
    take: int
    slope: int
    cast: int


def calls_of(address: Callable[[str], int], method: str) -> Calls:
    """The kernels of `tsit5` or `rodas5p`, by their addresses."""
    return Calls(*(address(name) for name in (f"{method}_run", f"{method}_read", f"{method}_take", "slope", "cast")))


class Places(NamedTuple):
    """Rows of the workspace, see `mechanistic.native.steps.Workspace`."""

    active: int
    time: int
    stop: int
    due: int
    size: int
    step: int
    finish: int
    ratio: int
    culprit: int
    previous: int
    accepted: int
    arriving: int
    flag: int
    pausing: int
    output: int
    outputs: int
    times_at: int
    states_at: int
    undershoots: int
    attempts: int
    budget: int
    nodes: int
    stiff: int
    x: int
    inputs: int
    constants: int
    held: int
    stages: int
    slope: int
    shadowed: int
    fresh: int


def places_of(rows: Mapping[str, int]) -> Places:
    """The rows of a workspace."""
    return Places(*(rows[name] for name in Places._fields))


class Control(NamedTuple):
    """Step control.

    Typical sizes `(state,)`, error allowed, whether the first stage is kept, whether every stop is stepped over,
    whether accepted steps are wanted, whether half of the lanes are shadows, whether these are flights (see
    `mechanistic.solve.flights`), and how they are watched.
    """

    scales: Any
    relative: float
    absolute: float
    explicit: bool
    stepwise: bool
    recording: bool
    shadowed: bool
    flying: bool
    watch: Watch


class Given(NamedTuple):
    """Initial value problems, see `mechanistic.solve.Problem` and `mechanistic.schedule.Stops`.

    `constants` are what `prepare` makes of the parameters, `(subject, constant)`; `held` the modes of each segment,
    `(subject, segment, mode)`. Flights have what they start with as well: `known` are constants of their conditions,
    `carried` step size, undershoots, attempts, stiffness, and by how much crossings are to be overshot.
    """

    initial: Any
    constants: Any
    stops: Any
    jumps: Any
    inputs: Any
    held: Any
    times: Any
    before: Any
    known: Any
    carried: Any


class Found(NamedTuple):
    """Where results go, see `mechanistic.solve.Outcome`; `node_of_stop` as in `mechanistic.solve.gradient.Record`.

    `carried` is where flights leave what they end with: step size, undershoots, attempts, stiffness, and 1 where they
    end at a crossing.
    """

    states: Any
    status: Any
    reached: Any
    culprit: Any
    nodes: Any
    attempts: Any
    node_of_stop: Any
    last: Any
    carried: Any


def room_for(subjects: int, outputs: int, states: int, stops: int, carried: int = 0) -> Found:
    """Where results of so many subjects go, each with so many outputs and stops."""
    status, culprit, nodes, attempts = (np.zeros(subjects, np.int64) for _ in range(4))
    return Found(
        np.full((subjects, outputs, states), np.nan), status, np.zeros(subjects), culprit, nodes, attempts,
        np.full((subjects, stops), -1), np.zeros((subjects, states)), np.zeros((subjects, carried)),
    )  # fmt: skip


class Steps(NamedTuple):
    """Accepted steps: subject, node and segment of each as rows of `index`, start and size as rows of `at`; states."""

    index: Any
    at: Any
    x: Any

    def first(self, count: int) -> "Steps":
        """So many of them."""
        return Steps(self.index[:, :count], self.at[:, :count], self.x[:count])


class Lanes(NamedTuple):
    """Of each lane: its subject, or -1; its segment; whether its slope is not known."""

    subject: Any
    segment: Any
    fresh: Any


@compiled
def advance(
    calls: Calls, places: Places, control: Control, given: Given, found: Found, work: Any, first: int, last: int
) -> tuple[Steps, int]:
    """Advances the subjects from `first` up to `last` to their ends; returns the accepted steps and their number.

    `work` is a workspace, `(element, lane)`, with what is the same for all subjects filled in.
    """
    lanes = Lanes(np.full(LANES, -1), np.zeros(LANES, np.int64), np.zeros(LANES, np.bool_))
    subject, fresh = lanes.subject, lanes.fresh
    states = given.initial.shape[1]
    steps = _room(1024 if control.recording else 1, states)
    count = 0
    address = work.ctypes.data
    upcoming = first
    width = LANES // 2 if control.shadowed else LANES
    work[places.shadowed] = 1.0 if control.shadowed else 0.0
    work[places.pausing] = 1.0 if control.recording or control.watch.look != 0 else 0.0
    work[places.outputs] = given.times.shape[1]
    for lane in range(width):
        upcoming = _next_subject(places, control, given, found, lanes, work, lane, upcoming, last)
    busy = np.any(subject >= 0)
    while busy:
        if np.any(fresh):
            _refresh(calls, places, control, given, lanes, work, address)
        if control.watch.look:
            work[control.watch.before] = work[places.stiff]
        call(calls.run, (address,))
        if control.watch.look:
            end_at_crossings(control.watch, subject, given.carried, work, address)
        if control.recording:
            while count + LANES > steps.x.shape[0]:
                steps = _more_room(steps)
            count = _record(places, lanes, steps, work, count)
        flag = work[places.flag]
        call(calls.read, (address,))
        if control.watch.look:
            land_at_crossings(control.watch, subject, states, work)
        call(calls.take, (address,))
        for lane in range(width):
            if flag[lane] > 1 and _settle(places, control, given, found, lanes, work, lane):
                upcoming = _next_subject(places, control, given, found, lanes, work, lane, upcoming, last)
        busy = np.any(subject >= 0)
    return steps, count


@compiled
def _room(count: int, states: int) -> Steps:
    return Steps(np.empty((3, count), np.int64), np.empty((2, count)), np.empty((count, states)))


@compiled
def _more_room(steps: Steps) -> Steps:
    count, states = steps.x.shape
    wide = _room(2 * count, states)
    wide.index[:, :count] = steps.index
    wide.at[:, :count] = steps.at
    wide.x[:count] = steps.x
    return wide


@inlined
def _record(places: Places, lanes: Lanes, steps: Steps, work: Any, row: int) -> int:
    """Notes the accepted steps of a block; returns how many there are now."""
    for lane in range(LANES):
        if work[places.active, lane] == 0 or work[places.accepted, lane] == 0:
            continue
        steps.index[0, row] = lanes.subject[lane]
        steps.index[1, row] = int(work[places.nodes, lane])
        steps.index[2, row] = lanes.segment[lane]
        steps.at[0, row] = work[places.time, lane]
        steps.at[1, row] = work[places.step, lane]
        for i in range(steps.x.shape[1]):
            steps.x[row, i] = work[places.x + i, lane]
        row += 1
    return row


# Subjects


@compiled
def _next_subject(
    places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, row: int,
    last: int,
) -> int:  # fmt: skip
    """Puts the next subject that has anywhere to go into a lane; returns the one after it."""
    while row < last:
        lanes.subject[lane] = row
        _start(places, control, given, found, lanes, work, lane)
        row += 1
        if not _finished(places, control, given, found, lanes, work, lane):
            work[places.active, lane] = 1.0
            return row
    # An idle lane goes on computing at its end, where nothing can come of it.
    lanes.subject[lane] = -1
    lanes.fresh[lane] = False
    for place in (places.active, places.size, places.attempts, places.stiff):
        work[place, lane] = 0.0
        if control.shadowed:
            work[place, lane + LANES // 2] = 0.0
    work[places.due, lane] = math.inf
    work[places.stop, lane] = math.inf
    return row


@compiled
def _start(places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> None:
    subject = lanes.subject[lane]
    for place in (places.size, places.undershoots, places.attempts, places.nodes, places.stiff):
        work[place, lane] = 0.0
    if control.flying:
        _take_up(places, control, given, work, lane, subject)
    work[places.time, lane] = given.stops[subject, 0]
    for i in range(given.initial.shape[1]):
        work[places.x + i, lane] = given.initial[subject, i]
    for i in range(given.constants.shape[1]):
        work[places.constants + i, lane] = given.constants[subject, i]
    work[places.output, lane] = 0.0
    addresses = work.view(np.int64)
    addresses[places.times_at, lane] = given.times[subject].ctypes.data
    addresses[places.states_at, lane] = found.states[subject].ctypes.data
    found.culprit[subject] = 0
    _read_before(places, given, found, lanes, work, lane)
    _give(places, control, given, found, lanes, work, lane, -1)


@compiled
def _take_up(places: Places, control: Control, given: Given, work: Any, lane: int, subject: int) -> None:
    """What a flight starts with."""
    for i, place in enumerate((places.size, places.undershoots, places.attempts, places.stiff)):
        work[place, lane] = given.carried[subject, i]
    if control.watch.look:
        work[control.watch.crossing, lane] = 0.0
        for i in range(given.known.shape[1]):
            work[control.watch.known + i, lane] = given.known[subject, i]


@compiled
def _give(
    places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, passed: int
) -> None:
    """What happens at the stops after `passed` that have been reached; enters the segment that follows."""
    subject = lanes.subject[lane]
    time = work[places.time, lane]
    last = given.stops.shape[1] - 1
    reached = passed
    while reached < last and given.stops[subject, reached + 1] <= time:
        reached += 1
        found.node_of_stop[subject, reached] = int(work[places.nodes, lane])
        for i in range(given.initial.shape[1]):
            work[places.x + i, lane] += given.jumps[subject, reached, i]
        if control.stepwise:
            break
    lanes.segment[lane] = reached
    if reached < last:
        work[places.stop, lane] = given.stops[subject, reached + 1]
        for i in range(given.initial.shape[1]):
            work[places.inputs + i, lane] = given.inputs[subject, reached, i]
        for i in range(given.held.shape[2]):
            work[places.held + i, lane] = given.held[subject, reached, i]
    lanes.fresh[lane] = True
    work[places.previous, lane] = 0.0
    if reached == last or given.stops[subject, reached + 1] > time:
        _read_after(places, given, found, lanes, work, lane)


@compiled
def _settle(places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> bool:
    """What a lane wants after its step; returns whether its subject has come to its end."""
    crossing = control.watch.look != 0 and work[control.watch.crossing, lane] != 0
    stopped = work[places.accepted, lane] != 0 and (crossing or work[places.arriving, lane] != 0)
    if stopped:
        # Stops at one time, each with a jump of its own: only the first of them has a state before it.
        if given.stops[lanes.subject[lane], lanes.segment[lane]] < work[places.time, lane]:
            _read_before(places, given, found, lanes, work, lane)
        _give(places, control, given, found, lanes, work, lane, lanes.segment[lane])
        if control.flying:
            lanes.segment[lane] = given.stops.shape[1] - 1
    subject = lanes.subject[lane]
    found.culprit[subject] = int(work[places.culprit, lane])
    if not stopped and work[places.size, lane] <= SPACING * max(abs(work[places.time, lane]), 1e-30):
        found.status[subject] = MIN_STEP if work[places.ratio, lane] < math.inf else NOT_FINITE
    elif _under_way(places, control, given, lanes, work, lane):
        if work[places.attempts, lane] >= work[places.budget, lane]:
            found.status[subject] = BUDGET
        elif work[places.stiff, lane] >= STIFF_STEPS:
            found.status[subject] = STIFF
    return _finished(places, control, given, found, lanes, work, lane)


@compiled
def _under_way(places: Places, control: Control, given: Given, lanes: Lanes, work: Any, lane: int) -> bool:
    last = given.stops.shape[1] - 1
    if control.stepwise:
        return bool(lanes.segment[lane] < last)
    return bool(work[places.time, lane] < given.stops[lanes.subject[lane], last])


@compiled
def _finished(places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> bool:
    """Whether a lane is at the end of its subject; notes it."""
    subject = lanes.subject[lane]
    if _under_way(places, control, given, lanes, work, lane) and found.status[subject] == OK:
        return False
    found.reached[subject] = work[places.time, lane]
    found.nodes[subject] = int(work[places.nodes, lane])
    found.attempts[subject] = int(work[places.attempts, lane])
    for i in range(given.initial.shape[1]):
        found.last[subject, i] = work[places.x + i, lane]
    if control.flying:
        for i, place in enumerate((places.size, places.undershoots, places.attempts, places.stiff)):
            found.carried[subject, i] = work[place, lane]
        found.carried[subject, 4] = work[control.watch.crossing, lane] if control.watch.look else 0.0
    return True


# Outputs


@compiled
def _read_before(places: Places, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> None:
    """Outputs that show the state before what happens now."""
    subject = lanes.subject[lane]
    row = int(work[places.output, lane])
    while row < given.times.shape[1] and given.times[subject, row] <= work[places.time, lane]:
        if given.before[subject, row]:
            for i in range(given.initial.shape[1]):
                found.states[subject, row, i] = work[places.x + i, lane]
        row += 1


@compiled
def _read_after(places: Places, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> None:
    """The other outputs at this time; goes on to those after it."""
    subject = lanes.subject[lane]
    row = int(work[places.output, lane])
    while row < given.times.shape[1] and given.times[subject, row] <= work[places.time, lane]:
        if not given.before[subject, row]:
            for i in range(given.initial.shape[1]):
                found.states[subject, row, i] = work[places.x + i, lane]
        row += 1
    _go_on(places, given, lanes, work, lane, row)


@inlined
def _go_on(places: Places, given: Given, lanes: Lanes, work: Any, lane: int, row: int) -> None:
    """Makes `row` the next output of a lane; NaN ends a row of times, and is after everything."""
    work[places.output, lane] = row
    due = math.inf
    if row < given.times.shape[1]:
        due = given.times[lanes.subject[lane], row]
    work[places.due, lane] = due


# Steps


@inlined
def _refresh(
    calls: Calls, places: Places, control: Control, given: Given, lanes: Lanes, work: Any, address: int
) -> None:
    """Slopes where they are not known, and with them step sizes."""
    if control.shadowed:
        _cast(calls, places, given, lanes, work, address)
    call(calls.slope, (address,))
    for lane in range(LANES):
        if lanes.fresh[lane]:
            for i in range(given.initial.shape[1]):
                work[places.stages + i, lane] = work[places.slope + i, lane]
            if not control.flying:
                work[places.size, lane] = _first_step(places, control, given, lanes, work, lane)
            if control.shadowed:
                work[places.size, lane + LANES // 2] = work[places.size, lane]
                for i in range(given.initial.shape[1]):
                    work[places.stages + i, lane + LANES // 2] = work[places.slope + i, lane + LANES // 2]
            lanes.fresh[lane] = False


@compiled
def _cast(calls: Calls, places: Places, given: Given, lanes: Lanes, work: Any, address: int) -> None:
    """Shadows of the lanes that start anew: the same in everything but the state."""
    half = LANES // 2
    for lane in range(half):
        work[places.fresh, lane] = work[places.fresh, lane + half] = 1.0 if lanes.fresh[lane] else 0.0
        if not lanes.fresh[lane]:
            continue
        for place in (places.time, places.stop, places.undershoots, places.attempts, places.previous):
            work[place, lane + half] = work[place, lane]
        work[places.due, lane + half] = math.inf
        for i in range(given.constants.shape[1]):
            work[places.constants + i, lane + half] = work[places.constants + i, lane]
        for i in range(given.held.shape[2]):
            work[places.held + i, lane + half] = work[places.held + i, lane]
        for i in range(given.initial.shape[1]):
            work[places.inputs + i, lane + half] = work[places.inputs + i, lane]
    call(calls.cast, (address,))


@inlined
def _first_step(places: Places, control: Control, given: Given, lanes: Lanes, work: Any, lane: int) -> float:
    """See `mechanistic.solve.control.first_step`."""
    time, before = work[places.time, lane], work[places.size, lane]
    span = max(given.stops[lanes.subject[lane], given.stops.shape[1] - 1] - time, 0.0)
    quiet = min(before, span) if before > 0 else 1e-6 * span
    size, speed = 1.0, 0.0
    for i in range(given.initial.shape[1]):
        x = abs(work[places.x + i, lane])
        weight = control.absolute * control.scales[i] + control.relative * x
        size = max(size, x / weight)
        slope = abs(work[places.slope + i, lane]) / weight
        speed = slope if slope > speed or slope != slope else speed
    guess = 0.01 * size / speed if speed * span > 1e-5 else quiet
    if not guess < math.inf:
        guess = 0.0
    return min(max(guess, 1e3 * SPACING * max(abs(time), 1e-30)), span)

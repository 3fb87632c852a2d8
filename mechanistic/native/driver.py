"""The loop over blocks of subjects, compiled once for all models: every lane has its own clock, steps and stops.

It does what `mechanistic.solve.loop` does with tensors, one subject a lane; a lane that has finished takes the next
subject. Nothing that one lane computes enters another one.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from mechanistic.native.call import call
from mechanistic.native.lanes import LANES
from mechanistic.solve.control import GOLDEN, LARGEST, PROBE, SAFETY, SMALLEST, UNDERSHOOTS
from mechanistic.solve.loop import FAR_BEYOND, PROBED, STIFF_BOUND, STIFF_STEPS
from mechanistic.solve.problem import Status
from mechanistic.solve.rodas5p import SHORTEST

OK, BUDGET, MIN_STEP, NOT_FINITE, STIFF = (
    int(s) for s in (Status.OK, Status.BUDGET, Status.MIN_STEP, Status.NOT_FINITE, Status.STIFF)
)
SPACING = 16 * float(np.finfo(np.float64).eps)
EMPTY = 1e8 * float(np.finfo(np.float64).tiny)
EXPONENT = 1 / 5
"""Of the error in the step size: both methods have an error estimate of order 4."""


class Calls(NamedTuple):
    """Addresses of kernels."""

    step: int
    dense: int
    slope: int
    rates: int


class Places(NamedTuple):
    """Indices in the workspace, see `mechanistic.native.steps.Workspace`."""

    time: int
    size: int
    ratio: int
    below: int
    culprit: int
    stiffness: int
    x: int
    end: int
    inputs: int
    constants: int
    held: int
    stages: int
    dense: int
    slope: int
    argument: int
    right: int


class Control(NamedTuple):
    """Step control: typical sizes `(state,)`, error allowed, and how many steps may be taken."""

    scales: Any
    relative: float
    absolute: float
    budget: int
    explicit: bool
    stepwise: bool
    recording: bool


class Given(NamedTuple):
    """Initial value problems, see `mechanistic.solve.Problem` and `mechanistic.schedule.Stops`.

    `constants` are what `prepare` makes of the parameters, `(subject, constant)`; `held` the modes of each segment,
    `(subject, segment, mode)`.
    """

    initial: Any
    constants: Any
    stops: Any
    jumps: Any
    inputs: Any
    held: Any
    times: Any
    before: Any


class Found(NamedTuple):
    """Where results go, see `mechanistic.solve.Outcome`; `node_of_stop` as in `mechanistic.solve.gradient.Record`."""

    states: Any
    status: Any
    reached: Any
    culprit: Any
    nodes: Any
    attempts: Any
    node_of_stop: Any
    last: Any


class Steps(NamedTuple):
    """Accepted steps: subject, node and segment of each as rows of `index`, start and size as rows of `at`; states."""

    index: Any
    at: Any
    x: Any


class Lanes(NamedTuple):
    """Where each lane stands; what is not said is as in `mechanistic.solve.clocks.Clocks`.

    Attributes:
        subject: -1 where a lane has none.
        output: the next output to be written.
        fresh: the slope at the state is not known.
        jumped: the next step size is not known.
        size: of the next step; `step` is that of the trial step.
        accepted, arriving, reading: whether the trial step is taken, ends at a stop, and has outputs inside.
    """

    subject: Any
    segment: Any
    output: Any
    nodes: Any
    attempts: Any
    stiff: Any
    undershoots: Any
    fresh: Any
    jumped: Any
    accepted: Any
    arriving: Any
    size: Any
    step: Any
    error: Any


compiled = njit(cache=True, nogil=True, error_model="numpy")
inlined = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
"""Handing over many arrays costs more than what is done with them; these are called for every step."""


@compiled
def advance(
    calls: Calls, places: Places, control: Control, given: Given, found: Found, work: Any, first: int, last: int
) -> tuple[Steps, int]:
    """Advances the subjects from `first` up to `last` to their ends; returns the accepted steps and their number."""
    lanes = _new_lanes()
    states = given.initial.shape[1]
    steps = _room(1024 if control.recording else 1, states)
    count = 0
    scratch = np.empty((5, max(states, 1)))
    upcoming = first
    for lane in range(LANES):
        upcoming = _next_subject(places, control, given, found, lanes, work, lane, upcoming, last)
    address = work.ctypes.data
    while True:
        busy = False
        for lane in range(LANES):
            busy |= lanes.subject[lane] >= 0
        if not busy:
            return steps, count
        _refresh(calls, places, control, given, lanes, work, address)
        for lane in range(LANES):
            if lanes.subject[lane] >= 0:
                _choose_size(places, control, given, lanes, work, lane)
        if control.explicit:
            _probe(calls, places, control, lanes, work, address)
        call(calls.step, (address,))
        reading = False
        for lane in range(LANES):
            if lanes.subject[lane] >= 0:
                reading |= _judge(places, control, given, lanes, work, lane)
        if reading:
            call(calls.dense, (address,))
        for lane in range(LANES):
            if lanes.subject[lane] < 0:
                continue
            if control.recording and lanes.accepted[lane]:
                if count == steps.x.shape[0]:
                    steps = _more_room(steps)
                _record(places, lanes, steps, work, lane, count)
                count += 1
            if _move(places, control, given, found, lanes, work, lane, scratch):
                upcoming = _next_subject(places, control, given, found, lanes, work, lane, upcoming, last)


@compiled
def _new_lanes() -> Lanes:
    whole = np.zeros((7, LANES), np.int64)
    flags = np.zeros((4, LANES), np.bool_)
    real = np.zeros((3, LANES))
    whole[0, :] = -1
    return Lanes(
        whole[0], whole[1], whole[2], whole[3], whole[4], whole[5], whole[6],
        flags[0], flags[1], flags[2], flags[3], real[0], real[1], real[2],
    )  # fmt: skip


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
def _record(places: Places, lanes: Lanes, steps: Steps, work: Any, lane: int, row: int) -> None:
    steps.index[0, row] = lanes.subject[lane]
    steps.index[1, row] = lanes.nodes[lane]
    steps.index[2, row] = lanes.segment[lane]
    steps.at[0, row] = work[places.time * LANES + lane]
    steps.at[1, row] = lanes.step[lane]
    for i in range(steps.x.shape[1]):
        steps.x[row, i] = work[(places.x + i) * LANES + lane]


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
        if not _finished(places, control, given, found, lanes, work, lane):
            return row + 1
        row += 1
    lanes.subject[lane] = -1
    # An idle lane goes on computing: at rest, so that nothing overflows.
    work[places.size * LANES + lane] = 1e-3
    for i in range(given.initial.shape[1]):
        work[(places.x + i) * LANES + lane] = given.initial[last - 1, i]
    return row


@compiled
def _start(places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> None:
    subject = lanes.subject[lane]
    states = given.initial.shape[1]
    time = given.stops[subject, 0]
    lanes.segment[lane] = 0
    lanes.output[lane] = 0
    lanes.nodes[lane] = 0
    lanes.attempts[lane] = 0
    lanes.stiff[lane] = 0
    lanes.undershoots[lane] = 0
    lanes.size[lane] = 0.0
    work[places.time * LANES + lane] = time
    for i in range(states):
        work[(places.x + i) * LANES + lane] = given.initial[subject, i]
    for i in range(given.constants.shape[1]):
        work[(places.constants + i) * LANES + lane] = given.constants[subject, i]
    found.culprit[subject] = 0
    _read_before(places, given, found, lanes, work, lane, places.x)
    _give(places, control, given, found, lanes, work, lane, -1)


@compiled
def _give(
    places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, passed: int
) -> None:
    """What happens at the stops after `passed` that have been reached; enters the segment that follows."""
    subject = lanes.subject[lane]
    time = work[places.time * LANES + lane]
    stops = given.stops.shape[1]
    reached = passed
    while (
        reached + 1 < stops
        and given.stops[subject, reached + 1] <= time
        and (reached == passed or not control.stepwise)
    ):
        reached += 1
        found.node_of_stop[subject, reached] = lanes.nodes[lane]
        for i in range(given.initial.shape[1]):
            work[(places.x + i) * LANES + lane] += given.jumps[subject, reached, i]
    lanes.segment[lane] = reached
    if reached < stops - 1:
        for i in range(given.initial.shape[1]):
            work[(places.inputs + i) * LANES + lane] = given.inputs[subject, reached, i]
        for i in range(given.held.shape[2]):
            work[(places.held + i) * LANES + lane] = given.held[subject, reached, i]
    lanes.fresh[lane] = True
    lanes.jumped[lane] = True
    lanes.error[lane] = 1.0
    if reached == stops - 1 or given.stops[subject, reached + 1] > time:
        _read_after(places, given, found, lanes, work, lane)


@inlined
def _finished(places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> bool:
    """Whether a lane is at the end of its subject; notes it."""
    subject = lanes.subject[lane]
    last = given.stops.shape[1] - 1
    time = work[places.time * LANES + lane]
    under_way = lanes.segment[lane] < last if control.stepwise else time < given.stops[subject, last]
    if under_way and found.status[subject] == OK:
        return False
    found.reached[subject] = time
    found.nodes[subject] = lanes.nodes[lane]
    found.attempts[subject] = lanes.attempts[lane]
    for i in range(given.initial.shape[1]):
        found.last[subject, i] = work[(places.x + i) * LANES + lane]
    return True


# Outputs


@compiled
def _read_before(places: Places, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, source: int) -> None:
    """Outputs that show the state before what happens now."""
    subject = lanes.subject[lane]
    time = work[places.time * LANES + lane]
    row = lanes.output[lane]
    while row < given.times.shape[1] and given.times[subject, row] <= time:
        if given.before[subject, row]:
            for i in range(given.initial.shape[1]):
                found.states[subject, row, i] = work[(source + i) * LANES + lane]
        row += 1


@compiled
def _read_after(places: Places, given: Given, found: Found, lanes: Lanes, work: Any, lane: int) -> None:
    """The other outputs at this time; goes on to those after it."""
    subject = lanes.subject[lane]
    time = work[places.time * LANES + lane]
    row = lanes.output[lane]
    while row < given.times.shape[1] and given.times[subject, row] <= time:
        if not given.before[subject, row]:
            for i in range(given.initial.shape[1]):
                found.states[subject, row, i] = work[(places.x + i) * LANES + lane]
        row += 1
    lanes.output[lane] = row


@inlined
def _read_inside(
    places: Places, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, end: float, scratch: Any
) -> None:
    """Outputs before `end` by dense output of the step from the state."""
    subject = lanes.subject[lane]
    states = given.initial.shape[1]
    row = lanes.output[lane]
    if not (row < given.times.shape[1] and given.times[subject, row] < end):
        return
    for i in range(states):
        scratch[0, i] = work[(places.x + i) * LANES + lane]
        for power in range(4):
            scratch[power + 1, i] = work[(places.dense + power * states + i) * LANES + lane]
    begin = work[places.time * LANES + lane]
    while row < given.times.shape[1] and given.times[subject, row] < end:
        at = (given.times[subject, row] - begin) / lanes.step[lane]
        out = found.states[subject, row]
        for i in range(states):
            out[i] = scratch[0, i] + at * (
                scratch[1, i] + at * (scratch[2, i] + at * (scratch[3, i] + at * scratch[4, i]))
            )
        row += 1
    lanes.output[lane] = row


# Steps


@compiled
def _refresh(
    calls: Calls, places: Places, control: Control, given: Given, lanes: Lanes, work: Any, address: int
) -> None:
    """Slopes where they are not known, and with them step sizes."""
    any_fresh = False
    for lane in range(LANES):
        any_fresh |= lanes.fresh[lane] and lanes.subject[lane] >= 0
    if not any_fresh:
        return
    call(calls.slope, (address,))
    for lane in range(LANES):
        if lanes.fresh[lane] and lanes.subject[lane] >= 0:
            for i in range(given.initial.shape[1]):
                work[(places.stages + i) * LANES + lane] = work[(places.slope + i) * LANES + lane]
            if lanes.jumped[lane]:
                lanes.size[lane] = _first_step(places, control, given, lanes, work, lane)
            lanes.fresh[lane] = False
            lanes.jumped[lane] = False


@compiled
def _first_step(places: Places, control: Control, given: Given, lanes: Lanes, work: Any, lane: int) -> float:
    """See `mechanistic.solve.control.first_step`."""
    subject = lanes.subject[lane]
    time = work[places.time * LANES + lane]
    span = max(given.stops[subject, given.stops.shape[1] - 1] - time, 0.0)
    quiet = min(lanes.size[lane], span) if lanes.size[lane] > 0 else 1e-6 * span
    size, speed = 1.0, 0.0
    for i in range(given.initial.shape[1]):
        x = abs(work[(places.x + i) * LANES + lane])
        weight = control.absolute * control.scales[i] + control.relative * x
        size = max(size, x / weight)
        slope = abs(work[(places.slope + i) * LANES + lane]) / weight
        speed = slope if slope > speed or slope != slope else speed
    guess = 0.01 * size / speed if speed * span > 1e-5 else quiet
    if not guess < math.inf:
        guess = 0.0
    return min(max(guess, 1e3 * _smallest(time)), span)


@compiled
def _smallest(time: float) -> float:
    return SPACING * max(abs(time), 1e-30)


@inlined
def _choose_size(places: Places, control: Control, given: Given, lanes: Lanes, work: Any, lane: int) -> None:
    time = work[places.time * LANES + lane]
    remaining = given.stops[lanes.subject[lane], lanes.segment[lane] + 1] - time
    # A step that would leave a sliver before the stop is stretched to it.
    arriving = lanes.size[lane] * (1 + 1e-6) >= remaining
    step = remaining if arriving else lanes.size[lane]
    lanes.arriving[lane] = arriving
    lanes.step[lane] = step
    empty = step <= EMPTY and not control.explicit
    work[places.size * LANES + lane] = SHORTEST * (1 + abs(time)) if empty else step


@compiled
def _probe(calls: Calls, places: Places, control: Control, lanes: Lanes, work: Any, address: int) -> None:
    """Notes fast modes that are at rest in `stiff`; see `mechanistic.solve.control.fastest_rate`."""
    wanted = False
    for lane in range(LANES):
        wanted |= lanes.subject[lane] >= 0 and lanes.attempts[lane] % PROBED == 0
    if not wanted:
        return
    states = control.scales.shape[0]
    direction = np.empty((states, LANES))
    for i in range(states):
        part = 0.5 + (i * GOLDEN - math.floor(i * GOLDEN))
        direction[i, :] = part
    rate = _grow(calls, places, control, work, address, direction)
    rate = _grow(calls, places, control, work, address, direction)
    high = False
    for lane in range(LANES):
        due = lanes.subject[lane] >= 0 and lanes.attempts[lane] % PROBED == 0
        if not due:
            rate[lane] = 0.0
        high |= rate[lane] * lanes.step[lane] > FAR_BEYOND * STIFF_BOUND
    if not high:
        return
    total = np.zeros(LANES)
    for turn in range(2 * states):
        grown = _grow(calls, places, control, work, address, direction)
        if turn >= states:
            total += np.log(grown)
    for lane in range(LANES):
        due = rate[lane] * lanes.step[lane] > FAR_BEYOND * STIFF_BOUND
        if due and math.exp(total[lane] / states) * lanes.step[lane] > FAR_BEYOND * STIFF_BOUND:
            lanes.stiff[lane] += STIFF_STEPS + 1


@compiled
def _grow(calls: Calls, places: Places, control: Control, work: Any, address: int, direction: Any) -> Any:
    """One turn of the power method by differences; turns `direction`, `(state, lane)`, and returns its growth."""
    states = control.scales.shape[0]
    norm = np.zeros(LANES)
    for i in range(states):
        for lane in range(LANES):
            norm[lane] += direction[i, lane] ** 2
    for i in range(states):
        for lane in range(LANES):
            x = work[(places.x + i) * LANES + lane]
            scale = max(control.scales[i], abs(x))
            work[(places.argument + i) * LANES + lane] = x + PROBE * scale * direction[i, lane] / math.sqrt(norm[lane])
    width = 8 * LANES
    argument, right = address + width * places.argument, address + width * places.right
    call(calls.rates, (address + width * places.time, argument, address + width * places.constants,
                       address + width * places.held, right))  # fmt: skip
    length = np.zeros(LANES)
    for i in range(states):
        for lane in range(LANES):
            scale = max(control.scales[i], abs(work[(places.x + i) * LANES + lane]))
            slope = work[(places.stages + i) * LANES + lane] - work[(places.inputs + i) * LANES + lane]
            change = (work[(places.right + i) * LANES + lane] - slope) / scale
            work[(places.right + i) * LANES + lane] = change
            length[lane] += change * change
    for lane in range(LANES):
        length[lane] = math.sqrt(length[lane])
        if length[lane] > 0:
            for i in range(states):
                direction[i, lane] = work[(places.right + i) * LANES + lane]
    return length / PROBE


@inlined
def _judge(places: Places, control: Control, given: Given, lanes: Lanes, work: Any, lane: int) -> bool:
    """Accepts or rejects the trial step of a lane; returns whether it has outputs inside."""
    if lanes.step[lane] <= EMPTY:
        for i in range(given.initial.shape[1]):
            slope = work[(places.slope if not control.explicit else places.stages) * LANES + i * LANES + lane]
            start = work[(places.x + i) * LANES + lane]
            work[(places.end + i) * LANES + lane] = start + lanes.step[lane] * slope
        work[places.ratio * LANES + lane] = 0.0
        work[places.below * LANES + lane] = 0.0
    ratio = work[places.ratio * LANES + lane]
    undershot = work[places.below * LANES + lane] != 0 and lanes.undershoots[lane] < UNDERSHOOTS and ratio < math.inf
    accepted = ratio <= 1 and not undershot
    lanes.accepted[lane] = accepted
    lanes.undershoots[lane] = max(0, lanes.undershoots[lane] + (2 if undershot else -1))
    lanes.attempts[lane] += 1
    following = lanes.step[lane] * _factor(ratio, accepted, undershot, lanes.error[lane])
    if accepted:
        lanes.error[lane] = ratio
        if lanes.arriving[lane]:
            # A step that was cut short by a stop says nothing of how long the next one may be.
            following = max(lanes.size[lane], following)
        if control.explicit:
            _watch(places, lanes, work, lane)
    lanes.size[lane] = following
    row, subject = lanes.output[lane], lanes.subject[lane]
    if not accepted or row >= given.times.shape[1]:
        return False
    return bool(given.times[subject, row] < _end(places, given, lanes, work, lane))


@inlined
def _end(places: Places, given: Given, lanes: Lanes, work: Any, lane: int) -> float:
    """When the trial step ends."""
    if lanes.arriving[lane]:
        return float(given.stops[lanes.subject[lane], lanes.segment[lane] + 1])
    return float(work[places.time * LANES + lane] + lanes.step[lane])


@inlined
def _watch(places: Places, lanes: Lanes, work: Any, lane: int) -> None:
    """Counts steps at the border of stability."""
    stiffness = work[places.stiffness * LANES + lane]
    change = 1 if stiffness > STIFF_BOUND else -1
    if stiffness > FAR_BEYOND * STIFF_BOUND:
        change = STIFF_STEPS
    lanes.stiff[lane] = max(0, lanes.stiff[lane] + change)


@inlined
def _factor(ratio: float, accepted: bool, undershot: bool, before: float) -> float:
    """See `mechanistic.solve.control.factor`."""
    if undershot:
        return 0.25
    least = max(ratio, 1e-10)
    if accepted:
        change = SAFETY * least ** (-0.85 * EXPONENT) * max(before, 1e-4) ** (0.2 * EXPONENT)
    elif ratio < math.inf:
        change = min(SAFETY * least**-EXPONENT, 0.9)
    else:
        change = SMALLEST
    return min(max(change, SMALLEST), LARGEST)


@inlined
def _move(
    places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, scratch: Any
) -> bool:
    """Takes the trial step if it is accepted; returns whether the subject has come to its end."""
    subject, states = lanes.subject[lane], given.initial.shape[1]
    stopped = False
    if lanes.accepted[lane]:
        end = _end(places, given, lanes, work, lane)
        _read_inside(places, given, found, lanes, work, lane, end, scratch)
        work[places.time * LANES + lane] = end
        lanes.nodes[lane] += 1
        stopped = lanes.arriving[lane]
        if stopped:
            _read_before(places, given, found, lanes, work, lane, places.end)
        for i in range(states):
            work[(places.x + i) * LANES + lane] = work[(places.end + i) * LANES + lane]
            if control.explicit:
                last = work[(places.stages + 6 * states + i) * LANES + lane]
                work[(places.stages + i) * LANES + lane] = last
        if stopped:
            _give(places, control, given, found, lanes, work, lane, lanes.segment[lane])
    found.culprit[subject] = int(work[places.culprit * LANES + lane])
    _fail(places, control, given, found, lanes, work, lane, stopped)
    return _finished(places, control, given, found, lanes, work, lane)


@inlined
def _fail(
    places: Places, control: Control, given: Given, found: Found, lanes: Lanes, work: Any, lane: int, stopped: bool
) -> None:
    """Notes why a lane cannot go on."""
    subject, last = lanes.subject[lane], given.stops.shape[1] - 1
    time = work[places.time * LANES + lane]
    if not stopped and lanes.size[lane] <= _smallest(time):
        found.status[subject] = MIN_STEP if work[places.ratio * LANES + lane] < math.inf else NOT_FINITE
    elif lanes.segment[lane] < last if control.stepwise else time < given.stops[subject, last]:
        if lanes.attempts[lane] >= control.budget:
            found.status[subject] = BUDGET
        elif lanes.stiff[lane] >= STIFF_STEPS:
            found.status[subject] = STIFF

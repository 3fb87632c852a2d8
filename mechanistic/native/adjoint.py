"""The discrete adjoint over recorded steps, compiled once for all models: every lane goes back through one subject.

It gives what `mechanistic.solve.gradient` gives with tensors: derivatives of the numerical solution, step sizes held
fixed as fractions of the segment between two stops. A lane that has finished takes the next subject.
"""

from typing import Any, NamedTuple

import numpy as np

from mechanistic.native.call import call, compiled, inlined
from mechanistic.native.lanes import LANES
from mechanistic.native.steps import EMPTY


class Calls(NamedTuple):
    """Addresses of kernels: a step of the method backward, and from constants back to parameters."""

    back: int
    prepare: int


class Places(NamedTuple):
    """Indices in the workspace, see `mechanistic.native.backward.backward_workspace`."""

    time: int
    size: int
    x: int
    inputs: int
    constants: int
    held: int
    adjoint: int
    shown: int
    powers: int
    constants_cotangent: int
    inputs_cotangent: int
    time_cotangent: int
    size_cotangent: int
    slope: int


class Solved(NamedTuple):
    """A batch that was solved: see `mechanistic.solve.gradient.Record` and `mechanistic.schedule.Stops`.

    Attributes:
        parameters: `(subject, parameter)`.
        constants: `(subject, constant)`.
        held: modes, `(subject, segment, mode)`.
        stops, inputs: `(subject, stop)`, `(subject, segment, state)`.
        times, before: of the outputs, `(subject, time)`.
        wanted: which outputs were reached, `(subject, time)`.
        rows: rows of the steps, subject by subject in the order of their nodes, `(step,)`.
        starts: where those of each subject start, `(subject + 1,)`.
        t, h, x, segment: the steps.
        node_of_stop: `(subject, stop)`.
        moving: whether stop times have a derivative; then outputs at stops stay where they are.
    """

    parameters: Any
    constants: Any
    held: Any
    stops: Any
    inputs: Any
    times: Any
    before: Any
    wanted: Any
    rows: Any
    starts: Any
    t: Any
    h: Any
    x: Any
    segment: Any
    node_of_stop: Any
    moving: bool


class Cotangents(NamedTuple):
    """Results: of parameters, initial states, stop times, jumps and input rates; shaped like what they belong to."""

    parameters: Any
    initial: Any
    stops: Any
    jumps: Any
    inputs: Any


class Reading(NamedTuple):
    """Outputs as lists: `head` is the first output at a node or in the step after it, `following` the next one or -1.

    Attributes:
        at: heads of outputs read at a node, by node.
        inside: heads of outputs read inside the step that starts at a node, by node.
        following: by output.
        top: the last node of each subject that matters, `(subject,)`.
    """

    at: Any
    inside: Any
    following: Any
    top: Any


@compiled
def sort_steps(subject: Any, node: Any, subjects: int) -> Any:
    """Rows of the steps subject by subject in the order of their nodes, and where each subject's start."""
    starts = np.zeros(subjects + 1, np.int64)
    for row in range(len(subject)):
        starts[subject[row] + 1] += 1
    for i in range(subjects):
        starts[i + 1] += starts[i]
    rows = np.empty(len(subject), np.int64)
    for row in range(len(subject)):
        rows[starts[subject[row]] + node[row]] = row
    return rows, starts


@compiled
def find_outputs(solved: Solved, seed: Any, initial: Any) -> Reading:
    """Where every output with a cotangent `seed`, `(subject, time, state)`, is read; see `Reading`.

    The cotangents of those that show the start are added to `initial`.
    """
    subjects, count = solved.times.shape
    nodes = len(solved.rows) + subjects
    at, inside = np.full(nodes, -1, np.int64), np.full(nodes, -1, np.int64)
    following, top = np.full(subjects * count, -1, np.int64), np.zeros(subjects, np.int64)
    for s in range(subjects):
        first, steps = solved.starts[s], solved.starts[s + 1] - solved.starts[s]
        for column in range(count):
            if not solved.wanted[s, column] or not np.any(seed[s, column] != 0):
                continue
            kind, node = find_output(solved, s, column, first, steps)
            if kind < 0:
                initial[s] += seed[s, column]
                continue
            heads = at if kind == 0 else inside
            output, place = s * count + column, first + s + node
            following[output] = heads[place]
            heads[place] = output
            top[s] = max(top[s], node + kind)
    return Reading(at, inside, following, top)


@inlined
def find_output(solved: Solved, s: int, column: int, first: int, steps: int) -> tuple[int, int]:
    """How an output is read (-1: before anything is given, 0: at a node, 1: inside the step after it), and the node."""
    time = solved.times[s, column]
    earliest, latest = -1, -1
    for stop in range(solved.stops.shape[1]):
        if solved.stops[s, stop] == time:
            latest = stop
            if earliest < 0:
                earliest = stop
    if earliest >= 0 and solved.before[s, column]:
        node = solved.node_of_stop[s, earliest]
        return (-1, 0) if node == 0 else (1, max(node - 1, 0))
    if latest >= 0:
        node = solved.node_of_stop[s, latest]
        if node >= 0 and (not solved.moving or node == steps):
            return 0, node
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        if solved.t[solved.rows[first + middle]] <= time:
            low = middle + 1
        else:
            high = middle
    return 1, max(low - 1, 0)


class Lanes(NamedTuple):
    """Where each lane stands: subject, -1 for none; node; the last stop not yet passed; whether outputs are noted."""

    subject: Any
    node: Any
    stop: Any
    noted: Any
    kept: Any


@compiled
def go_back(
    calls: Calls, places: Places, solved: Solved, reading: Reading, seed: Any, found: Cotangents, work: Any,
    first: int, last: int,
) -> None:  # fmt: skip
    """Fills in the cotangents of the subjects from `first` up to `last`, but for what is added to `initial` before."""
    states = solved.x.shape[1]
    lanes = Lanes(
        np.full(LANES, -1, np.int64), np.zeros(LANES, np.int64), np.zeros(LANES, np.int64),
        np.ones(LANES, np.bool_), np.empty((LANES, max(states, 1))),
    )  # fmt: skip
    constants = np.zeros((last - first, solved.constants.shape[1]))
    address = work.ctypes.data
    upcoming = first
    for lane in range(LANES):
        upcoming = _next_subject(
            places, solved, reading, seed, found, lanes, work, lane, upcoming, first, last, constants
        )
    while True:
        busy = False
        for lane in range(LANES):
            if lanes.subject[lane] >= 0:
                busy = True
                _load(places, solved, reading, seed, lanes, work, lane)
        if not busy:
            break
        call(calls.back, (address,))
        for lane in range(LANES):
            if lanes.subject[lane] < 0:
                continue
            _unload(places, solved, found, lanes, work, lane)
            _arrive(places, solved, reading, seed, found, lanes, work, lane)
            if lanes.node[lane] == 0:
                _finish(places, found, lanes, work, lane, first, constants)
                upcoming = _next_subject(
                    places, solved, reading, seed, found, lanes, work, lane, upcoming, first, last, constants
                )
    _to_parameters(calls, solved, found, constants, first, last)


@compiled
def _next_subject(
    places: Places, solved: Solved, reading: Reading, seed: Any, found: Cotangents, lanes: Lanes, work: Any,
    lane: int, row: int, first: int, last: int, constants: Any,
) -> int:  # fmt: skip
    """Puts the next subject that has a step to go back through into a lane; returns the one after it."""
    states = solved.x.shape[1]
    while row < last:
        lanes.subject[lane] = row
        lanes.node[lane] = reading.top[row]
        lanes.stop[lane] = solved.stops.shape[1] - 1
        for i in range(states):
            work[(places.adjoint + i) * LANES + lane] = 0.0
            work[(places.inputs_cotangent + i) * LANES + lane] = 0.0
        for i in range(solved.constants.shape[1]):
            work[(places.constants + i) * LANES + lane] = solved.constants[row, i]
            work[(places.constants_cotangent + i) * LANES + lane] = 0.0
        _arrive(places, solved, reading, seed, found, lanes, work, lane)
        row += 1
        if lanes.node[lane] > 0:
            return row
        _finish(places, found, lanes, work, lane, first, constants)
    lanes.subject[lane] = -1
    # An idle lane goes on computing with what it has, which enters nothing.
    for i in range(states):
        work[(places.adjoint + i) * LANES + lane] = 0.0
    _clear(places, states, lanes, work, lane)
    return row


@inlined
def _clear(places: Places, states: int, lanes: Lanes, work: Any, lane: int) -> None:
    if not lanes.noted[lane]:
        return
    for i in range(states):
        work[(places.shown + i) * LANES + lane] = 0.0
    for i in range(4 * states):
        work[(places.powers + i) * LANES + lane] = 0.0
    lanes.noted[lane] = False


@inlined
def _load(places: Places, solved: Solved, reading: Reading, seed: Any, lanes: Lanes, work: Any, lane: int) -> None:
    """The step before the node, with the outputs inside it."""
    s, node, states = lanes.subject[lane], lanes.node[lane] - 1, solved.x.shape[1]
    row = solved.rows[solved.starts[s] + node]
    segment = solved.segment[row]
    empty = solved.h[row] <= EMPTY
    work[places.time * LANES + lane] = solved.t[row]
    work[places.size * LANES + lane] = 1.0 if empty else solved.h[row]
    for i in range(states):
        work[(places.x + i) * LANES + lane] = solved.x[row, i]
        work[(places.inputs + i) * LANES + lane] = solved.inputs[s, segment, i]
    for i in range(solved.held.shape[2]):
        work[(places.held + i) * LANES + lane] = solved.held[s, segment, i]
    _clear(places, states, lanes, work, lane)
    if empty:
        # `x + h f` with h = 0: the state passes unchanged.
        for i in range(states):
            lanes.kept[lane, i] = work[(places.adjoint + i) * LANES + lane]
            work[(places.adjoint + i) * LANES + lane] = 0.0
        return
    count = solved.times.shape[1]
    output = reading.inside[solved.starts[s] + s + node]
    while output >= 0:
        column = output - s * count
        at = (solved.times[s, column] - solved.t[row]) / solved.h[row]
        for i in range(states):
            value = seed[s, column, i]
            work[(places.shown + i) * LANES + lane] += value
            for power in range(4):
                value *= at
                work[(places.powers + power * states + i) * LANES + lane] += value
        lanes.noted[lane] = True
        output = reading.following[output]


@inlined
def _unload(places: Places, solved: Solved, found: Cotangents, lanes: Lanes, work: Any, lane: int) -> None:
    """What the step asks of its inputs and of the stops around it."""
    s, states = lanes.subject[lane], solved.x.shape[1]
    lanes.node[lane] -= 1
    row = solved.rows[solved.starts[s] + lanes.node[lane]]
    segment = solved.segment[row]
    by_time = work[places.time_cotangent * LANES + lane]
    by_size = work[places.size_cotangent * LANES + lane]
    if solved.h[row] <= EMPTY:
        by_time, by_size = 0.0, 0.0
        for i in range(states):
            kept = lanes.kept[lane, i]
            by_size += kept * work[(places.slope + i) * LANES + lane]
            work[(places.adjoint + i) * LANES + lane] = kept
            work[(places.inputs_cotangent + i) * LANES + lane] = 0.0
    for i in range(states):
        found.inputs[s, segment, i] += work[(places.inputs_cotangent + i) * LANES + lane]
        work[(places.inputs_cotangent + i) * LANES + lane] = 0.0
    if solved.moving:
        opens, closes = solved.stops[s, segment], solved.stops[s, segment + 1]
        length = closes - opens
        offset, share = 0.0, 1.0
        if length > 0:
            offset, share = (solved.t[row] - opens) / length, solved.h[row] / length
        found.stops[s, segment] += by_time * (1 - offset) - by_size * share
        found.stops[s, segment + 1] += by_time * offset + by_size * share


@inlined
def _arrive(
    places: Places, solved: Solved, reading: Reading, seed: Any, found: Cotangents, lanes: Lanes, work: Any, lane: int
) -> None:
    """Adds the outputs at a node, and hands its cotangent to the jumps that lead to it."""
    s, states = lanes.subject[lane], solved.x.shape[1]
    count = solved.times.shape[1]
    output = reading.at[solved.starts[s] + s + lanes.node[lane]]
    while output >= 0:
        for i in range(states):
            work[(places.adjoint + i) * LANES + lane] += seed[s, output - s * count, i]
        output = reading.following[output]
    stop = lanes.stop[lane]
    while stop >= 0 and not 0 <= solved.node_of_stop[s, stop] < lanes.node[lane]:
        if solved.node_of_stop[s, stop] == lanes.node[lane]:
            for i in range(states):
                found.jumps[s, stop, i] = work[(places.adjoint + i) * LANES + lane]
        stop -= 1
    lanes.stop[lane] = stop


@compiled
def _finish(places: Places, found: Cotangents, lanes: Lanes, work: Any, lane: int, first: int, constants: Any) -> None:
    s = lanes.subject[lane]
    for i in range(found.initial.shape[1]):
        found.initial[s, i] += work[(places.adjoint + i) * LANES + lane]
    for i in range(constants.shape[1]):
        constants[s - first, i] = work[(places.constants_cotangent + i) * LANES + lane]


@compiled
def _to_parameters(calls: Calls, solved: Solved, found: Cotangents, constants: Any, first: int, last: int) -> None:
    """From the cotangents of the constants to those of the parameters, eight subjects at a time."""
    inputs, outputs = solved.parameters.shape[1], constants.shape[1]
    given, back, result = np.zeros(inputs * LANES), np.zeros(outputs * LANES), np.zeros(inputs * LANES)
    for start in range(first, last, LANES):
        for lane in range(LANES):
            # Lanes beyond the last subject repeat it.
            s = min(start + lane, last - 1)
            for i in range(inputs):
                given[i * LANES + lane] = solved.parameters[s, i]
                result[i * LANES + lane] = 0.0
            for i in range(outputs):
                back[i * LANES + lane] = constants[s - first, i]
        call(calls.prepare, (given.ctypes.data, back.ctypes.data, result.ctypes.data))
        for lane in range(min(LANES, last - start)):
            for i in range(inputs):
                found.parameters[start + lane, i] = result[i * LANES + lane]

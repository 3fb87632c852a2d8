"""Forward sensitivities over recorded steps, compiled once for all models: eight directions of a subject at a time.

They are derivatives of the numerical solution, step sizes held fixed as fractions of the segment between two stops, as
those of `mechanistic.native.adjoint` are. The subjects' steps are laid out eight at a time, whosever they are; then all
directions of a subject go through its steps one by one.
"""

from typing import Any, NamedTuple

import numpy as np

from mechanistic.native.adjoint import Solved, find_output
from mechanistic.native.call import call, compiled, inlined
from mechanistic.native.lanes import LANES
from mechanistic.native.steps import EMPTY

BYTES = 8
"""Of one number."""


class Calls(NamedTuple):
    """Addresses of kernels, see `mechanistic.native.tangent.emit_tangent`; `push` and `read` may be those that move."""

    lay: int
    spread: int
    push: int
    read: int
    prepare_slopes: int


class Places(NamedTuple):
    """Indices in the workspaces of `mechanistic.native.tangent.Layout`, and their sizes; `laid` is one of the sizes."""

    time: int
    size: int
    x: int
    inputs: int
    constants: int
    held: int
    laid: int
    slope: int
    dense: int
    own: int
    own_x: int
    own_inputs: int
    own_moved: int
    own_constants: int
    scratch: int
    start: int
    read: int
    laying: int


class Directions(NamedTuple):
    """Tangents of what a solution depends on, in each direction; their number is a multiple of eight.

    The first axis has the length 1 where all subjects have the same. `stops`, `jumps` and `inputs` may have the length
    0 there: none of them moves.

    Attributes:
        parameters, initial: `(subject, parameter, direction)`, `(subject, state, direction)`.
        stops: times, `(subject, stop, direction)`.
        jumps, inputs: `(subject, stop, state, direction)`, `(subject, segment, state, direction)`.
        rows, columns: of the derivatives of the constants by the parameters that may not be zero.
    """

    parameters: Any
    initial: Any
    stops: Any
    jumps: Any
    inputs: Any
    rows: Any
    columns: Any


class Reading(NamedTuple):
    """Outputs as lists, see `mechanistic.native.adjoint.Reading`; `start`: before anything is given, by subject."""

    at: Any
    inside: Any
    start: Any
    following: Any


class Work(NamedTuple):
    """Workspaces: of eight steps, `(step, number)` of them, of blocks of eight directions, and what these share.

    `active` lists the constants with a tangent for each block, their number first.
    """

    laying: Any
    laid: Any
    own: Any
    scratch: Any
    active: Any


@compiled
def find_readings(solved: Solved) -> Reading:
    """Where every output that was reached is read."""
    subjects, count = solved.times.shape
    nodes = len(solved.rows) + subjects
    at, inside, start = np.full(nodes, -1, np.int64), np.full(nodes, -1, np.int64), np.full(subjects, -1, np.int64)
    following = np.full(subjects * count, -1, np.int64)
    for s in range(subjects):
        first, steps = solved.starts[s], solved.starts[s + 1] - solved.starts[s]
        for column in range(count):
            if not solved.wanted[s, column]:
                continue
            kind, node = find_output(solved, s, column, first, steps)
            heads = start if kind < 0 else at if kind == 0 else inside
            place = s if kind < 0 else first + s + node
            following[s * count + column] = heads[place]
            heads[place] = s * count + column
    return Reading(at, inside, start, following)


@compiled
def go_forward(
    calls: Calls, places: Places, solved: Solved, directions: Directions, reading: Reading, found: Any,
    first: int, last: int,
) -> None:  # fmt: skip
    """Fills in `found`, `(subject, time, state, direction)`, for the subjects from `first` up to `last`."""
    blocks = directions.parameters.shape[2] // LANES
    work = Work(
        np.zeros((places.laying, LANES)), np.zeros((LANES, places.laid)), np.zeros((blocks, places.own, LANES)),
        np.zeros((places.scratch, LANES)), np.zeros((blocks, solved.constants.shape[1] + 1), np.int64),
    )  # fmt: skip
    # Views of arrays are counted, which would cost more than a small step: addresses are computed instead.
    laying, laid, own = work.laying.ctypes.data, work.laid.ctypes.data, work.own.ctypes.data
    scratch, active = work.scratch.ctypes.data, work.active.ctypes.data
    wide, tall, listed = places.laid * BYTES, places.own * LANES * BYTES, work.active.shape[1] * BYTES
    driven, given = len(directions.inputs) > 0 or len(directions.stops) > 0, len(directions.jumps) > 0
    slopes = _constant_slopes(calls, solved, len(directions.rows), first, last)
    end = solved.starts[last]
    loaded = np.full(LANES, -1, np.int64)
    # The subject whose steps are laid out, and the one whose directions go forward.
    ahead, s = first, first - 1
    for base in range(solved.starts[first], end, LANES):
        ahead = _load(places, solved, work.laying, loaded, base, end, ahead)
        call(calls.lay, (laying,))
        call(calls.spread, (laying, laid))
        for position in range(base, min(base + LANES, end)):
            while s < first or position >= solved.starts[s + 1]:
                s += 1
                _begin(places, solved, directions, reading, slopes[s - first], found, work, s)
            output = reading.inside[position + s]
            row, lane = solved.rows[position], position - base
            if driven:
                _move(places, solved, directions, work, s, row)
            if solved.h[row] <= EMPTY:
                _pass(places, solved, reading, found, work, s, lane, output)
            else:
                for block in range(blocks):
                    addresses = (laid + lane * wide, own + block * tall, scratch, active + block * listed)
                    call(calls.push, addresses)
                    if output >= 0:
                        call(calls.read, addresses)
                        _show_inside(places, solved, reading, found, work, s, row, block, lane, output)
            output = reading.at[position + s + 1]
            if output >= 0 or given:
                _arrive(places, solved, directions, reading, found, work, s, position + 1 - solved.starts[s])
    while s < last - 1:
        s += 1
        _begin(places, solved, directions, reading, slopes[s - first], found, work, s)


@compiled
def _constant_slopes(calls: Calls, solved: Solved, count: int, first: int, last: int) -> Any:
    """Derivatives of the constants by the parameters, `(subject, derivative)`, eight subjects at a time."""
    inputs = solved.parameters.shape[1]
    given, result = np.zeros((inputs, LANES)), np.zeros((count, LANES))
    slopes = np.zeros((last - first, count))
    for start in range(first, last, LANES):
        for lane in range(LANES):
            # Lanes beyond the last subject repeat it.
            given[:, lane] = solved.parameters[min(start + lane, last - 1)]
        call(calls.prepare_slopes, (given.ctypes.data, result.ctypes.data))
        for lane in range(min(LANES, last - start)):
            slopes[start - first + lane] = result[:, lane]
    return slopes


@inlined
def _load(places: Places, solved: Solved, laying: Any, loaded: Any, base: int, end: int, subject: int) -> int:
    """Puts steps into the lanes; returns the subject of the last one. Lanes beyond the last step repeat it.

    `loaded` says whose constants each lane has.
    """
    for lane in range(LANES):
        position = min(base + lane, end - 1)
        while position >= solved.starts[subject + 1]:
            subject += 1
        row = solved.rows[position]
        segment, size = solved.segment[row], solved.h[row]
        laying[places.time, lane] = solved.t[row]
        laying[places.size, lane] = 1.0 if size <= EMPTY else size
        for i in range(solved.x.shape[1]):
            laying[places.x + i, lane] = solved.x[row, i]
            laying[places.inputs + i, lane] = solved.inputs[subject, segment, i]
        for i in range(solved.held.shape[2]):
            laying[places.held + i, lane] = solved.held[subject, segment, i]
        if loaded[lane] != subject:
            loaded[lane] = subject
            for i in range(solved.constants.shape[1]):
                laying[places.constants + i, lane] = solved.constants[subject, i]
    return subject


@compiled
def _begin(
    places: Places,
    solved: Solved,
    directions: Directions,
    reading: Reading,
    slopes: Any,
    found: Any,
    work: Work,
    s: int,
) -> None:
    """Puts the directions of a subject to its start."""
    parameters = directions.parameters[s % len(directions.parameters)]
    initial = directions.initial[s % len(directions.initial)]
    for block in range(work.own.shape[0]):
        own, active, begin = work.own[block], work.active[block], block * LANES
        own[:] = 0.0
        for i in range(initial.shape[0]):
            own[places.own_x + i] = initial[i, begin : begin + LANES]
        for entry in range(len(slopes)):
            constant = places.own_constants + directions.rows[entry]
            for lane in range(LANES):
                own[constant, lane] += slopes[entry] * parameters[directions.columns[entry], begin + lane]
        active[0] = 0
        for constant in range(solved.constants.shape[1]):
            if np.any(own[places.own_constants + constant] != 0):
                active[0] += 1
                active[active[0]] = constant
    output = reading.start[s]
    while output >= 0:
        for block in range(work.own.shape[0]):
            _show(found[s, output - s * found.shape[1]], block, work.own[block, places.own_x :])
        output = reading.following[output]
    _arrive(places, solved, directions, reading, found, work, s, 0)


@compiled
def _show(target: Any, block: int, values: Any) -> None:
    begin = block * LANES
    width = min(LANES, target.shape[1] - begin)
    for i in range(target.shape[0]):
        for lane in range(width):
            target[i, begin + lane] = values[i, lane]


@compiled
def _arrive(
    places: Places, solved: Solved, directions: Directions, reading: Reading, found: Any, work: Work, s: int, node: int
) -> None:
    """Adds the tangents of the jumps that lead to a node, and shows those of the state there."""
    states = solved.x.shape[1]
    if len(directions.jumps) > 0:
        jumps = directions.jumps[s % len(directions.jumps)]
        for stop in range(jumps.shape[0]):
            if solved.node_of_stop[s, stop] == node:
                for block in range(work.own.shape[0]):
                    for i in range(states):
                        for lane in range(LANES):
                            work.own[block, places.own_x + i, lane] += jumps[stop, i, block * LANES + lane]
    output = reading.at[solved.starts[s] + s + node]
    while output >= 0:
        for block in range(work.own.shape[0]):
            _show(found[s, output - s * found.shape[1]], block, work.own[block, places.own_x :])
        output = reading.following[output]


@compiled
def _move(places: Places, solved: Solved, directions: Directions, work: Work, s: int, row: int) -> None:
    """Tangents of the inputs, the time and the size of a step."""
    segment = solved.segment[row]
    opens, closes = solved.stops[s, segment], solved.stops[s, segment + 1]
    offset, share = 0.0, 1.0
    if closes > opens:
        offset, share = (solved.t[row] - opens) / (closes - opens), solved.h[row] / (closes - opens)
    for block in range(work.own.shape[0]):
        own, begin = work.own[block], block * LANES
        if len(directions.inputs) > 0:
            inputs = directions.inputs[s % len(directions.inputs), segment]
            for i in range(inputs.shape[0]):
                own[places.own_inputs + i] = inputs[i, begin : begin + LANES]
        if len(directions.stops) > 0:
            stops = directions.stops[s % len(directions.stops)]
            for lane in range(LANES):
                opening, closing = stops[segment, begin + lane], stops[segment + 1, begin + lane]
                own[places.own_moved, lane] = opening + offset * (closing - opening)
                own[places.own_moved + 1, lane] = share * (closing - opening)


@compiled
def _pass(
    places: Places, solved: Solved, reading: Reading, found: Any, work: Work, s: int, step: int, output: int
) -> None:
    """A step of no length, `x + h f` with h = 0; an output in it shows its start."""
    while output >= 0:
        for block in range(work.own.shape[0]):
            _show(found[s, output - s * found.shape[1]], block, work.own[block, places.own_x :])
        output = reading.following[output]
    for block in range(work.own.shape[0]):
        own = work.own[block]
        for i in range(solved.x.shape[1]):
            own[places.own_x + i] += own[places.own_moved + 1] * work.laid[step, places.slope + i]


@compiled
def _show_inside(
    places: Places, solved: Solved, reading: Reading, found: Any, work: Work, s: int, row: int, block: int, step: int,
    output: int,
) -> None:  # fmt: skip
    """Tangents of the dense output; an output stays where it is while its step moves."""
    states, begin = solved.x.shape[1], block * LANES
    scratch, laid, own = work.scratch, work.laid[step], work.own[block]
    width = min(LANES, found.shape[3] - begin)
    while output >= 0:
        column = output - s * found.shape[1]
        at = (solved.times[s, column] - solved.t[row]) / solved.h[row]
        for i in range(states):
            speed = 0.0
            if solved.moving:
                speed = (
                    laid[places.dense + i] + at * (2 * laid[places.dense + states + i]
                    + at * (3 * laid[places.dense + 2 * states + i] + at * 4 * laid[places.dense + 3 * states + i]))
                ) / solved.h[row]  # fmt: skip
            for lane in range(width):
                value = 0.0
                for power in range(3, -1, -1):
                    value = at * (scratch[places.read + power * states + i, lane] + value)
                turn = own[places.own_moved, lane] + at * own[places.own_moved + 1, lane]
                found[s, column, i, begin + lane] = scratch[places.start + i, lane] + value - speed * turn
        output = reading.following[output]

"""Where the steps of a block cross a surface: what `mechanistic.solve.crossing` does, one subject a lane."""

import math
from typing import Any, Final, NamedTuple

import numpy as np

from mechanistic.native.block import EMPTY, SPACING
from mechanistic.native.call import call, compiled, inlined
from mechanistic.native.lanes import LANES
from mechanistic.solve.crossing import ITERATIONS
from mechanistic.solve.switching import BEYOND, EXACT, WELL_PLACED, WORTHWHILE


class Watch(NamedTuple):
    """How modes are looked at within steps; see `mechanistic.native.crossings`.

    Attributes:
        look: address of the kernel that looks; 0 where there is nothing to be seen.
        dense: address of the kernel of dense output.
        shadowed: whether the upper half of the lanes are shadows of the lower half.
        shares: fractions of a step at which modes are looked at, `(sample,)`.
        accepted, arriving, flag, time, step, size, following, finish, ratio, stiff, argument, end: rows of the
            workspace, see `mechanistic.native.steps`; the kernel leaves the state that it has looked at in `argument`.
        theta, differs: where in the step to look, and 1 where the modes there are not those held.
        low, high: fractions of the step between which is the first change; `high` is infinite where there is none.
        crossing: 1 where the step ends at a change.
        before: what `stiff` was before the step.
        known: what follows from the parameters alone in the conditions.
    """

    look: int
    dense: int
    shadowed: bool
    shares: Any
    accepted: int
    arriving: int
    flag: int
    time: int
    step: int
    size: int
    following: int
    finish: int
    ratio: int
    stiff: int
    argument: int
    end: int
    theta: int
    differs: int
    low: int
    high: int
    crossing: int
    before: int
    known: int


UNWATCHED: Final = Watch(0, 0, False, np.empty(0), *(0 for _ in Watch._fields[4:]))
"""Where there is nothing to be seen."""


@inlined
def end_at_crossings(watch: Watch, subject: Any, carried: Any, work: Any, address: int) -> None:
    """Has accepted steps end at the first change of a mode, or tried again so that they do.

    See `mechanistic.solve.switching.Switching.crossing`. `subject` is that of each lane, -1 for none; the last column
    of `carried`, `(subject, …)`, is by how much a crossing is overshot.
    """
    wanted = False
    for lane in range(LANES):
        wanted |= _is_watched(watch, subject, work, lane)
    if not wanted:
        return
    call(watch.dense, (address,))
    found = False
    for lane in range(LANES):
        work[watch.low, lane] = 0.0
        work[watch.high, lane] = math.inf
    # What starts on a surface may leave it for a moment only.
    for sample in range(-1, len(watch.shares)):
        for lane in range(LANES):
            work[watch.theta, lane] = 4 * _finest(watch, work, lane) if sample < 0 else watch.shares[sample]
        call(watch.look, (address,))
        for lane in range(LANES):
            if work[watch.high, lane] < math.inf or not _is_watched(watch, subject, work, lane):
                continue
            differs = work[watch.differs, lane] != 0
            found |= differs
            work[watch.high if differs else watch.low, lane] = work[watch.theta, lane]
    if found:
        _narrow(watch, work, address)
        _cut(watch, subject, carried, work, address)


@inlined
def land_at_crossings(watch: Watch, subject: Any, states: int, work: Any) -> None:
    """Gives the steps that end at a crossing the state there, once the outputs before it are read."""
    for lane in range(LANES):
        if subject[lane] >= 0 and work[watch.crossing, lane] != 0 and work[watch.theta, lane] < 1:
            for i in range(states):
                work[watch.end + i, lane] = work[watch.argument + i, lane]


@inlined
def _is_watched(watch: Watch, subject: Any, work: Any, lane: int) -> bool:
    return bool(subject[lane] >= 0 and work[watch.accepted, lane] != 0 and work[watch.step, lane] > EMPTY)


@inlined
def _finest(watch: Watch, work: Any, lane: int) -> float:
    """Fractions of a step that differ by less are the same moment."""
    step = work[watch.step, lane]
    return SPACING / 8 * max(1.0, abs(work[watch.time, lane]) / step) if step > EMPTY else 0.0


@compiled
def _narrow(watch: Watch, work: Any, address: int) -> None:
    """Brackets the first changes as narrowly as times can tell apart."""
    low, high, theta = work[watch.low], work[watch.high], work[watch.theta]
    for lane in range(LANES):
        # What only the end of an arriving step changes needs no search.
        at_end = work[watch.arriving, lane] != 0 and high[lane] == 1.0
        theta[lane] = 1 - 4 * _finest(watch, work, lane) if at_end else high[lane]
    call(watch.look, (address,))
    for lane in range(LANES):
        if theta[lane] < high[lane] and work[watch.differs, lane] == 0:
            low[lane] = theta[lane]
    for _ in range(ITERATIONS):
        wide = False
        for lane in range(LANES):
            theta[lane] = high[lane]
            if high[lane] < math.inf and high[lane] - low[lane] > 4 * _finest(watch, work, lane):
                theta[lane] = (low[lane] + high[lane]) / 2
                wide = True
        if not wide:
            return
        call(watch.look, (address,))
        for lane in range(LANES):
            # A lane that is done rests, so that it does not depend on the others.
            if theta[lane] < high[lane]:
                row = high if work[watch.differs, lane] != 0 else low
                row[lane] = theta[lane]


@compiled
def _cut(watch: Watch, subject: Any, carried: Any, work: Any, address: int) -> None:
    """Ends the steps that cross something there, or has them tried again where that is more accurate."""
    high, theta = work[watch.high], work[watch.theta]
    again = np.zeros(LANES, np.bool_)
    for lane in range(LANES):
        theta[lane] = 1.0
        if high[lane] < math.inf:
            again[lane] = _is_better_again(watch, work, lane)
            overshot = 4 * carried[subject[lane], carried.shape[1] - 1] * _finest(watch, work, lane)
            theta[lane] = min(1.0, high[lane] + overshot)
    call(watch.look, (address,))
    for lane in range(LANES):
        if not high[lane] < math.inf:
            continue
        if again[lane]:
            _send_back(watch, work, lane, BEYOND * high[lane] * work[watch.step, lane])
            continue
        if theta[lane] < 1:
            work[watch.finish, lane] = work[watch.time, lane] + theta[lane] * work[watch.step, lane]
        work[watch.following, lane] = max(work[watch.size, lane], work[watch.following, lane])
        work[watch.crossing, lane] = 1.0
        work[watch.flag, lane] = 2.0


@inlined
def _is_better_again(watch: Watch, work: Any, lane: int) -> bool:
    """Whether a step that ends at the crossing is more accurate than dense output there."""
    theta, least = work[watch.high, lane], WORTHWHILE * SPACING * max(abs(work[watch.time, lane]), 1e-30)
    placed = WELL_PLACED[0] < theta and theta < WELL_PLACED[1] and theta * work[watch.step, lane] > least
    return bool(placed and work[watch.ratio, lane] > EXACT)


@inlined
def _send_back(watch: Watch, work: Any, lane: int, size: float) -> None:
    """Rejects a step, and the same one of the shadow."""
    for mine in range(lane, LANES, LANES // 2 if watch.shadowed else LANES):
        work[watch.accepted, mine] = 0.0
        work[watch.following, mine] = size
        work[watch.stiff, mine] = work[watch.before, mine]

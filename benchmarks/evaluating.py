"""Rows whose result is one number and its gradient: an array a tolerance, with an error beside the time."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.compare import Point, seconds_at
from benchmarks.exchange import Answer
from benchmarks.rows import Row
from benchmarks.solving import RTOLS, USUAL, Curve, Plan, Result

WANTED = 1e-5
"""The error that a gradient may have at most where tools are compared."""


def gradient_error(found: np.ndarray, reference: np.ndarray) -> float:
    """The largest distance of a gradient from the reference over the largest entry of the reference.

    Both are `(1 + parameter,)`, a value and its gradient; what is not finite is an infinite error.
    """
    distance = np.abs(found[1:] - reference[1:]).max() / np.abs(reference[1:]).max()
    return float(distance) if np.isfinite(distance) else float("inf")


def curve(answer: Answer, reference: np.ndarray) -> Curve:
    """Seconds an evaluation beside the error of the gradient; the typical error is that of the value."""
    points = []
    for point in answer.points:
        found = np.load(point.states)
        value = abs(found[0] - reference[0]) / max(abs(reference[0]), 1.0)
        points.append(
            Point(point.rtol, gradient_error(found, reference), float(value), median(point.cpu), median(point.wall), 1)
        )
    return Curve(answer.tool, answer.versions, answer.settings, answer.setup, tuple(points), answer.problem)


def compared_at(peer: Curve, wanted: float = WANTED) -> float | None:
    """The error at which a peer is compared: its own at the usual tolerance, but no more than what is wanted."""
    usual = [point.error for point in peer.points if point.rtol == USUAL]
    return min(usual[0], wanted) if usual and np.isfinite(usual[0]) else None


def ratio(peer: Curve, ours: Curve, wanted: float = WANTED) -> float | None:
    """The peer's time over ours at `compared_at`; None where one of them does not reach it."""
    error = compared_at(peer, wanted)
    if error is None:
        return None
    theirs, own = (seconds_at(list(each.points), error) for each in (peer, ours))
    return None if theirs is None or own is None else theirs / own


def judged(
    row: Row, ours: Curve, peers: list[Curve], disagreement: float | None = None, wanted: float = WANTED
) -> Result:
    """The row against the peer that is fastest, by the smallest ratio."""
    found = [(r, peer) for peer in peers if (r := ratio(peer, ours, wanted)) is not None]
    if not found:
        why = "; ".join(f"{c.tool}: {c.problem or 'no common error'}" for c in (ours, *peers))
        return Result(row, problem=why, disagreement=disagreement, curves=(ours, *peers))
    smallest, fastest = min(found, key=lambda pair: pair[0])
    error = compared_at(fastest, wanted)
    return Result(row, smallest, error, fastest.tool, "", disagreement, (ours, *peers))


Ask = Callable[[str, tuple[float, ...], int], Answer]
"""Name of a peer, or `reference`, tolerances and timed runs to its answer."""


def beside(
    row: Row, plan: Plan, levels: tuple[float, float], ours: Callable[[], Answer], ask: Ask, wanted: float = WANTED
) -> Result:
    """The row against its peers; the reference has the second of two tolerances, and how far they are apart is kept."""
    answer = ask("reference", levels, 1)
    if answer.problem:
        return Result(row, problem=f"no reference: {answer.problem}")
    looser, reference = (np.load(point.states) for point in answer.points)
    mine = curve(ours(), reference)
    peers = [curve(ask(peer, RTOLS, plan.repeats), reference) for peer in row.peers]
    return judged(row, mine, peers, gradient_error(looser, reference), wanted)


def answer_path(folder: Path, tool: str) -> Path:
    """Where the answer of a tool goes."""
    return folder / f"{tool}.json"

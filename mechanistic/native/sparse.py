"""Sparse LU factors of `diag(s) - J` on a fixed pattern: the order of elimination and where every number goes.

Pivots stay on the diagonal whatever their values, so that the operations are the same for all subjects. That is safe
where `s`, the inverse of a step, outweighs what grows; `backward_error` kernels tell where it was not.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from mechanistic.errors import ModelError

SOLVES = 8
"""Solves for each factorisation, by which orders are compared: the stages of Rodas5P."""

THOROUGH = 10_000
"""Multiplications up to which a slower search for a better order is worth its time."""

LARGEST = 2_000_000
"""Multiplications above which there are no factors: the lists of operations would fill memory."""


@final
@dataclass(frozen=True, slots=True)
class Pivot:
    """One step of the elimination.

    Attributes:
        state: whose diagonal entry is the pivot.
        place: of the pivot in the factors, which keep its reciprocal.
        upper: states of the entries of U right of it, at the places that follow `place`.
        lower: states of the entries of L below it, at the places that follow those of `upper`.
        targets: places of the entries that L times U changes, `lower` by `upper`, row by row.
    """

    state: int
    place: int
    upper: tuple[int, ...]
    lower: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def uppers(self) -> range:
        """Places of the entries of U."""
        return range(self.place + 1, self.place + 1 + len(self.upper))

    @property
    def lowers(self) -> range:
        """Places of the entries of L."""
        return range(self.uppers.stop, self.uppers.stop + len(self.lower))

    @property
    def right(self) -> list[tuple[int, int]]:
        """State and place of the entries of U."""
        return list(zip(self.upper, self.uppers, strict=True))

    @property
    def below(self) -> list[tuple[int, int]]:
        """State and place of the entries of L."""
        return list(zip(self.lower, self.lowers, strict=True))


@final
@dataclass(frozen=True, slots=True)
class Factorisation:
    """What to do to factor `A = diag(s) - J`, `size` by `size`, and to solve with the factors.

    Attributes:
        rows, columns: of the nonzeros of J.
        entries: their places in the factors.
        pivots: in the order of elimination.
        places: how many numbers the factors have.
    """

    size: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    entries: tuple[int, ...]
    pivots: tuple[Pivot, ...]
    places: int

    @property
    def order(self) -> tuple[int, ...]:
        """States in the order of elimination."""
        return tuple(pivot.state for pivot in self.pivots)

    @property
    def empty(self) -> tuple[int, ...]:
        """Places where J has no entry."""
        return tuple(sorted(set(range(self.places)) - set(self.entries)))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a factorisation; there are `size` divisions and `scalings` multiplications besides."""
        return sum(len(pivot.targets) for pivot in self.pivots)

    @property
    def scalings(self) -> int:
        """Multiplications of a factorisation by the reciprocal of a pivot: entries of L."""
        return sum(len(pivot.lower) for pivot in self.pivots)

    @property
    def solve_multiply_adds(self) -> int:
        """Multiply-adds of a solve; there are `size` multiplications besides."""
        return self.places - self.size


Plan = list[tuple[int, set[int], set[int]]]
"""Pivot, states right of it, states below it; in the order of elimination."""

Pattern = list[set[int]]
Cost = Callable[[int, Pattern, Pattern], tuple[int, ...]]


def factorise(size: int, rows: Sequence[int], columns: Sequence[int]) -> Factorisation | None:
    """The cheapest elimination found; None where it takes more than `LARGEST` multiplications.

    Args:
        size: how many states.
        rows, columns: of the nonzeros of J, each pair once, in any order.

    Raises:
        ModelError: a pair is out of range, or given twice.
    """
    _check(size, rows, columns)
    best = _eliminate(size, rows, columns, _products, LARGEST)
    if best is None:
        return None
    # The order in which a model has its states follows the chemistry and may be as good.
    for cost in (_fill, _natural) if _work(best) <= THOROUGH else (_natural,):
        best = _eliminate(size, rows, columns, cost, _work(best) - 1) or best
    return _placed(size, tuple(rows), tuple(columns), best)


def _check(size: int, rows: Sequence[int], columns: Sequence[int]) -> None:
    pairs = list(zip(rows, columns, strict=True))
    problems = [f"({i}, {j}) is outside" for i, j in pairs if not (0 <= i < size and 0 <= j < size)]
    seen: set[tuple[int, int]] = set()
    for pair in pairs:
        if pair in seen:
            problems.append(f"{pair} is given twice")
        seen.add(pair)
    if problems:
        raise ModelError(f"this is no pattern of a Jacobian of {size} states; give each pair of states once", problems)


def _natural(state: int, rows: Pattern, columns: Pattern) -> tuple[int, ...]:
    return ()


def _products(state: int, rows: Pattern, columns: Pattern) -> tuple[int, ...]:
    """Markowitz, Management Science 3 (1957) 255, doi:10.1287/mnsc.3.3.255, with pivots on the diagonal."""
    return len(rows[state]) * len(columns[state]), len(rows[state]) + len(columns[state])


def _fill(state: int, rows: Pattern, columns: Pattern) -> tuple[int, ...]:
    """Entries that the elimination of a state adds, at the time when its neighbours changed last."""
    upper = rows[state]
    return sum(len(upper - rows[i]) - (i in upper) for i in columns[state]), len(upper) * len(columns[state])


def _eliminate(size: int, rows: Sequence[int], columns: Sequence[int], cost: Cost, limit: int) -> Plan | None:
    """Eliminates the state of the least cost, again and again; None where that is more work than `limit`."""
    right: Pattern = [set() for _ in range(size)]
    below: Pattern = [set() for _ in range(size)]
    for i, j in zip(rows, columns, strict=True):
        if i != j:
            right[i].add(j)
            below[j].add(i)
    latest: list[tuple[int, ...] | None] = [(*cost(i, right, below), i) for i in range(size)]
    heap = [key for key in latest if key is not None]
    heapq.heapify(heap)
    plan: Plan = []
    work = 0
    while heap:
        key = heapq.heappop(heap)
        pivot = key[-1]
        if latest[pivot] != key:
            continue
        latest[pivot] = None
        upper, lower = right[pivot], below[pivot]
        plan.append((pivot, upper, lower))
        work += _work(plan[-1:])
        if work > limit:
            return None
        for i in lower:
            right[i] = (right[i] | upper) - {i, pivot}
        for j in upper:
            below[j] = (below[j] | lower) - {j, pivot}
        for state in upper | lower:
            key = (*cost(state, right, below), state)
            if key != latest[state]:
                latest[state] = key
                heapq.heappush(heap, key)
    return plan


def _work(plan: Plan) -> int:
    """Multiplications of a factorisation and the solves that use it."""
    return sum(
        len(upper) * len(lower) + len(lower) + SOLVES * (1 + len(upper) + len(lower)) for _, upper, lower in plan
    )


def _placed(size: int, rows: tuple[int, ...], columns: tuple[int, ...], plan: Plan) -> Factorisation:
    """Gives every entry its place: pivot by pivot, first the pivot, then its row of U, then its column of L."""
    position = {state: k for k, (state, _, _) in enumerate(plan)}

    def ordered(states: set[int]) -> tuple[int, ...]:
        return tuple(sorted(states, key=position.__getitem__))

    rows_and_columns = [(state, ordered(upper), ordered(lower)) for state, upper, lower in plan]
    places: dict[tuple[int, int], int] = {}
    for state, upper, lower in rows_and_columns:
        for entry in ((state, state), *((state, j) for j in upper), *((i, state) for i in lower)):
            places[entry] = len(places)
    pivots = []
    for state, upper, lower in rows_and_columns:
        targets = tuple(places[i, j] for i in lower for j in upper)
        pivots.append(Pivot(state, places[state, state], upper, lower, targets))
    entries = tuple(places[i, j] for i, j in zip(rows, columns, strict=True))
    return Factorisation(size, rows, columns, entries, tuple(pivots), len(places))

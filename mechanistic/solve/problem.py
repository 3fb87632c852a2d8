"""What a solver is given and what it gives back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, final

from torch import Tensor

from mechanistic.field import AbstractVectorField
from mechanistic.schedule import Stops


@final
class Status(IntEnum):
    """How the simulation of one subject ended."""

    OK = 0
    BUDGET = 1
    MIN_STEP = 2
    NOT_FINITE = 3
    STIFF = 4
    EVENTS = 5
    INCONSISTENT = 6

    @property
    def advice(self) -> str:
        """What happened and what to do about it, in words."""
        return {
            Status.OK: "reached the end",
            Status.BUDGET: "the budget of steps was used up; it may be stiff: use Rodas5P() or raise `max_steps`",
            Status.MIN_STEP: "the step size became too small; loosen the tolerance or look for a singularity",
            Status.NOT_FINITE: "the rates are not finite; look for a division by zero, a logarithm below zero or a"
            " negative lag of a delay",
            Status.STIFF: "the system is stiff here; use Rodas5P() or Auto()",
            Status.EVENTS: "events or conditions follow each other here without end, or the delay of one is negative or"
            " undefined",
            Status.INCONSISTENT: "no state was found that satisfies the algebraic equations and fast reactions; give"
            " other initial values, and no fast reaction that is switched off",
        }[self]


@final
@dataclass(frozen=True, slots=True)
class Tolerance:
    """Error allowed in one step: `atol · scale + rtol · |x|` for each state, in its own unit.

    Attributes:
        rtol: relative part.
        atol: absolute part, in multiples of the state's scale.

    Raises:
        ValueError: for values that are not positive.
    """

    rtol: float = 1e-6
    atol: float = 1e-9

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"tolerances must be positive; got rtol={self.rtol}, atol={self.atol}")


class Problem(NamedTuple):
    """Initial value problems of a batch of subjects, each with its own clock.

    Attributes:
        field: the right-hand side.
        parameters: `(batch, parameter)`.
        initial: states before anything is given at the start, `(batch, state)`.
        stops: stop times, jumps and input rates of each subject.
        times: output times, `(batch, time)`; NaN where a row is padded.
        before: output shows the value before the jump at exactly that time, bool `(batch, time)`.
        tolerance: error allowed in one step.
    """

    field: AbstractVectorField
    parameters: Tensor
    initial: Tensor
    stops: Stops
    times: Tensor
    before: Tensor
    tolerance: Tolerance

    def select(self, rows: Tensor) -> "Problem":
        """The problem of some subjects."""
        stops = Stops(self.stops.times[rows], self.stops.jumps[rows], self.stops.rates[rows])
        own = {name: getattr(self, name)[rows] for name in ("parameters", "initial", "times", "before")}
        return self._replace(stops=stops, **own)


class Statistics(NamedTuple):
    """Work done for each subject.

    Attributes:
        steps: accepted steps, `(batch,)`.
        rejected: rejected steps, `(batch,)`.
    """

    steps: Tensor
    rejected: Tensor


class Outcome(NamedTuple):
    """States at the output times and how each subject ended.

    Attributes:
        states: `(batch, time, state)`; NaN after a failure and where a row is padded.
        status: `Status` of each subject, `(batch,)`.
        reached: the time that each subject reached, `(batch,)`.
        culprit: index of the state that limited the last step, `(batch,)`.
        statistics: work done.
        method: name of the method that served each subject, index into `methods`, `(batch,)`.
        methods: names of the methods.
        delayed: delayed values at the output times, `(batch, time, delay)`; without columns where there are none.
    """

    states: Tensor
    status: Tensor
    reached: Tensor
    culprit: Tensor
    statistics: Statistics
    method: Tensor
    methods: tuple[str, ...]
    delayed: Tensor


class AbstractSolver(ABC):
    """Solves problems; immutable, configured when made."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        return type(self).__name__

    @abstractmethod
    def solve(self, problem: Problem) -> Outcome:
        """States at the output times, differentiable; a failure is a `Status`, never an exception."""

"""Another way to advance: not a step of every subject at a time, but each to where something happens to it next."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from mechanistic.solve.clocks import Clocks


class Flown(NamedTuple):
    """What came of some flights.

    Attributes:
        clocks: where they ended, with the work done; a row whose status is not `OK` has failed there.
        stopped: which of them ended where something happens, `(row,)`.
        place: which of the flattened outputs of the problem were passed, `(output,)`.
        states: what these show, `(output, state)`.
    """

    clocks: Clocks
    stopped: Tensor
    place: Tensor
    states: Tensor


class AbstractFlights(ABC):
    """Advances subjects by many steps at once, with modes and inputs that are held."""

    @abstractmethod
    def fly(self, clocks: Clocks, target: Tensor) -> Flown:
        """Flies from where the clocks stand to `target`, `(row,)`, or to the first change of a mode before it.

        Outputs are passed as by `mechanistic.solve.switching.Switching.land`. Where the problem is differentiable, so
        are the times and states at which flights end, and the outputs.
        """

"""Where the subjects of a batch stand while they are solved."""

from typing import NamedTuple

from torch import Tensor

from mechanistic.solve.control import Verdict
from mechanistic.solve.method import Step


class Clocks(NamedTuple):
    """Where each subject that is under way stands; all tensors have one row a subject."""

    subject: Tensor
    t: Tensor
    x: Tensor
    h: Tensor
    first: Tensor
    segment: Tensor
    nodes: Tensor
    error: Tensor
    stiff: Tensor
    undershoots: Tensor
    attempts: Tensor
    culprit: Tensor
    status: Tensor
    parameters: Tensor
    times: Tensor
    jumps: Tensor
    rates: Tensor
    stop: Tensor
    inputs: Tensor
    modes: Tensor
    shadow: Tensor

    def select(self, rows: Tensor) -> "Clocks":
        """Some of the rows."""
        return Clocks(*(value[rows] for value in self))

    def merge(self, rows: Tensor, others: "Clocks") -> "Clocks":
        """Some of the rows replaced by others."""
        return Clocks(*(mine.index_put((rows,), new) for mine, new in zip(self, others, strict=True)))

    def enter(self, segment: Tensor) -> "Clocks":
        """Points to the next stop and the input rates of a segment; to those of the last one at the end."""
        last = self.rates.shape[1] - 1
        stop = self.times.gather(1, (segment + 1).clamp(max=last + 1)[:, None]).squeeze(1)
        index = segment.clamp(max=last)[:, None, None].expand(-1, 1, self.rates.shape[2])
        return self._replace(segment=segment, stop=stop, inputs=self.rates.gather(1, index).squeeze(1))


class Trial(NamedTuple):
    """A step that is tried, one row a subject.

    Attributes:
        target: where something is known to happen next.
        h: its size.
        arriving: whether it ends where something is known to happen.
        step: what the method made of it.
        verdict: what step control says of it.
        accepted: whether it is taken, by a subject that is under way.
        theta: the fraction of it that is taken: less than 1 where it crosses a surface.
        crossing: whether it ends at a crossing.
        again: whether it is tried again, ending soon after the crossing that it has found.
        shadow: the shadows at its end.
    """

    target: Tensor
    h: Tensor
    arriving: Tensor
    step: Step
    verdict: Verdict
    accepted: Tensor
    theta: Tensor
    crossing: Tensor
    again: Tensor
    shadow: Tensor

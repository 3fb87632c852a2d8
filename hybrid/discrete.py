"""Events, conditions and delays of a mechanism whose parameters are driven."""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from mechanistic.field import AbstractDiscrete

View = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@final
class DrivenDiscrete(AbstractDiscrete):
    """Those of `known`, seen through `view`: `(t, x, p)` to the states and parameters of the mechanism.

    `moved` says whether what was learned may move what stands still in the mechanism, so that time alone moves nothing.
    Events set states of the mechanism alone, which come first among the states of a hybrid.
    """

    def __init__(self, known: AbstractDiscrete, view: View, moved: bool) -> None:
        super().__init__()
        self._known, self._view = known, view
        self.modes, self.delays, self.events = known.modes, known.delays, known.events
        self.nested, self.driving, self.watched = known.nested, known.driving, known.watched
        self.register_buffer("timed", torch.zeros_like(known.timed) if moved else known.timed, persistent=False)
        for name in ("step", "owner", "target", "persistent", "initially", "values_at_trigger"):
            self.register_buffer(name, getattr(known, name), persistent=False)

    def mode(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.mode(t, *self._view(t, x, p), held)

    def surface(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.surface(t, *self._view(t, x, p), held)

    def clock(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.clock(t, *self._view(t, x, p), held)

    def lag(self, index: int, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.lag(index, t, *self._view(t, x, p), held)

    def past(self, index: int, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.past(index, t, *self._view(t, x, p), held)

    def trigger(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.trigger(t, *self._view(t, x, p), held)

    def wait(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.wait(t, *self._view(t, x, p), held)

    def priority(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.priority(t, *self._view(t, x, p), held)

    def assigned(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        return self._known.assigned(t, *self._view(t, x, p), held)

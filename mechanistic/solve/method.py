"""One-step methods: what the loop and the gradient need of them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mechanistic.field import AbstractVectorField, Linearisation
from mechanistic.solve.problem import AbstractSolver


class Delayed(Protocol):
    """Looks up the delayed values of some rows."""

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Delayed values, `(row, delay)`, at times `(row,)` and states `(row, state)`."""
        ...

    def select(self, rows: Tensor) -> "Delayed":
        """The same for some of the rows."""
        ...


class Rhs(NamedTuple):
    """The right-hand side of some rows: a field, their parameters and constant inputs.

    Attributes:
        field: `f(t, x, p)`, or `f(t, x, p, held)` where it has modes or delays.
        parameters: `(row, parameter)`.
        inputs: constant input, amount per time, `(row, state)`; None when there is none at all.
        modes: held during the step, `(row, mode)`; None for a smooth field.
        delayed: the delayed values; None where there are no delays.
    """

    field: AbstractVectorField
    parameters: Tensor
    inputs: Tensor | None
    modes: Tensor | None = None
    delayed: Delayed | None = None

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt, `(row, state)`."""
        rate: Tensor = self.field(t, x, self.parameters, *self._held(t, x))
        if self.inputs is None:
            return rate
        mass = self.field.mass
        return rate + (self.inputs if mass is None else self.inputs @ mass.T)

    def linearise(self, t: Tensor, x: Tensor) -> Linearisation:
        """∂f/∂x and ∂f/∂t; the inputs are constant."""
        if self.delayed is not None and self.field.discrete is not None and any(self.field.discrete.driving):
            return _row_by_row(self, t, x)
        return self.field.linearise(t, x, self.parameters, *self._held(t, x))

    def select(self, rows: Tensor) -> "Rhs":
        """The right-hand side of some of the rows."""
        return Rhs(
            self.field,
            self.parameters[rows],
            None if self.inputs is None else self.inputs[rows],
            None if self.modes is None else self.modes[rows],
            None if self.delayed is None else self.delayed.select(rows),
        )

    def delayed_at(self, t: Tensor, x: Tensor) -> Tensor:
        """The delayed values, `(row, delay)`."""
        return x[..., :0] if self.delayed is None else self.delayed(t, x)

    def _held(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        if self.modes is None:
            return ()
        return (self.modes if self.delayed is None else torch.cat([self.delayed(t, x), self.modes], dim=-1),)


def _row_by_row(rhs: Rhs, t: Tensor, x: Tensor) -> Linearisation:
    """Derivatives of the whole right-hand side, what it looks up included; one reverse pass a state."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        times, states = (v if graph and v.requires_grad else v.detach().requires_grad_() for v in (t, x))
        # What depends on neither would have no graph.
        rate = rhs(times, states) + 0 * (times + states.sum(-1)).unsqueeze(-1)
        rows = [
            torch.autograd.grad(rate[:, i].sum(), (states, times), create_graph=graph, retain_graph=True,
                                allow_unused=True, materialize_grads=True)
            for i in range(x.shape[-1])
        ]  # fmt: skip
    by_state, by_time = zip(*rows, strict=True)
    return Linearisation(torch.stack(by_state, dim=-2), torch.stack(by_time, dim=-1))


class Step(NamedTuple):
    """One step of a method.

    Attributes:
        x: states at the end of the step, `(row, state)`.
        error: estimate of the local error, `(row, state)`.
        stages: what dense output needs, one `(row, state)` a stage.
        last: f at the end of the step when the method has it for free, else None.
        stiffness: estimate of `h · |λ|`, `(row,)`, where the method offers one, else None.
    """

    x: Tensor
    error: Tensor
    stages: tuple[Tensor, ...]
    last: Tensor | None
    stiffness: Tensor | None


def combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """The sum of stages times weights."""
    total = weights[0] * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        total = torch.add(total, stage, alpha=weight)
    return total


def added(parts: Tensor) -> Tensor:
    """The sum over the first axis, one after the other, so that its rounding does not depend on the batch."""
    first, *others = parts
    for other in others:
        first = first + other
    return first


class AbstractMethod(AbstractSolver):
    """A one-step method with an embedded error estimate and dense output.

    Attributes:
        order: order of the solution that is propagated.
        error_order: order of the embedded error estimate, for step control.
        reuses_last: whether a step ends with f at its end, which the next step starts from.
        max_steps: steps that a subject may take, rejected ones included.
    """

    order: int
    error_order: int
    reuses_last: bool
    max_steps: int

    @abstractmethod
    def step(self, rhs: Rhs, t: Tensor, x: Tensor, h: Tensor, first: Tensor | None = None) -> Step:
        """One step of size `h` `(row,)` from `(t, x)`; `first` is f(t, x) where it is known already.

        A pure, differentiable function; a step of zero length returns `x + h f(t, x)`.
        """

    @abstractmethod
    def interpolate(self, theta: Tensor, x: Tensor, end: Tensor, h: Tensor, stages: Tensor) -> Tensor:
        """Dense output, `(row, state)`, at the fraction `theta` `(row,)` of steps from `x` to `end`.

        `stages` are those of the step, stacked: `(stage, row, state)`.
        """

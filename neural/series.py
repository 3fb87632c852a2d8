"""Batches of irregular, partly observed time series with static and piecewise-constant inputs."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from neural.errors import refuse


@final
@dataclass(frozen=True, eq=False)
class StepInputs:
    """Known inputs that are constant between given times, zero before the first of them.

    Attributes:
        times: `(*batch, step)`, non-decreasing, when each value takes effect; NaN at the end where rows are ragged.
        values: `(*batch, step, input)`.

    Raises:
        NeuralError: lists wrong shapes, times out of order and values that are not finite.
    """

    times: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        refuse("the inputs cannot be used:", _step_problems(self.times, self.values))

    @property
    def channels(self) -> int:
        """Number of inputs."""
        return self.values.shape[-1]

    def at(self, times: Tensor) -> Tensor:
        """The inputs at `times` `(*batch, time)`, jumps included; `(*batch, time, input)`."""
        present = self.times.isfinite()
        knots = torch.where(present, self.times, torch.inf)
        values = torch.where(present[..., None], self.values, 0.0)
        values = torch.cat([torch.zeros_like(values[..., :1, :]), values], -2)
        index = torch.searchsorted(knots.contiguous(), times.contiguous(), right=True)
        return values.gather(-2, index[..., None].expand(*index.shape, self.channels))

    def flat(self) -> "StepInputs":
        """The same inputs with one batch axis."""
        steps = self.times.shape[-1]
        return StepInputs(self.times.reshape(-1, steps), self.values.reshape(-1, steps, self.channels))

    def select(self, rows: Tensor) -> "StepInputs":
        """The inputs of some rows of the first batch axis."""
        return StepInputs(self.times[rows], self.values[rows])


@final
@dataclass(frozen=True, eq=False)
class Series:
    """Time series of a batch of subjects; a step at which nothing is observed is padding and may hold anything.

    Attributes:
        times: `(*batch, time)`, each subject's own clock, non-decreasing over the steps with an observation.
        values: `(*batch, time, channel)`; masked entries may be NaN.
        mask: `(*batch, time, channel)` bool, true where observed.
        context: `(*batch, feature)`, what is known and constant a subject, or None.
        inputs: what is known and changes in steps, or None.

    Raises:
        NeuralError: lists wrong shapes and types, times out of order and observed values that are not finite.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    context: Tensor | None = None
    inputs: StepInputs | None = None

    def __post_init__(self) -> None:
        headline = "the series cannot be used:"
        refuse(headline, _shape_problems(self))
        refuse(headline, _content_problems(self))

    @classmethod
    def from_values(
        cls, times: Tensor, values: Tensor, context: Tensor | None = None, inputs: StepInputs | None = None
    ) -> "Series":
        """A series in which NaN means not observed."""
        return cls(times, values, ~values.isnan(), context, inputs)

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch axes."""
        return self.times.shape[:-1]

    @property
    def channels(self) -> int:
        """Number of observed channels."""
        return self.values.shape[-1]

    @property
    def seen(self) -> Tensor:
        """Which steps hold any observation, `(*batch, time)`."""
        return self.mask.any(-1)

    @property
    def count(self) -> Tensor:
        """Number of observed values, `(*batch,)`."""
        return self.mask.sum((-2, -1))

    def flat(self) -> "Series":
        """The same series with one batch axis."""
        steps = self.times.shape[-1]
        return Series(
            self.times.reshape(-1, steps),
            self.values.reshape(-1, steps, self.channels),
            self.mask.reshape(-1, steps, self.channels),
            None if self.context is None else self.context.reshape(-1, self.context.shape[-1]),
            None if self.inputs is None else self.inputs.flat(),
        )

    def select(self, rows: Tensor) -> "Series":
        """The series of some rows of the first batch axis."""
        return Series(
            self.times[rows],
            self.values[rows],
            self.mask[rows],
            None if self.context is None else self.context[rows],
            None if self.inputs is None else self.inputs.select(rows),
        )

    def until(self, time: float | Tensor) -> "Series":
        """What had been observed up to and including `time`, a number or `(*batch,)`; the rest is masked out."""
        limit = torch.as_tensor(time, dtype=self.times.dtype)
        return replace(self, mask=self.mask & (self.times <= limit[..., None])[..., None])

    def after(self, time: float | Tensor) -> "Series":
        """What was observed after `time`, a number or `(*batch,)`; the rest is masked out."""
        limit = torch.as_tensor(time, dtype=self.times.dtype)
        return replace(self, mask=self.mask & (self.times > limit[..., None])[..., None])


def _step_problems(times: Tensor, values: Tensor) -> list[str]:
    if times.ndim < 1 or values.ndim < 1 or values.shape[:-1] != times.shape:
        got = f"{times.shape=}, {values.shape=}"
        return [f"expected `times` (*batch, step) and `values` (*batch, step, input), got {got}"]
    if not (times.is_floating_point() and values.is_floating_point()):
        return [f"expected floating point numbers, got {times.dtype=}, {values.dtype=}; use .double()"]
    problems = []
    present = times.isfinite()
    padding_first = (~present[..., :-1] & present[..., 1:]).nonzero()
    if len(padding_first):
        problems.append(f"`times`: NaN stands before a number at {padding_first[0].tolist()}; pad at the end")
    wrong = (times[..., 1:] < times[..., :-1]).nonzero()
    if len(wrong):
        problems.append(f"`times` decrease after {wrong[0].tolist()}; sort each row")
    wrong = (present[..., None] & ~values.isfinite()).nonzero()
    if len(wrong):
        problems.append(f"{len(wrong)} `values` are not finite, the first at {wrong[0].tolist()}")
    return problems


def _shape_problems(series: Series) -> list[str]:
    times, values, mask = series.times, series.values, series.mask
    problems = []
    if times.ndim < 1 or values.ndim < 2 or values.shape[:-1] != times.shape:
        got = f"{times.shape=}, {values.shape=}"
        problems.append(f"expected `times` (*batch, time) and `values` (*batch, time, channel), got {got}")
    elif times.shape[-1] == 0:
        problems.append(f"expected at least one step, got {times.shape=}")
    if mask.shape != values.shape or mask.dtype != torch.bool:
        problems.append(
            f"expected a bool `mask` of the shape of `values`, {values.shape=}, got {mask.shape=}, {mask.dtype=}"
        )
    if not (times.is_floating_point() and values.is_floating_point()):
        problems.append(f"expected floating point numbers, got {times.dtype=}, {values.dtype=}; use .double()")
    batch = times.shape[:-1]
    if series.context is not None and series.context.shape[:-1] != batch:
        problems.append(f"expected `context` (*batch, feature) with the batch {batch}, got {series.context.shape=}")
    if series.inputs is not None and series.inputs.times.shape[:-1] != batch:
        problems.append(f"expected `inputs` with the batch {batch}, got {series.inputs.times.shape=}")
    return problems


def _content_problems(series: Series) -> list[str]:
    problems = []
    seen = series.seen
    wrong = (seen & ~series.times.isfinite()).nonzero()
    if len(wrong):
        problems.append(f"`times` of {len(wrong)} observed steps are not finite, the first at {wrong[0].tolist()}")
    reached = torch.where(seen, series.times, -torch.inf).cummax(-1).values
    wrong = (seen & (series.times < reached)).nonzero()
    if len(wrong):
        problems.append(
            f"`times` of {len(wrong)} observed steps decrease, the first at {wrong[0].tolist()}; sort each row"
        )
    wrong = (series.mask & ~series.values.isfinite()).nonzero()
    if len(wrong):
        where = f"the first at {wrong[0].tolist()}"
        problems.append(f"{len(wrong)} observed `values` are not finite, {where}; set the mask to False there")
    if series.context is not None and not bool(series.context.isfinite().all()):
        first = (~series.context.isfinite()).nonzero()[0].tolist()
        problems.append(f"`context` must be finite, the first that is not stands at {first}")
    return problems

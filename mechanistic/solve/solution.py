"""Trajectories with labels: what a simulation returns."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from mechanistic.errors import SolveError
from mechanistic.field import AbstractVectorField
from mechanistic.solve.problem import Statistics, Status

if TYPE_CHECKING:
    import xarray as xr

LISTED = 20
BLOCK, GRAIN = 4096, 64
"""Rows evaluated at once, and what their number is a multiple of."""
RESERVED = ("time", "subject", "sample", "status")


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """Simulated trajectories of one subject or of a batch.

    Attributes:
        field: what was simulated; holds the names.
        times: output times, `(*batch, time)`; NaN where a row is padded.
        states: `(*batch, time, state)`; NaN after a failure and where a row is padded.
        parameters: `(*batch, parameter)`.
        status: `Status` of each subject, `(*batch,)`.
        reached: time that each subject reached, `(*batch,)`.
        culprit: index of the state that limited the last step, `(*batch,)`.
        statistics: accepted and rejected steps of each subject.
        method: index into `methods` of what served each subject, `(*batch,)`.
        methods: names of the methods.
        delayed: delayed values, for observables that use them, `(*batch, time, delay)`.
        engine: what carried the solver out, and why where there was a choice.
    """

    field: AbstractVectorField
    times: Tensor
    states: Tensor
    parameters: Tensor
    status: Tensor
    reached: Tensor
    culprit: Tensor
    statistics: Statistics
    method: Tensor
    methods: tuple[str, ...]
    delayed: Tensor
    engine: str

    @property
    def succeeded(self) -> Tensor:
        """Whether each subject reached its end, bool `(*batch,)`."""
        return self.status == Status.OK

    def observe(self) -> Tensor:
        """Observables at the output times, `(*batch, time, observable)`; differentiable, NaN where the states are."""
        times, states = self.times.flatten(), self.states.flatten(0, -2)
        parameters = self.parameters.reshape(self.status.numel(), self.parameters.shape[-1])
        delayed = () if self.field.discrete is None else (self.delayed.flatten(0, -2),)
        each = self.times.shape[-1]

        def seen(rows: Tensor) -> Tensor:
            return self.field.observe(times[rows], states[rows], parameters[rows // each], *(d[rows] for d in delayed))

        valid = states.isfinite().all(-1).nonzero().squeeze(1)
        values = _in_blocks(seen, valid)
        if len(valid) < len(times):
            values = values.new_full((len(times), values.shape[-1]), torch.nan).index_copy(0, valid, values)
        return values.reshape(*self.times.shape, values.shape[-1])

    def check(self, subjects: Sequence[Any] | None = None) -> "Solution":
        """This solution, when every subject reached its end.

        Raises:
            SolveError: names each subject that did not, with the time, the state that limited the step, and advice.
        """
        failed = (self.status.reshape(-1) != Status.OK).nonzero().squeeze(1).tolist()
        if failed:
            problems = [self._failure(row, subjects) for row in failed[:LISTED]]
            if len(failed) > LISTED:
                problems.append(f"… and {len(failed) - LISTED} more subjects")
            raise SolveError(f"{len(failed)} of {self.status.numel()} simulations did not reach the end:", problems)
        return self

    def dataset(self, subjects: Sequence[Any] | None = None, observables: bool = True) -> "xr.Dataset":
        """One variable a state and observable, dims `(subject, time)`, or `(time,)` without a batch.

        Ragged times give the dims `(subject, sample)` with `time` as a coordinate. The variable `status` says how each
        subject ended; values after a failure are NaN. A state that is called like one of these (`time`, `subject`,
        `sample`, `status`) gets an underscore behind its name.

        Args:
            subjects: labels of the subjects; 0, 1, … when None.
            observables: whether to add the observables.
        """
        import xarray as xr

        batched = self.status.ndim > 0
        times = self.times.detach().reshape(-1, self.times.shape[-1]).cpu().numpy()
        shared = bool((times == times[:1]).all())
        along = "time" if shared else "sample"
        dims = ("subject", along) if batched else (along,)
        names = (*self.field.state_names, *(self.field.observable_names if observables else ()))
        values = torch.cat([self.states, self.observe()], dim=-1) if observables else self.states
        array = values.detach().reshape(*((-1,) if batched else ()), *values.shape[-2:]).cpu().numpy()
        unit = {name: self.field.unit_of(name) for name in (*names, "time")}
        variables: dict[str, Any] = {
            f"{name}_" if name in RESERVED else name: (
                dims,
                np.ascontiguousarray(array[..., i]),
                {"units": unit[name]} if unit[name] else {},
            )
            for i, name in enumerate(names)
        }
        time = (along, times[0]) if shared else (dims, times.reshape(array.shape[:-1]))
        time_attrs = {"units": unit["time"]} if unit["time"] else {}
        coords: dict[str, Any] = {"time": (*time, time_attrs)}
        meaning = {"flags": ", ".join(f"{s.value}: {s.name}" for s in Status)}
        variables["status"] = (dims[:-1], self.status.reshape((-1,) if batched else ()).cpu().numpy(), meaning)
        if batched:
            coords["subject"] = list(range(self.status.numel())) if subjects is None else list(subjects)
        return xr.Dataset(variables, coords)

    def plot(self, variables: Sequence[str] | None = None) -> Any:
        """A matplotlib figure of the trajectories; see `mechanistic.plots.trajectories`."""
        from mechanistic.plots import trajectories

        return trajectories(self.dataset(), variables)

    def __repr__(self) -> str:
        shape = "one subject" if self.status.ndim == 0 else f"{self.status.numel()} subjects"
        ended = Counter(Status(s).name for s in self.status.reshape(-1).tolist())
        served = Counter(self.methods[m] for m in self.method.reshape(-1).tolist())
        steps = int(self.statistics.steps.sum())
        engine = self.engine.partition(":")[0]
        times = self.times.shape[-1]
        return f"Solution({shape}, {times} times, {dict(ended)}, {dict(served)}, {steps} steps, {engine})"

    def _failure(self, row: int, subjects: Sequence[Any] | None) -> str:
        status = Status(int(self.status.reshape(-1)[row]))
        reached = float(self.reached.reshape(-1)[row])
        state = self.field.state_names[int(self.culprit.reshape(-1)[row])]
        who = "the simulation" if self.status.ndim == 0 else f"subject '{row if subjects is None else subjects[row]}'"
        unit = self.field.unit_of("time")
        when = f"t = {reached:.6g}{' ' + unit if unit else ''}"
        return f"{who}: stopped at {when} in state `{state}`: {status.advice}"


def _in_blocks(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """A function of rows, in blocks that are filled up with their last row.

    PyTorch has one code for the bulk of an array and another, with other rounding, for the few elements at its end and
    where threads share it: in a filled block no row is there, so that its bits do not depend on its place.
    """
    found = []
    for block in rows.split(BLOCK):
        size = len(block)
        filled = torch.cat([block, block[-1:].expand(-size % GRAIN)]) if size % GRAIN else block
        found.append(function(filled)[:size])
    return found[0] if len(found) == 1 else torch.cat(found)

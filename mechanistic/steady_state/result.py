"""Steady states with labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from mechanistic.arguments import filled
from mechanistic.errors import SolveError
from mechanistic.field import AbstractVectorField
from mechanistic.solve.problem import Status

if TYPE_CHECKING:
    import xarray as xr

LISTED: Final = 20
RESERVED: Final = ("subject", "status", "time", "residual", "growth")


@final
class RestStatus(IntEnum):
    """How the search for the steady state of one subject ended."""

    OK = 0
    SINGULAR = 1
    UNSTABLE = 2
    MOVING = 3
    TIME = 4
    FAILED = 5

    @property
    def advice(self) -> str:
        """What happened and what to do about it, in words."""
        return {
            RestStatus.OK: "reached a stable steady state",
            RestStatus.SINGULAR: "comes to rest, but rest is not determined to first order (a fold, or one of a"
            " continuum), so that it has no gradient; differentiate a long simulation, or move off the fold",
            RestStatus.UNSTABLE: "stays at a steady state that is not stable; start beside it",
            RestStatus.MOVING: "does not come to rest: it oscillates, grows or is very slow; look at a simulation",
            RestStatus.TIME: "the rates depend on time, so that there is no rest; switch off by a parameter what"
            " depends on time",
            RestStatus.FAILED: "the simulation towards rest stopped",
        }[self]


@final
@dataclass(frozen=True, eq=False)
class SteadyState:
    """Steady states of one subject or of a batch: where a simulation from the initial states comes to rest.

    Attributes:
        field: what is at rest; holds the names.
        states: `(*batch, state)`; NaN where none was reached. They carry gradients to what they were computed from.
        parameters: `(*batch, parameter)`.
        status: `RestStatus` of each subject, `(*batch,)`.
        time: how far each subject was simulated, in the unit of time after the start, `(*batch,)`; from there on
            Newton's method goes to the limit.
        residual: the largest `|dx/dt| / (scale + |x|)` of any state, at rest or where the search ended, `(*batch,)`.
        growth: largest real part of the eigenvalues of the Jacobian among changes that keep the conserved totals,
            `(*batch,)`: minus the rate at which the slowest perturbation decays. -inf where all is conserved, NaN where
            none was reached.
        culprit: index of the state that is farthest from rest, or that stopped the simulation, `(*batch,)`.
        solver: `Status` of the last simulation of each subject, `(*batch,)`.
        reached: the time of the model at which the search ended, `(*batch,)`.
    """

    field: AbstractVectorField
    states: Tensor
    parameters: Tensor
    status: Tensor
    time: Tensor
    residual: Tensor
    growth: Tensor
    culprit: Tensor
    solver: Tensor
    reached: Tensor

    @property
    def succeeded(self) -> Tensor:
        """Whether each subject has a stable steady state that can be differentiated, bool `(*batch,)`."""
        return self.status == RestStatus.OK

    def observe(self) -> Tensor:
        """Observables at rest, `(*batch, observable)`; differentiable, NaN where the states are."""
        valid = self.states.isfinite().all(-1)
        values = self.states.new_full((*self.status.shape, len(self.field.observable_names)), torch.nan)
        seen = self.field.observe(self.reached[valid], self.states[valid], self.parameters[valid])
        return values.masked_scatter(valid.unsqueeze(-1), seen)

    def with_states(self, **values: Any) -> Tensor:
        """The states with some of them replaced by numbers or `(*batch,)`, as initial states after a change.

        Raises:
            SolveError: lists unknown names and values whose shapes do not fit.
        """
        problems: list[str] = []
        states = filled(values, self.states, self.field.state_names, "state", problems)
        if problems:
            raise SolveError("the states cannot be replaced:", problems)
        return states

    def check(self, subjects: Sequence[Any] | None = None) -> "SteadyState":
        """This steady state, when every subject has one, and its gradient where that is wanted.

        Raises:
            SolveError: names each subject that has none, with the time, the state that still moves, and advice.
        """
        allowed = [RestStatus.OK] if self.states.requires_grad else [RestStatus.OK, RestStatus.SINGULAR]
        failed = [i for i, s in enumerate(self.status.reshape(-1).tolist()) if s not in allowed]
        if failed:
            problems = [self._failure(row, subjects) for row in failed[:LISTED]]
            if len(failed) > LISTED:
                problems.append(f"… and {len(failed) - LISTED} more subjects")
            raise SolveError(f"{len(failed)} of {self.status.numel()} subjects have no steady state:", problems)
        return self

    def dataset(self, subjects: Sequence[Any] | None = None, observables: bool = True) -> "xr.Dataset":
        """One variable a state and observable, dims `("subject",)`, or none without a batch; the search beside them.

        `status` says how the search of each subject ended; values are NaN where there is no steady state. A state that
        is called like a variable of the search (`status`, `time`, `residual`, `growth`) gets an underscore behind it.

        Args:
            subjects: labels of the subjects; 0, 1, … when None.
            observables: whether to add the observables.
        """
        import xarray as xr

        batched = self.status.ndim > 0
        dims = ("subject",) if batched else ()
        names = (*self.field.state_names, *(self.field.observable_names if observables else ()))
        values = torch.cat([self.states, self.observe()], dim=-1) if observables else self.states
        array = values.detach().reshape(*((-1,) if batched else ()), values.shape[-1]).cpu().numpy()
        unit = {name: self.field.unit_of(name) for name in (*names, "time")}
        variables: dict[str, Any] = {
            f"{name}_" if name in RESERVED else name: (dims, array[..., i], _units(unit[name]))
            for i, name in enumerate(names)
        }
        meaning = {"flags": ", ".join(f"{s.value}: {s.name}" for s in RestStatus)}
        clock, rate = unit["time"], f"1/{unit['time']}" if unit["time"] else ""
        for name, attributes in (
            ("status", meaning),
            ("time", _units(clock)),
            ("residual", _units(rate)),
            ("growth", _units(rate)),
        ):
            value = getattr(self, name).detach().reshape((-1,) if batched else ()).cpu().numpy()
            variables[name] = (dims, value, attributes)
        labels = list(range(self.status.numel())) if subjects is None else list(subjects)
        return xr.Dataset(variables, {"subject": labels} if batched else {})

    def __repr__(self) -> str:
        shape = "one subject" if self.status.ndim == 0 else f"{self.status.numel()} subjects"
        ended = Counter(RestStatus(s).name for s in self.status.reshape(-1).tolist())
        good = self.succeeded
        if not bool(good.any()):
            return f"SteadyState({shape}, {dict(ended)})"
        largest, slowest = float(self.residual[good].max()), float(self.growth[good].max())
        unit = self.field.unit_of("time")
        per = f" per {unit}" if unit else ""
        return f"SteadyState({shape}, {dict(ended)}, residual {largest:.1e}{per}, slowest mode {slowest:.3g}{per})"

    def _failure(self, row: int, subjects: Sequence[Any] | None) -> str:
        status = RestStatus(int(self.status.reshape(-1)[row]))
        who = "the system" if self.status.ndim == 0 else f"subject '{row if subjects is None else subjects[row]}'"
        state = self.field.state_names[int(self.culprit.reshape(-1)[row])]
        reached, residual = float(self.reached.reshape(-1)[row]), float(self.residual.reshape(-1)[row])
        unit = self.field.unit_of("time")
        when = f"t = {reached:.6g}{' ' + unit if unit else ''}"
        reason = status.advice
        solver = Status(int(self.solver.reshape(-1)[row]))
        if status is RestStatus.FAILED:
            reason = f"{reason}: {solver.advice}"
        moves = f" (|dx/dt| / size = {residual:.2g})" if status is RestStatus.MOVING else ""
        return f"{who}: at {when}, state `{state}`{moves}: {reason}"


def _units(unit: str) -> dict[str, str]:
    return {"units": unit} if unit else {}

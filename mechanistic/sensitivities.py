"""Forward sensitivities: derivatives of states and observables by parameters, initial states and doses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast, final

import torch
from torch import Tensor

from mechanistic.arguments import filled
from mechanistic.compile import RateField
from mechanistic.errors import SolveError, nearest
from mechanistic.model import KineticModel
from mechanistic.native.sensing import Sensing, refused
from mechanistic.schedule import Schedule
from mechanistic.simulate import as_field, simulate
from mechanistic.solve.problem import AbstractSolver, Tolerance
from mechanistic.solve.solution import Solution

if TYPE_CHECKING:
    import xarray as xr

DOSES: Final = ("amount", "time", "duration")


@final
@dataclass(frozen=True, eq=False)
class Sensitivities:
    """Trajectories and their derivatives.

    Attributes:
        solution: the trajectories, without a graph.
        by: names of the directions: parameters, states (their initial values), `amount[0]`, `time[0]`, `duration[0]` of
            the first dose, and so on.
        states: derivatives of the states, `(*batch, time, state, direction)`, in units of the state over those of the
            direction; NaN where a row is padded and for a subject that failed.
        parameters: derivatives of the parameters, `(parameter, direction)`.
    """

    solution: Solution
    by: tuple[str, ...]
    states: Tensor
    parameters: Tensor

    def observe(self) -> Tensor:
        """Derivatives of the observables, `(*batch, time, observable, direction)`."""
        s, field = self.solution, self.solution.field
        count = len(field.observable_names)
        found = self.states.new_full((*self.states.shape[:-2], count, len(self.by)), torch.nan)
        valid = self.states.flatten(-2).isfinite().all(-1)
        x = s.states[valid].requires_grad_()
        p = s.parameters.unsqueeze(-2).expand(*s.states.shape[:-1], -1)[valid].requires_grad_()
        held = () if field.discrete is None else (s.delayed[valid],)
        with torch.enable_grad():
            seen = field.observe(s.times[valid], x, p, *held)
        slopes = self.states[valid]
        for i in range(count if len(x) else 0):
            total = seen[:, i].sum() + 0.0 * (x.sum() + p.sum())
            by_state, by_parameter = torch.autograd.grad(total, (x, p), retain_graph=True)
            chained = torch.einsum("mn,mnd->md", by_state, slopes) + by_parameter @ self.parameters
            found[..., i, :][valid] = chained
        return found

    def fisher_information(self, deviation: Tensor | Mapping[str, Any]) -> Tensor:
        """The Fisher information of observables with independent normal errors, `(direction, direction)`.

        Subjects and times are summed over; padded rows and subjects that failed tell nothing.

        Args:
            deviation: standard deviations of the errors: observable → number or `(*batch, time)`; others are not
                observed. Or a tensor that broadcasts to `(*batch, time, observable)`, infinite where nothing is seen.

        Raises:
            SolveError: lists unknown observables and deviations that are not positive.
        """
        names = self.solution.field.observable_names
        problems: list[str] = []
        nothing = self.states.new_full((*self.states.shape[:-2], len(names)), torch.inf)
        sizes = filled(deviation, nothing, names, "observable", problems)
        problems += [f"the deviation of `{name}` is not positive" for i, name in enumerate(names)
                     if not bool((sizes[..., i] > 0).all())]  # fmt: skip
        if problems:
            raise SolveError("there is no Fisher information:", problems)
        weighted = (self.observe() / sizes.unsqueeze(-1)).nan_to_num(0.0, 0.0, 0.0).reshape(-1, len(self.by))
        return weighted.T @ weighted

    def dataset(self, subjects: Sequence[Any] | None = None, observables: bool = True) -> "xr.Dataset":
        """Derivatives as one variable a state and observable, dims as in `Solution.dataset`, then `direction`."""
        import xarray as xr

        plain = self.solution.dataset(subjects, observables)
        values = torch.cat([self.states, self.observe()], -2) if observables else self.states
        variables: dict[str, Any] = {}
        for i, name in enumerate(name for name in plain.data_vars if name != "status"):
            dims = plain[name].dims
            array = values[..., i, :].reshape(*plain[name].shape, len(self.by)).numpy()
            variables[str(name)] = ((*dims, "direction"), array)
        return xr.Dataset(variables | {"status": plain["status"]}, {**plain.coords, "direction": list(self.by)})

    def __repr__(self) -> str:
        named = ", ".join(self.by[:6]) + (", …" if len(self.by) > 6 else "")
        return f"Sensitivities(by {named}; {self.solution!r})"


def sensitivities(
    system: KineticModel | RateField,
    times: Any,
    parameters: Tensor | Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
    *,
    by: Sequence[str] | None = None,
    initial: Tensor | Mapping[str, Any] | None = None,
    start: Any = 0.0,
    before: Any = None,
    solver: AbstractSolver | None = None,
    tolerance: Tolerance | None = None,
    threads: int | None = None,
) -> Sensitivities:
    """Simulates, and takes derivatives of the numbers returned by few directions along with the solution.

    The directions of a subject share the Jacobians and factors of its steps, so that each of them costs a fraction of a
    solve. For the gradient of a likelihood by many parameters `simulate` and `backward` cost less.

    Args:
        system, times, parameters, schedule, initial, start, before, solver, tolerance: as for `simulate`.
        by: names of parameters; of states, for their initial values; `amount[0]`, `time[0]`, `duration[0]` for the
            first column of the schedule, and so on. All parameters when None.
        threads: how many may work at once; `torch.get_num_threads()` when None.

    Raises:
        SolveError: lists unknown names, and says why there are no forward sensitivities of a system.
        ScheduleError: for doses that do not fit the system.
    """
    field = as_field(system)
    if not isinstance(field, RateField):
        raise refused([f"`{type(field).__name__}` is not a compiled model"])
    doses = Schedule.none() if schedule is None else schedule
    names = tuple(field.parameter_names if by is None else by)
    _check(field, doses, names)
    problems: list[str] = []
    with torch.enable_grad():
        theta = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
        slopes = _units(names, field.parameter_names)
        p = filled(_detached(parameters), field.nominal().detach(), field.parameter_names, "parameter", problems)
        p = p + slopes @ theta
        x = filled(_detached(initial), field.initial(p), field.state_names, "state", problems)
        x = x + _units(names, field.state_names) @ theta
        if problems:
            raise SolveError("the simulation cannot be set up:", problems)
        sensing = Sensing(theta, slopes, threads)
        wide = simulate(
            field, times, p, _moved(doses, names, theta), initial=x, start=start, before=before, solver=solver,
            tolerance=tolerance, engine=sensing,
        )  # fmt: skip
    count = len(field.state_names)
    states, parts = wide.states[..., :count], wide.states[..., count:]
    solution = replace(wide, states=states.detach(), parameters=wide.parameters.detach())
    return Sensitivities(solution, names, parts.unflatten(-1, (count, len(names))), slopes)


def _check(field: RateField, doses: Schedule, names: tuple[str, ...]) -> None:
    dosed = [f"{kind}[{column}]" for kind in DOSES for column in range(doses.size)]
    known = [*field.parameter_names, *field.state_names, *dosed]
    problems = [f"`{name}` is no parameter, state or part of a dose{nearest(name, known)}"
                for name in names if name not in known]  # fmt: skip
    problems += [f"`{name}` is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if not names:
        problems.append("`by` names nothing")
    if problems:
        raise SolveError("there are no such directions:", problems)


def _units(names: Sequence[str], columns: Sequence[str]) -> Tensor:
    """1 where a direction is that column, `(column, direction)`."""
    rows = [[float(name == column) for name in names] for column in columns]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(columns), len(names))


def _detached(given: Tensor | Mapping[str, Any] | None) -> Tensor | Mapping[str, Any] | None:
    if isinstance(given, Mapping):
        return {name: value.detach() if isinstance(value, Tensor) else value for name, value in given.items()}
    return given.detach() if isinstance(given, Tensor) else given


def _moved(doses: Schedule, names: Sequence[str], theta: Tensor) -> Schedule:
    """The schedule with those of its columns that are directions moved by them."""
    parts = []
    for kind in ("time", "amount", "duration"):
        value = cast(Tensor, getattr(doses, kind)).detach().to(torch.float64)
        units = _units(names, [f"{kind}[{column}]" for column in range(doses.size)])
        parts.append(value + units @ theta if bool(units.any()) else value)
    return Schedule(doses.targets, doses.target, *parts)

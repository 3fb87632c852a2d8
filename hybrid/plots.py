"""Pictures of fits, learned fluxes and virtual populations; matplotlib is imported only when one is drawn."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hybrid.coupling import FluxResidual
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.objective import channel_sds
from hybrid.results import Fit
from mechanistic.errors import nearest
from mechanistic.plots import COLOURS, bands
from mechanistic.solve import Solution

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Truth = Callable[..., Any] | tuple[Any, Any]

BLUE, VERMILION, BLACK, GREY = COLOURS[0], COLOURS[1], COLOURS[6], COLOURS[7]

POINTS: Final = 200
"""Points of a curve between the first and the last record of a subject."""

_POINT: Final[dict[str, Any]] = {"ls": "none", "marker": "o", "ms": 3.5, "mfc": "none", "mew": 0.8}
_NORMAL_95: Final = 1.959964
_SIDE_BY_SIDE: Final = 4


def observed_against_predicted(fit: Fit, cohort: Cohort | None = None) -> "Figure":
    """Observations against the population's and the individual predictions, with the identity line; a row a channel.

    Linear axes on the left; logarithmic axes on the right, where a channel has positive values.

    Args:
        fit: a fit.
        cohort: any subjects; the training subjects when None.

    Raises:
        SimulatorError: for a cohort that does not fit.
    """
    records = _Records.of(fit, cohort)
    logarithmic = any(bool(((r.observed > 0) & (r.individual > 0)).any()) for r in records.channels())
    columns = 4 if logarithmic else 2
    figure, grid = _grid(len(records.names), columns, (3.1, 3.0))
    for row, channel in zip(grid, records.channels(), strict=True):
        predictions = (("population", channel.population, VERMILION), ("individual", channel.individual, BLUE))
        for column, axes in enumerate(row):
            kind, predicted, colour = predictions[column % 2]
            drawn = np.full(predicted.shape, True) if column < 2 else (predicted > 0) & (channel.observed > 0)
            if column >= 2 and not drawn.any():
                axes.set_visible(False)
                continue
            _identity(axes, predicted[drawn], channel.observed[drawn], colour, log=column >= 2)
            axes.set_xlabel(f"{kind} prediction{channel.in_unit}", fontsize="small")
            lost = int((~drawn).sum())
            note = f" ({lost} not positive)" if lost else ""
            axes.set_title(f"{channel.names[0]}{note}", fontsize="small", loc="left")
        row[0].set_ylabel(f"observed{channel.in_unit}", fontsize="small")
    return figure


def individual_fits(fit: Fit, cohort: Cohort | None = None, limit: int = 12) -> "Figure":
    """Each subject's data with its own curve and that of the typical subject; a panel a subject and channel.

    Triangles stand at boluses, bars where an infusion runs. The curve of the typical subject has the subject's
    covariates and doses.

    Args:
        fit: a fit.
        cohort: any subjects; the training subjects when None.
        limit: the first so many subjects are drawn; `cohort.select` chooses others.

    Raises:
        SimulatorError: for a cohort that does not fit.
        ValueError: for a limit below 1.
    """
    whole = fit.cohort if cohort is None else cohort
    if limit < 1:
        raise ValueError(f"`limit` is {limit}; draw at least one subject")
    shown = whole.select(range(min(limit, len(whole))))
    fine = _on_fine_grid(shown)
    eta = fit.modes(shown).eta
    curves = {
        name: _curves(fit, fine, _parameters(fit, fine, effects))
        for name, effects in (("population", torch.zeros_like(eta)), ("individual", eta))
    }
    columns = min(_SIDE_BY_SIDE, len(shown))
    channels = len(shown.channels)
    figure, grid = _grid(math.ceil(len(shown) / columns) * channels, columns, (2.9, 1.9), sharex=True)
    for axes in grid.flat:
        axes.set_visible(False)
    for subject, identity in enumerate(shown.ids):
        for channel, name in enumerate(shown.channels):
            axes = grid[subject // columns * channels + channel, subject % columns]
            axes.set_visible(True)
            axes.plot(fine.times[subject], curves["population"][channel, subject], color=VERMILION, ls="--", lw=1.2)
            axes.plot(fine.times[subject], curves["individual"][channel, subject], color=BLUE, lw=1.5)
            seen = shown.observed[subject] & (shown.channel[subject] == channel)
            axes.plot(shown.times[subject, seen], shown.dv[subject, seen], color=BLACK, **_POINT)
            _dose_marks(axes, shown, subject)
            axes.set_title(identity if channel == 0 else "", fontsize="small", loc="left")
            axes.set_xlabel(f"time{_in_unit(fit, 'time')}", fontsize="small")
            if subject % columns == 0:
                axes.set_ylabel(f"{name}{_in_unit(fit, fit.simulator.measures[name])}", fontsize="small")
    _only_lowest_label(grid)
    _legend(figure, {"observed": _POINT | {"color": BLACK}, "individual": {"color": BLUE},
                     "typical subject": {"color": VERMILION, "ls": "--"},
                     "dose": {"ls": "none", "marker": "^", "color": GREY}})  # fmt: skip
    if len(shown) < len(whole):
        figure.suptitle(f"the first {len(shown)} of {len(whole)} subjects", fontsize="medium", x=0.01, ha="left")
    return figure


def residual_flux(fit: Fit, cohort: Cohort | None = None, truth: Truth | Mapping[str, Truth] | None = None) -> "Figure":
    """Learned fluxes along each subject's own trajectory: over time, and against each state that the network sees.

    Args:
        fit: a fit with learned fluxes.
        cohort: any subjects; the training subjects when None.
        truth: what the flux should be, to be drawn beside it: a function of the states that the network sees (arrays,
            in the order of its inputs), or a curve `(state, flux)`. With several fluxes, flux name to truth.

    Raises:
        TypeError: for a fit without learned fluxes.
        SimulatorError: for a cohort that does not fit.
        ValueError: for a truth of an unknown flux, or one truth for several fluxes.
    """
    field = fit.simulator.field
    if not isinstance(field, HybridField) or not field.flux_names:
        raise TypeError("this fit has no learned flux; its field is the mechanism alone")
    truths = _truths(field.flux_names, truth)
    subjects = fit.cohort if cohort is None else cohort
    fine = _on_fine_grid(subjects)
    with torch.no_grad():
        parameters = _parameters(fit, fine, fit.modes(subjects).eta)
        solution = fit.simulator.solve(parameters, fine)
        wide = parameters.unsqueeze(1).expand(-1, fine.times.shape[-1], -1)
        flux = field.residual(solution.times, solution.states, wide).numpy()
    states = dict(zip(field.state_names, solution.states.permute(2, 0, 1).numpy(), strict=True))
    inputs = [
        [name for name in residual.inputs if name in states]
        for residual in map(_as_residual, field.residuals)
        for _ in residual.names
    ]
    figure, grid = _grid(len(inputs), 1 + max(map(len, inputs)), (3.6, 2.9))
    for i, (row, seen) in enumerate(zip(grid, inputs, strict=True)):
        along = _along(truths.get(field.flux_names[i]), [states[name] for name in seen])
        for axes, name in zip(row, ["time", *seen, *[""] * (len(row) - 1 - len(seen))], strict=True):
            axes.set_visible(bool(name))
            if not name:
                continue
            x = fine.times.numpy() if name == "time" else states[name]
            _lines(axes, x, flux[..., i], color=BLUE, lw=1.2, alpha=_strength(len(subjects)))
            if along is not None:
                _lines(axes, x, along, color=BLACK, lw=1.0, ls="--", alpha=_strength(len(subjects)))
            elif isinstance(pair := truths.get(field.flux_names[i]), tuple) and name != "time":
                axes.plot(*pair, color=BLACK, lw=1.2, ls="--")
            axes.axhline(0.0, color=GREY, lw=0.6)
            axes.set_xlabel(f"{name}{_in_unit(fit, name)}", fontsize="small")
        row[0].set_title(field.flux_names[i], fontsize="small", loc="left")
        row[0].set_ylabel(_flux_label(fit, field, i), fontsize="small")
    _legend(figure, {"learned": {"color": BLUE}, **({"truth": {"color": BLACK, "ls": "--"}} if truths else {})})
    return figure


def population_bands(
    dataset: "xr.Dataset",
    variable: str,
    levels: Sequence[float] = (0.05, 0.5, 0.95),
    observed: "Cohort | tuple[Any, Any] | None" = None,
) -> "Figure":
    """Quantiles of a virtual population over time, with observations on top.

    Args:
        dataset: as `Simulator.simulate` makes it, dims `("subject", "time")`.
        variable: a state or observable, or `<channel>_measured` for bands that include the noise.
        levels: probabilities between 0 and 1; paired from the outside in.
        observed: a cohort, of which the channel of that name, or else the only channel, is drawn; or times and values.

    Raises:
        ValueError: for unknown variables and levels that are no probabilities, and for a cohort of several channels
            none of which has the name of the variable.
    """
    figure = bands(dataset, variable, levels)
    if observed is not None:
        (axes,) = figure.axes
        times, values = _measured_points(observed, variable) if isinstance(observed, Cohort) else observed
        axes.plot(times, values, color=BLACK, label="observed", **_POINT)
        title = axes.get_legend()
        axes.legend(frameon=False, title=title.get_title().get_text() if title is not None else None)
    return figure


def history(fit: Fit) -> "Figure":
    """What was minimised and, where there are held-out subjects, their score, at each update of a fit.

    Raises:
        ValueError: for a fit that was interrupted before its first update.
    """
    rows = fit.history
    if not rows:
        raise ValueError("the fit has no history: it was interrupted before its first update")
    scored = any(not math.isnan(row.held_out) for row in rows)
    figure, grid = _grid(1, 2 if scored else 1, (4.2, 3.0))
    update = np.arange(len(rows))
    phase = np.array([row.phase for row in rows])
    drawn = (("objective", [r.objective for r in rows]), ("log p(y) of a held-out subject", [r.held_out for r in rows]))
    for axes, (label, values) in zip(grid.flat, drawn, strict=False):
        axes.plot(update, values, color=GREY, lw=1.0)
        for name, colour, marker in (("adam", BLUE, "o"), ("lbfgs", VERMILION, "s")):
            mine = phase == name
            if mine.any():
                style: dict[str, Any] = {"color": colour, "marker": marker, "ls": "none", "ms": 4}
                axes.plot(update[mine], np.array(values)[mine], label=_PHASES[name], **style)
        axes.set_title(label, fontsize="small", loc="left")
        axes.set_xlabel("update", fontsize="small")
        axes.locator_params(axis="x", integer=True)
    grid[0, 0].legend(frameon=False, fontsize="small")
    return figure


_PHASES: Final = {"adam": "Adam", "lbfgs": "L-BFGS"}


def residuals(fit: Fit, cohort: Cohort | None = None) -> "Figure":
    """Residuals at the individual predictions in SDs of the noise: over time, over the prediction, and their quantiles.

    Under the model they are about standard normal; grey lines enclose 95 %. They scatter less where subjects have
    few data, because each prediction has then been drawn to its own points (shrinkage of ε).

    Args:
        fit: a fit.
        cohort: any subjects; the training subjects when None.

    Raises:
        SimulatorError: for a cohort that does not fit.
    """
    records = _Records.of(fit, cohort)
    figure, grid = _grid(len(records.names), 3, (3.6, 2.7))
    for row, channel in zip(grid, records.channels(), strict=True):
        for axes, x, label in (
            (row[0], channel.time, f"time{_in_unit(fit, 'time')}"),
            (row[1], channel.individual, f"individual prediction{channel.in_unit}"),
        ):
            axes.axhline(0.0, color=BLACK, lw=0.8)
            for limit in (-_NORMAL_95, _NORMAL_95):
                axes.axhline(limit, color=GREY, lw=0.8, ls="--")
            axes.plot(x, channel.residual, color=BLUE, **_POINT)
            axes.set_xlabel(label, fontsize="small")
        sorted_residuals = np.sort(channel.residual[np.isfinite(channel.residual)])
        expected = _normal_quantiles(len(sorted_residuals))
        row[2].plot(expected, sorted_residuals, color=BLUE, **_POINT)
        row[2].axline((0.0, 0.0), slope=1.0, color=BLACK, lw=0.8)
        row[2].set_xlabel("standard normal quantile", fontsize="small")
        row[0].set_ylabel("residual / SD", fontsize="small")
        row[0].set_title(channel.names[0], fontsize="small", loc="left")
    return figure


class _Records(NamedTuple):
    """The observed records of some subjects with what was predicted, one entry a record."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    channel: Array
    time: Array
    observed: Array
    population: Array
    individual: Array
    residual: Array

    @classmethod
    def of(cls, fit: Fit, cohort: Cohort | None) -> "_Records":
        subjects = fit.cohort if cohort is None else cohort
        f = fit.modes(subjects).f
        log_sd = channel_sds(fit.simulator, subjects, fit.unknowns.log_sd)
        noise = fit.simulator.noise_of(subjects)
        residual = noise.residual(subjects.dv, f, log_sd, subjects.channel, subjects.observed)
        columns = subjects.channel, subjects.times, subjects.dv, fit.population_prediction(subjects), f, residual
        seen = subjects.observed
        units = tuple(_in_unit(fit, fit.simulator.measures[name]) for name in subjects.channels)
        return cls(subjects.channels, units, *(column[seen].detach().numpy() for column in columns))

    def channels(self) -> Iterator["_Records"]:
        """The records of each channel on their own."""
        for i, (name, unit) in enumerate(zip(self.names, self.units, strict=True)):
            mine = self.channel == i
            yield _Records((name,), (unit,), *(column[mine] for column in self[2:]))

    @property
    def in_unit(self) -> str:
        """The unit of the first channel in brackets, as labels end."""
        return self.units[0]


def _parameters(fit: Fit, cohort: Cohort, eta: Tensor) -> Tensor:
    with torch.no_grad():
        return fit.simulator.parameters(fit.unknowns.values, eta, cohort)


def _on_fine_grid(cohort: Cohort) -> Cohort:
    """The same subjects with records on a fine grid, two at each dose, so that a curve jumps where the state does."""
    rows, flags = [], []
    for subject in range(len(cohort)):
        first, last = float(cohort.start[subject]), float(cohort.times[subject].nan_to_num(-torch.inf).max())
        doses = [time for time, *_ in _doses(cohort, subject) if first <= time <= last]
        times = np.concatenate([doses, np.linspace(first, max(first, last), POINTS), doses])
        before = np.arange(len(times)) < len(doses)
        order = np.lexsort((~before, times))
        rows.append(times[order])
        flags.append(before[order])
    width = max(map(len, rows))

    def padded(values: Sequence[Array], fill: Any) -> Tensor:
        return torch.from_numpy(np.stack([np.pad(v, (0, width - len(v)), constant_values=fill) for v in values]))

    when = padded(rows, np.nan)
    nothing = torch.zeros_like(when)
    return replace(
        cohort,
        times=when,
        before=padded(flags, False),
        dv=nothing,
        observed=nothing.bool(),
        channel=nothing.long(),
    )


def _curves(fit: Fit, fine: Cohort, parameters: Tensor) -> Array:
    """What every channel measures on the fine grid, `(channel, subject, time)`."""
    with torch.no_grad():
        solution: Solution = fit.simulator.solve(parameters, fine)
        measured = [
            fit.simulator.measured(solution, replace(fine, channel=torch.full_like(fine.channel, i)))
            for i in range(len(fine.channels))
        ]
    return torch.stack(measured).numpy()


def _doses(cohort: Cohort, subject: int) -> list[tuple[float, float, float]]:
    """Time, amount and duration of each dose of a subject."""
    schedule = cohort.schedule.expand((len(cohort),))
    columns = (schedule.time, schedule.amount, schedule.duration)
    rows = zip(*(column[subject].detach().tolist() for column in columns), strict=True)
    return [(time, amount, duration) for time, amount, duration in rows if math.isfinite(time) and amount > 0]


def _dose_marks(axes: "Axes", cohort: Cohort, subject: int) -> None:
    first, last = float(cohort.start[subject]), float(cohort.times[subject].nan_to_num(-torch.inf).max())
    foot = axes.get_xaxis_transform()
    for time, _, duration in _doses(cohort, subject):
        if duration > 0 and time <= last:
            axes.plot([time, min(time + duration, last)], [0.0, 0.0], color=GREY, lw=4, transform=foot, clip_on=False)
        elif first <= time <= last:
            axes.plot([time], [0.0], color=GREY, marker="^", ms=6, ls="none", transform=foot, clip_on=False)


def _identity(axes: "Axes", predicted: Array, observed: Array, colour: str, log: bool) -> None:
    axes.plot(predicted, observed, color=colour, **_POINT)
    values = np.concatenate([predicted, observed])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.04 * (high - low) or 1.0
    limits = (low / 1.15, high * 1.15) if log else (low - margin, high + margin)
    if log:
        _log_scales(axes, limits)
    axes.plot(limits, limits, color=BLACK, lw=0.8)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal", "box")


def _log_scales(axes: "Axes", limits: tuple[float, float]) -> None:
    """Logarithmic axes with few ticks: powers of ten, or 1, 2 and 5 times them where the axis spans less than two."""
    from matplotlib.ticker import LogFormatter, LogLocator, NullFormatter

    steps = (1.0,) if limits[1] > 100 * limits[0] else (1.0, 2.0, 5.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_minor_formatter(NullFormatter())
        if len(steps) > 1:
            axis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))


def _truths(names: Sequence[str], truth: Any) -> dict[str, Any]:
    if truth is None:
        return {}
    if isinstance(truth, Mapping):
        unknown = [f"`{name}`{nearest(name, names)}" for name in truth if name not in names]
        if unknown:
            raise ValueError(f"a truth is given for what is not a learned flux: {', '.join(unknown)}")
        return dict(truth)
    if len(names) > 1:
        raise ValueError(f"there are several learned fluxes; give a truth by name: {', '.join(names)}")
    return {names[0]: truth}


def _along(truth: Any, inputs: Sequence[Array]) -> Array | None:
    """The true flux along the trajectories, where it is a function."""
    return np.broadcast_to(np.asarray(truth(*inputs), dtype=float), inputs[0].shape) if callable(truth) else None


def _as_residual(module: Any) -> FluxResidual:
    assert isinstance(module, FluxResidual)
    return module


def _flux_label(fit: Fit, field: HybridField, index: int) -> str:
    """The unit of a flux: that of the states it moves, where they have one and the same, per time."""
    residual, column = [(r, i) for r in map(_as_residual, field.residuals) for i in range(len(r.names))][index]
    net = residual.get_buffer("net")[:, column]
    units = {field.unit_of(name) for name, change in zip(field.known.state_names, net.tolist(), strict=True) if change}
    unit, time = units.pop() if len(units) == 1 else "", field.unit_of("time")
    return f"flux ({unit}/{time})" if unit and time else "flux"


def _measured_points(cohort: Cohort, variable: str) -> tuple[Array, Array]:
    name = variable.removesuffix("_measured")
    if name not in cohort.channels and len(cohort.channels) > 1:
        raise ValueError(f"no channel of the cohort is `{name}`{nearest(name, cohort.channels)}")
    index = cohort.channels.index(name) if name in cohort.channels else 0
    seen = cohort.observed & (cohort.channel == index)
    return cohort.times[seen].numpy(), cohort.dv[seen].numpy()


def _normal_quantiles(count: int) -> Array:
    """Where `count` sorted standard normal values are expected (Blom 1958: (i − 3/8) / (n + 1/4))."""
    levels = (torch.arange(1, count + 1, dtype=torch.float64) - 0.375) / (count + 0.25)
    return torch.special.ndtri(levels).numpy()


def _lines(axes: "Axes", x: Array, y: Array, **style: Any) -> None:
    for one, other in zip(x, y, strict=True):
        axes.plot(one, other, **style)


def _strength(subjects: int) -> float:
    return max(0.15, min(0.9, 12 / subjects))


def _in_unit(fit: Fit, name: str) -> str:
    unit = fit.simulator.field.unit_of(name)
    return f" ({unit})" if unit else ""


def _grid(rows: int, columns: int, panel: tuple[float, float], sharex: bool = False) -> tuple["Figure", Any]:
    from matplotlib import pyplot

    size = max(4.5, panel[0] * columns), max(2.8, panel[1] * rows)
    figure = pyplot.figure(figsize=size, layout="constrained")
    # The caller owns the figure: pyplot must neither keep it alive nor show it a second time in a notebook.
    pyplot.close(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize="x-small")
    return figure, grid


def _only_lowest_label(grid: Any) -> None:
    """With shared times, only the lowest visible panel of each column says what the time is."""
    for column in grid.T:
        visible = [axes for axes in column if axes.get_visible()]
        for axes in visible:
            axes.tick_params(labelbottom=axes is visible[-1])
            if axes is not visible[-1]:
                axes.set_xlabel("")


def _legend(figure: "Figure", entries: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **style) for label, style in entries.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize="small")

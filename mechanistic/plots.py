"""Pictures of simulated trajectories; matplotlib is imported only when one is drawn."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import xarray as xr

from mechanistic.errors import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color Universal Design": told apart with every common colour vision. Yellow is left out: it
# cannot be read on white; grey follows instead.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
_DASHES: Final = ("-", "--", ":", "-.")

_LINES_IN_A_PANEL: Final = 8
_PANELS: Final = 36
_NAMED_SUBJECTS: Final = 6


def trajectories(dataset: xr.Dataset, variables: str | Iterable[str] | None = None) -> "Figure":
    """Lines over time: one or many subjects, one panel a unit or a variable.

    Up to eight variables of one subject share a panel with those of the same unit; more variables, or several
    subjects, get a panel for each variable.

    Args:
        dataset: dims `("time",)` or `("subject", "time")`, as `Solution.dataset()` makes it; `time` may have
            a row for each subject.
        variables: names to draw; all that depend on time by default.

    Raises:
        ValueError: for variables that the dataset does not have, and where there is nothing to draw.
    """
    names = _chosen(dataset, variables)
    subjects = dataset.sizes.get("subject")
    shown = names[:_PANELS]
    if subjects is None and len(names) <= _LINES_IN_A_PANEL:
        groups = _by_unit(dataset, shown)
        figure, panels = _panels(len(groups), _columns(len(groups), most=2))
        for axes, group in zip(panels, groups, strict=True):
            for name, colour in zip(group, COLOURS, strict=False):
                axes.plot(*_curve(dataset, name), color=colour, label=name, lw=1.8)
            _finish(axes, dataset, group[0] if len(group) == 1 else "", _unit(dataset, group[0]))
            if len(group) > 1:
                axes.legend(frameon=False, fontsize="small")
    else:
        figure, panels = _panels(len(shown), _columns(len(shown), most=6))
        for axes, name in zip(panels, shown, strict=True):
            _subjects(axes, dataset, name)
            _finish(axes, dataset, name, _unit(dataset, name), small=len(shown) > 4)
        if subjects is not None and subjects <= _NAMED_SUBJECTS:
            figure.legend(
                *panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=subjects, frameon=False
            )
    _time_axis(panels, dataset)
    if len(names) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(names)} variables", fontsize="medium", x=0.01, ha="left")
    return figure


def bands(dataset: xr.Dataset, variable: str, levels: Sequence[float] = (0.05, 0.5, 0.95)) -> "Figure":
    """Quantiles of a variable over the subjects: the middle as a line, each outer pair as a band.

    Subjects without a value at a time (a simulation that failed there) do not count at that time.

    Args:
        dataset: dims `("subject", "time")` with times that the subjects share.
        variable: name of a state or an observable.
        levels: probabilities between 0 and 1; paired from the outside in.

    Raises:
        ValueError: for a variable that is not there, levels outside [0, 1], and subjects with times of their own.
    """
    _chosen(dataset, variable)
    levels = sorted(levels)
    if not levels or levels[0] < 0 or levels[-1] > 1:
        raise ValueError(f"levels are probabilities between 0 and 1, got {levels}")
    if set(dataset[variable].dims) != {"subject", "time"}:
        raise ValueError(f"bands of `{variable}` need dims ('subject', 'time'): times that all subjects share")
    values = dataset[variable].transpose("subject", "time")
    times = dataset["time"].values
    quantiles = values.quantile(levels, "subject").values
    figure, (axes,) = _panels(1, 1)
    for i in range(len(levels) // 2):
        low, high = levels[i], levels[-1 - i]
        label = f"{100 * low:g}–{100 * high:g} %"
        axes.fill_between(times, quantiles[i], quantiles[-1 - i], color=_tint(i, len(levels) // 2), lw=0, label=label)
    if len(levels) % 2:
        middle = len(levels) // 2
        label = "median" if levels[middle] == 0.5 else f"{100 * levels[middle]:g} %"
        axes.plot(times, quantiles[middle], color=COLOURS[0], lw=2, label=label)
    axes.legend(frameon=False, title=f"{values.sizes['subject']} subjects")
    _finish(axes, dataset, variable, _unit(dataset, variable))
    _time_axis([axes], dataset)
    return figure


def comparison(dataset: xr.Dataset, variables: str | Iterable[str] | None = None) -> "Figure":
    """Two simulations of one subject in a panel a variable: the first as a line, the second as dots.

    Args:
        dataset: dims `("origin", "time")`, two origins.
        variables: names to draw; all that depend on time by default.

    Raises:
        ValueError: for variables that the dataset does not have, and where there is nothing to draw.
    """
    names = _chosen(dataset, variables)
    shown = names[:_PANELS]
    figure, panels = _panels(len(shown), _columns(len(shown), most=6))
    first, second = (str(origin) for origin in dataset["origin"].values)
    times = dataset["time"].values
    for axes, name in zip(panels, shown, strict=True):
        values = dataset[name].transpose("origin", "time").values
        axes.plot(times, values[0], color=COLOURS[0], lw=1.8, label=first)
        axes.plot(times, values[1], color=COLOURS[1], ls="", marker="o", ms=3, mfc="none", label=second)
        _finish(axes, dataset, name, _unit(dataset, name), small=len(shown) > 4)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    _time_axis(panels, dataset)
    if len(names) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(names)} variables", fontsize="medium", x=0.01, ha="left")
    return figure


def _chosen(dataset: xr.Dataset, variables: str | Iterable[str] | None) -> list[str]:
    known = [str(name) for name, values in dataset.data_vars.items() if dataset["time"].dims[-1] in values.dims]
    names = known if variables is None else [variables] if isinstance(variables, str) else list(variables)
    unknown = [f"`{name}`{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise ValueError(f"not among the variables over time of this dataset: {', '.join(unknown)}")
    if not names:
        raise ValueError("there is no variable to draw")
    return names


def _by_unit(dataset: xr.Dataset, names: Iterable[str]) -> list[list[str]]:
    # Without units, a concentration `[S]` still does not belong on the axis of the amount `S`.
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        groups.setdefault((_unit(dataset, name), name.startswith("[")), []).append(name)
    return list(groups.values())


def _subjects(axes: "Axes", dataset: xr.Dataset, name: str) -> None:
    times, values = _curve(dataset, name)
    if values.ndim == 1:
        axes.plot(times, values, color=COLOURS[0], lw=1.5)
        return
    named = len(values) <= _NAMED_SUBJECTS
    labels = dataset["subject"].values if "subject" in dataset.coords else range(len(values))
    for row, label in enumerate(labels):
        style: dict[str, Any] = {"color": COLOURS[0], "lw": 0.8, "alpha": max(0.06, min(0.6, 12 / len(values)))}
        if named:
            style = {"color": COLOURS[row], "lw": 1.5, "ls": _DASHES[row % len(_DASHES)], "label": str(label)}
        axes.plot(times[row] if times.ndim == 2 else times, values[row], **style)


def _curve(dataset: xr.Dataset, name: str) -> tuple[Any, Any]:
    """Times and values as arrays, subjects first."""
    times = dataset["time"].transpose("subject", ..., missing_dims="ignore")
    return times.values, dataset[name].transpose("subject", ..., missing_dims="ignore").values


def _tint(position: int, count: int) -> tuple[float, ...]:
    """The colour of the `position`-th of `count` nested bands: opaque, so that the legend shows what the eye sees."""
    from matplotlib.colors import to_rgb

    strength = 0.25 + 0.4 * position / count
    return tuple(1 - strength * (1 - channel) for channel in to_rgb(COLOURS[0]))


def _columns(panels: int, most: int) -> int:
    return min(most, panels if panels <= 3 else math.ceil(math.sqrt(panels)))


def _panels(count: int, columns: int) -> tuple["Figure", "list[Axes]"]:
    from matplotlib import pyplot

    rows = math.ceil(count / columns)
    width, height = (
        (7.0, 4.2) if count == 1 else (min(3.8 * columns, 14.0), min(3.4 if rows == 1 else 2.6 * rows, 14.0))
    )
    figure = pyplot.figure(figsize=(width, height), layout="constrained")
    # The caller owns the figure: pyplot must neither keep it alive nor show it a second time in a notebook.
    pyplot.close(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:count])


def _finish(axes: "Axes", dataset: xr.Dataset, title: str, unit: str, small: bool = False) -> None:
    axes.set_title(title, fontsize="small" if small else "medium", loc="left")
    axes.set_ylabel(unit, fontsize="small" if small else "medium")
    axes.tick_params(labelsize="x-small" if small else "small")
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)
    axes.yaxis.get_offset_text().set_fontsize("x-small")
    axes.margins(x=0.01)


def _time_axis(panels: "Sequence[Axes]", dataset: xr.Dataset) -> None:
    unit = dataset["time"].attrs.get("units", "")
    grid = panels[0].get_subplotspec()
    columns = grid.get_gridspec().ncols if grid is not None else 1
    for position, axes in enumerate(panels):
        below_is_empty = position + columns >= len(panels)
        axes.tick_params(labelbottom=below_is_empty)
        axes.set_xlabel((f"time ({unit})" if unit else "time") if below_is_empty else "", fontsize="small")


def _unit(dataset: xr.Dataset, name: str) -> str:
    return str(dataset[name].attrs.get("units", ""))

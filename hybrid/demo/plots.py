"""Pictures of the demonstration."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybrid.data import Cohort
from hybrid.demo.experiment import (
    EVERY_FOUR_HOURS,
    Result,
    elimination,
    true_elimination,
    true_simulator,
)
from hybrid.results import Fit

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUTH, HYBRID, MECHANISM = "#000000", "#0072B2", "#D55E00"
"""Okabe and Ito's colours, told apart with any colour vision."""
LEVELS = (0.05, 0.5, 0.95)


def overview(result: Result, fitted: "xr.Dataset", true: "xr.Dataset", subject: int) -> "Figure":
    """What was missing, what a subject does on a new regimen, what a population does: the demonstration at a glance.

    Args:
        result: the fits.
        fitted: virtual patients of the hybrid on the new regimen.
        true: subjects of the truth on the new regimen.
        subject: row of the held-out subject that is shown.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 3.9), layout="constrained")
    learned, individual, population = figure.subplots(1, 3)
    _elimination(learned, result)
    _individual(individual, result, subject)
    _population(population, fitted, true)
    return figure


def _elimination(axes: "Axes", result: Result) -> None:
    cohort = result.data.train
    amounts = torch.linspace(0.0, 140.0, 141, dtype=torch.float64)
    for name, values, colour, style in (
        ("truth (hidden)", true_elimination(amounts), TRUTH, "--"),
        ("mechanism alone", elimination(result.mechanism, amounts), MECHANISM, "-"),
        ("hybrid", elimination(result.hybrid, amounts), HYBRID, "-"),
    ):
        axes.plot(amounts, values, color=colour, ls=style, lw=1.8, label=name)
    seen = result.hybrid.simulator.solve(result.hybrid.individual_parameters(cohort), cohort)
    reached = seen.states[..., seen.field.state_names.index("central")].detach().numpy()
    reached = reached[np.isfinite(reached)]
    axes.plot(reached, np.zeros_like(reached), "|", color="0.5", ms=7, alpha=0.35, clip_on=False)
    _label(axes, "What was missing: elimination", "warfarin in the body (mg); ticks: training data", "mg/h")
    axes.legend(frameon=False, fontsize="small")


def _individual(axes: "Axes", result: Result, subject: int) -> None:
    unseen = result.data.unseen
    row = unseen.select(torch.tensor([subject]))
    fine = _finely(row)
    for name, values, colour, style in (
        ("truth (hidden)", _true_curve(result, fine, subject), TRUTH, "--"),
        ("mechanism alone", _fitted_curve(result.mechanism, result.data.held_out, fine, subject), MECHANISM, "-"),
        ("hybrid", _fitted_curve(result.hybrid, result.data.held_out, fine, subject), HYBRID, "-"),
    ):
        axes.plot(fine.times[0] / 24, values, color=colour, ls=style, lw=1.8, label=name)
    mine = row.observed[0] & (row.channel[0] == row.channels.index("cp"))
    axes.plot(row.times[0][mine] / 24, row.dv[0][mine], "o", color="0.35", ms=4, label="never seen by a fit")
    _label(axes, "A held-out subject on a new regimen", "days", "warfarin (mg/L)")
    axes.legend(frameon=False, fontsize="small")


def _population(axes: "Axes", fitted: "xr.Dataset", true: "xr.Dataset") -> None:
    days = EVERY_FOUR_HOURS / 24
    low, middle, high = (fitted["PCA"].quantile(q, "subject").values for q in LEVELS)
    axes.fill_between(days, low, high, color=HYBRID, alpha=0.25, lw=0, label="hybrid, 5–95 %")
    axes.plot(days, middle, color=HYBRID, lw=1.8, label="hybrid, median")
    for i, q in enumerate(LEVELS):
        label = "truth (hidden)" if i == 0 else None
        axes.plot(days, true["PCA"].quantile(q, "subject").values, color=TRUTH, ls="--", lw=1.0, label=label)
    _label(axes, f"{fitted.sizes['subject']:,} virtual patients", "days", "prothrombin complex activity (%)")
    axes.legend(frameon=False, fontsize="small")


def _label(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)


def _finely(row: Cohort) -> Cohort:
    """One subject with a record every half hour."""
    times = torch.arange(0.0, 24.0 * 9 + 0.1, 0.5, dtype=torch.float64)[None]
    blank = torch.zeros_like(times, dtype=torch.bool)
    concentration = torch.full_like(times, row.channels.index("cp"), dtype=torch.long)
    return replace(row, times=times, dv=torch.zeros_like(times), observed=~blank, channel=concentration, before=blank)


def _true_curve(result: Result, fine: Cohort, subject: int) -> Any:
    with torch.no_grad():
        return true_simulator().predict(result.data.true_parameters[[subject]], fine)[0]


def _fitted_curve(fitted: Fit, history: Cohort, fine: Cohort, subject: int) -> Any:
    """The forecast for a subject whose random effects were found on its first regimen."""
    with torch.no_grad():
        p = fitted.individual_parameters(history.select(torch.tensor([subject])))
        return fitted.simulator.predict(p, fine)[0]


def write_pictures(pictures: Sequence[tuple[str, "Figure"]], folder: Any) -> None:
    """Saves figures as PNG."""
    for name, figure in pictures:
        figure.savefig(folder / f"{name}.png", dpi=130)

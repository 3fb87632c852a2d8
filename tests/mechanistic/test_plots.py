"""What the pictures of trajectories show, read back from the drawn artists."""

import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot

from mechanistic import plots

TIMES = np.linspace(0.0, 24.0, 49)


@pytest.fixture(autouse=True)
def _without_a_screen():
    pyplot.switch_backend("agg")


def dataset(names, subjects=None):
    """Exponential decays; `cp` is a concentration, the rest are amounts."""
    shape, dims = ((), ("time",)) if subjects is None else ((subjects, 1), ("subject", "time"))
    speed = 0.1 * np.exp(np.random.default_rng(1).normal(0.0, 0.3, shape))
    variables = {
        name: (dims, (i + 1) * np.exp(-speed * TIMES), {"units": "mg/L" if name == "cp" else "mg"})
        for i, name in enumerate(names)
    }
    coordinates = {"time": ("time", TIMES, {"units": "h"})}
    if subjects is not None:
        coordinates["subject"] = [f"P{i}" for i in range(subjects)]
    return xr.Dataset(variables, coords=coordinates)


def visible(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def test_variables_of_one_subject_share_a_panel_with_those_of_their_unit():
    figure = plots.trajectories(dataset(["gut", "central", "cp"]))
    amounts, concentrations = visible(figure)
    assert [line.get_label() for line in amounts.lines] == ["gut", "central"]
    assert [text.get_text() for text in amounts.get_legend().get_texts()] == ["gut", "central"]
    assert (amounts.get_ylabel(), concentrations.get_ylabel()) == ("mg", "mg/L")
    assert concentrations.get_title(loc="left") == "cp"
    assert amounts.get_xlabel() == "time (h)"
    assert len({line.get_color() for line in amounts.lines}) == 2


def test_the_lines_are_the_data():
    data = dataset(["gut"])
    (axes,) = visible(plots.trajectories(data))
    assert np.array_equal(axes.lines[0].get_xdata(), TIMES)
    assert np.array_equal(axes.lines[0].get_ydata(), data["gut"].values)


def test_many_variables_get_a_panel_each():
    names = [f"s{i}" for i in range(27)]
    figure = plots.trajectories(dataset(names))
    assert [axes.get_title(loc="left") for axes in visible(figure)] == names
    assert all(len(axes.lines) == 1 for axes in visible(figure))


def test_a_picture_says_what_it_leaves_out():
    figure = plots.trajectories(dataset([f"s{i}" for i in range(50)]))
    assert figure.get_suptitle() == f"the first {len(visible(figure))} of 50 variables"


@pytest.mark.parametrize(("subjects", "named"), [(3, True), (60, False)])
def test_every_subject_has_a_line(subjects, named):
    figure = plots.trajectories(dataset(["gut", "cp"], subjects))
    assert [len(axes.lines) for axes in visible(figure)] == [subjects, subjects]
    assert bool(figure.legends) == named
    if named:
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["P0", "P1", "P2"]


def test_subjects_with_times_of_their_own():
    own = np.stack([TIMES, TIMES + 1.0])
    own[1, -5:] = np.nan
    data = xr.Dataset(
        {"cp": (("subject", "sample"), np.exp(-own)), "status": ("subject", [0, 1])},
        coords={"time": (("subject", "sample"), own, {"units": "h"})},
    )
    (axes,) = visible(plots.trajectories(data))
    assert np.array_equal(axes.lines[1].get_xdata(), own[1], equal_nan=True)
    with pytest.raises(ValueError, match="times that all subjects share"):
        plots.bands(data, "cp")


def test_bands_are_the_quantiles():
    data = dataset(["cp"], 201)
    (axes,) = visible(plots.bands(data, "cp"))
    assert np.array_equal(axes.lines[0].get_ydata(), np.quantile(data["cp"].values, 0.5, axis=0))
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    low, high = np.quantile(data["cp"].values, [0.05, 0.95], axis=0)
    assert (heights.min(), heights.max()) == (low.min(), high.max())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["5–95 %", "median"]


def test_nested_bands_are_told_apart():
    (axes,) = visible(plots.bands(dataset(["cp"], 20), "cp", (0.05, 0.25, 0.5, 0.75, 0.95)))
    outer, inner = (tuple(band.get_facecolor()[0]) for band in axes.collections)
    assert outer != inner


def test_a_failed_subject_does_not_spoil_the_bands():
    data = dataset(["cp"], 5)
    whole = data["cp"].isel(subject=slice(1, None)).quantile(0.5, "subject").values
    data["cp"][0, 10:] = np.nan
    drawn = visible(plots.bands(data, "cp"))[0].lines[0].get_ydata()
    assert np.array_equal(drawn[10:], whole[10:])


def test_what_cannot_be_drawn_is_said():
    data = dataset(["central", "gut"], 3)
    with pytest.raises(ValueError, match="`centrel` \\(did you mean `central`"):
        plots.trajectories(data, ["centrel"])
    with pytest.raises(ValueError, match="probabilities between 0 and 1"):
        plots.bands(data, "gut", (5, 50, 95))
    with pytest.raises(ValueError, match="'subject', 'time'"):
        plots.bands(dataset(["gut"]), "gut")
    with pytest.raises(ValueError, match="no variable"):
        plots.trajectories(data[[]])


def test_figures_are_not_kept_alive():
    plots.trajectories(dataset(["gut"]))
    plots.bands(dataset(["gut"], 3), "gut")
    assert pyplot.get_fignums() == []

"""The demonstration: its parts are what they say, and a short run leaves everything behind that it promises."""

import torch
import xarray as xr

import hybrid
from hybrid import demo
from hybrid.demo import experiment as parts
from mechanistic import library


def test_the_shipped_file_is_the_published_model():
    assert parts.mechanism() == library.warfarin_pkpd()


def test_the_truth_eliminates_what_its_formula_says():
    truth = parts.truth()
    field = parts.true_simulator().field
    amounts = torch.linspace(0.0, 140.0, 15, dtype=torch.float64)
    x = torch.zeros(15, len(truth.states), dtype=torch.float64)
    x[:, truth.state_names.index("central")] = amounts
    rate = field(torch.zeros(15, dtype=torch.float64), x, field.nominal().expand(15, -1))
    # Two ways to write one formula; the tolerance is rounding.
    torch.testing.assert_close(-rate[:, truth.state_names.index("central")], parts.true_elimination(amounts))


def test_no_fit_can_see_the_subjects_that_judge_it(monkeypatch):
    monkeypatch.setattr(parts, "SUBJECTS", 12)
    monkeypatch.setattr(parts, "HELD_OUT", 4)
    data = parts.experiment(seed=1)
    assert not set(data.train.ids) & set(data.held_out.ids)
    assert data.unseen.ids == data.held_out.ids
    assert data.true_parameters.shape[0] == 4
    again = parts.experiment(seed=1)
    assert torch.equal(again.train.dv, data.train.dv)


def test_an_untrained_hybrid_is_the_mechanism():
    amounts = torch.linspace(0.0, 140.0, 5, dtype=torch.float64)
    fields = [parts.mechanism_simulator().field, parts.hybrid_simulator().field]
    x = torch.zeros(5, 3, dtype=torch.float64)
    x[:, fields[0].state_names.index("central")] = amounts
    t, p = torch.zeros(5, dtype=torch.float64), fields[0].nominal().expand(5, -1)
    assert torch.equal(fields[0](t, x, p), fields[1](t, x, p))


def test_a_short_run_leaves_everything_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "SUBJECTS", 12)
    monkeypatch.setattr(parts, "HELD_OUT", 4)
    monkeypatch.setattr("hybrid.demo.page.PATIENTS", 8)
    comparison = demo.run(tmp_path, options=hybrid.FitOptions(adam_steps=1, rounds=0))
    assert set(comparison.scores) == {"mechanism", "hybrid", "truth"}
    # A prediction of the truth given a subject's history cannot be much better than its true trajectory.
    assert comparison.floor["cp"] < comparison.scores["mechanism"].unseen["cp"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"index.html", "overview.png", "cohort.csv", "virtual_patients.nc", "fit_hybrid", "fit_mechanism"} <= names
    page = (tmp_path / "index.html").read_text("utf-8")
    for picture in tmp_path.glob("*.png"):
        assert f"src='{picture.name}'" in page
    with xr.open_dataset(tmp_path / "virtual_patients.nc", engine="h5netcdf") as data:
        assert data.sizes["subject"] == 8
    assert len(hybrid.load(tmp_path / "fit_hybrid").cohort) + len(hybrid.load(tmp_path / "fit_hybrid").held_out) == 8
    assert "7/7" in capsys.readouterr().out

"""What the demonstration leaves behind: arrays, fits, pictures, and a page to look at them."""

from html import escape
from pathlib import Path
from typing import Any

from hybrid import plots
from hybrid.demo.experiment import (
    PATIENTS,
    SUBJECTS,
    Result,
    new_regimen,
    population_on,
    true_population_on,
)
from hybrid.demo.plots import overview, write_pictures
from hybrid.results import Fit

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
img { max-width: 100%; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } pre { background: #f6f8fa; padding: .7rem; overflow-x: auto; }
"""


def write(out: Path, result: Result) -> None:
    """Writes `out/`: two saved fits, the cohort, virtual patients as netCDF, pictures and `index.html`."""
    fitted = population_on(result.hybrid, new_regimen(), PATIENTS, result.seed)
    true = true_population_on(new_regimen(), PATIENTS, result.seed)
    fitted.attrs["regimen"] = repr(new_regimen())
    fitted.to_netcdf(out / "virtual_patients.nc", engine="h5netcdf")
    result.data.table.to_csv(out / "cohort.csv", index=False)
    result.mechanism.save(out / "fit_mechanism")
    result.hybrid.save(out / "fit_hybrid")
    write_pictures(_pictures(result, fitted, true), out)
    _replace_text(out / "index.html", _page(result))


def _pictures(result: Result, fitted: Any, true: Any) -> list[tuple[str, Any]]:
    return [
        ("overview", overview(result, fitted, true, subject=3)),
        ("observed_against_predicted", plots.observed_against_predicted(result.hybrid, result.data.held_out)),
        ("individual_fits", plots.individual_fits(result.hybrid, result.data.held_out)),
        ("residual_flux", plots.residual_flux(result.hybrid, result.data.held_out)),
        ("population_concentration", plots.population_bands(fitted, "cp")),
        ("population_activity", plots.population_bands(fitted, "PCA")),
        ("history", plots.history(result.hybrid)),
    ]


CAPTIONS = {
    "observed_against_predicted": "Held-out subjects: what was measured against what the hybrid predicts.",
    "individual_fits": "Held-out subjects at their empirical Bayes estimates.",
    "residual_flux": "The learned flux along the trajectories of held-out subjects. It is what linear elimination "
    "lacks: above zero where the hidden saturable pathway adds to it, below where that pathway is saturated.",
    "population_concentration": "Virtual patients on the new regimen: concentration.",
    "population_activity": "Virtual patients on the new regimen: prothrombin complex activity.",
    "history": "The descent of the hybrid's fit.",
}


def _page(result: Result) -> str:
    share = 100 * result.comparison.recovered
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Kinetwin demonstration</title>",
        f"<style>{STYLE}</style><h1>A mechanism, what it lacks, and what a population will do</h1>",
        f"<p>{SUBJECTS} subjects were simulated from warfarin kinetics whose elimination is partly saturable. A "
        "mechanism with linear elimination was fitted, then a hybrid: the same mechanism with one learned flux out of "
        f"the central compartment. On subjects that no fit has seen the hybrid closes <b>{share:.0f} %</b> of the gap "
        "between the mechanism and the truth in log p(y).</p><img src='overview.png' alt='overview'>",
        result.comparison.table().to_html(float_format="{:.3f}".format, na_rep="", border=0),
        "<p>RMSE: concentration (cp, mg/L) and activity (PCA, %) on a regimen never seen, predicted from each "
        "subject's first regimen. The noise floor is the RMSE of the true trajectories.</p>",
        "<h2>What holds whatever was learned</h2>",
        f"<pre>{escape(result.field.statement())}</pre>",
        "<h2>Estimates</h2>",
        *(_estimates(name, fit) for name, fit in (("mechanism", result.mechanism), ("hybrid", result.hybrid))),
        *(f"<h2>{escape(text)}</h2><img src='{name}.png' alt='{name}'>" for name, text in CAPTIONS.items()),
        f"<h2>The import against libRoadRunner</h2>{result.report._repr_html_()}",
        f"<h2>The mechanism</h2>{result.field.model._repr_html_()}</html>",
    ]
    return "\n".join(parts)


def _estimates(name: str, fit: Fit) -> str:
    table = fit.table().to_html(float_format="{:.4g}".format, na_rep="", border=0)
    score = fit.history[-1].minus_two_log_likelihood
    return f"<h3>{escape(name)}</h3>{table}<p>{fit.seconds:.0f} s, −2LL {score:.1f}</p>"


def _replace_text(path: Path, text: str) -> None:
    """Writes a file in one step, so that nobody sees half of it."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

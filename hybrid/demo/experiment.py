"""The experiment of the demonstration: the mechanism, the hidden truth, the cohort, the simulators and their scores.

The mechanism is warfarin with linear elimination, read from the SBML file that the package ships. The cohort is
simulated from a richer model whose elimination is partly saturable; neither fit is told. Everything is simulated, so
that what the residual learned can be laid beside what is hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hybrid.coupling import FluxResidual
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.noise import Additive, Combined, NoiseModel
from hybrid.objective import Modes, Unknowns, find_modes
from hybrid.parameters import LogNormal, ParameterSpace
from hybrid.population import Population
from hybrid.results import MODE_STEPS, Fit, rmse
from hybrid.simulator import Simulator
from mechanistic.compile import RateField
from mechanistic.model import KineticModel, Parameter, Reaction, symbol
from mechanistic.reference import ReferenceReport
from mechanistic.sbml import read_sbml
from mechanistic.schedule import Schedule
from neural.networks import mlp

if TYPE_CHECKING:
    import xarray as xr

SUBJECTS, HELD_OUT, PATIENTS = 60, 15, 1000
DOSES = (10.0, 30.0, 80.0, 150.0)
HORIZON = 120.0
VMAX, KM = 0.75, 1.5
"""Hidden: the saturable elimination takes at most `VMAX` mg/h, half of it at `KM` mg/L."""
LINEAR = 0.08
"""Hidden: the linear part of the clearance, L/h."""
BETWEEN = {"ka": 0.4, "CL": 0.25, "V": 0.15, "IC50": 0.25}
NOISE = {"cp": Combined(additive=0.05, proportional=0.08), "PCA": Additive(sd=4.0)}
MEASURES = {"cp": "cp", "PCA": "PCA"}
EVERY_FOUR_HOURS = np.arange(0.0, 24.0 * 9 + 1, 4.0)


def mechanism() -> KineticModel:
    """The shipped mechanism: warfarin with linear elimination and its effect on the prothrombin complex."""
    return read_sbml(Path(str(files("hybrid.demo") / "models" / "warfarin_pkpd.xml")))


def truth() -> KineticModel:
    """What nature does in this demonstration: the mechanism and a saturable elimination beside the linear one."""
    known = mechanism()
    central, volume = symbol("central"), symbol("V")
    vmax, km = symbol("Vmax"), symbol("Km")
    concentration = central / volume
    return replace(
        known,
        name=f"{known.name}, partly saturable",
        parameters=(
            *known.with_values(CL=LINEAR).parameters,
            Parameter("Vmax", VMAX, "mg/h"),
            Parameter("Km", KM, "mg/L"),
        ),
        reactions=(
            *known.reactions,
            Reaction("saturable", "central ->", vmax * concentration / (km + concentration)),
        ),
    )


def true_simulator() -> Simulator:
    """The simulator that the cohort is drawn from."""
    field = RateField(truth())
    nominal = truth().nominal()
    space = ParameterSpace(field, **{name: LogNormal.about(nominal[name], 0.5) for name in BETWEEN})
    return Simulator(field, Population(space, BETWEEN), NOISE, MEASURES)


def make_table(subjects: int, seed: int, regimen: Schedule | None = None) -> tuple[pd.DataFrame, Tensor]:
    """An event table of simulated subjects, and their true parameters `(subject, parameter)`.

    Each has one dose out of `DOSES`, six concentrations and six effects at times of its own. With a `regimen` all
    subjects get that instead, and are sampled more densely.
    """
    source = true_simulator()
    random = np.random.default_rng(seed)
    patients = source.population.sample(subjects, seed=seed)
    rows = []
    dense = regimen is not None
    for i in range(subjects):
        late = np.sort(random.uniform(12.0, 24.0 * 9 if dense else HORIZON, 14 if dense else 4))
        early = np.sort(random.uniform(0.5, 12.0, 2))
        effect = np.sort(random.uniform(6.0, 24.0 * 9 if dense else HORIZON, 10 if dense else 5))
        samples = [(t, "cp") for t in (*early, *late)] + [(t, "PCA") for t in (0.0, *effect)]
        amounts = [(0.0, DOSES[i % len(DOSES)])]
        if regimen is not None:
            amounts = list(zip(regimen.time.tolist(), regimen.amount.tolist(), strict=True))
        records = [(t, 0, a, "gut", None) for t, a in amounts] + [(round(t, 2), 1, None, None, c) for t, c in samples]
        for when, order, amount, state, channel in sorted(records, key=lambda r: (r[0], r[1])):
            kind = {"id": str(i + 1), "time": when, "amt": amount, "cmt": state, "dvid": channel}
            rows.append(kind | {"evid": int(order == 0), "dv": np.nan if order == 0 else 1.0})
    table = pd.DataFrame(rows)
    cohort = Cohort.from_table(table, channels=["cp", "PCA"])
    with torch.no_grad():
        f = source.predict(patients.parameters, cohort)
        generator = torch.Generator().manual_seed(seed)
        drawn = NoiseModel.of(NOISE, cohort.channels).sample(f, source.noise.start(), cohort.channel, generator)
    table.loc[table["evid"] == 0, "dv"] = drawn.clamp_min(0.0)[cohort.observed].numpy().round(3)
    return table, patients.parameters


def new_regimen() -> Schedule:
    """A regimen that nobody in the cohort had: a loading dose, then five daily maintenance doses."""
    return Schedule.bolus("gut", 60.0) + Schedule.repeat("gut", 25.0, every=24.0, count=5, time=24.0)


def priors(field: Any) -> Population:
    """Wide priors about the literature's values, and who differs in what."""
    nominal = mechanism().nominal()
    space = ParameterSpace(field, **{name: LogNormal.about(nominal[name], 0.7) for name in BETWEEN})
    return Population(space, dict.fromkeys(BETWEEN, 0.3))


def mechanism_simulator() -> Simulator:
    """The mechanism alone."""
    known = RateField(mechanism())
    noise = {"cp": Combined(additive=0.1, proportional=0.15), "PCA": Additive(sd=6.0)}
    return Simulator(known, priors(known), noise, MEASURES)


def hybrid_simulator(seed: int = 0) -> Simulator:
    """The mechanism with one learned flux out of `central`."""
    model = mechanism()
    unknown = FluxResidual(model, mlp((16, 16)), extra=["central ->"], inputs=["central"], scale=1.0, seed=seed)
    field = HybridField(RateField(model), unknown)
    return mechanism_simulator().with_field(field)


@final
@dataclass(frozen=True, eq=False)
class Scores:
    """How well one simulator predicts what it has not seen.

    Attributes:
        held_out: mean log p(y) of a held-out subject.
        unseen: channel to RMSE on the regimen never seen, given each subject's first regimen.
    """

    held_out: float
    unseen: Mapping[str, float]


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Mechanism, hybrid and truth on the same subjects.

    Attributes:
        scores: `mechanism`, `hybrid`, `truth` to their scores.
        floor: channel to the RMSE of the true trajectories: nothing can do better.
        recovered: share of the gap in held-out log p(y) between mechanism and truth that the hybrid closes.
    """

    scores: Mapping[str, Scores]
    floor: Mapping[str, float]
    recovered: float

    def table(self) -> pd.DataFrame:
        """The comparison as a table."""

        def errors(values: Mapping[str, float]) -> dict[str, float]:
            return {f"RMSE {channel}, unseen regimen": value for channel, value in values.items()}

        rows = {n: {"held-out log p(y) a subject": s.held_out} | errors(s.unseen) for n, s in self.scores.items()}
        rows["noise floor"] = errors(self.floor)
        return pd.DataFrame.from_dict(rows, orient="index")


@final
@dataclass(frozen=True, eq=False)
class Experiment:
    """The data of the demonstration.

    Attributes:
        train: subjects that are fitted and that decide when to stop.
        held_out: subjects that no fit sees.
        unseen: the held-out subjects again, on the regimen never seen.
        true_parameters: of the held-out subjects, `(subject, parameter)`.
        table: the event table of all subjects.
    """

    train: Cohort
    held_out: Cohort
    unseen: Cohort
    true_parameters: Tensor
    table: pd.DataFrame


def experiment(seed: int = 0) -> Experiment:
    """Simulates the cohort, and the same held-out subjects on the new regimen."""
    table, parameters = make_table(SUBJECTS, seed)
    second, again = make_table(SUBJECTS, seed, new_regimen())
    assert bool((parameters == again).all())
    rows = list(range(SUBJECTS))
    cohort = Cohort.from_table(table, channels=["cp", "PCA"])
    unseen = Cohort.from_table(second, channels=["cp", "PCA"])
    last = torch.tensor(rows[-HELD_OUT:])
    return Experiment(
        cohort.select(torch.tensor(rows[:-HELD_OUT])), cohort.select(last), unseen.select(last), parameters[last], table
    )


def forecast(simulator: Simulator, unknowns: Unknowns, modes: Modes, cohort: Cohort) -> Tensor:
    """Predictions on another regimen for subjects whose effects were found on a first one, `(subject, sample)`."""
    with torch.no_grad():
        return simulator.predict(simulator.parameters(unknowns.values, modes.eta, cohort), cohort)


def score(simulator: Simulator, unknowns: Unknowns, data: Experiment) -> Scores:
    """Scores a simulator on held-out subjects and on the regimen never seen."""
    eta = torch.zeros(len(data.held_out), len(simulator.population.effect_names), dtype=torch.float64)
    modes = find_modes(simulator, data.held_out, replace(unknowns, eta=eta), MODE_STEPS)
    f = forecast(simulator, unknowns, modes, data.unseen)
    return Scores(float(modes.terms.marginal.mean()), by_channel(f, data.unseen))


def by_channel(f: Tensor, cohort: Cohort) -> dict[str, float]:
    """RMSE of each channel."""
    return {
        name: rmse(f, replace(cohort, observed=cohort.observed & (cohort.channel == i)))
        for i, name in enumerate(cohort.channels)
    }


def true_unknowns() -> Unknowns:
    """The unknowns of the simulator that the cohort was drawn from."""
    source = true_simulator()
    return Unknowns(source.population.start(), source.noise.start(), torch.zeros(0, len(BETWEEN), dtype=torch.float64))


def judge(mechanism_fit: Fit, hybrid_fit: Fit, data: Experiment) -> Comparison:
    """Mechanism, hybrid and truth beside each other, with the noise floor."""
    source = true_simulator()
    scores = {
        "mechanism": score(mechanism_fit.simulator, mechanism_fit.unknowns, data),
        "hybrid": score(hybrid_fit.simulator, hybrid_fit.unknowns, data),
        "truth": score(source, true_unknowns(), data),
    }
    with torch.no_grad():
        floor = by_channel(source.predict(data.true_parameters, data.unseen), data.unseen)
    gap = scores["truth"].held_out - scores["mechanism"].held_out
    return Comparison(scores, floor, (scores["hybrid"].held_out - scores["mechanism"].held_out) / gap)


def elimination(fitted: Fit, amounts: Tensor) -> Tensor:
    """Total elimination of the typical subject, mg/h, mechanism and learned flux together, at `amounts` `(point,)`."""
    field = fitted.simulator.field
    space = fitted.simulator.population.space
    with torch.no_grad():
        p = space.full(fitted.unknowns.values.typical)
        place = field.state_names.index("central")
        x = field.initial(p).expand(len(amounts), -1).clone()
        x[:, field.state_names.index("gut")] = 0.0
        x[:, place] = amounts
        return -field(amounts.new_zeros(len(amounts)), x, p.expand(len(amounts), -1))[:, place]


def true_elimination(amounts: Tensor) -> Tensor:
    """Total elimination of the typical subject in truth, mg/h."""
    concentration = amounts / truth().nominal()["V"]
    return LINEAR * concentration + VMAX * concentration / (KM + concentration)


def population_on(fitted: Fit, regimen: Schedule, count: int, seed: int) -> "xr.Dataset":
    """Virtual patients of a fitted population on a regimen, every four hours for nine days."""
    patients = fitted.population.sample(count, seed=seed)
    return fitted.simulator.simulate(patients, regimen, EVERY_FOUR_HOURS)


def true_population_on(regimen: Schedule, count: int, seed: int) -> "xr.Dataset":
    """Subjects drawn from the truth on a regimen; times as in `population_on`."""
    source = true_simulator()
    patients = source.population.sample(count, seed=seed)
    return source.simulate(patients, regimen, EVERY_FOUR_HOURS)


@final
@dataclass(frozen=True, eq=False)
class Result:
    """What the demonstration found.

    Attributes:
        report: the comparison of the import with libRoadRunner.
        data: the experiment.
        mechanism, hybrid: the two fits.
        comparison: their scores beside the truth's.
        seed: of everything random.
    """

    report: ReferenceReport
    data: Experiment
    mechanism: Fit
    hybrid: Fit
    comparison: Comparison
    seed: int

    @property
    def field(self) -> HybridField:
        """The trained hybrid."""
        return cast(HybridField, self.hybrid.simulator.field)

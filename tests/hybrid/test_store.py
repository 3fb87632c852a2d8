"""Fits on disk: to the last bit and back, as a whole or not at all, and nothing trusted."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor

import hybrid
from hybrid import store
from hybrid.coupling import FluxResidual, ParameterCurve, ParameterDrive
from hybrid.covariates import Category, Linear, Power
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.fit import fit
from hybrid.noise import Additive, Combined, CombinedLinear, LogNormalNoise, Proportional
from hybrid.parameters import Fixed, Logit, LogitNormal, LogNormal, LogUniform, Normal, ParameterSpace, Uniform
from hybrid.population import Population
from hybrid.results import Fit, FitOptions
from hybrid.simulator import Simulator
from hybrid.store import StoreError, load
from mechanistic.compile import RateField
from mechanistic.field import AbstractVectorField
from mechanistic.model import FrozenMap, KineticModel, Parameter, Reaction, State, symbol
from mechanistic.sbml import read_sbml
from mechanistic.schedule import Schedule
from mechanistic.solve import Auto, Rodas5P, Tolerance, TorchDiffEq, Tsit5
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem
from neural.latent_field import LatentField
from neural.networks import mlp
from tests.hybrid.problems import ONE, TWO, cohort, observed, randomise

NET = mlp((3,))
NOTHING = FitOptions(adam_steps=0, rounds=0)

FIELDS: dict[str, Callable[[], AbstractVectorField]] = {
    "mechanism": lambda: RateField(TWO),
    "flux": lambda: HybridField(
        RateField(TWO), FluxResidual(TWO, NET, extra=["central ->"], along=["return"], scale=[1.0, 2.0]),
        FluxResidual(TWO, NET, extra=["-> peripheral"], inputs=["time"], seed=3),
    ),
    "drive": lambda: HybridField(
        RateField(TWO), ParameterDrive(TWO, "Q", NET, inputs=["wt"], bijection=Logit(0.1, 300.0), limit=1.5),
        covariates={"wt": 70.0},
    ),
    "curve": lambda: HybridField(RateField(TWO), ParameterCurve(TWO, "Q", [0.0, 1 / 3, 9.0], [5.0, 7.0, 1.0])),
    "latent": lambda: HybridField(
        RateField(TWO), FluxResidual(TWO, NET, extra=["central ->"], inputs=["latent_1"]),
        latent=LatentField(2, 1, mlp((2,), "softplus"), decay_time=3.0, output_scale=torch.tensor([1.0, 0.5])),
        context=["central"],
    ),
}  # fmt: skip


def simulator(field: AbstractVectorField) -> Simulator:
    space = ParameterSpace(field, V=LogNormal.about(20.0, 0.3), CL=Uniform(0.1, 50.0), V2=Fixed(1 / 3 * 100))
    return Simulator(field, Population(space, {"CL": 0.3}), Combined(0.1, 0.1), "cp", solver=Tsit5())


@pytest.fixture(scope="module")
def subjects() -> Cohort:
    return observed(simulator(RateField(TWO)), cohort(4, (1.0, 4.0), wt=(50.0, 60.0, 80.0, 90.0)))


def made(kind: str, subjects: Cohort) -> Fit:
    field = FIELDS[kind]()
    randomise(field, 0.3)
    return fit(simulator(field), subjects, held_out=0.5, options=NOTHING, progress=False)


@pytest.fixture(scope="module")
def saved(subjects: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved") / "fit"
    made("flux", subjects).save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "fit"))


def same(one: Any, other: Any) -> bool:
    """Whether two values hold the same numbers, to the last bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(-7.0), other.nan_to_num(-7.0))
    if isinstance(one, Cohort | Schedule):
        return all(same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    return bool(one == other)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_loaded_fit_is_the_saved_one_to_the_last_bit(kind, subjects, tmp_path):
    first = made(kind, subjects)
    first.save(tmp_path / "fit")
    second = hybrid.load(tmp_path / "fit")
    assert type(second.simulator.field) is type(first.simulator.field)
    assert second.simulator.field.model == first.simulator.field.model
    assert second.simulator.field.parameter_names == first.simulator.field.parameter_names
    for name, value in first.simulator.field.state_dict().items():
        assert torch.equal(second.simulator.field.state_dict()[name], value)
    assert same(second.cohort, first.cohort)
    assert same(second.held_out, first.held_out)
    assert same(second.unknowns.eta, first.unknowns.eta)
    assert torch.equal(second.unknowns.values.flatten(), first.unknowns.values.flatten())
    assert torch.equal(second.simulator.population.space.nominal, first.simulator.population.space.nominal)
    assert (second.simulator.solver, second.simulator.tolerance) == (first.simulator.solver, first.simulator.tolerance)
    assert second.history == first.history
    assert (second.options, second.finished, second.seconds) == (first.options, first.finished, first.seconds)
    assert second.checkpoint.numbers == first.checkpoint.numbers
    assert torch.equal(second.population_prediction(subjects), first.population_prediction(subjects))
    assert torch.equal(second.score(first.held_out), first.score(first.held_out))
    assert repr(second) == repr(first)


def test_a_loaded_fit_can_be_saved_again_over_the_old_one(folder):
    first = load(folder)
    first.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(store.LARGEST)
    assert [path.name for path in folder.parent.iterdir()] == ["fit"]
    second = load(folder)
    assert torch.equal(second.checkpoint.tensors["x"], first.checkpoint.tensors["x"])


def test_the_files_are_readable_without_this_package(folder):
    assert read_sbml(folder / "model.xml") == TWO
    content = json.loads((folder / "fit.json").read_text("utf-8"))
    assert content["format"] == store.FORMAT
    for name, digest in content["content"]["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    with xr.open_datatree(folder / "data.nc", engine="h5netcdf") as data:
        xr.testing.assert_equal(data["posterior"].to_dataset().load(), load(folder).data["posterior"].to_dataset())


def test_every_prior_effect_noise_and_solver_comes_back(tmp_path):
    names = ("a", "b", "c", "d", "e", "kind")
    model = KineticModel(
        "many", (State("A", 1, scale=1.0),), tuple(Parameter(n, 0.5) for n in names),
        (Reaction("r", "A ->", symbol("a") * symbol("A")),), observables={"y": symbol("A") + symbol("kind")},
    )  # fmt: skip
    field = RateField(model)
    space = ParameterSpace(
        field, a=LogNormal(0.1, 0.2), b=Normal(0.0, 1 / 3), c=LogitNormal(0.0, 1.0, -1.0, 2.0), d=LogUniform(0.1, 10.0),
        kind=Uniform(0.0, 1.0), e=Fixed(0.1 + 0.2),
    )  # fmt: skip
    effects = {"a": [Power("wt", 70.0, 0.75), Category("sex", ("f", "m"), (0.3,))], "b": Linear("wt", 60.0, 0.1, False)}
    population = Population(space, {"a": 0.1, "b": 0.2}, effects, correlated=True)
    noise = {"u": Additive(0.1), "v": Proportional(0.2), "w": CombinedLinear(0.1, 0.2), "x": LogNormalNoise(0.3)}
    solver = Auto(Tsit5(max_steps=123), Rodas5P(max_steps=45))
    whole = Simulator(
        field, population, noise, dict.fromkeys(noise, "y"), solver=solver, tolerance=Tolerance(1e-4, 1e-7)
    )
    subjects = cohort(3, (0.5, 1.0, 2.0, 3.0), dose=None, wt=(50.0, 60.0, 70.0), channels=tuple(noise))
    sexes = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    subjects = replace(
        subjects, covariates=torch.cat([subjects.covariates, sexes], -1), covariate_names=("wt", "sex"),
        categories=FrozenMap({"sex": ("f", "m")}), channel=torch.arange(4).expand(3, 4).clone(), notes=("ä → β",),
        times=torch.where(torch.arange(4) < 3, subjects.times, torch.nan),
        observed=subjects.observed & (torch.arange(4) < 3),
    )  # fmt: skip
    first = fit(whole, measured(whole, subjects), held_out=0, options=NOTHING, progress=False)
    first.save(tmp_path / "fit")
    second = load(tmp_path / "fit")
    mine, theirs = first.simulator, second.simulator
    assert dict(theirs.population.space.priors) == dict(mine.population.space.priors)
    assert theirs.population.space.names == mine.population.space.names
    assert torch.equal(theirs.population.space.nominal, mine.population.space.nominal)
    assert theirs.population.covariates == mine.population.covariates
    assert theirs.population.between == mine.population.between
    assert theirs.population.correlated
    assert theirs.noise == mine.noise
    assert theirs.measures == mine.measures
    assert (theirs.solver, theirs.tolerance) == (mine.solver, mine.tolerance)
    assert same(second.cohort, first.cohort)
    assert second.held_out is None
    assert torch.equal(second.score(second.cohort), first.score(first.cohort))


def measured(whole: Simulator, subjects: Cohort) -> Cohort:
    f = torch.linspace(0.8, 1.6, subjects.times.shape[1], dtype=torch.float64).expand_as(subjects.times)
    whole.check(replace(subjects, dv=f))
    return replace(subjects, dv=torch.where(subjects.observed, f, 0.0))


def test_frozen_weights_stay_frozen_and_every_solver_of_torchdiffeq_comes_back(subjects, tmp_path):
    field = FIELDS["flux"]()
    randomise(field, 0.3)
    next(field.parameters()).requires_grad_(False)
    whole = simulator(field)
    whole = Simulator(whole.field, whole.population, whole.noise, whole.measures, solver=TorchDiffEq("bosh3"))
    first = fit(whole, subjects, held_out=0, options=NOTHING, progress=False)
    first.save(tmp_path / "fit")
    second = load(tmp_path / "fit")
    assert [w.requires_grad for w in second.simulator.field.parameters()] == [
        w.requires_grad for w in first.simulator.field.parameters()
    ]
    assert second.simulator.solver == TorchDiffEq("bosh3")
    assert fit(second.simulator, subjects, held_out=0, resume=second, progress=False).finished


# Damage


@pytest.mark.parametrize("name", store.LARGEST)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "empty"])
def test_a_damaged_file_is_named_with_what_to_do(name, damage, folder):
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"truncated": data[:-7], "changed": changed, "empty": b""}[damage])
    with pytest.raises(StoreError) as caught:
        load(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"`{name}` {'is missing' if damage == 'missing' else 'was truncated or changed'}")
    assert "save the fit again" in problem


def test_every_damaged_file_is_listed(folder):
    (folder / "model.xml").unlink()
    (folder / "data.nc").write_bytes(b"x")
    (folder / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        load(folder)
    assert [problem.split("`")[1] for problem in caught.value.problems] == [
        "model.xml",
        "tensors.safetensors",
        "data.nc",
    ]
    with pytest.raises(StoreError, match="there is no such folder"):
        load(folder.parent / "nothing")


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None], **head: Any) -> None:
    """The description changed and sealed again, as somebody who means it would do."""
    description = json.loads((folder / "fit.json").read_text("utf-8"))
    change(description["content"])
    text = json.loads(store._sealed(description["content"])) | head
    (folder / "fit.json").write_text(json.dumps(text), "utf-8")


def test_a_newer_format_is_refused_with_what_wrote_it(folder):
    rewritten(folder, lambda content: None, format=2, kinetwin="9.1")
    with pytest.raises(StoreError, match=r"format 2, written by kinetwin 9\.1; .* update kinetwin"):
        load(folder)


def test_unknown_kinds_are_refused_by_name(folder):
    def change(content: dict[str, Any]) -> None:
        content["solver"]["kind"] = "os.system"
        content["priors"]["V"]["kind"] = "Cauchy"

    rewritten(folder, change)
    with pytest.raises(StoreError) as caught:
        load(folder)
    assert [problem.split("`")[1] for problem in caught.value.problems] == ["Cauchy", "os.system"]


def _huge(content: dict[str, Any]) -> None:
    content["field"]["couplings"][0]["network"]["hidden"] = [10**6, 10**6]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_huge, "more weights than there are"),
        (lambda content: content.pop("priors"), "KeyError"),
        (lambda content: content["priors"].update(W=content["priors"]["V"]), "`W` is not a parameter"),
        (lambda content: content["field"]["couplings"].pop(), "load_state_dict|state_dict"),
        (lambda content: content["solver"]["fields"].update(surprise=1), "TypeError"),
        (lambda content: content["cohorts"]["cohort"].update(ids=3), "TypeError"),
    ],
)
def test_descriptions_that_do_not_fit_their_files_are_refused(change, said, folder):
    rewritten(folder, change)
    with pytest.raises(StoreError, match="do not fit together") as caught:
        load(folder)
    assert any(part in str(caught.value) for part in said.split("|"))


def test_files_larger_than_a_fit_can_be_are_not_read(folder, monkeypatch):
    monkeypatch.setattr(store, "LARGEST", store.LARGEST | {"tensors.safetensors": 100})
    with pytest.raises(StoreError, match=r"`tensors\.safetensors` is larger than 100 bytes"):
        load(folder)


def test_nesting_without_end_is_damage_like_any_other(folder):
    (folder / "fit.json").write_text("[" * 100_000, "utf-8")
    with pytest.raises(StoreError, match=r"`fit\.json` was truncated or changed"):
        load(folder)


# What cannot be saved, and interrupted saves


@dataclass(frozen=True)
class Homemade(AbstractSolver):
    """A solver of somebody else."""

    def solve(self, problem: Problem) -> Outcome:
        return Tsit5().solve(problem)


def test_kinds_of_others_are_refused_when_saving(subjects, tmp_path):
    first = made("mechanism", subjects)
    theirs = Simulator(
        first.simulator.field, first.simulator.population, first.simulator.noise, first.simulator.measures,
        solver=Homemade(),
    )  # fmt: skip
    with pytest.raises(StoreError, match="solver: `Homemade` is not a kind that can be saved"):
        replace(first, simulator=theirs).save(tmp_path / "fit")
    assert not list(tmp_path.iterdir())


class Foreign(AbstractVectorField):
    """A field of somebody else."""

    def __init__(self, inner: RateField) -> None:
        super().__init__()
        self.inner = inner
        self.state_names, self.parameter_names = inner.state_names, inner.parameter_names
        self.observable_names = inner.observable_names
        self.scales, self.nonnegative = inner.scales, inner.nonnegative

    def forward(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        return self.inner(t, x, p)

    def initial(self, p: Tensor) -> Tensor:
        return self.inner.initial(p)

    def observe(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        return self.inner.observe(t, x, p)

    def nominal(self) -> Tensor:
        return self.inner.nominal()


def test_other_fields_are_refused_with_the_reason(subjects, tmp_path):
    first = fit(simulator(Foreign(RateField(TWO))), subjects, held_out=0, options=NOTHING, progress=False)
    with pytest.raises(StoreError, match="the field is a Foreign; only a RateField or a HybridField can be saved"):
        first.save(tmp_path / "fit")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("place", ["_digest", "_flush", "save_tensors"])
def test_an_interrupted_save_leaves_what_was_there(place, existing, saved, folder, monkeypatch):
    if not existing:
        shutil.rmtree(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if existing else {}
    found = load(saved)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        found.save(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before if existing else not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == (["fit"] if existing else [])


def test_a_failed_exchange_puts_the_old_fit_back(saved, folder, monkeypatch):
    found = load(saved)
    before = (folder / "fit.json").read_bytes()
    rename = store.os.rename

    def fails_second(source: Any, target: Any) -> None:
        if ".new-" in str(source):
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr(store.os, "rename", fails_second)
    with pytest.raises(OSError, match="no space left"):
        found.save(folder)
    monkeypatch.undo()
    assert (folder / "fit.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["fit"]
    # A process that was killed between the two renames cannot put it back; then reading says where it is.
    (folder.parent / "fit").rename(folder.parent / ".fit.previous-0123")
    with pytest.raises(StoreError, match=r"left the previous fit in \.fit\.previous-0123: rename that folder"):
        load(folder)


def test_nothing_of_others_is_overwritten(saved, folder, tmp_path):
    found = load(saved)
    (folder / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(StoreError, match=r"holds `notes\.txt`, which would be lost"):
        found.save(folder)
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(StoreError, match="is a file; give a folder"):
        found.save(tmp_path / "file")
    found.save(tmp_path / "deep" / "new")
    assert load(tmp_path / "deep" / "new").history == found.history


def test_models_that_sbml_cannot_say_are_refused(subjects, tmp_path):
    first = made("mechanism", subjects)
    tiny = ONE.with_values(CL=1e-310)
    field = RateField(tiny)
    space = ParameterSpace(field, V=LogNormal.about(20.0, 0.3))
    whole = Simulator(field, space, Combined(0.1, 0.1), "cp")
    with pytest.raises(StoreError, match="`CL`: its value 1e-310 is not a normal double"):
        replace(first, simulator=whole).save(tmp_path / "fit")

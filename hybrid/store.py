"""A fit as a folder of arrays, SBML and text; reading it executes nothing and trusts nothing.

| file | content |
|---|---|
| `fit.json` | how everything was set up, the history, and the SHA-256 of every file, its own content included |
| `model.xml` | the mechanism as SBML |
| `tensors.safetensors` | weights, estimates, random effects, data of the cohorts, where the descent stands |
| `data.nc` | `Fit.data` for other programs: netCDF with the groups of InferenceData; `load` does not need it |

Numbers are kept to the last bit: a loaded fit predicts the same, and an unfinished one goes on to the same result.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hybrid.coupling import Coupling, FluxResidual, ParameterCurve, ParameterDrive
from hybrid.covariates import Category, Linear, Power
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.noise import Additive, Combined, CombinedLinear, LogNormalNoise, NoiseModel, Proportional
from hybrid.objective import Unknowns
from hybrid.parameters import (
    Exp,
    Fixed,
    Identity,
    Logit,
    LogitNormal,
    LogLogit,
    LogNormal,
    LogUniform,
    Normal,
    ParameterSpace,
    Uniform,
)
from hybrid.population import Population, PopulationValues
from hybrid.results import Checkpoint, Fit, FitOptions, HistoryRow
from hybrid.simulator import Simulator
from mechanistic.compile import RateField
from mechanistic.errors import ListedError
from mechanistic.field import AbstractVectorField
from mechanistic.model import FrozenMap, KineticModel
from mechanistic.sbml import read_sbml, write_sbml
from mechanistic.schedule import Schedule
from mechanistic.solve import Auto, Rodas5P, Tolerance, TorchDiffEq, Tsit5
from neural.latent_field import LatentField
from neural.networks import MLP

FORMAT: Final = 1
"""Version of the layout; raised whenever a folder could be misread by an older version."""

DESCRIPTION: Final = "fit.json"
LARGEST: Final = {DESCRIPTION: 2**26, "model.xml": 2**26, "tensors.safetensors": 2**32, "data.nc": 2**33}
"""Files of a fit, and the most bytes of each that are read."""

_PLAIN_KINDS: Final = (
    *(Normal, LogNormal, LogitNormal, Uniform, LogUniform, Fixed),
    *(Identity, Exp, Logit, LogLogit),
    *(Power, Linear, Category),
    *(Additive, Proportional, Combined, CombinedLinear, LogNormalNoise),
    *(Auto, Tsit5, Rodas5P, TorchDiffEq, Tolerance, FitOptions),
)
KINDS: Final[Mapping[str, Any]] = {kind.__name__: kind for kind in _PLAIN_KINDS}
"""The classes whose values a folder may hold, by name; no other name is ever looked up."""

FIELD_KINDS: Final = ("RateField", "HybridField", "FluxResidual", "ParameterDrive", "ParameterCurve")
COHORT_ARRAYS: Final = ("times", "dv", "observed", "channel", "before", "covariates", "start")
DOSE_ARRAYS: Final = ("target", "time", "amount", "duration")
VALUES: Final = ("typical", "log_sd", "coefficients", "correlation")


class StoreError(ListedError):
    """A fit that cannot be saved, or a folder that is not, or no longer, a saved fit."""


def save(fit: Fit, folder: str | os.PathLike[str]) -> None:
    """Writes a fit to a folder, as a whole or not at all.

    Everything is written to a temporary folder beside it, which then takes its place; a fit that was there before stays
    until the new one is complete.

    Args:
        fit: finished or not.
        folder: a new or empty folder, or one that holds a saved fit.

    Raises:
        StoreError: lists what cannot be saved, and what is in the way.
    """
    target = Path(folder).resolve()
    problems = _occupied(target)
    description, tensors = _describe(fit, problems)
    model = _sbml(fit, problems)
    if problems:
        raise StoreError("the fit cannot be saved:", problems)
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    fresh, previous = (target.with_name(f".{target.name}.{kind}-{token}") for kind in ("new", "previous"))
    try:
        fresh.mkdir()
        (fresh / "model.xml").write_text(model, "utf-8", newline="\n")
        (fresh / "tensors.safetensors").write_bytes(save_tensors(tensors))
        fit.data.to_netcdf(fresh / "data.nc", engine="h5netcdf")
        digests = {name: _digest(fresh / name) for name in LARGEST if name != DESCRIPTION}
        (fresh / DESCRIPTION).write_text(_sealed({**description, "files": digests}), "utf-8", newline="\n")
        _flush(fresh)
        if target.exists():
            os.rename(target, previous)
        os.rename(fresh, target)
    except BaseException:
        if previous.exists() and not target.exists():
            os.rename(previous, target)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def load(folder: str | os.PathLike[str]) -> Fit:
    """The fit that `Fit.save` wrote to a folder.

    Raises:
        StoreError: lists every missing, damaged or oversized file, unknown kinds and newer formats, and what to do.
    """
    place = Path(folder)
    description, contents = _read(place)
    unknown = sorted(set(_kinds(description)) - {*KINDS, *FIELD_KINDS})
    if unknown:
        advice = "update kinetwin if it was saved by a newer version"
        problems = [f"`{kind}` is not a kind that this version knows; {advice}" for kind in unknown]
        raise StoreError(f"the fit in {place} cannot be read:", problems)
    try:
        return _fit(description, contents["model.xml"].decode("utf-8"), load_tensors(contents["tensors.safetensors"]))
    # Whatever a well-sealed but wrong description can lead to; each is a defect of the folder, not of the caller.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        SafetensorError,
    ) as error:
        problem = f"its files are whole but do not fit together ({type(error).__name__}: {error}); save the fit again"
        raise StoreError(f"the fit in {place} cannot be read:", [problem]) from error


# Writing


def _occupied(target: Path) -> list[str]:
    if target.exists() and not target.is_dir():
        return [f"{target} is a file; give a folder"]
    strangers = sorted({path.name for path in target.iterdir()} - set(LARGEST)) if target.exists() else []
    if strangers:
        shown = ", ".join(f"`{name}`" for name in strangers[:5])
        return [f"{target} holds {shown}, which would be lost; give a new or empty folder"]
    return []


def _describe(fit: Fit, problems: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything but the mechanism, as plain data and as tensors by name."""
    simulator = fit.simulator
    field, population = simulator.field, simulator.population
    tensors = {f"weights.{name}": value for name, value in field.state_dict().items()}
    tensors |= {f"unknowns.{name}": getattr(fit.unknowns.values, name) for name in VALUES}
    tensors |= {"unknowns.noise": fit.unknowns.log_sd, "unknowns.eta": fit.unknowns.eta}
    tensors |= {f"checkpoint.{name}": value for name, value in fit.checkpoint.tensors.items()}
    cohorts = {"cohort": fit.cohort} | ({} if fit.held_out is None else {"held_out": fit.held_out})
    for name, cohort in cohorts.items():
        tensors |= {f"{name}.{array}": getattr(cohort, array) for array in COHORT_ARRAYS}
        tensors |= {f"{name}.schedule.{array}": getattr(cohort.schedule, array) for array in DOSE_ARRAYS}
    nominal = zip(population.space.parameter_names, population.space.nominal.tolist(), strict=True)
    own = dict(zip(field.parameter_names, field.nominal().tolist(), strict=True))
    plain = _Plain(problems)
    description = {
        "field": _field_config(field, problems),
        "frozen": [name for name, weight in field.named_parameters() if not weight.requires_grad],
        "priors": plain.map(population.space.priors, "prior of"),
        "fixed": {name: value for name, value in nominal if value != own[name]},
        "between": dict(population.between),
        "effects": {n: plain.list(effects, f"effect on `{n}`") for n, effects in population.covariates.items()},
        "correlated": population.correlated,
        "noise": plain.map(simulator.noise.noises, "noise of"),
        "measures": dict(simulator.measures),
        "solver": plain.value(simulator.solver, "solver"),
        "tolerance": plain.value(simulator.tolerance, "tolerance"),
        "options": plain.value(fit.options, "options"),
        "history": [plain.list(row, "history") for row in fit.history],
        "finished": fit.finished,
        "seconds": fit.seconds,
        "checkpoint": {
            "phase": fit.checkpoint.phase,
            "step": fit.checkpoint.step,
            "numbers": plain.map(fit.checkpoint.numbers, "number"),
        },
        "cohorts": {name: _labels(cohort) for name, cohort in cohorts.items()},
    }
    # A copy each: estimates and checkpoint may share memory, which the format of the file has no place for.
    return description, {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


class _Plain:
    """Values of the known kinds as plain data; notes those of other kinds."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems

    def value(self, value: Any, place: str) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if value is None or isinstance(value, str | int):
            return value
        if isinstance(value, tuple | list):
            return self.list(value, place)
        kind = type(value)
        if KINDS.get(kind.__name__) is kind and is_dataclass(value):
            parts = {field.name: self.value(getattr(value, field.name), place) for field in fields(value)}
            return {"kind": kind.__name__, "fields": parts}
        self._problems.append(f"{place}: `{kind.__name__}` is not a kind that can be saved; use one of this package")
        return None

    def list(self, values: Any, place: str) -> list[Any]:
        return [self.value(value, place) for value in values]

    def map(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        return {name: self.value(value, f"{place} `{name}`") for name, value in values.items()}


def _field_config(field: AbstractVectorField, problems: list[str]) -> dict[str, Any]:
    if any(weight.dtype != torch.float64 for weight in field.parameters()):
        problems.append("the weights are not float64; a fit is saved, and goes on, in float64")
    if isinstance(field, RateField):
        return {"kind": "RateField"}
    if isinstance(field, HybridField):
        return {"kind": "HybridField", **field.to_config()}
    problems.append(f"the field is a {type(field).__name__}; only a RateField or a HybridField can be saved")
    return {}


def _sbml(fit: Fit, problems: list[str]) -> str:
    field = fit.simulator.field
    if not isinstance(field, RateField | HybridField):
        return ""
    try:
        text = write_sbml(field.model)
        if read_sbml(text) == field.model:
            return text
        problems.append(f"the mechanism `{field.model.name}` does not read back equal from SBML")
    except ListedError as error:
        problems += error.problems
    return ""


def _labels(cohort: Cohort) -> dict[str, Any]:
    return {
        "ids": list(cohort.ids),
        "targets": list(cohort.schedule.targets),
        "channels": list(cohort.channels),
        "covariate_names": list(cohort.covariate_names),
        "categories": {name: list(values) for name, values in cohort.categories.items()},
        "notes": list(cohort.notes),
    }


def _canonical(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _sealed(content: dict[str, Any]) -> str:
    """The text of the description, with the digest of its own content."""
    try:
        kinetwin = version("kinetwin")
    except PackageNotFoundError:
        kinetwin = "a checkout that is not installed"
    digest = hashlib.sha256(_canonical(content).encode()).hexdigest()
    head = {"format": FORMAT, "kinetwin": kinetwin, "sha256": digest, "content": content}
    return json.dumps(head, ensure_ascii=False, allow_nan=False, indent=1)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Has everything on the disk before the folder takes its place."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


# Reading


def _read(place: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The description and the bytes of the files that are needed, once every file is known to be whole."""
    headline = f"the fit in {place} cannot be read:"
    if not place.is_dir():
        left = sorted(path.name for path in place.parent.glob(f".{place.name}.previous-*"))
        rescue = f"; an interrupted save left the previous fit in {left[0]}: rename that folder" if left else ""
        raise StoreError(headline, [f"there is no such folder{rescue}"])
    problems, contents = [], {}
    for name, largest in LARGEST.items():
        path = place / name
        if not path.is_file():
            problems.append(f"`{name}` is missing; restore it from a copy, or save the fit again")
        elif path.stat().st_size > largest:
            problems.append(f"`{name}` is larger than {largest} bytes; it was not written by this version")
        elif name != "data.nc":
            contents[name] = path.read_bytes()
    content = _unsealed(contents[DESCRIPTION], problems) if DESCRIPTION in contents else None
    for name, expected in (content or {}).get("files", {}).items():
        if name in contents:
            found = hashlib.sha256(contents[name]).hexdigest()
        elif name in LARGEST and (place / name).is_file():
            found = _digest(place / name)
        else:
            continue
        if found != expected:
            problems.append(f"`{name}` was truncated or changed; restore it from a copy, or save the fit again")
    if problems or content is None:
        raise StoreError(headline, problems)
    return content, contents


def _unsealed(data: bytes, problems: list[str]) -> dict[str, Any] | None:
    damaged = f"`{DESCRIPTION}` was truncated or changed; restore it from a copy, or save the fit again"
    try:
        head = json.loads(data)
        found, content = head["format"], head["content"]
        if isinstance(found, int) and found > FORMAT:
            problems.append(
                f"`{DESCRIPTION}` has the format {found}, written by kinetwin {head.get('kinetwin')}; this version "
                f"reads formats up to {FORMAT}: update kinetwin"
            )
            return None
        if found == FORMAT and hashlib.sha256(_canonical(content).encode()).hexdigest() == head["sha256"]:
            return cast(dict[str, Any], content)
    # Deep nesting exhausts the parser's recursion before anything else can be said of it.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    problems.append(damaged)
    return None


def _kinds(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        if isinstance(data.get("kind"), str):
            yield data["kind"]
        for part in data.values():
            yield from _kinds(part)
    elif isinstance(data, list):
        for part in data:
            yield from _kinds(part)


def _value(data: Any) -> Any:
    """The inverse of `_Plain.value`."""
    if isinstance(data, list):
        return tuple(_value(part) for part in data)
    if not isinstance(data, dict):
        return data
    if set(data) == {"float"}:
        return float(data["float"])
    return KINDS[data["kind"]](**_map(data["fields"]))


def _map(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in data.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fit(content: dict[str, Any], model: str, tensors: dict[str, Tensor]) -> Fit:
    weights = _part(tensors, "weights.")
    field = _field(content["field"], read_sbml(model), sum(value.numel() for value in weights.values()))
    field.load_state_dict(weights, strict=True)
    for name, weight in field.named_parameters():
        weight.requires_grad_(name not in content["frozen"])
    fixed = {name: Fixed(value) for name, value in content["fixed"].items()}
    effects = {name: _value(parts) for name, parts in content["effects"].items()}
    space = ParameterSpace(field, **_map(content["priors"]), **fixed)
    simulator = Simulator(
        field,
        Population(space, content["between"], effects, content["correlated"]),
        NoiseModel(_map(content["noise"])),
        content["measures"],
        solver=_value(content["solver"]),
        tolerance=_value(content["tolerance"]),
    )
    unknowns, stand = _part(tensors, "unknowns."), content["checkpoint"]
    cohorts = {name: _cohort(labels, _part(tensors, f"{name}.")) for name, labels in content["cohorts"].items()}
    return Fit(
        simulator,
        cohorts["cohort"],
        cohorts.get("held_out"),
        Unknowns(PopulationValues(*(unknowns[name] for name in VALUES)), unknowns["noise"], unknowns["eta"]),
        tuple(HistoryRow(*_value(row)) for row in content["history"]),
        _value(content["options"]),
        content["finished"],
        content["seconds"],
        Checkpoint(stand["phase"], stand["step"], _part(tensors, "checkpoint."), _map(stand["numbers"])),
    )


def _field(config: dict[str, Any], model: KineticModel, weights: int) -> AbstractVectorField:
    known = RateField(model)
    if config["kind"] == "RateField":
        return known
    latent = config["latent"]
    return HybridField(
        known,
        *(_coupling(coupling, model, weights) for coupling in config["couplings"]),
        latent=None if latent is None else _latent(latent, len(config["context"]), weights),
        context=config["context"],
        covariates=config["covariates"],
    )


def _coupling(config: dict[str, Any], model: KineticModel, weights: int) -> Coupling:
    parts = {name: value for name, value in config.items() if name != "kind"}
    if config["kind"] == "ParameterCurve":
        return ParameterCurve(model, **parts)
    network = _network(parts.pop("network"), weights)
    if config["kind"] == "FluxResidual":
        return FluxResidual(model, network, **parts)
    bijection = dict(parts.pop("bijection"))
    return ParameterDrive(model, network=network, bijection=KINDS[bijection.pop("kind")](**bijection), **parts)


def _latent(config: dict[str, Any], context: int, weights: int) -> LatentField:
    if config["latent"] > weights:
        raise ValueError("there are more latent states than weights")
    scale = torch.tensor(config["output_scale"], dtype=torch.float64)
    times = {name: config[name] for name in ("decay_time", "time_scale")}
    return LatentField(config["latent"], context, _network(config["network"], weights), output_scale=scale, **times)


def _network(config: dict[str, Any], weights: int) -> MLP:
    """The description of a network that is no larger than the weights that the folder holds for it."""
    network = MLP.from_config(config)
    widths = (1, *network.hidden, 1)
    if sum(before * after for before, after in pairwise(widths)) > weights:
        raise ValueError(f"a network of widths {network.hidden} has more weights than there are")
    return network


def _cohort(labels: dict[str, Any], tensors: dict[str, Tensor]) -> Cohort:
    doses = Schedule(tuple(labels["targets"]), *(tensors[f"schedule.{name}"] for name in DOSE_ARRAYS))
    parts: dict[str, Any] = {name: tensors[name] for name in COHORT_ARRAYS}
    parts |= {name: tuple(labels[name]) for name in ("ids", "channels", "covariate_names", "notes")}
    categories = FrozenMap({name: tuple(values) for name, values in labels["categories"].items()})
    return Cohort(schedule=doses, categories=categories, **parts)

"""The two doors through which learned terms enter a mechanism, and the constraints that hold at each.

`FluxResidual` adds fluxes behind a stoichiometry: whatever the weights are, dx stays in the column space of the
declared reactions, so that every conserved total of these survives; a gate lets no flux consume what is not there, so
that dx_i ≥ 0 at x_i = 0. `ParameterDrive` moves a parameter within its support. This file is the only one that states
constraints.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from hybrid.parameters import AbstractBijection, Exp
from mechanistic.compile import RateField
from mechanistic.conservation import ConservedTotal, conserved_totals
from mechanistic.errors import ListedError, nearest
from mechanistic.model import KineticModel, Reaction
from neural.networks import MLP
from neural.scaling import Compression, FixedScaling

HALF_SATURATION = 0.05
"""Where the gate is half open, in multiples of a state's scale."""


class CouplingError(ListedError):
    """A learned term that does not fit the mechanism."""


@final
class Gate(nn.Module):
    """Multiplies a signed flux by `x/(x + half)` of every state that its sign consumes.

    At `x_i = 0` a flux that would consume state `i` is exactly zero, hence dx_i ≥ 0 there for every network.

    Args:
        net: net stoichiometry of the fluxes, `(state, flux)`.
        half: amount of each state at which the gate is half open, `(state,)`.
    """

    def __init__(self, net: Tensor, half: Tensor) -> None:
        super().__init__()
        self.register_buffer("half_open", half, persistent=False)
        self.register_buffer("forward_index", _padded_index(net.T < 0, len(half)), persistent=False)
        self.register_buffer("reverse_index", _padded_index(net.T > 0, len(half)), persistent=False)

    def forward(self, flux: Tensor, x: Tensor) -> Tensor:
        """The gated flux, `(*batch, flux)`, for states `(*batch, state)`."""
        present = x.clamp_min(0.0)
        # One more column, of ones, stands for the state that a flux does not consume.
        share = nn.functional.pad(present / (present + cast(Tensor, self.half_open)), (0, 1), value=1.0)
        forward, reverse = (_product(share, cast(Tensor, index)) for index in (self.forward_index, self.reverse_index))
        return flux * torch.where(flux > 0, forward, reverse)


def _padded_index(consumed: Tensor, beyond: int) -> Tensor:
    """The consumed states of each flux, `(slot, flux)`; `beyond` stands for none."""
    rows = [row.nonzero().flatten().tolist() for row in consumed]
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[beyond] * (width - len(row))] for row in rows], dtype=torch.long).T


def _product(share: Tensor, index: Tensor) -> Tensor:
    first, *rest = index
    result = share.index_select(-1, first)
    for row in rest:
        result = result * share.index_select(-1, row)
    return result


@final
class FluxResidual(nn.Module):
    """Learned fluxes behind a stoichiometry: `N' w(t, x, z, covariates)` with a gated network `w`.

    Signed: a positive flux runs in the direction of the arrow. With the last layer at zero, as `neural.mlp` makes it,
    the hybrid is the mechanism exactly, and still has a live gradient.

    Args:
        model: the mechanism.
        network: description of the network.
        extra: reactions to learn, for instance `"central ->"` or `"A -> B"`.
        along: names of reactions of the mechanism along whose stoichiometry a flux is learned too.
        inputs: what the network sees: states, `time`, latent states, covariates; by default the states that the fluxes
            touch.
        scale: typical size of each flux, amount per time; by default what a state of typical size turns over.
        half_saturation: amount at which the gate is half open, in multiples of the state's scale.
        seed: of the initial weights.

    Attributes:
        names: names of the fluxes.
        equations: their stoichiometry as text.

    Raises:
        CouplingError: lists unknown states and reactions, sizes that are not positive, and an empty list of fluxes.
    """

    def __init__(
        self,
        model: KineticModel,
        network: MLP,
        *,
        extra: Sequence[str] = (),
        along: Sequence[str] = (),
        inputs: Sequence[str] | None = None,
        scale: float | Sequence[float] | None = None,
        half_saturation: float = HALF_SATURATION,
        seed: int = 0,
    ) -> None:
        super().__init__()
        reactions = _learned_reactions(model, extra, along)
        _refuse_sizes(len(reactions), scale, half_saturation, inputs)
        self.model = model
        self.network_spec = network
        self.extra, self.along = tuple(extra), tuple(along)
        self.names = tuple(reaction.name for reaction in reactions)
        self.equations = tuple(reaction.equation for reaction in reactions)
        touched = dict.fromkeys(state for reaction in reactions for state in reaction.stoichiometry)
        self.inputs = tuple(touched) if inputs is None else tuple(inputs)
        self.half_saturation, self.seed = float(half_saturation), seed
        self.surviving, self.given_up = _totals(model, reactions)
        field = RateField(model)
        net = torch.tensor(
            [[float(r.stoichiometry.get(state, 0)) for r in reactions] for state in model.state_names],
            dtype=torch.float64,
        )
        sizes = _flux_sizes(field, net) if scale is None else torch.as_tensor(scale, dtype=torch.float64)
        self.scale = tuple(sizes.expand(len(reactions)).tolist())
        self.gate = Gate(net, self.half_saturation * field.scales)
        self.register_buffer("net", net, persistent=False)
        scaling = _input_scaling(field, self.inputs)
        output_scale = torch.tensor(self.scale, dtype=torch.float64)
        self.network = network.build(
            len(self.inputs), len(reactions), input_scaling=scaling, output_scale=output_scale, seed=seed
        )

    def flux(self, seen: Tensor, x: Tensor) -> Tensor:
        """Gated fluxes, `(*batch, flux)`, for network inputs `(*batch, input)` and states `(*batch, state)`."""
        return cast(Tensor, self.gate(self.network(seen), x))

    def forward(self, seen: Tensor, x: Tensor) -> Tensor:
        """What the fluxes add to dx/dt, `(*batch, state)`; arguments as for `flux`."""
        return nn.functional.linear(self.flux(seen, x), cast(Tensor, self.net))

    def to_config(self) -> dict[str, Any]:
        """A description of plain numbers and text, without weights."""
        return {
            "kind": "FluxResidual",
            "network": self.network_spec.to_config(),
            "extra": list(self.extra),
            "along": list(self.along),
            "inputs": list(self.inputs),
            "scale": list(self.scale),
            "half_saturation": self.half_saturation,
            "seed": self.seed,
        }

    def statement(self) -> str:
        """What holds by construction, whatever the weights are, in words."""
        kept = ", ".join(str(total) for total in self.surviving) or "none (the mechanism has none, or all are given up)"
        lines = [f"conserved totals that survive: {kept}"]
        if self.given_up:
            lines.append(f"conserved totals given up: {', '.join(str(total) for total in self.given_up)}")
        moved = (cast(Tensor, self.net) != 0).any(-1).tolist()
        guarded = [state for state, changes in zip(self.model.state_names, moved, strict=True) if changes]
        lines.append(f"no learned flux takes {', '.join(guarded) or 'any state'} below zero")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        fluxes = [f"{name}: {equation}" for name, equation in zip(self.names, self.equations, strict=True)]
        return "\n".join([*fluxes, f"inputs: {', '.join(self.inputs)}", self.statement()])


@final
class ParameterDrive(nn.Module):
    """A parameter driven by a network: `p̃ = bijection(bijection⁻¹(p) + limit · tanh(g / limit))`.

    The driven value stays in the support of the bijection and within `limit` of the parameter on the unconstrained
    scale; for a positive parameter it lies between `p exp(-limit)` and `p exp(limit)`.

    Args:
        model: the mechanism.
        parameter: which parameter is driven; `KineticModel.promote` makes one of a sub-expression.
        network: description of the network.
        inputs: what the network sees: states, `time`, latent states, covariates.
        bijection: from the real line to the support of the parameter.
        limit: largest change on the unconstrained scale.
        seed: of the initial weights.

    Raises:
        CouplingError: for an unknown parameter, no input, or a limit that is not positive.
    """

    def __init__(
        self,
        model: KineticModel,
        parameter: str,
        network: MLP,
        *,
        inputs: Sequence[str],
        bijection: AbstractBijection | None = None,
        limit: float = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        problems = [] if limit > 0 else [f"`limit` is {limit!r}; give a positive number"]
        problems += [] if inputs else ["the network has no inputs"]
        if parameter not in model.parameter_names:
            problems.append(f"`{parameter}` is not a parameter{nearest(parameter, model.parameter_names)}")
        if problems:
            raise CouplingError("the parameter cannot be driven:", problems)
        self.model, self.parameter, self.network_spec = model, parameter, network
        self.inputs, self.limit, self.seed = tuple(inputs), float(limit), seed
        self.bijection = Exp() if bijection is None else bijection
        self.column = model.parameter_names.index(parameter)
        scaling = _input_scaling(RateField(model), self.inputs)
        self.network = network.build(len(self.inputs), 1, input_scaling=scaling, seed=seed)

    def forward(self, seen: Tensor, p: Tensor) -> Tensor:
        """The driven value, `(*batch,)`, for network inputs `(*batch, input)` and parameters `(*batch, parameter)`."""
        shift = self.limit * torch.tanh(self.network(seen).squeeze(-1) / self.limit)
        return self.bijection.forward(self.bijection.inverse(p[..., self.column]) + shift)

    def to_config(self) -> dict[str, Any]:
        """A description of plain numbers and text, without weights."""
        return {
            "kind": "ParameterDrive",
            "parameter": self.parameter,
            "network": self.network_spec.to_config(),
            "inputs": list(self.inputs),
            "bijection": {"kind": type(self.bijection).__name__, **asdict(cast(Any, self.bijection))},
            "limit": self.limit,
            "seed": self.seed,
        }

    def statement(self) -> str:
        """What holds by construction, whatever the weights are, in words."""
        scale = type(self.bijection).__name__
        return f"`{self.parameter}` stays in its support, within ±{self.limit:g} on the {scale} scale"

    def extra_repr(self) -> str:
        return f"{self.parameter} driven by {', '.join(self.inputs)}\n{self.statement()}"


@final
class ParameterCurve(nn.Module):
    """A parameter that follows a measured curve: linear between the points, constant outside them; nothing is learned.

    Args:
        model: the mechanism.
        parameter: which parameter follows the curve.
        times: increasing, `(point,)`.
        values: in the unit of the parameter, `(point,)`.

    Raises:
        CouplingError: for an unknown parameter, or points that are not finite and increasing.
    """

    inputs = ("time",)

    def __init__(self, model: KineticModel, parameter: str, times: Sequence[float], values: Sequence[float]) -> None:
        super().__init__()
        t, y = (torch.as_tensor(v, dtype=torch.float64) for v in (times, values))
        problems = []
        if parameter not in model.parameter_names:
            problems.append(f"`{parameter}` is not a parameter{nearest(parameter, model.parameter_names)}")
        if t.ndim != 1 or t.shape != y.shape or len(t) < 2:
            problems.append(f"`times` {tuple(t.shape)} and `values` {tuple(y.shape)} must be two or more points")
        elif not bool((t[1:] > t[:-1]).all() & t.isfinite().all() & y.isfinite().all()):
            problems.append("the points must be finite, their times increasing")
        if problems:
            raise CouplingError("the parameter cannot follow the curve:", problems)
        self.model, self.parameter = model, parameter
        self.column = model.parameter_names.index(parameter)
        self.register_buffer("times", t, persistent=False)
        self.register_buffer("values", y, persistent=False)

    def forward(self, seen: Tensor, p: Tensor) -> Tensor:
        """The value at the time `seen` `(*batch, 1)`, `(*batch,)`."""
        times, values = cast(Tensor, self.times), cast(Tensor, self.values)
        t = seen[..., 0]
        index = torch.searchsorted(times, t.detach().contiguous(), right=True).clamp(1, len(times) - 1)
        low, high = times[index - 1], times[index]
        share = ((t - low) / (high - low)).clamp(0.0, 1.0)
        return values[index - 1] + share * (values[index] - values[index - 1])

    def to_config(self) -> dict[str, Any]:
        """A description of plain numbers and text."""
        points = {name: cast(Tensor, getattr(self, name)).tolist() for name in ("times", "values")}
        return {"kind": "ParameterCurve", "parameter": self.parameter, **points}

    def statement(self) -> str:
        """What holds by construction, in words."""
        return f"`{self.parameter}` follows a measured curve"


Coupling = FluxResidual | ParameterDrive | ParameterCurve
"""What couples a network, or what was measured, to a mechanism."""


def _learned_reactions(model: KineticModel, extra: Sequence[str], along: Sequence[str]) -> list[Reaction]:
    known = {reaction.name: reaction for reaction in model.reactions}
    problems = [f"`{name}` is not a reaction{nearest(name, known)}" for name in along if name not in known]
    fast = [name for name in along if name in known and known[name].fast]
    problems += [f"`{name}` is always at equilibrium; a flux along it has no effect" for name in fast]
    added = [Reaction(f"residual {equation}", equation, 0) for equation in extra]
    for reaction in added:
        for state in reaction.stoichiometry:
            if state not in model.state_names:
                problems.append(f"{reaction.name}: `{state}` is not a state{nearest(state, model.state_names)}")
            elif state in model.rates:
                problems.append(f"{reaction.name}: `{state}` is moved by a rate rule; a flux cannot add to it")
            elif state in model.algebraic:
                problems.append(f"{reaction.name}: `{state}` follows an algebraic equation; a flux cannot add to it")
    if not extra and not along:
        problems.append('no flux is named; give `extra`, for instance ["A ->"], or `along`')
    if problems:
        raise CouplingError("the learned fluxes do not fit the mechanism:", problems)
    return [*(Reaction(f"residual {n}", known[n].stoichiometry, 0) for n in along), *added]


def _totals(
    model: KineticModel, reactions: Sequence[Reaction]
) -> tuple[tuple[ConservedTotal, ...], tuple[ConservedTotal, ...]]:
    """Totals conserved by mechanism and residual together, and those of the mechanism that are not."""
    together = conserved_totals(replace(model, reactions=(*model.reactions, *reactions)))
    broken = [
        total
        for total in conserved_totals(model)
        if any(sum(total.weights.get(s, 0) * c for s, c in r.stoichiometry.items()) != 0 for r in reactions)
    ]
    return together, tuple(broken)


def _refuse_sizes(
    fluxes: int, scale: float | Sequence[float] | None, half_saturation: float, inputs: Sequence[str] | None
) -> None:
    problems = [] if half_saturation > 0 else [f"`half_saturation` is {half_saturation!r}; give a positive number"]
    problems += ["the network has no inputs"] if inputs is not None and not inputs else []
    sizes = torch.as_tensor(1.0 if scale is None else scale, dtype=torch.float64)
    if sizes.shape not in ((), (fluxes,)) or not bool(((sizes > 0) & sizes.isfinite()).all()):
        problems.append(f"`scale` is {scale!r}; give a positive number, or one for each of the {fluxes} fluxes")
    if problems:
        raise CouplingError("the learned fluxes do not fit the mechanism:", problems)


def _flux_sizes(field: RateField, net: Tensor) -> Tensor:
    """What the touched states turn over when every state has its typical size, `(flux,)`."""
    scales = field.scales
    turnover = field.jacobian(scales.new_zeros(()), scales, field.nominal()).diagonal().abs() * scales
    touched = (net != 0).to(turnover.dtype).T * turnover
    largest = touched.amax(-1)
    return torch.where(largest.isfinite() & (largest > 0), largest, 1.0)


def _input_scaling(field: RateField, inputs: Sequence[str]) -> FixedScaling:
    """States by their scale, everything else as it is; compressed, so that large values do not saturate the network."""
    sizes = dict(zip(field.state_names, field.scales.tolist(), strict=True))
    scale = torch.tensor([sizes.get(name, 1.0) for name in inputs], dtype=torch.float64)
    return FixedScaling(torch.zeros_like(scale), scale, Compression.ASINH)

"""A mechanism with learned terms: still one vector field to a solver."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from hybrid.coupling import Coupling, CouplingError, FluxResidual, ParameterDrive
from hybrid.described import Anatomy, describe, weights_of
from hybrid.discrete import DrivenDiscrete
from mechanistic.compile import RateField
from mechanistic.compile.coupled import AbstractCoupled, Coupled
from mechanistic.errors import nearest
from mechanistic.field import AbstractDiscrete, Constraints, Linearisation
from neural.latent_field import LatentField


@final
class HybridField(AbstractCoupled):
    """`dx/dt = N v(t, x, p̃) + r(t, x, p̃) + N' w(t, x, z, c)` and `dz/dt = h(z, x)`.

    States are those of the mechanism, then the latent states `latent_0 …`. Parameters are those of the mechanism, then
    the covariates `c`, then the latent states at the start, which a `ParameterSpace` may estimate like any other.

    Args:
        known: the compiled mechanism.
        couplings: learned fluxes, driven parameters and measured curves; each parameter is driven once at most.
        latent: a field for latent states, whose context are `context`.
        context: states that the latent field sees, divided by their scale.
        covariates: name to reference value; a network sees `value / reference - 1`, or the value where that is 0.

    Raises:
        CouplingError: lists couplings made for another model, unknown inputs and parameters driven twice.
    """

    def __init__(
        self,
        known: RateField,
        *couplings: Coupling,
        latent: LatentField | None = None,
        context: Sequence[str] = (),
        covariates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        size = 0 if latent is None else latent.latent
        self.known = known
        self.latent = latent
        self.context = tuple(context)
        self.covariates = dict(covariates or {})
        hidden = tuple(f"latent_{i}" for i in range(size))
        self.state_names = (*known.state_names, *hidden)
        self.parameter_names = (*known.parameter_names, *self.covariates, *hidden)
        self.observable_names = known.observable_names
        self.residuals = nn.ModuleList(c for c in couplings if isinstance(c, FluxResidual))
        self.drives = nn.ModuleList(c for c in couplings if not isinstance(c, FluxResidual))
        self._visible = (*self.state_names, *self.covariates, "time")
        problems = self._problems(couplings)
        if problems:
            raise CouplingError("the couplings do not fit the mechanism:", problems)
        for kind, part in (("residual", self.residuals), ("drive", self.drives)):
            for i, coupling in enumerate(part):
                columns = [self._visible.index(seen) for seen in cast(Coupling, coupling).inputs]
                self.register_buffer(f"_{kind}{i}", torch.tensor(columns, dtype=torch.long), persistent=False)
        # Most networks see states only; then nothing has to be put together for them.
        self._only_states = all(name in self.state_names for c in couplings for name in c.inputs)
        one = known.scales.new_ones(size)
        reference = known.scales.new_tensor([v if v != 0 else 1.0 for v in self.covariates.values()])
        offset = known.scales.new_tensor([float(v != 0) for v in self.covariates.values()])
        self.register_buffer("_reference", reference, persistent=False)
        self.register_buffer("_offset", offset, persistent=False)
        self.register_buffer("scales", torch.cat([known.scales, one]), persistent=False)
        self.register_buffer("nonnegative", torch.cat([known.nonnegative, one.bool() & False]), persistent=False)

    @property
    def model(self) -> Any:
        """The mechanism as symbols."""
        return self.known.model

    @property
    def constraints(self) -> Constraints | None:
        known = self.known.constraints
        if known is None or self.latent is None:
            return known
        size = self.latent.latent
        mass = torch.block_diag(known.mass, torch.eye(size).to(known.mass))
        free = known.relaxing.new_zeros(size)
        return Constraints(mass, torch.cat([known.relaxing, free]), torch.cat([known.steered, free]))

    @property
    def discrete(self) -> AbstractDiscrete | None:
        known = self.known.discrete
        return None if known is None else DrivenDiscrete(known, self._view, self._moves_what_stands())

    def _moves_what_stands(self) -> bool:
        """Whether a parameter is driven, or a learned flux moves a state that nothing in the mechanism moves."""
        still = (self.known.net == 0).all(-1)
        nets = [cast(Tensor, cast(FluxResidual, residual).net) for residual in self.residuals]
        return len(self.drives) > 0 or any(bool((net[still] != 0).any()) for net in nets)

    def _view(self, t: Tensor, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return self.amounts(x), self.driven_parameters(t, x, p)

    def forward(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Tensor:
        amounts = self.amounts(x)
        seen = self._seen(t, x, p)
        rate = self._add_learned(self.known(t, amounts, self._driven(seen, p), held), seen, amounts)
        return rate if self.latent is None else torch.cat([rate, self._latent_rate(t, x)], dim=-1)

    def _add_learned(self, rate: Tensor, seen: Tensor, amounts: Tensor) -> Tensor:
        mass = self.known.mass
        for i, residual in enumerate(self.residuals):
            learned = residual(self._inputs("residual", i, seen), amounts)
            rate = rate + (learned if mass is None else learned @ mass.T)
        return rate

    def residual(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """All learned fluxes, `(*batch, flux)`, in the order of `flux_names`; arguments as for `forward`."""
        amounts = self.amounts(x)
        seen = self._seen(t, x, p)
        fluxes = [
            cast(FluxResidual, residual).flux(self._inputs("residual", i, seen), amounts)
            for i, residual in enumerate(self.residuals)
        ]
        return torch.cat(fluxes, dim=-1) if fluxes else x[..., :0]

    @property
    def flux_names(self) -> tuple[str, ...]:
        """Names of all learned fluxes."""
        return tuple(name for residual in self.residuals for name in cast(FluxResidual, residual).names)

    def driven_parameters(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """The mechanism's parameters, the driven ones in place, `(*batch, parameter)`; arguments as for `forward`."""
        return self._driven(self._seen(t, x, p), p)

    def initial(self, p: Tensor) -> Tensor:
        known = self.known.initial(p[..., : len(self.known.parameter_names)])
        return known if self.latent is None else torch.cat([known, p[..., -self.latent.latent :]], dim=-1)

    def observe(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Tensor:
        return self.known.observe(t, self.amounts(x), self.driven_parameters(t, x, p), held)

    def amounts(self, x: Tensor) -> Tensor:
        """The mechanism's states among all, `(*batch, state)`."""
        return x if self.latent is None else x[..., : len(self.known.state_names)]

    def nominal(self) -> Tensor:
        known = self.known.nominal()
        size = 0 if self.latent is None else self.latent.latent
        return torch.cat([known, known.new_tensor(list(self.covariates.values())), known.new_zeros(size)])

    def unit_of(self, name: str) -> str:
        return self.known.unit_of(name)

    def linearise(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor | None = None) -> Linearisation:
        """∂f/∂x and ∂f/∂t: analytic for the mechanism where nothing drives it, by autograd for the rest.

        Arguments as for `forward`; exact, and differentiable once more.
        """
        if len(self.drives) or self.latent is not None:
            return _row_by_row(lambda times, states: self(times, states, p, held), t, x)
        known = self.known.linearise(t, x, p[..., : len(self.known.parameter_names)], held)
        if not len(self.residuals):
            return known

        def learned(times: Tensor, states: Tensor) -> Tensor:
            return self._add_learned(torch.zeros_like(states), self._seen(times, states, p), states)

        added = _row_by_row(learned, t, x)
        return Linearisation(known.jacobian + added.jacobian, known.time_derivative + added.time_derivative)

    def coupled(self) -> Coupled | str:
        return describe(self._anatomy())

    def weights(self) -> Tensor:
        parts = [part for network in self._anatomy().networks for part in weights_of(network)]
        return torch.cat(parts) if parts else self.scales.new_zeros(0)

    def _anatomy(self) -> Anatomy:
        parts = [
            (cast(Coupling, coupling), cast(Tensor, getattr(self, f"_{kind}{i}")).tolist())
            for kind, group in (("residual", self.residuals), ("drive", self.drives))
            for i, coupling in enumerate(group)
        ]
        place = [self.state_names.index(name) for name in self.context]
        return Anatomy(self.known, parts, self.latent, place, self.covariates)

    def statement(self) -> str:
        """What holds by construction, whatever the weights are, in words."""
        couplings = [*self.residuals, *self.drives]
        return "\n".join(cast(FluxResidual, coupling).statement() for coupling in couplings) or "nothing is learned"

    def to_config(self) -> dict[str, Any]:
        """A description of plain numbers and text, without the mechanism and without weights."""
        latent = self.latent
        return {
            "couplings": [cast(FluxResidual, c).to_config() for c in (*self.residuals, *self.drives)],
            "covariates": self.covariates,
            "context": list(self.context),
            "latent": None
            if latent is None
            else {
                "latent": latent.latent,
                "network": latent.network.spec.to_config(),
                "decay_time": latent.decay_time,
                "time_scale": latent.time_scale,
                "output_scale": latent.network.output_scale.tolist(),
            },
        }

    def _seen(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """What networks may see, `(*batch, visible)`: states, covariates, time; states alone where none needs more."""
        if self._only_states:
            return x
        first = len(self.known.parameter_names)
        c = p[..., first : first + len(self.covariates)]
        relative = c / cast(Tensor, self._reference) - cast(Tensor, self._offset)
        shape = x.shape[:-1]
        return torch.cat([x, relative.expand(*shape, -1), t.expand(shape).unsqueeze(-1)], dim=-1)

    def _inputs(self, kind: str, index: int, seen: Tensor) -> Tensor:
        return seen.index_select(-1, cast(Tensor, getattr(self, f"_{kind}{index}")))

    def _driven(self, seen: Tensor, p: Tensor) -> Tensor:
        parameters = p[..., : len(self.known.parameter_names)]
        if not len(self.drives):
            return parameters
        columns = list(parameters.expand(*seen.shape[:-1], -1).unbind(-1))
        for i, drive in enumerate(self.drives):
            columns[cast(ParameterDrive, drive).column] = drive(self._inputs("drive", i, seen), parameters)
        return torch.stack(columns, dim=-1)

    def _latent_rate(self, t: Tensor, x: Tensor) -> Tensor:
        assert self.latent is not None
        count = len(self.known.state_names)
        place = [self.state_names.index(name) for name in self.context]
        context = x[..., place] / self.scales[place] if place else None
        rate: Tensor = self.latent(t, x[..., count:], context)
        return rate

    def _problems(self, couplings: Sequence[Coupling]) -> list[str]:
        problems = []
        taken = [*self.known.state_names, *self.known.parameter_names]
        problems += [
            f"covariate `{n}` has the name of a quantity of the mechanism" for n in self.covariates if n in taken
        ]
        driven = [c.parameter for c in couplings if not isinstance(c, FluxResidual)]
        problems += [f"`{name}` is driven twice" for name in sorted({n for n in driven if driven.count(n) > 1})]
        for coupling in couplings:
            if coupling.model != self.known.model:
                problems.append(
                    f"{type(coupling).__name__} was made for {coupling.model!r}, not for {self.known.model!r}"
                )
            for name in coupling.inputs:
                if name not in self._visible:
                    problems.append(
                        f"{type(coupling).__name__}: input `{name}` is unknown{nearest(name, self._visible)}"
                    )
        count = 0 if self.latent is None else self.latent.context
        if count != len(self.context):
            problems.append(f"the latent field takes {count} context values, `context` names {len(self.context)}")
        problems += [
            f"context `{n}` is not a state{nearest(n, taken)}" for n in self.context if n not in self.state_names
        ]
        return problems


def _row_by_row(rate: Callable[[Tensor, Tensor], Tensor], t: Tensor, x: Tensor) -> Linearisation:
    """Derivatives of a rate in reverse mode: every row of the Jacobian is a copy of the batch in one larger batch.

    Forward mode, or a loop over the rows, is many times slower for the few states of a hybrid.
    """
    n, graph = x.shape[-1], torch.is_grad_enabled()
    with torch.enable_grad():
        states, times = (_leaf(v.expand(n, *v.shape), graph) for v in (x, t.expand(x.shape[:-1])))
        rates = rate(times, states)
        pick = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, *[1] * (x.ndim - 1), n).expand_as(rates)
        by_state, by_time = torch.autograd.grad(
            rates, (states, times), pick, create_graph=graph, allow_unused=True, materialize_grads=True
        )
    return Linearisation(by_state.movedim(0, -2), by_time.movedim(0, -1))


def _leaf(value: Tensor, graph: bool) -> Tensor:
    """`value`, within its graph where that is wanted and there is one, as something to differentiate by."""
    return value if graph and value.requires_grad else value.detach().requires_grad_()

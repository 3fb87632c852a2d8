"""The latent ODE, a model of time series without known mechanism: the baseline that a mechanism has to beat."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from neural.distributions import DiagonalNormal, normal_log_density, soft_bound
from neural.encoders import RecurrentEncoder
from neural.errors import refuse
from neural.integrators import Dopri5, Integrator, Segment
from neural.latent_field import LatentField
from neural.networks import MLP, InitialOutput, ScaledNetwork, mlp
from neural.scaling import FixedScaling
from neural.series import Series

_DEFAULT_INTEGRATOR = Dopri5()
_DEFAULT_NETWORK = mlp()

# In units of the scaled values: an untrained model explains little more than the mean.
_INITIAL_NOISE = 0.5

# An output of order one then moves a latent state by several standard deviations of its prior over the record.
_RATE = 10.0


@final
@dataclass(frozen=True, eq=False)
class Prediction:
    """Draws from the posterior predictive distribution of a batch of series.

    Attributes:
        times: `(*batch, time)`.
        latent: `(sample, *batch, time, latent)`, latent states.
        values: `(sample, *batch, time, channel)`, without measurement noise, in the unit of the data.
        observations: `(sample, *batch, time, channel)`, with measurement noise.
    """

    times: Tensor
    latent: Tensor
    values: Tensor
    observations: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over the draws without measurement noise, `(*batch, time, channel)`."""
        return self.values.mean(0)

    def quantile(self, level: float) -> Tensor:
        """Quantile over the draws with measurement noise, `(*batch, time, channel)`."""
        return self.observations.nanquantile(level, dim=0)


@final
class LatentODE(nn.Module):
    """A variational latent ODE: encoder → `z(start)` → `dz/dt = field(t, z, context)` → decoder → normal noise.

    Chen et al. (2018, arXiv 1806.07366), with an encoder for irregular times and masks (Rubanova et al. 2019, arXiv
    1907.03907). The prior of `z(start)` is standard normal. Noise is normal in scaled values, with one learned standard
    deviation a channel. Static context and piecewise-constant inputs (see `Series`) enter the field, and the encoder as
    channels that are always seen at the times of observation; the integration stops at every jump of an input.

    Args:
        encoder: channels = observed channels + context features + inputs.
        field: context = context features + inputs.
        decoder: latent states to scaled values of the observed channels.
        scaling: of the observed channels; None for values that are of order one already.
        context_scaling: of the context features followed by the inputs, or None.
        start: the time of the initial latent state, on each subject's own clock; nothing may be observed before it.
        integrator: see `Dopri5` and `RK4`.

    Raises:
        NeuralError: lists sizes that do not fit.
    """

    def __init__(
        self,
        encoder: RecurrentEncoder,
        field: LatentField,
        decoder: ScaledNetwork,
        *,
        scaling: FixedScaling | None = None,
        context_scaling: FixedScaling | None = None,
        start: float = 0.0,
        integrator: Integrator = _DEFAULT_INTEGRATOR,
    ) -> None:
        super().__init__()
        problems = _assembly_problems(encoder, field, decoder, scaling, context_scaling)
        refuse("the latent ODE cannot be assembled:", problems)
        self.channels, self.latent = decoder.outputs, field.latent
        self.encoder, self.field, self.decoder = encoder, field, decoder
        self.scaling, self.context_scaling = scaling, context_scaling
        self.start, self.integrator = float(start), integrator
        noise = torch.full((self.channels,), math.log(_INITIAL_NOISE), dtype=torch.float64)
        self.raw_log_noise = nn.Parameter(noise)

    @classmethod
    def for_series(
        cls,
        series: Series,
        latent: int = 4,
        *,
        hidden: int = 32,
        network: MLP = _DEFAULT_NETWORK,
        decay_time: float | None = None,
        start: float = 0.0,
        integrator: Integrator = _DEFAULT_INTEGRATOR,
        seed: int = 0,
    ) -> "LatentODE":
        """A model whose sizes and fixed scales are those of `series`.

        Args:
            series: what the model will be trained on; only sizes, means, spreads and the span of times are used.
            latent, hidden: sizes of the latent state and of the encoder's hidden state.
            network: description of the field's network and, with a last layer that is not zero, of the decoder's.
            decay_time: see `LatentField`.
            start, integrator: see `LatentODE`.
            seed: of all initial weights.

        Raises:
            NeuralError: when nothing is observed after `start`.
        """
        series = series.flat()
        span = float(torch.where(series.seen, series.times, -torch.inf).max()) - start
        if not 0 < span < math.inf:
            refuse(
                "the series fix no time scale:",
                [f"expected an observation after {start=}, got the last {span} after it"],
            )
        extra = _extras_at(series, torch.where(series.seen, series.times, start))
        extras = 0 if extra is None else extra.shape[-1]
        decoder = MLP(network.hidden, network.activation, InitialOutput.GLOROT)
        return cls(
            RecurrentEncoder(
                series.channels + extras, latent, hidden, time_scale=_typical_gap(series, span), seed=seed
            ),
            LatentField(latent, extras, network, decay_time=decay_time, output_scale=_RATE / span, seed=seed + 1),
            decoder.build(latent, series.channels, seed=seed + 2),
            scaling=FixedScaling.from_data(series.values, series.mask),
            context_scaling=None if extra is None else FixedScaling.from_data(extra),
            start=start,
            integrator=integrator,
        )

    @property
    def noise(self) -> Tensor:
        """Standard deviation of the noise of each channel, in scaled values, `(channel,)`."""
        return soft_bound(self.raw_log_noise).exp()

    def posterior(self, series: Series) -> DiagonalNormal:
        """The distribution of the latent state at `start` given all that is observed, over `(*batch, latent)`."""
        flat = self._checked(series)
        found = self._encode(flat)
        shape = (*series.batch_shape, self.latent)
        return DiagonalNormal(found.mean.reshape(shape), found.log_scale.reshape(shape))

    def elbo(
        self,
        series: Series,
        generator: torch.Generator,
        *,
        samples: int = 1,
        kl_weight: float = 1.0,
        encoded: Series | None = None,
    ) -> Tensor:
        """Evidence lower bound of each subject in nats, `(*batch,)`.

        Densities are those of the values in their own unit, so that models with different scalings compare.

        Args:
            series: the observations to be explained.
            generator: of the draws of the initial latent state.
            samples: number of draws.
            kl_weight: factor of the divergence from the prior, below one while a training warms up.
            encoded: what the encoder may see of the same subjects; by default all of `series`. The bound holds for any.

        Raises:
            NeuralError: when the series do not fit the model.
        """
        flat = self._checked(series)
        posterior = self._encode(flat if encoded is None else self._checked(encoded))
        latent = self._latent(posterior.rsample(generator, (samples,)), flat, flat.times)
        bound = self._log_likelihood(latent, flat).mean(0) - kl_weight * posterior.kl_to_standard()
        return bound.reshape(series.batch_shape)

    def log_score(self, seen: Series, unseen: Series, generator: torch.Generator, *, samples: int = 100) -> Tensor:
        """Log predictive density of `unseen` given `seen` of the same subjects, in nats, `(*batch,)`.

        The mean density over draws from the posterior given `seen`; its logarithm is biased low for few samples.
        """
        flat, target = self._checked(seen), self._checked(unseen)
        latent = self._latent(self._encode(flat).rsample(generator, (samples,)), target, target.times)
        scores = self._log_likelihood(latent, target)
        return (torch.logsumexp(scores, 0) - math.log(samples)).reshape(unseen.batch_shape)

    @torch.no_grad()
    def predict(self, series: Series, times: Tensor, generator: torch.Generator, *, samples: int = 50) -> Prediction:
        """Draws of the trajectories of each subject given its observations.

        Args:
            series: what was observed.
            times: `(time,)` or `(*batch, time)`, not before `start`; NaN where rows are ragged.
            generator: of the draws.
            samples: number of draws.

        Raises:
            NeuralError: when series or times do not fit the model.
        """
        flat = self._checked(series)
        wanted = times.to(flat.times).expand(*series.batch_shape, times.shape[-1])
        early = wanted[wanted < self.start]
        refuse("predictions:", [f"`times` must not lie before {self.start=}, got {early[0]}"] if len(early) else [])
        rows = wanted.reshape(-1, times.shape[-1])
        latent = self._latent(self._encode(flat).rsample(generator, (samples,)), flat, rows)
        scaled = self.decoder(latent)
        noise = torch.randn(scaled.shape, generator=generator, dtype=scaled.dtype, device=generator.device)
        noisy = scaled + self.noise * noise.to(scaled.device)
        absent = wanted.isnan()[..., None]
        latent, values, observations = (
            part.reshape(samples, *wanted.shape, -1).masked_fill(absent, torch.nan)
            for part in (latent, self._unscaled(scaled), self._unscaled(noisy))
        )
        return Prediction(wanted, latent, values, observations)

    def squared_weight_norm(self) -> Tensor:
        """Sum of the squared weights of field and decoder, biases left out; a scalar."""
        return self.field.network.squared_weight_norm() + self.decoder.squared_weight_norm()

    def _checked(self, series: Series) -> Series:
        """`series` with one batch axis, after a check that it fits the model."""
        problems = []
        if series.channels != self.channels:
            problems.append(f"expected {self.channels} channels, got {series.channels}")
        context = 0 if series.context is None else series.context.shape[-1]
        inputs = 0 if series.inputs is None else series.inputs.channels
        if context + inputs != self.field.context:
            got = f"{context} context features and {inputs} inputs"
            problems.append(f"expected {self.field.context} context features and inputs together, got {got}")
        early = (series.seen & (series.times < self.start)).nonzero()
        if len(early):
            problems.append(
                f"{len(early)} steps lie before {self.start=}, the first at {early[0].tolist()}; mask them out"
            )
        refuse("the series do not fit the latent ODE:", problems)
        return series.flat()

    def _encode(self, flat: Series) -> DiagonalNormal:
        seen = flat.seen[..., None]
        values = torch.where(flat.mask, flat.values, 0.0)
        values, mask = values if self.scaling is None else self.scaling(values), flat.mask
        extra = self._extras(flat, torch.where(flat.seen, flat.times, self.start))
        if extra is not None:
            values = torch.cat([values, extra], -1)
            mask = torch.cat([mask, seen.expand_as(extra)], -1)
        found: DiagonalNormal = self.encoder(flat.times, values, mask, self.start)
        return found

    def _extras(self, flat: Series, times: Tensor) -> Tensor | None:
        extra = _extras_at(flat, times)
        return extra if extra is None or self.context_scaling is None else self.context_scaling(extra)

    def _latent(self, z: Tensor, flat: Series, times: Tensor) -> Tensor:
        """Latent states `(sample, subject, time, latent)` from `z` `(sample, subject, latent)` at `start`."""
        # Padding stands at the start, where it costs nothing, and is masked out of every result.
        clock = torch.where(times >= self.start, times, self.start)
        return self.integrator.trajectory(self.field, z, self._segments(flat, clock), clock)

    def _segments(self, flat: Series, clock: Tensor) -> list[Segment]:
        end = float(clock.max())
        if end <= self.start:
            return []
        jumps = [] if flat.inputs is None else torch.unique(flat.inputs.times).tolist()
        inner = [t for t in jumps if self.start < t < end]
        knots = [self.start, *inner, end]
        starts = clock.new_tensor(knots[:-1]).expand(len(clock), -1)
        extra = self._extras(flat, starts)
        contexts = [None] * len(starts[0]) if extra is None else list(extra.unbind(1))
        return [Segment(*piece) for piece in zip(knots[:-1], knots[1:], contexts, strict=True)]

    def _log_likelihood(self, latent: Tensor, flat: Series) -> Tensor:
        """Log density of the observed values, `(sample, subject)`."""
        values = torch.where(flat.mask, flat.values, 0.0)
        scaled = values if self.scaling is None else self.scaling(values)
        density = normal_log_density(scaled, self.decoder(latent), soft_bound(self.raw_log_noise))
        if self.scaling is not None:
            density = density + self.scaling.log_derivative(values)
        return torch.where(flat.mask, density, 0.0).sum((-2, -1))

    def _unscaled(self, scaled: Tensor) -> Tensor:
        return scaled if self.scaling is None else self.scaling.inverse(scaled)


def _typical_gap(series: Series, otherwise: float) -> float:
    """The mean time between successive observations of a subject; `otherwise` when none has two at different times."""
    first = torch.where(series.seen, series.times, torch.inf).amin(-1)
    last = torch.where(series.seen, series.times, -torch.inf).amax(-1)
    steps = series.seen.sum(-1) - 1
    several = (steps > 0) & (last > first)
    return float((last - first)[several].sum() / steps[several].sum()) if bool(several.any()) else otherwise


def _extras_at(series: Series, times: Tensor) -> Tensor | None:
    """Context features, then inputs, at `times` `(subject, time)`: `(subject, time, feature)`, or None."""
    parts = []
    if series.context is not None:
        parts.append(series.context[:, None].expand(-1, times.shape[1], -1))
    if series.inputs is not None:
        parts.append(series.inputs.at(times))
    return torch.cat(parts, -1) if parts else None


def _assembly_problems(
    encoder: RecurrentEncoder,
    field: LatentField,
    decoder: ScaledNetwork,
    scaling: FixedScaling | None,
    context_scaling: FixedScaling | None,
) -> list[str]:
    problems = []
    if not encoder.latent == field.latent == decoder.inputs:
        sizes = f"encoder {encoder.latent}, field {field.latent}, decoder {decoder.inputs}"
        problems.append(f"expected one size of the latent state, got {sizes}")
    channels = decoder.outputs
    if encoder.channels != channels + field.context:
        expected = f"{channels} observed channels and {field.context} context features and inputs"
        problems.append(f"expected an encoder of {expected}, got {encoder.channels} channels")
    for name, found, size in (("scaling", scaling, channels), ("context_scaling", context_scaling, field.context)):
        if found is not None and found.channels != size:
            problems.append(f"expected `{name}` of {size} channels, got {found.channels}")
    return problems
